"""Texts cut into terms by the default rules: see `kernels.tokenizer`, which does the work on bytes."""

import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain

import numpy as np

from ..kernels import tokenizer as kernels
from .vocabulary import MAX_TERMS, Terms, Vocabulary

_BLOCK = 64
# Blocks that one kernel call may read: it must return within 100 ms, or Ctrl-C has to wait.
_STEP = 1 << 17
_PADDING = "\n" * (2 * _BLOCK)
# From these code points on, nothing is a letter, mark or digit, and nothing has a case.
_CODES, _CASED = 0xE0200, 0x20000
# The scripts Han and Hiragana, in ranges that include code points that Unicode may still assign to them.
_ALONE = (
    (0x3005, 0x3005), (0x3007, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B), (0x3041, 0x3096), (0x309D, 0x309F),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x16FE2, 0x16FE3), (0x16FF0, 0x16FF6), (0x1B001, 0x1B11F),
    (0x1B132, 0x1B132), (0x1B150, 0x1B152), (0x20000, 0x3FFFF),
)  # fmt: skip


def segment(name: str, texts: Sequence[str]) -> Terms:
    """Return the terms of texts, stop words included. O(characters).

    Raises TypeError, naming the argument `name`, if a text is not a str, and ValueError if there are too many bytes.
    """
    raw, offsets = packed(name, texts, normalised)
    data, masks, folded = classified(raw)
    if not folded:
        raw, offsets = packed(name, texts, fold)
        data, masks, _ = classified(raw)
    return delimited(data, masks, offsets)


def segment_short(text: str, stops: Vocabulary) -> Terms | None:
    """Return the terms of one short text without stop words, None if the text is not ASCII. O(characters).

    It makes one kernel call, and so is faster than `segment` for short texts.
    """
    if not text.isascii():
        return None
    size = len(text)
    raw = packed_short(text)
    data, masks = np.empty(len(raw), np.uint8), np.empty((len(raw) // _BLOCK, kernels.MASKS), np.uint64)
    starts, ends_of_terms, hashes = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.uint32)
    offsets, ends = np.array([0, size]), np.empty(1, np.int64)
    count = kernels.cut_short(
        raw, data, masks, offsets, np.zeros(kernels.COUNTERS, np.int64), stops.data, stops.offsets, stops.buckets,
        starts, ends_of_terms, hashes, ends,
    )  # fmt: skip
    return Terms(data, starts[:count], ends_of_terms[:count], hashes[:count], ends)


def packed_short(text: str) -> np.ndarray:
    """Return the bytes of an ASCII text as the kernels take them, read-only uint8 (64 * blocks,)."""
    return np.frombuffer((text + _PADDING[len(text) % _BLOCK :]).encode(), np.uint8)


def fold(text: str) -> str:
    """Return a text in NFKC, case-folded, with one kind of apostrophe. ASCII is unchanged: the kernel folds it."""
    return text if text.isascii() else normalised(text).casefold()


def normalised(text: str) -> str:
    """Return a text as `fold` does, but not case-folded: the kernel folds most characters, five times as fast."""
    return unicodedata.normalize("NFKC", text).replace("\u2019", "'")


def packed(name: str, texts: Sequence[str], change: Callable[[str], str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the UTF-8 bytes of texts, with `change` applied to those that are not ASCII, as the kernels take them.

    The arrays are read-only uint8 (64 * blocks,), and int64 (texts + 1,): where each text begins, separators between
    the texts not counted.
    """
    parts = list(texts)
    try:
        if not all(map(str.isascii, parts)):
            parts = [part if str.isascii(part) else _bytes_as_characters(change(part)) for part in parts]
    except TypeError as error:
        raise TypeError(f"{name} must hold only str: {error}") from error
    offsets = np.zeros(len(parts) + 1, np.int64)
    offsets[1:] = np.fromiter(map(len, parts), np.int64, len(parts))
    np.cumsum(offsets, out=offsets)
    size = int(offsets[-1]) + len(parts)
    if size > MAX_TERMS - 2 * _BLOCK:
        raise ValueError(f"{name} must be less than 2**31 bytes in one call, got {size}")
    parts.append("\n" * (_BLOCK + -size % _BLOCK))
    return np.frombuffer("\n".join(parts).encode("latin-1"), np.uint8), offsets


def classified(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the folded bytes of packed texts, the masks of the kernels, and whether every character could be folded.

    uint8 (64 * blocks,), uint64 (blocks, MASKS), bool. If it is False, fold the texts in Python first.
    """
    data, masks = np.empty(len(raw), np.uint8), np.empty((len(raw) // _BLOCK, kernels.MASKS), np.uint64)
    wide = [kernels.classify(raw, data, masks, *step) for step in _steps(len(masks))]
    if not any(wide):
        return data, masks, True
    classes, folds = character_classes(), case_folds()
    steps = _steps(len(masks) - 1)
    return data, masks, all(kernels.classify_wide(data, classes, folds, masks, *step) for step in steps)


def delimited(data: np.ndarray, masks: np.ndarray, offsets: np.ndarray) -> Terms:
    """Return the terms of texts that `packed` and `classified` have prepared."""
    steps = _steps(len(masks) - 1)
    count = sum(kernels.delimit(masks, *step) for step in steps)
    starts, stops, hashes = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.uint32)
    ends, at = np.empty(len(offsets) - 1, np.int64), np.zeros(kernels.COUNTERS, np.int64)
    for step in steps:
        kernels.cut(data, masks, offsets, at, *step, starts, stops, hashes, ends)
    return Terms(data, starts, stops, hashes, ends)


@cache
def character_classes() -> np.ndarray:
    """Return the table `classes` of the kernels, uint8 (code points,)."""
    # Nothing is assigned between planes 3 and 14, nor a letter above U+E01EF.
    assigned = chain(range(0x40000), range(0xE0000, _CODES))
    categories = np.frombuffer("".join(map(unicodedata.category, map(chr, assigned))).encode(), np.uint8)
    major, minor = categories[::2], categories[1::2]
    other = np.isin(major, [ord("M"), ord("N")]) | ((major == ord("P")) & (minor == ord("c")))
    kinds = np.where(major == ord("L"), kernels.LETTER, np.where(other, kernels.OTHER, kernels.SEPARATOR))
    table = np.full(_CODES, kernels.SEPARATOR, np.uint8)
    table[:0x40000], table[0xE0000:] = kinds[:0x40000], kinds[0x40000:]
    for first, last in _ALONE:
        part = table[first : last + 1]
        part[part != kernels.SEPARATOR] = kernels.ALONE
    return table


@cache
def case_folds() -> np.ndarray:
    """Return the table `folds` of the kernels, uint32 (code points,)."""
    classes, table = character_classes(), np.zeros(_CASED, np.uint32)
    for code, character in enumerate(map(chr, range(_CASED))):
        folded = character.casefold()
        if folded != character and code >= 0x80:
            before, after = character.encode(), folded.encode()
            alike = len(before) == len(after) and all(classes[ord(one)] == classes[code] for one in folded)
            table[code] = int.from_bytes(after, "little") if alike else kernels.ELSEWHERE
    return table


def _steps(blocks: int) -> list[tuple[int, int]]:
    """Return ranges of blocks, one for each kernel call."""
    return [(first, min(first + _STEP, blocks)) for first in range(0, blocks, _STEP)]


def _bytes_as_characters(text: str) -> str:
    """Return the UTF-8 bytes of a text as characters. Joining and encoding such texts, and ASCII, only copies bytes."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")
