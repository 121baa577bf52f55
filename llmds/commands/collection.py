"""The file that `llmds index` writes: texts with their ids, the pipeline that searches them, and their encoder."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base import files, parts
from ..base.progress import bar
from ..base.structure import Structure
from ..documents import Documents
from ..encoders import LSAEncoder, SentenceTransformerEncoder
from ..retrieval_pipeline import Encoder, RetrievalPipeline
from ..tokenizer.tokenizer import STOP_WORDS, Tokenizer
from .corpus import Corpus

if TYPE_CHECKING:
    from typing_extensions import Self

# Queries between two steps of the progress bar.
_CHUNK = 2048


class Collection(Structure):
    """A searchable corpus in one file.

    The rows of `documents` are the document ids of `pipeline`.

    Parameters
    ----------
    pipeline
        Searches the documents; new ones are added to it.
    encoder_spec
        The encoder as `encoder_of` reads it, "none", or None if embeddings were given.
    stop_words
        Name of the stop words of the pipeline, or None.
    """

    _schema: ClassVar[files.Schema] = {"encoder_spec": (np.uint8, 1), "stop_words": (np.uint8, 1)}
    _parts = ("documents", "pipeline", "lsa")

    def __init__(self, pipeline: RetrievalPipeline, encoder_spec: str | None, stop_words: str | None):
        self.documents, self.pipeline = Documents(), pipeline
        self.encoder_spec, self.stop_words = encoder_spec, stop_words

    def add(self, corpus: Corpus, searched: list[str], embeddings: np.ndarray | None) -> None:
        """Add documents. O(characters), and the time of the encoder and the graph.

        Parameters
        ----------
        corpus
            Ids, titles and texts of n documents.
        searched
            For each document, the text that is indexed and encoded.
        embeddings
            float32 (n, dim), or None to use the encoder.
        """
        rows = self.documents.add_many(corpus.ids, corpus.texts, corpus.titles)
        self.pipeline.add_documents(rows, searched, embeddings, progress=True)

    def search(self, queries: list[str], embeddings: np.ndarray | None, **how: Any) -> tuple[np.ndarray, np.ndarray]:
        """Search for many queries, with a progress bar where there are many.

        Parameters
        ----------
        queries
            n texts.
        embeddings
            float32 (n, dim), or None to use the encoder.
        **how
            Other arguments of `RetrievalPipeline.search_batch`.

        Returns
        -------
        tuple of ndarray
            Rows of documents, int64 (n, top_k), and scores, float32 (n, top_k), as `search_batch` returns them.
        """
        ids, scores = [], []
        with bar(len(queries) > _CHUNK, len(queries), "searching", "queries") as advance:
            for start in range(0, max(len(queries), 1), _CHUNK):
                part = slice(start, start + _CHUNK)
                rows = None if embeddings is None else embeddings[part]
                found = self.pipeline.search_batch(queries[part], rows, **how)
                ids.append(found[0])
                scores.append(found[1])
                advance(len(queries[part]))
        return np.concatenate(ids), np.concatenate(scores)

    def shrink_to_fit(self) -> None:
        """Release unused capacity. O(size)."""
        self.documents.shrink_to_fit()
        self.pipeline.shrink_to_fit()

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Self":
        """Read a collection that `save` wrote. O(size).

        Raises
        ------
        ValueError
            If the file is damaged, of another kind or of a newer version.
        """
        return cls._load(path)

    def __len__(self) -> int:
        """Return the number of documents. O(1)."""
        return len(self.documents)

    def _to_arrays(self) -> files.Arrays:
        lsa = {"lsa": self.pipeline.encoder} if isinstance(self.pipeline.encoder, LSAEncoder) else {}
        return {
            "encoder_spec": files.text_array(self.encoder_spec or ""),
            "stop_words": files.text_array(self.stop_words or ""),
            **parts.to_arrays(documents=self.documents, pipeline=self.pipeline, **lsa),
        }

    @classmethod
    def _from_arrays(cls, arrays: files.Arrays, **given: Any) -> "Self":
        spec, stop_words = files.text_of(arrays["encoder_spec"]), files.text_of(arrays["stop_words"])
        files.expect(not stop_words or stop_words in STOP_WORDS, f"unknown stop words {stop_words!r}")
        encoder: Encoder | None = None
        if files.part("lsa", arrays):
            encoder = parts.restored(LSAEncoder, "lsa", arrays, tokenizer=None)
        elif spec not in ("", "none"):
            encoder = encoder_of(spec)
        tokenizer = Tokenizer(stop_words=stop_words or None)
        pipeline = parts.restored(RetrievalPipeline, "pipeline", arrays, encoder=encoder, tokenizer=tokenizer)
        self = cls(pipeline, spec or None, stop_words or None)
        self.documents = parts.restored(Documents, "documents", arrays)
        return self

    def _fault(self) -> str | None:
        if len(self.documents) != len(self.pipeline):
            return f"{len(self.documents)} texts for {len(self.pipeline)} searchable documents"
        return parts.fault(documents=self.documents, pipeline=self.pipeline)


def _lsa(dim: str, seed: int) -> LSAEncoder | None:
    if not dim:
        return LSAEncoder(seed=seed)
    return LSAEncoder(int(dim), seed=seed) if dim.isdecimal() else None


def _sentence_transformers(name: str, seed: int) -> SentenceTransformerEncoder | None:
    return SentenceTransformerEncoder(name) if name else None


# kind -> how it is written, and a function of what follows the colon, and of a seed, which returns None if it is wrong
ENCODERS: dict[str, tuple[str, Callable[[str, int], LSAEncoder | SentenceTransformerEncoder | None]]] = {
    "lsa": ("lsa, lsa:DIM", _lsa),
    "sentence-transformers": ("sentence-transformers:NAME", _sentence_transformers),
}


def encoder_of(spec: str, seed: int = 0) -> LSAEncoder | SentenceTransformerEncoder:
    """Return the encoder that "lsa", "lsa:DIM" or "sentence-transformers:NAME" names.

    Raises ValueError for any other text.
    """
    kind, _, name = spec.partition(":")
    encoder = ENCODERS[kind][1](name, seed) if kind in ENCODERS else None
    if encoder is None:
        forms = ", ".join(form for form, _ in ENCODERS.values())
        raise ValueError(f"encoder must be {forms} or none, got {spec!r}")
    return encoder
