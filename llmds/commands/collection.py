"""What `llmds index` writes: texts with their ids, the pipeline that searches them, and how they were encoded."""

import os
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..base import files as storage
from ..base.progress import bar
from ..base.structure import Structure
from ..documents import Documents
from ..encoders import LSAEncoder, SentenceTransformerEncoder
from ..retrieval_pipeline import Encoder, RetrievalPipeline
from ..tokenizer.tokenizer import Tokenizer
from .corpus import Corpus

if TYPE_CHECKING:
    from typing_extensions import Self

# Documents added between two steps of the progress bar.
_CHUNK = 2048


class Collection(Structure):
    """A searchable corpus in one file. Rows of `documents` are the pipeline's document ids."""

    _schema: ClassVar[storage.Schema] = {"encoder_spec": (np.uint8, 1), "stop_words": (np.uint8, 1)}
    _parts = ("documents", "pipeline", "lsa")

    def __init__(self, pipeline: RetrievalPipeline, encoder_spec: str | None, stop_words: str | None):
        self.documents, self.pipeline = Documents(), pipeline
        self.encoder_spec, self.stop_words = encoder_spec, stop_words

    def add(self, corpus: Corpus, searched: list[str], embeddings: np.ndarray | None) -> None:
        """Add documents: `searched` is the text of each that is indexed and encoded."""
        rows = self.documents.add_many(corpus.ids, corpus.texts, corpus.titles)
        self.pipeline.add_documents(rows, searched, embeddings, progress=True)

    def search(self, queries: list[str], embeddings: np.ndarray | None, **how: Any) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores, (n, top_k), in batches with a progress bar where there are many."""
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
        """Give back the room that is not used."""
        self.documents.shrink_to_fit()
        self.pipeline.shrink_to_fit()

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Self":
        """Read what `save` wrote. ValueError if it is damaged, or something else."""
        return cls._load(path)

    def __len__(self) -> int:
        return len(self.documents)

    def _to_arrays(self) -> storage.Arrays:
        arrays = {
            "encoder_spec": storage.text_array(self.encoder_spec or ""),
            "stop_words": storage.text_array(self.stop_words or ""),
            **storage.prefixed("documents", self.documents._to_arrays()),
            **storage.prefixed("pipeline", self.pipeline._to_arrays()),
        }
        if isinstance(self.pipeline.encoder, LSAEncoder):
            arrays |= storage.prefixed("lsa", self.pipeline.encoder._to_arrays())
        return arrays

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        spec, stop_words = (storage.text_of(arrays[name]) or None for name in cls._schema)
        storage.expect(stop_words in (None, "english"), f"stop words {stop_words!r}")
        encoder: Encoder | None = None
        if lsa := storage.part("lsa", arrays):
            encoder = LSAEncoder._restored(lsa, "lsa", tokenizer=None)
        elif spec not in (None, "none"):
            encoder = encoder_of(spec)
        pipeline = RetrievalPipeline._restored(
            storage.part("pipeline", arrays), "pipeline", encoder=encoder, tokenizer=Tokenizer(stop_words=stop_words)
        )
        self = cls(pipeline, spec, stop_words)
        self.documents = Documents._restored(storage.part("documents", arrays), "documents")
        return self

    def _fault(self) -> str | None:
        if len(self.documents) != len(self.pipeline):
            return f"{len(self.documents)} texts for {len(self.pipeline)} searchable documents"
        return self.documents._fault() or self.pipeline._fault()


def encoder_of(spec: str, seed: int = 0) -> LSAEncoder | SentenceTransformerEncoder:
    """The encoder that "lsa", "lsa:DIM" or "sentence-transformers:NAME" names. ValueError for anything else."""
    kind, _, name = spec.partition(":")
    if kind == "lsa" and (name.isdecimal() or not name):
        return LSAEncoder(int(name), seed=seed) if name else LSAEncoder(seed=seed)
    if kind == "sentence-transformers" and name:
        return SentenceTransformerEncoder(name)
    raise ValueError(f"encoder must be lsa, lsa:DIM, sentence-transformers:NAME or none, got {spec!r}")
