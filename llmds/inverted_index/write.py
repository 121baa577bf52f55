"""Changes of an inverted index: documents are added to the tail, tails become segments, segments are merged.

One merge is in progress at a time. Every addition does a part of it (Overmars and van Leeuwen 1981), so that no single
call has to wait for all of it.
"""

import numpy as np

from ..base.fast_calls import Direct
from ..kernels.inverted_index import tail as kernels
from ..kernels.inverted_index import tail_write
from ..tokenizer.vocabulary import Terms
from .segments import Freeze, Merge, Segment
from .state import View
from .tail import Tail

_direct = Direct(tail_write)
# So many postings in a tail are made a segment; the second number is for tails that a bulk call fills.
SINGLE, BULK = 1 << 17, 1 << 23
# Postings that one step of a long call writes, and postings that are merged for each one that is added.
_STEP, _SHARE = 1 << 20, 16
# In texts without markup. If there are fewer, the room reserved is too large.
_CHARACTERS_A_POSTING = 10
# A segment is rewritten, or a tail made one, when more of its documents than this are removed, and more than are live.
_SWEEP = 32


class Writer:
    """The present view of an index, and the merge in progress. The caller admits one writer at a time."""

    def __init__(self, view: View, b: float):
        self.view, self.b = view, b
        self.merge: Merge | None = None
        self.leaving = np.empty(0, np.int64)  # ids to be removed from segments, until they are
        self.published = True  # False while a change is not visible yet

    def add(self, ids: np.ndarray, terms: Terms, most: int) -> None:
        """Add documents in place of those that have their ids. A tail of `most` postings is made a segment."""
        self._begin()
        vocabulary, numbers = self.view.tail.vocabulary.intern(terms)
        self._set_tail(self.view.tail.with_vocabulary(vocabulary))
        ends = terms.ends
        longest = int(ends[0]) if len(ends) == 1 else int(np.diff(ends, prepend=0).max(initial=0))
        counts = np.empty(longest, np.int32)
        reached = 0
        try:
            while True:
                reached, lacking, amount = _direct.add(self.view.tail.written, ids, numbers, ends, reached, counts)
                if lacking == tail_write.DONE:
                    break
                self._set_tail(self.view.tail.with_room(lacking, amount))
        finally:
            self.publish()
        head = self.view.tail.written.head
        full = self.view.tail.size >= most or head[kernels.SLOTS] >= most
        if full or head[kernels.REMOVED] > max(_SWEEP, int(head[kernels.LIVE])):
            self.freeze()
        self.step(_SHARE * len(numbers))

    def expect(self, documents: int, characters: int) -> None:
        """Make room for a bulk load, so that less is copied during it."""
        if not self.view.tail.written.head[kernels.SLOTS]:
            postings = min(characters // _CHARACTERS_A_POSTING, BULK)
            self._set_tail(Tail.empty(min(documents, BULK), postings, postings * 4 // 3))

    def remove(self, doc_id: int) -> bool:
        """Remove a document. Returns whether it was there."""
        self._begin()
        if _direct.remove(self.view.tail.written, doc_id):
            self.publish()
            return True
        ids = np.array([doc_id], np.int64)
        if self.view.places_of(ids)[0] < 0:
            return False
        self.leaving = ids
        self.publish()
        return True

    def publish(self) -> None:
        """Make the changes of the tail visible, and remove what they replace. Completes an interrupted change, too."""
        view, tail = self.view, self.view.tail
        first, last = int(tail.seen.head[kernels.SLOTS]), int(tail.written.head[kernels.SLOTS])
        # After an interruption this runs again with the same ids, and writes the same to the segments.
        for ids in (self.leaving, tail.written.doc_ids[first:last]):
            if len(ids):
                view = _losing(view, ids)
        self.view = View.of(view.segments, tail.published())
        self.leaving = self.leaving[:0]
        self.published = True

    def _begin(self) -> None:
        """Complete the last change if it was interrupted, before the next one."""
        if not self.published:
            self.publish()
        self.published = False

    def freeze(self) -> None:
        """Make a segment of the tail, if it has documents."""
        self.publish()
        view = self.view
        if not view.tail.written.head[kernels.SLOTS]:
            return
        work = Freeze(view.tail, view.average, self.b)
        while (segment := work.step(_STEP)) is None:
            pass
        kept = (segment,) if segment.live else ()
        self.view = View.of((*view.segments, *kept), Tail.empty())

    def step(self, budget: int) -> bool:
        """Merge about so many postings. Returns whether anything is left to merge."""
        if self.merge is None:
            pair = _due(self.view.segments)
            if pair is None:
                return False
            self.merge = Merge(*pair, self.view.average, self.b)
        if (segment := self.merge.step(budget)) is not None:
            self._replace(segment)
        return True

    def settle(self) -> None:
        """Do all merges that are due."""
        while self.step(_STEP):
            pass

    def compact(self) -> None:
        """Merge everything into one segment, without removed documents."""
        self.settle()
        self.freeze()
        while len(self.view.segments) > 1 or any(segment.arrays.removals for segment in self.view.segments):
            *_, left, right = (Segment.empty(), *self.view.segments)
            self.merge = Merge(left, right, self.view.average, self.b)
            while (segment := self.merge.step(_STEP)) is None:
                pass
            self._replace(segment)

    def _replace(self, segment: Segment) -> None:
        """Put a merged segment in the place of its sources, without the documents removed from them meanwhile."""
        merge, self.merge = self.merge, None
        assert merge is not None
        segments = list(self.view.segments)
        sources = {id(source.arrays.ids) for source in merge.segments}
        places = [i for i, each in enumerate(segments) if id(each.arrays.ids) in sources]
        now = {id(segments[i].arrays.ids): segments[i] for i in places}
        lost = merge.lost([now.get(id(source.arrays.ids), source) for source in merge.segments])
        if len(lost):
            segment = segment.without(lost)
        segments[places[0] : places[-1] + 1] = [segment] if segment.live else []
        self.view = View.of(tuple(segments), self.view.tail)

    def _set_tail(self, tail: Tail) -> None:
        self.view = self.view._replace(tail=tail)


def _losing(view: View, ids: np.ndarray) -> View:
    """Return the view without the documents of segments that have these ids."""
    for i, segment in enumerate(view.segments):
        found = np.full(len(ids), -1, np.int64)
        segment.slots_of(ids, 0, found)
        if found.max(initial=-1) >= 0:
            view = view.replaced(i, segment.without(np.unique(found[found >= 0])))
    return view


def _due(segments: tuple[Segment, ...]) -> tuple[Segment, Segment] | None:
    """Return two segments to be merged: neighbours of similar size, the newest first; or one to be rewritten."""
    for left, right in zip(segments[-2::-1], segments[:0:-1], strict=True):
        if left.entries < 2 * right.entries:
            return left, right
    for segment in segments:
        if segment.arrays.removals > max(_SWEEP, segment.live):
            return Segment.empty(), segment
    return None
