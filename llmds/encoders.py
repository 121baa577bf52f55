"""Text to vectors: trained on the user's own corpus, or by a model that is there already."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .base import arguments
from .base import files as storage
from .base.arena import chunks
from .base.progress import Progress, bar
from .base.structure import Structure
from .kernels import encoders as kernels
from .tokenizer.tokenizer import Tokenizer
from .tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from typing_extensions import Self

# Texts tokenised in one go, and multiply-adds in one kernel call: each well under 100 ms.
CHUNK = 1 << 9
_CHUNK_WORK = 1 << 25
_OVERSAMPLING = 16
_TALL = 1 << 13  # rows of a tall matrix that one BLAS call takes

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # indptr, indices, values: see kernels.lsa


class LSAEncoder(Structure):
    """Latent semantic analysis (Deerwester et al. 1990): texts as vectors of `dim` numbers, learnt from a corpus.

    `fit` weighs terms by (1 + ln tf) * idf, idf = ln(1 + (n - df + 0.5) / (df + 0.5)), scales each text's
    weights to length 1, and finds the `dim` leading right singular vectors of that sparse matrix by
    randomised subspace iteration (Halko, Martinsson and Tropp 2011). A text's vector is its weights
    times these, scaled to length 1, so that inner product = cosine.

    dim           length of the vectors
    tokenizer     a Tokenizer, or a callable str -> list[str], or an object with such a method `tokenize`
    min_df        terms in fewer texts than that are left out
    max_features  of the others, only those in the most texts are kept (ties: those seen first)
    n_iter        subspace iterations after the first product
    seed          of the random start; the same corpus and seed give the same encoder

    A text without any known term has no direction: its row is all zeros. RetrievalPipeline takes such
    a row for "no embedding"; HNSW with the metric "cosine" refuses it.

    Measured, nDCG@10 on the test collections CISI and Cranfield, dim=256: .368 and .522; .405 and .550 with a
    Tokenizer of English stop words and a Snowball stemmer; .333 and .509 with the commoner idf, ln((1 + n) / (1 +
    df)) + 1. Scaling the directions by a power of their singular values (-1, -1/2 or 1/2) did not gain on both.

    Any number of threads may encode. Memory: 4 * (dim + 1) bytes a term, and the terms themselves.

    >>> encoder = LSAEncoder(dim=2, min_df=1).fit(["the cat sat", "a cat ran", "stocks fell", "stocks rose"])
    >>> vectors = encoder(["cat", "stocks", "unheard"])
    >>> vectors.shape, bool(vectors[0] @ vectors[1] < 0.5), vectors[2].tolist()
    ((3, 2), True, [0.0, 0.0])
    """

    _schema: ClassVar[storage.Schema] = {
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
        # Published together: texts learnt from, terms, idf, projection, singular values.
        nothing = np.empty(0, np.float32), np.empty((0, self.dim), np.float32), np.zeros(self.dim, np.float32)
        self._state: tuple[int, Vocabulary, np.ndarray, np.ndarray, np.ndarray] = 0, Vocabulary.empty(), *nothing

    def fit(self, texts: Sequence[str], *, progress: Progress = False) -> "Self":
        """Learn from a corpus, in place of what was learnt before. O(entries * dim * n_iter); returns self.

        An entry is a distinct term of a text. `progress`: True draws a bar, a callable is called with (done,
        total). ValueError, with nothing changed, if `min_df` leaves no term.
        """
        texts = arguments.strings("texts", texts)
        products = self.n_iter + 1
        with self._lock, bar(progress, len(texts) * (1 + products), "LSA", "text") as advance:
            vocabulary, rows = self._learn_terms(texts, advance)
            vocabulary, idf, rows = self._select(vocabulary, rows, len(texts))
            kernels.weigh(*rows, idf)
            vectors, singular = _leading_right_singular_vectors(
                rows, len(idf), self.dim, self.n_iter, self.seed, advance
            )
            self._state = len(texts), vocabulary, idf, vectors, singular
        return self

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of n texts, float32 (n, dim), each of length 1, or all zeros. O(entries * dim).

        ValueError before `fit`.
        """
        texts = arguments.strings("texts", texts)
        count, vocabulary, idf, projection, _ = self._state
        if count == 0:
            raise ValueError("this LSAEncoder has learnt nothing yet: call fit(texts) first")
        out = np.empty((len(texts), self.dim), np.float32)
        for part in chunks(len(texts), CHUNK):
            terms = self._tokenizer.terms(texts[part])
            rows = _counted(vocabulary.find(terms), terms.ends, len(idf))
            kernels.weigh(*rows, idf)
            for start, stop in _equal_work(rows[0], _CHUNK_WORK // self.dim):
                kernels.times_dense(*rows, start, stop, projection, out[part])
            kernels.normalise(out[part])
        return out

    def stats(self) -> dict[str, Any]:
        """`dim`, `texts` (learnt from), `terms`, `rank` (directions found, at most dim), `singular_values` (dim,)."""
        count, vocabulary, _, _, singular = self._state
        return {
            "dim": self.dim,
            "texts": count,
            "terms": vocabulary.terms,
            "rank": int(np.count_nonzero(singular)),
            "singular_values": singular.copy(),
        }

    def __repr__(self) -> str:
        return f"LSAEncoder(dim={self.dim}, {self._state[1].terms} terms of {self._state[0]} texts)"

    @classmethod
    def load(cls, path: str | os.PathLike, *, tokenizer: Any = None) -> "Self":
        """Read what `save` wrote. `tokenizer` is not in the file: give the one the encoder had.

        ValueError if the file is damaged, of another kind or of a newer version, or if the tokenizer gives other
        terms.
        """
        return cls._load(path, tokenizer=tokenizer)

    def _to_arrays(self) -> storage.Arrays:
        count, vocabulary, idf, projection, singular = self._state
        settings = [self.dim, self.min_df, self.max_features, self.n_iter, self.seed, count]
        return {
            "settings": np.array(settings, np.int64),
            "analysis": storage.text_array(self._tokenizer.fingerprint),
            **vocabulary._asdict(),
            "idf": idf,
            "projection": projection,
            "singular_values": singular,
        }

    def _owned(self) -> Iterator[np.ndarray]:
        _, vocabulary, *others = self._state
        yield from vocabulary
        yield from others

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        storage.expect(len(arrays["settings"]) == 6, "its settings do not add up")
        dim, min_df, max_features, n_iter, seed, count = arrays["settings"].tolist()
        try:
            self = cls(
                dim, min_df=min_df, max_features=max_features, n_iter=n_iter, seed=seed, tokenizer=given["tokenizer"]
            )
        except ValueError as error:
            raise storage.Damaged(f"damaged: {error}") from error
        written, mine = storage.text_of(arrays["analysis"]), self._tokenizer.fingerprint
        if written != mine:
            raise storage.Damaged(f"was learnt with the analysis {written!r}, the tokenizer given has {mine!r}")
        head, offsets = arrays["head"], arrays["offsets"]
        storage.expect(len(head) == 2 and 0 <= head[0] < len(offsets), "its terms do not add up")
        vocabulary = Vocabulary(*(arrays[name] for name in Vocabulary._fields))
        self._state = count, vocabulary, arrays["idf"], arrays["projection"], arrays["singular_values"]
        return self

    def _fault(self) -> str | None:
        count, vocabulary, idf, projection, singular = self._state
        fault = vocabulary.fault()
        if fault is not None:
            return fault
        terms = vocabulary.terms
        if idf.shape != (terms,) or projection.shape != (terms, self.dim) or singular.shape != (self.dim,):
            return "idf, projection and singular values do not fit the vocabulary"
        if count < 0 or (count == 0) != (terms == 0):
            return f"{terms} terms were learnt from {count} texts"
        if not (np.isfinite(projection).all() and np.isfinite(idf).all() and (idf > 0).all()):
            return "idf or projection hold what is no weight"
        if not (np.isfinite(singular).all() and (singular >= 0).all() and (np.diff(singular) <= 0).all()):
            return "the singular values do not fall"
        return None

    def _learn_terms(self, texts: list[str], advance: Callable[[int], None]) -> tuple[Vocabulary, Rows]:
        """All terms of `texts`, and the rows of their counts."""
        vocabulary, parts = (
            Vocabulary.empty(1 << 12, 1 << 15),
            [_counted(np.empty(0, np.int32), np.empty(0, np.int64), 0)],
        )
        for part in chunks(len(texts), CHUNK):
            terms = self._tokenizer.terms(texts[part])
            vocabulary, numbers = vocabulary.intern(terms)
            parts.append(_counted(numbers, terms.ends, vocabulary.terms))
            advance(part.stop - part.start)
        indptrs, indices, counts = zip(*parts, strict=True)
        indptr = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.concatenate([np.diff(part) for part in indptrs]), out=indptr[1:])
        return vocabulary, (indptr, np.concatenate(indices), np.concatenate(counts))

    def _select(self, vocabulary: Vocabulary, rows: Rows, n: int) -> tuple[Vocabulary, np.ndarray, Rows]:
        """The terms that `min_df` and `max_features` leave, their idf, and the rows of them alone."""
        indptr, indices, counts = rows
        df = np.bincount(indices, minlength=vocabulary.terms)
        keep = df >= self.min_df
        if np.count_nonzero(keep) > self.max_features:
            most = np.argsort(np.where(keep, -df, 0), kind="stable")
            keep[most[self.max_features :]] = False
        if not keep.any():
            raise ValueError(
                f"texts must hold a term that comes in min_df = {self.min_df} of them, these {n} hold none"
            )
        vocabulary, renumbered = vocabulary.kept(keep)
        indices = renumbered[indices]
        stays = indices >= 0
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(stays)])[indptr]
        idf = np.log1p((n - df[keep] + 0.5) / (df[keep] + 0.5)).astype(np.float32)
        return vocabulary, idf, (indptr, indices[stays], counts[stays])


class SentenceTransformerEncoder:
    """A sentence-transformers model as an encoder: `list[str]` to float32 (n, dim), rows of length 1.

    name_or_path  a model's name, or the folder it lies in
    batch_size    texts the model takes at a time
    device        where it runs ("cpu", "cuda", ...); None lets sentence-transformers choose

    Needs the extra `llmds[encoders]`: ImportError without it.
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
        """The vectors of n texts, float32 (n, dim)."""
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
        return f"SentenceTransformerEncoder({self.name_or_path!r}, dim={self.dim})"


def _leading_right_singular_vectors(
    rows: Rows, terms: int, dim: int, iterations: int, seed: int, advance: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """The `dim` leading right singular vectors of X and their singular values, float32 (terms, dim) and (dim,).

    Zeros beyond the rank of X. Randomised subspace iteration on X'X, closed by a Rayleigh-Ritz step.
    """
    indptr, _, _ = rows
    n = len(indptr) - 1
    width = min(dim + _OVERSAMPLING, terms, n)
    vectors, singular = np.zeros((terms, dim), np.float32), np.zeros(dim, np.float32)
    if width == 0:
        return vectors, singular
    basis = np.random.default_rng(seed).standard_normal((terms, width), np.float32)
    pieces = list(_equal_work(indptr, max(1, _CHUNK_WORK // width)))
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
    """Orthonormal columns, float32 (t, w' <= w), that span what those of `basis` (float32 (t, w)) do.

    By the eigenvectors of the Gram matrix, summed in float64 (Stathopoulos and Wu 2002), again where the columns
    were nearly dependent. LAPACK's QR was most of a fit's time, in single calls that no Ctrl-C ends.
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
    """Runs of rows (start, stop) that hold about `entries` entries each."""
    start, n = 0, len(indptr) - 1
    while start < n:
        stop = max(int(np.searchsorted(indptr, indptr[start] + entries, "right")) - 1, start + 1)
        yield start, min(stop, n)
        start = stop


def _counted(terms: np.ndarray, ends: np.ndarray, vocabulary: int) -> Rows:
    """The rows of counts of texts whose terms (int32, -1 unknown) end before `ends`."""
    indptr, indices = np.empty(len(ends) + 1, np.int64), np.empty(len(terms), np.int32)
    counts, slots = np.empty(len(terms), np.float32), np.full(vocabulary, -1)
    entries = kernels.count_terms(terms, ends, slots, indptr, indices, counts)
    return indptr, indices[:entries], counts[:entries]
