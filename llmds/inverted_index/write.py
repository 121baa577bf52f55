"""How an inverted index takes documents in: into the tail, from there into segments, and segments into larger ones.

One merge is under way at a time, and goes on a little with every document that is added (Overmars and van Leeuwen
1981), so no single call has to wait for it.
"""

import numpy as np

from ..kernels.inverted_index import tail as kernels
from ..kernels.inverted_index import tail_write
from ..tokenizer.vocabulary import Terms
from .segments import Freeze, Merge, Segment
from .state import View
from .tail import Tail

# Postings of a tail that is made a segment; and of one that a bulk call fills, for which no search waits.
SINGLE, BULK = 1 << 17, 1 << 23
# Postings that one step writes, and for each that is added.
_STEP, _SHARE = 1 << 20, 16
# Of texts without markup; fewer only cost room.
_CHARACTERS_A_POSTING = 10
# A segment is written anew, and a tail made one, when more of its documents than this are removed, and more than live.
_SWEEP = 32


class Writer:
    """The view of an index, and the work that is under way to make the next one. The caller keeps writers apart."""

    def __init__(self, view: View, b: float):
        self.view, self.b = view, b
        self.merge: Merge | None = None
        self.leaving = np.empty(0, np.int64)  # what segments are to lose, until they have
        self.published = True  # not between a change and what makes it seen

    def add(self, ids: np.ndarray, terms: Terms, most: int) -> None:
        """Add documents in place of those that have their ids; a tail of `most` postings is made a segment."""
        self._begin()
        vocabulary, numbers = self.view.tail.vocabulary.intern(terms)
        self._set_tail(self.view.tail.with_vocabulary(vocabulary))
        ends = terms.ends
        longest = int(ends[0]) if len(ends) == 1 else int(np.diff(ends, prepend=0).max(initial=0))
        counts = np.empty(longest, np.int32)
        reached = 0
        try:
            while True:
                reached, lacking, amount = tail_write.add(  # type: ignore[call-arg]
                    *self.view.tail.state, ids, numbers, terms.ends, reached, counts
                )
                if lacking == tail_write.DONE:
                    break
                self._set_tail(self.view.tail.with_room(lacking, amount))
        finally:
            self.publish()
        head = self.view.tail.head
        full = self.view.tail.size >= most or head[kernels.SLOTS] >= most
        if full or head[kernels.REMOVED] > max(_SWEEP, int(head[kernels.LIVE])):
            self.freeze()
        self.step(_SHARE * len(numbers))

    def expect(self, documents: int, characters: int) -> None:
        """Make room for a bulk load, so that less is copied while it comes."""
        if not self.view.tail.head[kernels.SLOTS]:
            postings = min(characters // _CHARACTERS_A_POSTING, BULK)
            self._set_tail(Tail.empty(min(documents, BULK), postings, postings * 4 // 3))

    def remove(self, doc_id: int) -> bool:
        """Remove a document; whether it was there."""
        self._begin()
        tail = self.view.tail
        if tail_write.remove(*tail.state[:8], doc_id):  # type: ignore[call-arg]
            self.publish()
            return True
        ids = np.array([doc_id], np.int64)
        if self.view.places_of(ids)[0] < 0:
            return False
        self.leaving = ids
        self.publish()
        return True

    def publish(self) -> None:
        """Let readers see what the tail has, and no longer what that replaces; go on where an interruption came."""
        view, tail = self.view, self.view.tail
        first, last = int(tail.seen[kernels.SLOTS]), int(tail.head[kernels.SLOTS])
        # Whoever is interrupted comes here again with the same ids: what he wrote to segments is written once more.
        for ids in (self.leaving, tail.doc_ids[first:last]):
            if len(ids):
                view = _losing(view, ids)
        self.view = View.of(view.segments, tail.published())
        self.leaving = self.leaving[:0]
        self.published = True

    def _begin(self) -> None:
        """Before a change: finish the last one, where an interruption came."""
        if not self.published:
            self.publish()
        self.published = False

    def freeze(self) -> None:
        """Make a segment of the tail, if it has documents."""
        self.publish()
        view = self.view
        if not view.tail.head[kernels.SLOTS]:
            return
        work = Freeze(view.tail, view.average, self.b)
        while (segment := work.step(_STEP)) is None:
            pass
        kept = (segment,) if segment.live else ()
        self.view = View.of((*view.segments, *kept), Tail.empty())

    def step(self, budget: int) -> bool:
        """Go on with merging, for about so many postings; whether anything is left to do."""
        if self.merge is None:
            pair = _due(self.view.segments)
            if pair is None:
                return False
            self.merge = Merge(*pair, self.view.average, self.b)
        if (segment := self.merge.step(budget)) is not None:
            self._replace(segment)
        return True

    def settle(self) -> None:
        """Do all merging that is due."""
        while self.step(_STEP):
            pass

    def compact(self) -> None:
        """Bring everything into one segment, without removed documents."""
        self.settle()
        self.freeze()
        while len(self.view.segments) > 1 or any(segment.removals for segment in self.view.segments):
            *_, left, right = (Segment.empty(), *self.view.segments)
            self.merge = Merge(left, right, self.view.average, self.b)
            while (segment := self.merge.step(_STEP)) is None:
                pass
            self._replace(segment)

    def _replace(self, segment: Segment) -> None:
        """Put a merged segment in the place of its sources, and have it lose what they lost meanwhile."""
        merge, self.merge = self.merge, None
        assert merge is not None
        segments = list(self.view.segments)
        places = [i for i, each in enumerate(segments) if any(each.ids is source.ids for source in merge.sources)]
        now = {id(segments[i].ids): segments[i] for i in places}
        lost = merge.lost([now.get(id(source.ids), source) for source in merge.sources])
        if len(lost):
            segment = segment.without(lost)
        segments[places[0] : places[-1] + 1] = [segment] if segment.live else []
        self.view = View.of(tuple(segments), self.view.tail)

    def _set_tail(self, tail: Tail) -> None:
        self.view = self.view._replace(tail=tail)


def _losing(view: View, ids: np.ndarray) -> View:
    """Without the documents of segments that have these ids."""
    for i, segment in enumerate(view.segments):
        found = np.full(len(ids), -1, np.int64)
        segment.slots_of(ids, 0, found)
        if found.max(initial=-1) >= 0:
            view = view.replaced(i, segment.without(np.unique(found[found >= 0])))
    return view


def _due(segments: tuple[Segment, ...]) -> tuple[Segment, Segment] | None:
    """Two segments to be merged: neighbours of which the older is not much larger, the newest first; or one alone."""
    for left, right in zip(segments[-2::-1], segments[:0:-1], strict=True):
        if left.entries < 2 * right.entries:
            return left, right
    for segment in segments:
        if segment.removals > max(_SWEEP, segment.live):
            return Segment.empty(), segment
    return None
