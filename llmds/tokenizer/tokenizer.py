"""Text to terms, for search, and to tokens, for budgets."""

import hashlib
import os
import threading
import unicodedata
from collections.abc import Callable, Collection, Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np

from ..base import arguments
from ..kernels import tokenizer as kernels
from .vocabulary import MAX_TERMS, Terms, Vocabulary

# Function words: articles, pronouns, prepositions, conjunctions, auxiliaries and a few adverbs.
_ENGLISH = (
    "a about after all also am an and any are as at be because been before being between both but by can could did "
    "do does doing during each for from had has have having he her here hers him his how i if in into is it its "
    "itself may me might more most must my no nor not of on only or other our ours out over own same shall she "
    "should so some such than that the their theirs them then there these they this those through to too under "
    "until up upon us very was we were what when where which while who whom whose why will with would you your "
    "yours "
)

Stops = str | Collection[str] | None
Stemmer = Callable[[str], str] | None

_BLOCK = 64
# Blocks that one kernel call may read: it must return within 100 ms, or Ctrl-C waits.
_STEP = 1 << 17
# From these code points on, nothing is a letter, mark or digit, and nothing has a case.
_CODES, _CASED = 0xE0200, 0x20000
_MOST_FORMS = 1 << 20
_DIGEST = 16


_SHORT = 1 << 12
_SPACE = "\n" * (2 * _BLOCK)
_NO_STOPS = Vocabulary.empty()


class Tokenizer:
    """The analysis of text into search terms, and the counting of tokens.

    Terms: the text is brought to Unicode's compatibility form NFKC (where it is not ASCII) and case-folded;
    a term is a run of letters, marks, digits and `_` (categories L*, M*, N*, Pc); an apostrophe (' or U+2019,
    kept as ') between two letters belongs to it; each Han or Hiragana character is a term of its own.

    `stop_words`, left out: "english" or a collection of words, each one term. `stemmer`: a callable on one term,
    applied to what is no stop word, once for every distinct term; a term that it makes empty is left out.
    `split`: a callable str -> list[str], or an object with such a method `tokenize`, in place of the analysis
    above (stop words are then compared as they are given).

    Tokens (`encode`, `decode`, `count_tokens`, `get_vocab_size`): `encoding` is the name of a tiktoken encoding
    ("cl100k_base"), the path of a `tokenizers` file ("tokenizer.json"), or any object with `encode` and `decode`. By
    default tokens are the bytes of UTF-8, which needs no model and overestimates what any model counts.

    Threads may share a tokenizer, unless the callables it was given forbid it.

    >>> Tokenizer().tokenize("Rock'n'Roll, in 東京: ﬁne_tuned!")
    ["rock'n'roll", 'in', '東', '京', 'fine_tuned']
    >>> Tokenizer(stop_words="english").tokenize("The heart of the matter")
    ['heart', 'matter']
    """

    def __init__(
        self,
        *,
        stop_words: Stops = None,
        stemmer: Stemmer = None,
        split: Any = None,
        encoding: Any = None,
    ):
        if stemmer is not None and not callable(stemmer):
            raise TypeError(f"stemmer must be callable, got {stemmer!r}")
        self._given = split
        self._split = None if split is None else _split_of(split)
        self._stop = None if stop_words is None else self._stop_words(stop_words)
        self._stems = None if stemmer is None else _Stems(stemmer)
        self._encoding = _checked_encoding(encoding)

    def tokenize(self, text: str) -> list[str]:
        """The terms of a text, in order. O(len(text))."""
        return self.terms([arguments.text("text", text)]).strings()

    @property
    def fingerprint(self) -> str:
        """What decides the terms, in words: equal for tokenizers that give equal terms.

        Covers the Unicode version, the stop words, and the identity of `split` and `stemmer`: their own
        attribute `fingerprint` (a str) where they have it, else where they are defined.
        """
        way = "default, unicode " + unicodedata.unidata_version if self._split is None else identity(self._given)
        stemmer = "none" if self._stems is None else identity(self._stems.stemmer)
        stop = "none"
        if self._stop is not None:
            words = "\n".join(sorted(self._stop.strings(0)))
            stop = hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
        return f"terms 1; {way}; stop words {stop}; stemmer {stemmer}"

    def terms(self, texts: Sequence[str], name: str = "texts") -> Terms:
        """The terms of many texts, as arrays. O(characters)."""
        if isinstance(texts, (str, bytes)) or not isinstance(texts, (Sequence, np.ndarray)):
            raise TypeError(f"{name} must be a sequence of str, got {type(texts).__name__}")
        if len(texts) == 1 and self._split is None and isinstance(texts[0], str) and len(texts[0]) <= _SHORT:
            terms = _cut_short(texts[0], _NO_STOPS if self._stop is None else self._stop)
            if terms is not None:
                return terms if self._stems is None else self._stems.apply(terms)
        terms = self._cut(texts, name)
        if self._stop is not None:
            known = self._stop.find(terms)
            kept = kernels.keep_unknown(known, terms.starts, terms.stops, terms.hashes, terms.ends)
            terms = _first(terms, kept)
        return terms if self._stems is None else self._stems.apply(terms)

    @property
    def stops(self) -> Vocabulary | None:
        """The words that are left out, where the terms of an ASCII text are what `kernels.tokenizer` makes of it."""
        if self._split is not None or self._stems is not None:
            return None
        return _NO_STOPS if self._stop is None else self._stop

    def encode(self, text: str) -> list[int]:
        """The tokens of a text: `decode` gives it back."""
        text = arguments.text("text", text)
        encoding = self._tokens()
        if encoding is None:
            return list(text.encode("utf-8", "surrogatepass"))
        if hasattr(encoding, "encode_ordinary"):  # tiktoken: special tokens in a text are plain text
            return encoding.encode_ordinary(text)
        if hasattr(encoding, "get_vocab_size"):  # tokenizers
            return encoding.encode(text, add_special_tokens=False).ids
        return list(encoding.encode(text))

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of tokens. ValueError for tokens that are none."""
        encoding = self._tokens()
        if encoding is None:
            return arguments.integers("tokens", tokens, 0, 255).astype(np.uint8).tobytes().decode("utf-8", "replace")
        listed = arguments.integers("tokens", tokens, 0).tolist()
        if hasattr(encoding, "get_vocab_size"):
            return encoding.decode(listed, skip_special_tokens=False)
        return encoding.decode(listed)

    def count_tokens(self, text: str) -> int:
        """len(encode(text))."""
        if self._encoding is None:
            text = arguments.text("text", text)
            return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        return len(self.encode(text))

    def get_vocab_size(self) -> int:
        """Number of distinct tokens `encode` may give."""
        encoding = self._tokens()
        if encoding is None:
            return 256
        if hasattr(encoding, "get_vocab_size"):
            return encoding.get_vocab_size()
        return encoding.n_vocab if hasattr(encoding, "n_vocab") else len(encoding)

    def __repr__(self) -> str:
        return f"Tokenizer({self.fingerprint})"

    def _cut(self, texts: Sequence[str], name: str) -> Terms:
        """Terms before stop words and stemming."""
        if self._split is not None:
            lists = [_list_of_str(self._split(text)) for text in texts]
            ends = np.cumsum(np.fromiter(map(len, lists), np.int64, len(lists)))
            return Terms.of_strings("terms", list(chain.from_iterable(lists)), ends)
        raw, offsets = _packed(name, texts, _normalized)
        data, masks, folded = _classified(raw)
        if not folded:
            raw, offsets = _packed(name, texts, fold)
            data, masks, _ = _classified(raw)
        return _delimited(data, masks, offsets)

    def _stop_words(self, words: Stops) -> Vocabulary:
        if isinstance(words, str):
            words = _ENGLISH.split() if arguments.one_of("stop_words", words, ("english",)) else ()
        if not isinstance(words, Collection) or not all(isinstance(word, str) for word in words):
            raise TypeError(f"stop_words must be 'english' or a collection of str, got {words!r}")
        words = list(words)
        terms = self._cut(words, "stop_words")
        if self._split is not None:
            terms = Terms.of_strings("stop_words", words, np.arange(1, len(words) + 1, dtype=np.int64))
        wrong = np.flatnonzero(np.diff(terms.ends, prepend=0) != 1)
        if wrong.size:
            raise ValueError(f"stop_words must be one term each, {words[wrong[0]]!r} is not")
        return Vocabulary.empty().intern(terms)[0]

    def _tokens(self) -> Any:
        return _encoding(self._encoding) if isinstance(self._encoding, str) else self._encoding


class _Stems:
    """A stemmer, and what it has answered already."""

    def __init__(self, stemmer: Callable[[str], str]):
        self.stemmer = stemmer
        self._lock = threading.Lock()
        self._forms, self._stems, self._stem_of = Vocabulary.empty(), Vocabulary.empty(), np.empty(0, np.int32)

    def apply(self, terms: Terms) -> Terms:
        """The stems of terms; empty ones are left out."""
        with self._lock:
            if self._forms.terms > _MOST_FORMS:
                self._forms, self._stem_of = Vocabulary.empty(), np.empty(0, np.int32)
                self._stems = Vocabulary.empty()
            self._forms, numbers = self._forms.intern(terms)
            known = len(self._stem_of)
            if self._forms.terms > known:
                stems = _list_of_str([self.stemmer(form) for form in self._forms.strings(known)])
                self._stems, more = self._stems.intern(Terms.of_strings("stems", stems, np.empty(0, np.int64)))
                self._stem_of = np.concatenate([self._stem_of, more])
            stemmed = self._stems.ranges(self._stem_of[numbers], terms.ends)
        empty = np.where(stemmed.starts == stemmed.stops, 0, -1).astype(np.int32)
        if not empty.any():
            return stemmed
        ends = stemmed.ends.copy()
        kept = kernels.keep_unknown(empty, stemmed.starts, stemmed.stops, stemmed.hashes, ends)
        return _first(stemmed._replace(ends=ends), kept)

    def __reduce__(self) -> tuple:
        return _Stems, (self.stemmer,)


def analysis(tokenizer: Any, stop_words: Stops, stemmer: Stemmer) -> Tokenizer:
    """The Tokenizer that these arguments of an index ask for; `tokenizer` may be one already, a callable, or None."""
    if not isinstance(tokenizer, Tokenizer):
        return Tokenizer(stop_words=stop_words, stemmer=stemmer, split=tokenizer)
    if stop_words is not None or stemmer is not None:
        raise ValueError("stop_words and stemmer are the Tokenizer's own: give them to it")
    return tokenizer


def fold(text: str) -> str:
    """A text as the analysis reads it: NFKC and case-folded, one apostrophe. ASCII is left to the kernel."""
    return text if text.isascii() else _normalized(text).casefold()


def _normalized(text: str) -> str:
    """What `fold` leaves to the kernel, which can put most characters in lower case, at five times the speed."""
    return unicodedata.normalize("NFKC", text).replace("\u2019", "'")


def _packed(name: str, texts: Sequence[str], change: Callable[[str], str]) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 bytes of texts, changed where they are not ASCII, as `kernels.tokenizer` wants them.

    Read-only uint8 (64 * blocks,); and where each text begins, but for the separators before it, int64 (texts + 1,).
    """
    parts = list(texts)
    try:
        if not all(map(str.isascii, parts)):
            parts = [part if str.isascii(part) else _bytes_as_characters(change(part)) for part in parts]
    except TypeError as error:
        raise TypeError(f"{name} must hold str alone: {error}") from error
    offsets = np.zeros(len(parts) + 1, np.int64)
    offsets[1:] = np.fromiter(map(len, parts), np.int64, len(parts))
    np.cumsum(offsets, out=offsets)
    size = int(offsets[-1]) + len(parts)
    if size > MAX_TERMS - 2 * _BLOCK:
        raise ValueError(f"{name} must be less than 2**31 bytes a call, got {size}")
    parts.append("\n" * (_BLOCK + -size % _BLOCK))
    return np.frombuffer("\n".join(parts).encode("latin-1"), np.uint8), offsets


def _cut_short(text: str, stops: Vocabulary) -> Terms | None:
    """The terms of a short text but for stop words, sooner than by the way for many; None if it is not ASCII."""
    if not text.isascii():
        return None
    size = len(text)
    raw = packed_short(text)
    data, masks = np.empty(len(raw), np.uint8), np.empty((len(raw) // _BLOCK, kernels.MASKS), np.uint64)
    starts, stops_, hashes = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.uint32)
    offsets, ends = np.array([0, size]), np.empty(1, np.int64)
    count = kernels.cut_short(
        raw, data, masks, offsets, np.zeros(3, np.int64), *stops[1:], starts, stops_, hashes, ends
    )
    return Terms(data, starts[:count], stops_[:count], hashes[:count], ends)


def packed_short(text: str) -> np.ndarray:
    """The bytes of an ASCII text, read-only uint8, as `kernels.tokenizer` wants them."""
    return np.frombuffer((text + _SPACE[len(text) % _BLOCK :]).encode(), np.uint8)


def _bytes_as_characters(text: str) -> str:
    """A text's UTF-8, one character a byte: among such texts, and ASCII, joining and encoding are plain copying."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def _classified(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """The bytes of packed texts, folded; the masks of `kernels.tokenizer`; and whether the kernel could fold it all."""
    data, masks = np.empty(len(raw), np.uint8), np.empty((len(raw) // _BLOCK, kernels.MASKS), np.uint64)
    wide = [kernels.classify(raw, data, masks, *step) for step in _steps(len(masks))]
    if not any(wide):
        return data, masks, True
    tables = _classes(), _folds()
    steps = _steps(len(masks) - 1)
    return data, masks, all(kernels.classify_wide(data, *tables, masks, *step) for step in steps)


def _delimited(data: np.ndarray, masks: np.ndarray, offsets: np.ndarray) -> Terms:
    """The terms of classified texts."""
    steps = _steps(len(masks) - 1)
    count = sum(kernels.delimit(masks, *step) for step in steps)
    starts, stops, hashes = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.uint32)
    ends, at = np.empty(len(offsets) - 1, np.int64), np.zeros(3, np.int64)
    for step in steps:
        kernels.cut(data, masks, offsets, at, *step, starts, stops, hashes, ends)
    return Terms(data, starts, stops, hashes, ends)


def _steps(blocks: int) -> list[tuple[int, int]]:
    """Ranges of blocks, each a kernel call's turn."""
    return [(first, min(first + _STEP, blocks)) for first in range(0, blocks, _STEP)]


@cache
def _classes() -> np.ndarray:
    """The table of classes of `kernels.tokenizer`."""
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
def _folds() -> np.ndarray:
    """The table of folds of `kernels.tokenizer`: what case folding does."""
    classes, table = _classes(), np.zeros(_CASED, np.uint32)
    for code, character in enumerate(map(chr, range(_CASED))):
        folded = character.casefold()
        if folded != character and code >= 0x80:
            before, after = character.encode(), folded.encode()
            alike = len(before) == len(after) and all(classes[ord(one)] == classes[code] for one in folded)
            table[code] = int.from_bytes(after, "little") if alike else kernels.ELSEWHERE
    return table


# The scripts Han and Hiragana, in ranges that leave room for what Unicode may still add to them.
_ALONE = (
    (0x3005, 0x3005), (0x3007, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B), (0x3041, 0x3096), (0x309D, 0x309F),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x16FE2, 0x16FE3), (0x16FF0, 0x16FF6), (0x1B001, 0x1B11F),
    (0x1B132, 0x1B132), (0x1B150, 0x1B152), (0x20000, 0x3FFFF),
)  # fmt: skip


def identity(function: Any) -> str:
    """A callable's own `fingerprint`, or the module and name of what it is."""
    own = getattr(function, "fingerprint", None)
    if isinstance(own, str):
        return own
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"


def _first(terms: Terms, count: int) -> Terms:
    return Terms(terms.data, terms.starts[:count], terms.stops[:count], terms.hashes[:count], terms.ends)


def _split_of(split: Any) -> Callable[[str], list[str]]:
    function = getattr(split, "tokenize", split)
    if not callable(function):
        raise TypeError(f"a tokenizer must be callable or have a method tokenize, got {split!r}")
    return function


def _list_of_str(terms: Any) -> list[str]:
    if not isinstance(terms, (list, tuple)) or not all(isinstance(term, str) for term in terms):
        raise TypeError(f"tokenizer and stemmer must give str, got {terms!r:.200}")
    return list(terms)


def _checked_encoding(encoding: Any) -> Any:
    if isinstance(encoding, os.PathLike):
        encoding = os.fspath(encoding)
    if encoding is None or isinstance(encoding, str):
        return encoding
    if callable(getattr(encoding, "encode", None)) and callable(getattr(encoding, "decode", None)):
        return encoding
    raise TypeError(f"encoding must be a name, a path, or an object with encode and decode, got {encoding!r}")


@cache
def _encoding(name: str) -> Any:
    """What `encoding` names, loaded once."""
    package = "tokenizers" if name.endswith(".json") else "tiktoken"
    try:
        if package == "tokenizers":
            from tokenizers import Tokenizer as Loaded

            return Loaded.from_file(name)
        import tiktoken
    except ImportError as error:
        raise ImportError(f"encoding={name!r} needs the package {package}: pip install {package}") from error
    return tiktoken.get_encoding(name)
