"""Inverted indexes to and from the arrays of a file, and their invariants."""

import numpy as np

from ..base import files
from ..kernels import tokenizer
from ..kernels.inverted_index import blocks, segment_check
from ..kernels.inverted_index import segment as kernels
from ..kernels.inverted_index import tail as tail_kernels
from ..kernels.inverted_index.layout import SegmentArrays, TailArrays
from ..tokenizer.vocabulary import Terms, Vocabulary
from .bm25 import Settings
from .segments import Freeze, Segment
from .state import View
from .tail import Tail

_OWN: files.Schema = {"settings": (np.float64, 1), "fingerprint": (np.uint8, 1)}
SCHEMA: files.Schema = {
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
_SEGMENT = tuple(name for name in SCHEMA if name not in _OWN)
_V1: files.Schema = {
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


def to_arrays(view: View, settings: Settings, fingerprint: str) -> files.Arrays:
    """Return the arrays of a file. The view has one segment at most, without removed documents."""
    arrays = (view.segments[0] if view.segments else Segment.empty()).arrays
    return {
        "settings": np.array([*settings.to_numbers(), arrays.average]),
        "fingerprint": files.text_array(fingerprint),
        **{name: getattr(arrays, name) for name in _SEGMENT},
    }


def settings_of(arrays: files.Arrays) -> Settings:
    """Return the parameters of BM25. Raises Damaged if they are out of range."""
    files.expect(len(arrays["settings"]) == 5, "settings must have five numbers")
    *numbers, average = arrays["settings"].tolist()
    files.expect(average == 0 or 1e-10 < average < 2**63, "settings are out of range")
    try:
        return Settings.from_numbers(numbers)
    except ValueError as error:
        raise files.Damaged(str(error)) from error


def view_of(arrays: files.Arrays) -> View:
    """Return the view of the arrays of a file. Raises Damaged if their shapes do not match."""
    average = float(arrays["settings"][-1])
    own = SegmentArrays(
        **{name: arrays[name] for name in _SEGMENT}, average=average, removed=np.empty(0, np.int32), removals=0
    )
    rows, columns = own.buckets.shape
    files.expect(len(own.ids) == len(own.lengths), "there are not as many ids as lengths")
    files.expect(
        columns == kernels.COLUMNS and 2 <= rows <= 2**31 and not rows - 1 & rows - 2, "buckets have a wrong shape"
    )
    files.expect(
        len(own.block_last) == len(own.block_at) == len(own.block_best) / 2, "arrays of blocks have different lengths"
    )
    files.expect(len(own.dictionary) >= blocks.PAD <= len(own.postings), "padding is missing")
    code, terms, postings = _outer_fault(own)
    files.expect(code == segment_check.WHOLE, segment_check.FAULTS[code])
    segment = Segment.of(own, terms, postings)
    return View.of((segment,) if len(own.ids) else (), Tail.empty())


def _outer_fault(arrays: SegmentArrays) -> tuple[int, int, int]:
    """Check a segment but its postings. Returns a code of `segment_check`, and the numbers of terms and postings."""
    counts = np.zeros(2, np.int64)
    code = segment_check.outer_fault(
        arrays.ids, arrays.lengths, arrays.buckets, arrays.dictionary, len(arrays.postings), arrays.block_last,
        arrays.block_at, counts,
    )  # fmt: skip
    return int(code), *counts.tolist()


def upgraded(arrays: files.Arrays, where: str) -> files.Arrays:
    """Return arrays of version 1, which are those of a tail, as arrays of version 2; others unchanged."""
    if arrays.keys() != _V1.keys():
        return arrays
    try:
        files.match_schema(arrays, _V1)
        files.expect(len(arrays["settings"]) == 2, "settings must have two numbers")
        vocabulary = Vocabulary(**files.part("vocabulary", arrays))
        tail = Tail.of(TailArrays(**{name: arrays[name] for name in TailArrays._fields}), vocabulary)
        if (fault := tail.fault()) is not None:
            raise files.Damaged(f"damaged: {fault}")
        k1, b = arrays["settings"].tolist()
        files.expect(0 <= k1 <= 1e6 and 0 <= b <= 1, "settings are out of range")
    except files.Damaged as error:
        raise files.Damaged(f"{where}: {error}") from error
    average = int(tail.seen.head[tail_kernels.LENGTH]) / max(tail.live, 1)
    segment = Freeze(tail, average, b).step(2**62)
    assert segment is not None, "the budget is large enough"
    view = View.of((segment,), Tail.empty())
    return to_arrays(view, Settings(k1, b, "lucene", 0.0), files.text_of(arrays["fingerprint"]))


def fault(view: View, b: float, postings: bool) -> str | None:
    """Return the first broken invariant, in words, or None. Safe on any contents. `postings`: check these too."""
    for segment in view.segments:
        arrays = segment.arrays
        code, terms, entries = _outer_fault(arrays)
        if code == segment_check.WHOLE and postings:
            slope = np.float32(b / arrays.average if arrays.average > 0 else 0)
            code = segment_check.inner_fault(
                arrays.lengths, arrays.dictionary, arrays.postings, arrays.block_last, arrays.block_at,
                arrays.block_best, np.float32(1 - b), slope,
            )  # fmt: skip
        if code != segment_check.WHOLE:
            return segment_check.FAULTS[code]
        if (terms, entries) != (segment.terms, segment.entries):
            return "a segment does not have the stored number of terms or postings"
        gone = segment.gone[: arrays.removals]
        if segment.live != len(segment.live_slots()) or segment.live + len(np.unique(gone)) != len(arrays.ids):
            return "the numbers of live and removed documents do not add up"
    places = view.places_of(view.ids())
    if len(np.unique(places)) != view.documents:
        return "two documents have the same id"
    return view.tail.fault()


def totals(view: View) -> tuple[int, int]:
    """Count the distinct terms of live documents, and their postings. O(terms), O(postings) if some were removed."""
    vocabulary, live = Vocabulary.empty(), np.zeros(0, np.int64)
    for segment in view.segments:
        m = segment.terms
        starts, stops, dfs = np.empty(m, np.int32), np.empty(m, np.int32), np.empty(m, np.int32)
        ats, hashes = np.empty(m, np.int64), np.empty(m, np.uint32)
        segment_check.list_terms(segment.arrays.dictionary, starts, stops, dfs, ats)
        counts = dfs.astype(np.int64)
        if segment.arrays.removals:
            counts -= segment.removed_of(dfs, ats, np.arange(m, dtype=np.int32))
        if len(view.segments) == 1 and not view.tail.live:
            return int(np.count_nonzero(counts)), int(counts.sum())
        tokenizer.hash_terms(segment.arrays.dictionary, starts, stops, hashes)
        terms = Terms(segment.arrays.dictionary, starts, stops, hashes, np.empty(0, np.int64))
        vocabulary, live = _counted(vocabulary, live, terms, counts)
    known = view.tail.vocabulary
    numbers = np.arange(known.terms, dtype=np.int32)  # read once: a writer may be adding some
    counts = view.tail.frequencies_of(numbers, False)
    terms = known.ranges(numbers, np.empty(0, np.int64))
    live = _counted(vocabulary, live, terms, counts)[1]
    return int(np.count_nonzero(live)), int(live.sum())


def _counted(
    vocabulary: Vocabulary, live: np.ndarray, terms: Terms, counts: np.ndarray
) -> tuple[Vocabulary, np.ndarray]:
    """Return the vocabulary and the counts with these distinct terms added."""
    vocabulary, numbers = vocabulary.intern(terms)
    more = np.zeros(vocabulary.terms, np.int64)
    more[: len(live)] = live
    more[numbers] += counts
    return vocabulary, more
