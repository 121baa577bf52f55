"""Inverted indexes to and from arrays, and what must hold of them."""

import numpy as np

from ..base import files as storage
from ..kernels import tokenizer as tokens
from ..kernels.inverted_index import blocks, segment_check
from ..kernels.inverted_index import segment as segments
from ..kernels.inverted_index import tail as tail_kernels
from ..tokenizer.vocabulary import Terms, Vocabulary
from .search import METHODS, Settings
from .segments import Freeze, Segment
from .state import View
from .tail import Tail

_OWN: storage.Schema = {"settings": (np.float64, 1), "fingerprint": (np.uint8, 1)}
SCHEMA: storage.Schema = {
    **_OWN,
    "ids": (np.int64, 1),
    "lengths": (np.int32, 1),
    "buckets": (np.uint32, 2),
    "dictionary": (np.uint8, 1),
    "postings": (np.uint8, 1),
    "block_last": (np.int32, 1),
    "block_at": (np.uint32, 1),
    "block_best": (np.uint8, 1),
}
_ARRAYS = tuple(SCHEMA)[2:]
_V1: storage.Schema = {
    **_OWN,
    "head": (np.int64, 1),
    "doc_ids": (np.int64, 1),
    "lengths": (np.int32, 1),
    "removed": (np.int32, 1),
    "forward_starts": (np.int64, 1),
    "forward": (np.int32, 1),
    "id_buckets": (np.int32, 1),
    "terms": (np.int32, 2),
    "slots": (np.int32, 1),
    "tfs": (np.int32, 1),
    "vocabulary.head": (np.int64, 1),
    "vocabulary.data": (np.uint8, 1),
    "vocabulary.offsets": (np.int64, 1),
    "vocabulary.buckets": (np.int64, 1),
}


def to_arrays(view: View, settings: Settings, fingerprint: str) -> storage.Arrays:
    """What makes the index again. The view is one segment at most, without removed documents."""
    segment = view.segments[0] if view.segments else Segment.empty()
    k1, b, method, delta = settings
    return {
        "settings": np.array([k1, b, METHODS[method], delta, segment.average]),
        "fingerprint": storage.text_array(fingerprint),
        **dict(zip(_ARRAYS, segment[:8], strict=True)),
    }


def settings_of(arrays: storage.Arrays) -> Settings:
    """How documents are scored."""
    storage.expect(len(arrays["settings"]) == 5, "settings are not five")
    k1, b, number, delta, average = arrays["settings"].tolist()
    known = {value: name for name, value in METHODS.items()}
    storage.expect(
        0 <= k1 <= 1e6
        and 0 <= b <= 1
        and number in known
        and 0 <= delta <= 1e6
        and (average == 0 or 1e-10 < average < 2**63),
        "settings are out of range",
    )
    return Settings(k1, b, known[number], delta)


def view_of(arrays: storage.Arrays) -> View:
    """The arrays of a file, of matching shapes."""
    parts = tuple(arrays[name] for name in _ARRAYS)
    ids, lengths, buckets, dictionary, postings, block_last, block_at, block_best = parts
    rows, columns = buckets.shape
    storage.expect(len(ids) == len(lengths), "there are not as many ids as lengths")
    storage.expect(columns == segments.COLUMNS and 2 <= rows <= 2**31 and not rows - 1 & rows - 2, "buckets are odd")
    storage.expect(len(block_last) == len(block_at) == len(block_best) / 2, "blocks are of different numbers")
    storage.expect(len(dictionary) >= blocks.PAD <= len(postings), "padding is lacking")
    counts = np.zeros(2, np.int64)
    code = segment_check.outer_fault(ids, lengths, buckets, dictionary, len(postings), block_last, block_at, counts)
    storage.expect(code == segment_check.WHOLE, segment_check.FAULTS[code])
    segment = Segment.of(parts, float(arrays["settings"][4]), *counts.tolist())
    return View.of((segment,) if len(ids) else (), Tail.empty())


def upgraded(arrays: storage.Arrays, where: str) -> storage.Arrays:
    """Arrays of version 1, growing postings alone, as version 2 has them; others as they are."""
    if arrays.keys() != _V1.keys():
        return arrays
    try:
        storage.match_schema(arrays, _V1)
        storage.expect(len(arrays["settings"]) == 2, "settings are not two")
        vocabulary = Vocabulary(**storage.part("vocabulary", arrays))
        tables = {name: arrays[name] for name in Tail._fields if name in arrays}
        tail = Tail(seen=arrays["head"].copy(), vocabulary=vocabulary, **tables)
        if (fault := tail.fault()) is not None:
            raise storage.Damaged(f"damaged: {fault}")
        k1, b = arrays["settings"].tolist()
        storage.expect(0 <= k1 <= 1e6 and 0 <= b <= 1, "settings are out of range")
    except storage.Damaged as error:
        raise storage.Damaged(f"{where}: {error}") from error
    live = max(int(tail.head[tail_kernels.LIVE]), 1)
    average = int(tail.head[tail_kernels.LENGTH]) / live
    segment = Freeze(tail, average, b).step(2**62)
    assert segment is not None, "no budget stops it"
    view = View.of((segment,), Tail.empty())
    return to_arrays(view, Settings(k1, b, "lucene", 0.0), storage.text_of(arrays["fingerprint"]))


def fault(view: View, b: float, postings: bool) -> str | None:
    """The first invariant that does not hold, in words. Safe on any contents; with a look at postings, or without."""
    for segment in view.segments:
        counts = np.zeros(2, np.int64)
        code = segment_check.outer_fault(*segment[:4], len(segment.postings), *segment[5:7], counts)
        if code == segment_check.WHOLE and postings:
            slope = np.float32(b / segment.average if segment.average > 0 else 0)
            code = segment_check.inner_fault(  # type: ignore[call-arg]
                segment.lengths, segment.dictionary, *segment.lists, segment.block_best, np.float32(1 - b), slope
            )
        if code != segment_check.WHOLE:
            return segment_check.FAULTS[code]
        if counts.tolist() != [segment.terms, segment.entries]:
            return "a segment has not as many terms or postings as it says"
        gone = segment.gone[: segment.removals]
        if segment.live != len(segment.live_slots()) or segment.live + len(np.unique(gone)) != len(segment.ids):
            return "live and removed documents do not add up"
    places = view.places_of(view.ids())
    if len(np.unique(places)) != view.documents:
        return "an id belongs to two documents"
    return view.tail.fault()


def totals(view: View) -> tuple[int, int]:
    """Distinct terms of live documents, and their postings. O(terms), O(postings) where some were removed."""
    vocabulary, live = Vocabulary.empty(), np.zeros(0, np.int64)
    for segment in view.segments:
        m = segment.terms
        starts, stops, dfs = np.empty(m, np.int32), np.empty(m, np.int32), np.empty(m, np.int32)
        ats, hashes = np.empty(m, np.int64), np.empty(m, np.uint32)
        segment_check.list_terms(segment.dictionary, starts, stops, dfs, ats)
        counts = dfs.astype(np.int64)
        if segment.removals:
            counts -= segment.removed_of(dfs, ats, np.arange(m, dtype=np.int32))
        if len(view.segments) == 1 and not view.tail.seen[tail_kernels.LIVE]:
            return int(np.count_nonzero(counts)), int(counts.sum())
        tokens.hash_terms(segment.dictionary, starts, stops, hashes)
        terms = Terms(segment.dictionary, starts, stops, hashes, np.empty(0, np.int64))
        vocabulary, live = _counted(vocabulary, live, terms, counts)
    known = view.tail.vocabulary
    numbers = np.arange(known.terms, dtype=np.int32)  # asked once: a writer may be adding some
    counts = view.tail.frequencies_of(numbers, False)
    terms = known.ranges(numbers, np.empty(0, np.int64))
    live = _counted(vocabulary, live, terms, counts)[1]
    return int(np.count_nonzero(live)), int(live.sum())


def _counted(
    vocabulary: Vocabulary, live: np.ndarray, terms: Terms, counts: np.ndarray
) -> tuple[Vocabulary, np.ndarray]:
    """With the documents of these terms, which are distinct, added to those of each."""
    vocabulary, numbers = vocabulary.intern(terms)
    more = np.zeros(vocabulary.terms, np.int64)
    more[: len(live)] = live
    more[numbers] += counts
    return vocabulary, more
