"""`llmds index`: from a corpus to a file that `llmds search` answers from."""

import argparse
from pathlib import Path

from ..base.arguments import integer
from ..encoders import LSAEncoder
from ..retrieval_pipeline import RetrievalPipeline
from .collection import Collection, encoder_of
from .corpus import read_corpus, read_embeddings

FIELDS = ("title", "text")
METRICS = ("cosine", "ip", "l2")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add(
        "corpus",
        metavar="CORPUS",
        help="JSON lines (plain or .gz) with _id, text and maybe title; a folder of text or Markdown files; "
        "or - for JSON lines on standard input",
    )
    add("-o", "--output", metavar="INDEX", required=True, help="the file to write")
    add("--fields", default="title,text", help="what is searched: text, title or title,text (default)")
    add("--stop-words", choices=["english"], help="words that are not indexed (default: all are)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--embeddings", metavar="E.npy", help="an embedding for each document, in order: floats of shape (n, dim)"
    )
    source.add_argument(
        "--encoder",
        metavar="SPEC",
        default="lsa",
        help="lsa (default: trained on the corpus itself), lsa:DIM, sentence-transformers:NAME, or none: text alone",
    )
    add("--metric", choices=METRICS, default="cosine", help="how embeddings are compared (default cosine)")
    add("-M", type=int, default=16, help="links of a vector in the HNSW graph (default 16)")
    add("--ef-construction", type=int, default=200, help="candidates while building it (default 200)")
    add("--ef-search", type=int, default=50, help="candidates while searching it (default 50)")
    add("--seed", type=int, default=0, help="seed of graph and encoder (default 0)")


def run(options: argparse.Namespace) -> None:
    """Read, encode, index, write."""
    fields = [name.strip() for name in options.fields.split(",")]
    if not set(fields) <= set(FIELDS) or len(set(fields)) != len(fields):
        raise ValueError(f"--fields must be of {', '.join(FIELDS)}, got {options.fields!r}")
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
