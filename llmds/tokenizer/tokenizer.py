"""Terms of texts, for search, and tokens, for budgets."""

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
from .segmentation import segment, segment_short
from .vocabulary import Terms, Vocabulary

# name -> stop words: articles, pronouns, prepositions, conjunctions, auxiliaries and a few adverbs
STOP_WORDS = {
    "english": (
        "a about after all also am an and any are as at be because been before being between both but by can could did "
        "do does doing during each for from had has have having he her here hers him his how i if in into is it its "
        "itself may me might more most must my no nor not of on only or other our ours out over own same shall she "
        "should so some such than that the their theirs them then there these they this those through to too under "
        "until up upon us very was we were what when where which while who whom whose why will with would you your "
        "yours "
    )
}

Stops = str | Collection[str] | None
Stemmer = Callable[[str], str] | None

# Distinct terms whose stems are remembered.
_MOST_FORMS = 1 << 20
# Hexadecimal digits of a digest in a fingerprint.
_DIGEST = 16
# Characters of a text that `segment_short` takes.
_SHORT = 1 << 12
_NO_STOPS = Vocabulary.empty()


class Tokenizer:
    """The analysis of text into search terms, and the counting of model tokens.

    Terms: the text is brought to the Unicode form NFKC (where it is not ASCII) and case-folded. A term is a run of
    letters, marks, digits and `_` (categories L*, M*, N*, Pc); an apostrophe (' or U+2019, kept as ') between two
    letters belongs to it; each Han or Hiragana character is a term of its own.

    Tokens are what a language model reads. By default they are the bytes of UTF-8, which needs no model and gives at
    least as many tokens as any model's own tokenizer.

    Parameters
    ----------
    stop_words
        Terms to leave out: "english", or a collection of words, each one term.
    stemmer
        A callable on one term, which returns its stem. It is called for terms that are not stop words, once for each
        distinct term. A term whose stem is empty is left out.
    split
        A callable `str -> list[str]`, or an object with such a method `tokenize`, that replaces the analysis above.
        Stop words are then compared as they are given.
    encoding
        For tokens: the name of a tiktoken encoding ("cl100k_base"), the path of a `tokenizers` file
        ("tokenizer.json"), or any object with `encode` and `decode`.

    Notes
    -----
    Threads may share a tokenizer, if the callables given to it can be shared.

    Examples
    --------
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
        """Return the terms of a text, in order. O(len(text)).

        Examples
        --------
        >>> Tokenizer().tokenize("It's 3.14")
        ["it's", '3', '14']
        """
        return self.terms([arguments.text("text", text)]).strings()

    @property
    def fingerprint(self) -> str:
        """A description of the analysis: equal for tokenizers that give equal terms.

        It holds the Unicode version, a digest of the stop words, and the identity of `split` and `stemmer`: their own
        attribute `fingerprint` (a str) where they have one, else the module and name of their definition.
        """
        way = "default, unicode " + unicodedata.unidata_version if self._split is None else identity(self._given)
        stemmer = "none" if self._stems is None else identity(self._stems.stemmer)
        stop = "none"
        if self._stop is not None:
            words = "\n".join(sorted(self._stop.strings(0)))
            stop = hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
        return f"terms 1; {way}; stop words {stop}; stemmer {stemmer}"

    def terms(self, texts: Sequence[str], name: str = "texts") -> Terms:
        """Return the terms of many texts as arrays. O(characters).

        Parameters
        ----------
        texts
            A sequence of str.
        name
            What error messages call the argument.

        Returns
        -------
        Terms
            The terms of all texts, with the end of each text.
        """
        arguments.sequence(name, texts)
        if len(texts) == 1 and self._split is None and isinstance(texts[0], str) and len(texts[0]) <= _SHORT:
            terms = segment_short(texts[0], _NO_STOPS if self._stop is None else self._stop)
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
        """The stop words, if the kernels alone find the terms of ASCII texts; None with `split` or `stemmer`."""
        if self._split is not None or self._stems is not None:
            return None
        return _NO_STOPS if self._stop is None else self._stop

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text. O(len(text)) for bytes.

        Raises
        ------
        ValueError
            If `encoding` names neither a .json file nor an encoding of tiktoken.
        ImportError
            If the package that `encoding` needs is not installed.

        Examples
        --------
        >>> Tokenizer().encode("né")
        [110, 195, 169]
        """
        text = arguments.text("text", text)
        encoding = self._tokens()
        if encoding is None:
            return list(text.encode("utf-8", "surrogatepass"))
        if hasattr(encoding, "encode_ordinary"):  # tiktoken: special tokens in a text are ordinary text
            return encoding.encode_ordinary(text)
        if hasattr(encoding, "get_vocab_size"):  # tokenizers
            return encoding.encode(text, add_special_tokens=False).ids
        return list(encoding.encode(text))

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Return the text of tokens, the inverse of `encode`. O(len(tokens)) for bytes.

        Raises
        ------
        ValueError
            If one of the integers is not a token.
        """
        encoding = self._tokens()
        if encoding is None:
            return arguments.integers("tokens", tokens, 0, 255).astype(np.uint8).tobytes().decode("utf-8", "replace")
        listed = arguments.integers("tokens", tokens, 0).tolist()
        if hasattr(encoding, "get_vocab_size"):
            return encoding.decode(listed, skip_special_tokens=False)
        return encoding.decode(listed)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, len(encode(text)). O(len(text)) for bytes."""
        if self._encoding is None:
            text = arguments.text("text", text)
            return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        return len(self.encode(text))

    def get_vocab_size(self) -> int:
        """Return the number of distinct tokens that `encode` may return."""
        encoding = self._tokens()
        if encoding is None:
            return 256
        if hasattr(encoding, "get_vocab_size"):
            return encoding.get_vocab_size()
        return encoding.n_vocab if hasattr(encoding, "n_vocab") else len(encoding)

    def __repr__(self) -> str:
        """Return the fingerprint as text."""
        return f"Tokenizer({self.fingerprint})"

    def _cut(self, texts: Sequence[str], name: str) -> Terms:
        """Return the terms before stop words and stemming."""
        if self._split is None:
            return segment(name, texts)
        lists = [_list_of_str(self._split(text)) for text in texts]
        ends = np.cumsum(np.fromiter(map(len, lists), np.int64, len(lists)))
        return Terms.of_strings("terms", list(chain.from_iterable(lists)), ends)

    def _stop_words(self, words: Stops) -> Vocabulary:
        if isinstance(words, str):
            words = STOP_WORDS[arguments.one_of("stop_words", words, STOP_WORDS)].split()
        if not isinstance(words, Collection) or not all(isinstance(word, str) for word in words):
            names = " or ".join(map(repr, STOP_WORDS))
            raise TypeError(f"stop_words must be {names} or a collection of str, got {words!r}")
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
    """A stemmer, and the stems it has returned so far."""

    def __init__(self, stemmer: Callable[[str], str]):
        self.stemmer = stemmer
        self._lock = threading.Lock()
        self._forms, self._stems, self._stem_of = Vocabulary.empty(), Vocabulary.empty(), np.empty(0, np.int32)

    def apply(self, terms: Terms) -> Terms:
        """Return the stems of terms; empty ones are left out."""
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
        """Pickle the stemmer only: the stems can be computed again."""
        return _Stems, (self.stemmer,)


def analysis(tokenizer: Any, stop_words: Stops, stemmer: Stemmer) -> Tokenizer:
    """Return the Tokenizer for these arguments of an index; `tokenizer` may be a Tokenizer, a callable, or None.

    Raises ValueError if stop words or a stemmer are given beside a Tokenizer.
    """
    if not isinstance(tokenizer, Tokenizer):
        return Tokenizer(stop_words=stop_words, stemmer=stemmer, split=tokenizer)
    if stop_words is not None or stemmer is not None:
        raise ValueError("stop_words and stemmer cannot be given beside a Tokenizer: pass them to the Tokenizer")
    return tokenizer


def identity(function: Any) -> str:
    """Return the attribute `fingerprint` of a callable, or the module and name of its definition."""
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
        raise TypeError(f"tokenizer and stemmer must return str, got {terms!r:.200}")
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
    """Return the encoding of that name, loaded once: a .json file of tokenizers, or an encoding of tiktoken."""
    package = "tokenizers" if name.endswith(".json") else "tiktoken"
    try:
        if package == "tokenizers":
            from tokenizers import Tokenizer as Loaded

            return Loaded.from_file(name)
        import tiktoken
    except ImportError as error:
        raise ImportError(f"encoding={name!r} needs the package {package}: pip install {package}") from error
    known = tiktoken.list_encoding_names()
    if name not in known:
        raise ValueError(f"encoding must be a .json file of tokenizers, or one of {', '.join(known)}, got {name!r}")
    return tiktoken.get_encoding(name)
