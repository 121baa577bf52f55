"""`llmds index`: make a file for `llmds search` from a corpus."""

import argparse
from pathlib import Path

from ..base.arguments import integer
from ..encoders import LSAEncoder
from ..hnsw.state import METRICS
from ..retrieval_pipeline import RetrievalPipeline
from ..tokenizer.tokenizer import STOP_WORDS
from .collection import Collection, encoder_of
from .corpus import read_corpus, read_embeddings

FIELDS = ("title", "text")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add(
        "corpus",
        metavar="CORPUS",
        help="a file of JSON lines (plain or .gz), each with _id, text and optionally title; or a folder of text or "
        "Markdown files; or - for JSON lines from standard input",
    )
    add("-o", "--output", metavar="INDEX", required=True, help="the file to write")
    add("--fields", default="title,text", help="the fields to search: text, title or title,text (default)")
    add("--stop-words", choices=STOP_WORDS, help="leave out common words of this language (default: index all)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--embeddings", metavar="E.npy", help="embeddings of the documents, in their order: floats of shape (n, dim)"
    )
    source.add_argument(
        "--encoder",
        metavar="SPEC",
        default="lsa",
        help="how documents and queries become vectors: lsa (default: trained on the corpus itself), lsa:DIM, "
        "sentence-transformers:NAME, or none for text search only",
    )
    add("--metric", choices=METRICS, default="cosine", help="how vectors are compared (default cosine)")
    add("-M", type=int, default=16, help="links of each vector in the HNSW graph (default 16)")
    add("--ef-construction", type=int, default=200, help="candidates for the links of a new vector (default 200)")
    add("--ef-search", type=int, default=50, help="candidates of a search in the graph (default 50)")
    add("--seed", type=int, default=0, help="random seed of the graph and the encoder (default 0)")


def run(options: argparse.Namespace) -> None:
    """Read the corpus, encode and index it, and write the file."""
    fields = [name.strip() for name in options.fields.split(",")]
    if not set(fields) <= set(FIELDS) or len(set(fields)) != len(fields):
        raise ValueError(f"--fields must be one or more of {', '.join(FIELDS)}, got {options.fields!r}")
    if not Path(options.output).absolute().parent.is_dir():
        raise ValueError(f"{options.output}: no such folder")
    integer("--seed", options.seed, 0, 2**32 - 1)
    corpus = read_corpus(options.corpus)
    texts = corpus.searched(fields)
    embeddings, encoder, dim = None, None, 1
    if options.embeddings:
        embeddings = read_embeddings(options.embeddings, len(texts), "documents")
        dim = embeddings.shape[1]
    elif options.encoder != "none":
        encoder = encoder_of(options.encoder, seed=options.seed)
        if isinstance(encoder, LSAEncoder):
            encoder.fit(texts, progress=True)
        dim = encoder.dim
    pipeline = RetrievalPipeline(
        dim,
        options.M,
        options.ef_construction,
        options.ef_search,
        seed=options.seed,
        metric=options.metric,
        encoder=encoder,
        stop_words=options.stop_words,
    )
    spec = None if options.embeddings else options.encoder
    collection = Collection(pipeline, spec, options.stop_words)
    collection.add(corpus, texts, embeddings)
    collection.shrink_to_fit()
    collection.save(options.output)
    megabytes = Path(options.output).stat().st_size / 1e6
    print(f"{options.output}: {len(collection):,} documents, {megabytes:,.1f} MB")
