"""Encoders, which turn texts into vectors: trained on the user's own corpus, or with a pretrained model."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from .base import arguments, files
from .base.arena import chunks
from .base.progress import Progress, bar
from .base.structure import Structure
from .kernels import encoders as kernels
from .kernels.encoders import Arrays
from .tokenizer.tokenizer import Tokenizer
from .tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from typing_extensions import Self

# Texts tokenised in one step, and multiply-adds in one kernel call: each well under 100 ms.
CHUNK = 1 << 9
_CHUNK_WORK = 1 << 25
_OVERSAMPLING = 16
_TALL = 1 << 13  # rows of a tall matrix in one BLAS call
# What `settings` of a saved encoder holds.
_SETTINGS = ("dim", "min_df", "max_features", "n_iter", "seed", "texts")


class Rows(NamedTuple):
    """A sparse matrix in compressed rows, one row for each text; see `kernels.encoders`."""

    indptr: np.ndarray  # int64 (n + 1,)
    indices: np.ndarray  # int32 (entries,)
    values: np.ndarray  # float32 (entries,)


class _Learnt(NamedTuple):
    """What an encoder has learnt, replaced as a whole so that a reader never combines old arrays with new ones."""

    texts: int
    vocabulary: Vocabulary
    idf: np.ndarray
    projection: np.ndarray
    singular_values: np.ndarray


class LSAEncoder(Structure):
    """Latent semantic analysis: texts as vectors of `dim` numbers, learnt from a corpus.

    An instance is a callable `list[str] -> float32 (n, dim)`, as RetrievalPipeline takes it. Call `fit` first.

    Parameters
    ----------
    dim
        Length of the vectors.
    tokenizer
        A `Tokenizer`, or a callable `str -> list[str]`, or an object with such a method `tokenize`.
    min_df
        Terms that occur in fewer texts than this are left out.
    max_features
        Of the other terms, only this many are kept: those that occur in the most texts (ties: those seen first).
    n_iter
        Subspace iterations after the first product.
    seed
        Seed of the random start: the same corpus and seed give the same encoder.

    Notes
    -----
    `fit` gives terms the weights (1 + ln tf) * idf, idf = ln(1 + (n - df + 0.5) / (df + 0.5)), scales the weights of
    each text to length 1, and finds the `dim` leading right singular vectors of that sparse matrix (Deerwester et al.
    1990) by randomised subspace iteration (Halko, Martinsson and Tropp 2011). The vector of a text is its weights
    times these, scaled to length 1, so that the inner product is the cosine.

    A text without any known term has no direction: its row is all zeros. RetrievalPipeline treats such a row as "no
    embedding"; HNSW with the metric "cosine" refuses it.

    Measured nDCG@10 on the test collections CISI and Cranfield, dim=256: .368 and .522; .405 and .550 with a
    Tokenizer with English stop words and a Snowball stemmer; .333 and .509 with the more common idf, ln((1 + n) / (1 +
    df)) + 1. Scaling the directions by a power of their singular values (-1, -1/2 or 1/2) did not improve both.

    Any number of threads may encode. Memory: 4 * (dim + 1) bytes for each term, and the terms themselves.

    Examples
    --------
    >>> encoder = LSAEncoder(dim=2, min_df=1).fit(["the cat sat", "a cat ran", "stocks fell", "stocks rose"])
    >>> vectors = encoder(["cat", "stocks", "unheard"])
    >>> vectors.shape, bool(vectors[0] @ vectors[1] < 0.5), vectors[2].tolist()
    ((3, 2), True, [0.0, 0.0])
    """

    _schema: ClassVar[files.Schema] = {
        "settings": (np.int64, 1),
        "analysis": (np.uint8, 1),
        "head": (np.int64, 1),
        "data": (np.uint8, 1),
        "offsets": (np.int64, 1),
        "buckets": (np.int64, 1),
        "idf": (np.float32, 1),
        "projection": (np.float32, 2),
        "singular_values": (np.float32, 1),
    }

    def __init__(
        self,
        dim: int = 256,
        *,
        tokenizer: Any = None,
        min_df: int = 2,
        max_features: int = 100_000,
        n_iter: int = 4,
        seed: int = 0,
    ):
        self.dim = arguments.integer("dim", dim, 1, 1 << 16)
        self.min_df = arguments.integer("min_df", min_df, 1)
        self.max_features = arguments.integer("max_features", max_features, 1, 2**31 - 1)
        self.n_iter = arguments.integer("n_iter", n_iter, 0, 1000)
        self.seed = arguments.integer("seed", seed, 0)
        self._tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer(split=tokenizer)
        self._lock = threading.RLock()
        nothing = np.empty(0, np.float32), np.empty((0, self.dim), np.float32), np.zeros(self.dim, np.float32)
        self._learnt = _Learnt(0, Vocabulary.empty(), *nothing)

    @property
    def arrays(self) -> Arrays:
        """The arrays of the encoder, for your own `@njit` functions.

        `Arrays(head, data, offsets, buckets, idf, projection, singular_values)`: the vocabulary, as
        `llmds.kernels.tokenizer` describes it, and float32 (terms,), (terms, dim) and (dim,). They are the encoder's
        own, writable, not copies. `fit` replaces them; older ones are stale then. O(1).

        Examples
        --------
        >>> encoder = LSAEncoder(dim=2, min_df=1).fit(["the cat sat", "a cat ran"])
        >>> encoder.arrays.idf.shape, encoder.arrays.projection.shape
        ((5,), (5, 2))
        """
        learnt = self._learnt
        return Arrays(*learnt.vocabulary, learnt.idf, learnt.projection, learnt.singular_values)

    def fit(self, texts: Sequence[str], *, progress: Progress = False) -> "Self":
        """Learn from a corpus, in place of what was learnt before. O(entries * dim * n_iter).

        An entry is a distinct term of a text.

        Parameters
        ----------
        texts
            The corpus, a sequence of str.
        progress
            True draws a progress bar; a callable is called with (done, total).

        Returns
        -------
        LSAEncoder
            The encoder itself.

        Raises
        ------
        ValueError
            If no term occurs in `min_df` texts. Nothing is changed then.
        """
        texts = arguments.strings("texts", texts)
        products = self.n_iter + 1
        with self._lock, bar(progress, len(texts) * (1 + products), "LSA", "text") as advance:
            vocabulary, rows = self._count_terms(texts, advance)
            vocabulary, idf, rows = self._select(vocabulary, rows, len(texts))
            kernels.weigh(*rows, idf)
            projection, singular = _leading_right_singular_vectors(
                rows, len(idf), self.dim, self.n_iter, self.seed, advance
            )
            self._learnt = _Learnt(len(texts), vocabulary, idf, projection, singular)
        return self

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of n texts. O(entries * dim).

        Parameters
        ----------
        texts
            A sequence of n str.

        Returns
        -------
        ndarray
            float32 (n, dim): each row has length 1, or is all zeros if its text holds no known term.

        Raises
        ------
        ValueError
            If `fit` was never called.
        """
        texts = arguments.strings("texts", texts)
        count, vocabulary, idf, projection, _ = self._learnt
        if count == 0:
            raise ValueError("this LSAEncoder is not trained: call fit(texts) first")
        out = np.empty((len(texts), self.dim), np.float32)
        for part in chunks(len(texts), CHUNK):
            terms = self._tokenizer.terms(texts[part])
            rows = _counted(vocabulary.find(terms), terms.ends, len(idf))
            kernels.weigh(*rows, idf)
            for start, stop in _equal_work(rows.indptr, _CHUNK_WORK // self.dim):
                kernels.times_dense(*rows, start, stop, projection, out[part])
            kernels.normalise(out[part])
        return out

    def stats(self) -> dict[str, Any]:
        """Return figures about what was learnt. O(dim).

        Returns
        -------
        dict
            `dim`, `texts` (of the corpus), `terms`, `rank` (number of directions found, at most `dim`) and
            `singular_values`, float32 (dim,).
        """
        learnt = self._learnt
        return {
            "dim": self.dim,
            "texts": learnt.texts,
            "terms": learnt.vocabulary.terms,
            "rank": int(np.count_nonzero(learnt.singular_values)),
            "singular_values": learnt.singular_values.copy(),
        }

    def __repr__(self) -> str:
        """Return the number of dimensions, of terms and of texts as text."""
        return f"LSAEncoder(dim={self.dim}, {self._learnt.vocabulary.terms} terms of {self._learnt.texts} texts)"

    @classmethod
    def load(cls, path: str | os.PathLike, *, tokenizer: Any = None) -> "Self":
        """Read an encoder that `save` wrote. O(size).

        Parameters
        ----------
        path
            The file.
        tokenizer
            The tokenizer the encoder had; the file does not hold it.

        Raises
        ------
        ValueError
            If the file is damaged, of another kind or of a newer version, or if it was written with a tokenizer that
            gives different terms.
        """
        return cls._load(path, tokenizer=tokenizer)

    def _to_arrays(self) -> files.Arrays:
        count, vocabulary, idf, projection, singular = self._learnt
        settings = {**{name: getattr(self, name) for name in _SETTINGS[:-1]}, "texts": count}
        return {
            "settings": np.array([settings[name] for name in _SETTINGS], np.int64),
            "analysis": files.text_array(self._tokenizer.fingerprint),
            **vocabulary._asdict(),
            "idf": idf,
            "projection": projection,
            "singular_values": singular,
        }

    def _owned(self) -> Arrays:
        return self.arrays

    @classmethod
    def _from_arrays(cls, arrays: files.Arrays, **given: Any) -> "Self":
        files.expect(len(arrays["settings"]) == len(_SETTINGS), "the number of its settings is wrong")
        settings = dict(zip(_SETTINGS, arrays["settings"].tolist(), strict=True))
        count = settings.pop("texts")
        try:
            self = cls(**settings, tokenizer=given["tokenizer"])
        except ValueError as error:
            raise files.Damaged(f"damaged: {error}") from error
        written, mine = files.text_of(arrays["analysis"]), self._tokenizer.fingerprint
        if written != mine:
            raise files.Damaged(f"was trained with the analysis {written!r}, the tokenizer given has {mine!r}")
        head, offsets = arrays["head"], arrays["offsets"]
        vocabulary = Vocabulary(head, arrays["data"], offsets, arrays["buckets"])
        files.expect(len(head) == 2 and 0 <= vocabulary.terms < len(offsets), "the number of its terms is wrong")
        self._learnt = _Learnt(count, vocabulary, arrays["idf"], arrays["projection"], arrays["singular_values"])
        return self

    def _fault(self) -> str | None:
        count, vocabulary, idf, projection, singular = self._learnt
        fault = vocabulary.fault()
        if fault is not None:
            return fault
        terms = vocabulary.terms
        if idf.shape != (terms,) or projection.shape != (terms, self.dim) or singular.shape != (self.dim,):
            return "idf, projection and singular values do not fit the vocabulary"
        if count < 0 or (count == 0) != (terms == 0):
            return f"{terms} terms cannot come from {count} texts"
        if not (np.isfinite(projection).all() and np.isfinite(idf).all() and (idf > 0).all()):
            return "a weight in idf or projection is not allowed"
        if not (np.isfinite(singular).all() and (singular >= 0).all() and (np.diff(singular) <= 0).all()):
            return "the singular values are not sorted, largest first"
        return None

    def _count_terms(self, texts: list[str], advance: Callable[[int], None]) -> tuple[Vocabulary, Rows]:
        """Return all terms of `texts`, and the rows of their counts."""
        vocabulary = Vocabulary.empty(1 << 12, 1 << 15)
        parts = [_counted(np.empty(0, np.int32), np.empty(0, np.int64), 0)]
        for part in chunks(len(texts), CHUNK):
            terms = self._tokenizer.terms(texts[part])
            vocabulary, numbers = vocabulary.intern(terms)
            parts.append(_counted(numbers, terms.ends, vocabulary.terms))
            advance(part.stop - part.start)
        indptr = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.concatenate([np.diff(rows.indptr) for rows in parts]), out=indptr[1:])
        indices, counts = (np.concatenate([getattr(rows, name) for rows in parts]) for name in ("indices", "values"))
        return vocabulary, Rows(indptr, indices, counts)

    def _select(self, vocabulary: Vocabulary, rows: Rows, n: int) -> tuple[Vocabulary, np.ndarray, Rows]:
        """Return the terms that `min_df` and `max_features` leave, their idf, and the rows with only these terms."""
        indptr, indices, counts = rows
        df = np.bincount(indices, minlength=vocabulary.terms)
        keep = df >= self.min_df
        if np.count_nonzero(keep) > self.max_features:
            most = np.argsort(np.where(keep, -df, 0), kind="stable")
            keep[most[self.max_features :]] = False
        if not keep.any():
            raise ValueError(f"texts must share terms: none occurs in min_df = {self.min_df} of the {n} texts")
        vocabulary, renumbered = vocabulary.kept(keep)
        indices = renumbered[indices]
        stays = indices >= 0
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(stays)])[indptr]
        idf = np.log1p((n - df[keep] + 0.5) / (df[keep] + 0.5)).astype(np.float32)
        return vocabulary, idf, Rows(indptr, indices[stays], counts[stays])


class SentenceTransformerEncoder:
    """A sentence-transformers model as an encoder.

    An instance is a callable `list[str] -> float32 (n, dim)`, as RetrievalPipeline takes it. Its attribute `dim` is
    the length of the model's vectors.

    Parameters
    ----------
    name_or_path
        Name of a model, or the folder that holds it.
    batch_size
        Number of texts in one call of the model.
    device
        Where the model runs ("cpu", "cuda", ...); None lets sentence-transformers choose.

    Raises
    ------
    ImportError
        Without the extra `llmds[encoders]`.
    """

    def __init__(self, name_or_path: str | os.PathLike, *, batch_size: int = 32, device: str | None = None):
        self.name_or_path = arguments.text("name_or_path", os.fspath(name_or_path))
        self.batch_size = arguments.integer("batch_size", batch_size, 1)
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError(
                "SentenceTransformerEncoder needs sentence-transformers: pip install 'llmds[encoders]'"
            ) from error
        self._model = SentenceTransformer(self.name_or_path, device=device)
        self.dim = arguments.integer("the model's dimension", self._model.get_sentence_embedding_dimension(), 1)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of n texts, float32 (n, dim), each of length 1."""
        texts = arguments.strings("texts", texts)
        if not texts:
            return np.empty((0, self.dim), np.float32)
        vectors = self._model.encode(
            texts,
            batch_size=self.batch_size,
            convert_to_numpy=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return arguments.vectors("the model's vectors", vectors, self.dim)

    def __repr__(self) -> str:
        """Return the model's name and the number of dimensions as text."""
        return f"SentenceTransformerEncoder({self.name_or_path!r}, dim={self.dim})"


def _leading_right_singular_vectors(
    rows: Rows, terms: int, dim: int, iterations: int, seed: int, advance: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `dim` leading right singular vectors of X and their values, float32 (terms, dim) and (dim,).

    Zeros beyond the rank of X. Randomised subspace iteration on X'X, with a Rayleigh-Ritz step at the end.
    """
    n = len(rows.indptr) - 1
    width = min(dim + _OVERSAMPLING, terms, n)
    vectors, singular = np.zeros((terms, dim), np.float32), np.zeros(dim, np.float32)
    if width == 0:
        return vectors, singular
    basis = np.random.default_rng(seed).standard_normal((terms, width), np.float32)
    pieces = list(_equal_work(rows.indptr, max(1, _CHUNK_WORK // width)))
    for _ in range(iterations + 1):
        basis = _orthonormal(basis)
        product = np.zeros_like(basis)
        for start, stop in pieces:
            kernels.add_gram_times_dense(*rows, start, stop, basis, product)
            advance(stop - start)
        basis, last = product, basis
    gram = (last.T @ product).astype(np.float64)
    squares, rotation = np.linalg.eigh((gram + gram.T) / 2)
    squares, rotation = squares[::-1][:dim], rotation[:, ::-1][:, :dim]
    rank = int(np.count_nonzero(squares > 1e-6 * max(squares[0], 0)))
    found = last @ rotation[:, :rank].astype(np.float32)
    found *= np.where(found[np.abs(found).argmax(0), np.arange(rank)] < 0, np.float32(-1), np.float32(1))
    vectors[:, :rank], singular[:rank] = found, np.sqrt(squares[:rank])
    return vectors, singular


def _orthonormal(basis: np.ndarray) -> np.ndarray:
    """Return orthonormal columns, float32 (t, w' <= w), with the same span as those of `basis` (float32 (t, w)).

    Uses the eigenvectors of the Gram matrix, summed in float64 (Stathopoulos and Wu 2002), and repeats this where the
    columns were nearly dependent. LAPACK's QR took most of the time of a fit, in single calls that Ctrl-C cannot
    interrupt.
    """
    for _ in range(3):
        gram = np.zeros((basis.shape[1], basis.shape[1]))
        for part in chunks(len(basis), _TALL):
            piece = basis[part].astype(np.float64)
            gram += piece.T @ piece
        scale = 1 / np.sqrt(np.maximum(gram.diagonal(), np.finfo(np.float64).tiny))
        squares, rotation = np.linalg.eigh(gram * scale * scale[:, None])
        kept = squares > 1e-10 * max(squares[-1], 0)
        turn = (scale[:, None] * rotation[:, kept] / np.sqrt(squares[kept])).astype(np.float32)
        turned = np.empty((len(basis), turn.shape[1]), np.float32)
        for part in chunks(len(basis), _TALL):
            np.matmul(basis[part], turn, out=turned[part])
        basis = turned
        if kept.all() and squares[0] > 1e-3 * squares[-1]:
            break
    return basis


def _equal_work(indptr: np.ndarray, entries: int) -> Iterator[tuple[int, int]]:
    """Yield runs of rows, (start, stop), with about `entries` entries each."""
    start, n = 0, len(indptr) - 1
    while start < n:
        stop = max(int(np.searchsorted(indptr, indptr[start] + entries, "right")) - 1, start + 1)
        yield start, min(stop, n)
        start = stop


def _counted(terms: np.ndarray, ends: np.ndarray, vocabulary: int) -> Rows:
    """Return the rows of counts of texts whose terms (int32, -1 unknown) end before `ends`."""
    indptr, indices = np.empty(len(ends) + 1, np.int64), np.empty(len(terms), np.int32)
    counts, slots = np.empty(len(terms), np.float32), np.full(vocabulary, -1)
    entries = kernels.count_terms(terms, ends, slots, indptr, indices, counts)
    return Rows(indptr, indices[:entries], counts[:entries])
