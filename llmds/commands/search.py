"""`llmds search`: answers for people, for programs (--json), or for an evaluation (--queries, a TREC run)."""

import argparse
import json
import os
import secrets
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from ..retrieval_pipeline import FUSIONS
from .collection import Collection
from .corpus import read_embeddings, read_queries


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("index", metavar="INDEX", help="what `llmds index` wrote")
    parser.add_argument("query", metavar="QUERY", nargs="*", help="a query (quoted, if it has several words)")
    parser.add_argument("--top-k", type=int, metavar="K", help="results for a query (default 10; in bulk 100)")
    parser.add_argument(
        "--fusion", choices=FUSIONS, default="weighted", help="how text and vectors are put together (default weighted)"
    )
    parser.add_argument(
        "--weight", type=float, default=0.5, help="share of the vectors: 0 is text alone, 1 vectors alone (default 0.5)"
    )
    parser.add_argument(
        "--depth", type=int, metavar="N", help="candidates from each side (default top-k, at least 100)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for each query")
    parser.add_argument(
        "--queries", metavar="FILE", help="many queries: JSON lines (plain or .gz) with _id and text, or -"
    )
    parser.add_argument("--query-embeddings", metavar="Q.npy", help="an embedding for each query, in order")
    parser.add_argument("-o", "--output", metavar="RUN", help="write the results of --queries as a TREC run")


def run(options: argparse.Namespace) -> None:
    """Load, search, tell."""
    if bool(options.query) == bool(options.queries):
        raise ValueError("give queries, or a file of them with --queries")
    if options.output and not options.queries:
        raise ValueError("-o writes a run of the queries in a file: give --queries")
    if options.queries:
        names, queries = read_queries(options.queries)
    else:
        names, queries = options.query, options.query
    embeddings = None
    if options.query_embeddings:
        embeddings = read_embeddings(options.query_embeddings, len(queries), "queries")
    collection = Collection.load(options.index)
    top_k = options.top_k if options.top_k is not None else 100 if options.output else 10
    depth = options.depth if options.depth is not None else max(100, top_k)
    how = {"top_k": top_k, "fusion_weight": options.weight, "fusion": options.fusion, "depth": depth}
    ids, scores = collection.search(queries, embeddings, **how)
    if options.output:
        write_run(options.output, collection, names, ids, scores)
    else:
        for query, row, values in zip(queries, ids, scores, strict=True):
            found = answers(collection, row, values)
            print(
                json.dumps({"query": query, "results": found}, ensure_ascii=False)
                if options.json
                else shown(query, found)
            )


def answers(collection: Collection, rows: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """What a person or a program wants to know of each result."""
    documents = collection.documents
    return [
        {"id": documents.id_of(row), "score": score, "title": documents.title(row), "text": documents.text(row)}
        for row, score in zip(rows[rows >= 0].tolist(), scores.tolist(), strict=False)
    ]


def shown(query: str, found: list[dict[str, Any]]) -> str:
    """The results of one query as text."""
    lines = [f"{query}"] + ([] if found else ["   nothing found"])
    for rank, result in enumerate(found, 1):
        lines.append(f"{rank:>4}. {result['id']}  {result['score']:.4f}  {result['title'] or ''}".rstrip())
        lines.append(
            textwrap.indent(textwrap.fill(textwrap.shorten(result["text"], 240, placeholder=" ..."), 94), " " * 6)
        )
    return "\n".join(lines) + "\n"


def write_run(path: str, collection: Collection, names: list[str], ids: np.ndarray, scores: np.ndarray) -> None:
    """A TREC run, whole or not at all: `query Q0 document rank score tag`."""
    documents = [collection.documents.id_of(row) for row in range(len(collection))]
    for name in (*names, *documents):
        if not name or len(name.split()) != 1 or name != name.strip():
            raise ValueError(f"a TREC run cannot hold the id {name!r}: ids must not be empty or contain white space")
    temporary = Path(path).with_name(f".{Path(path).name}.{secrets.token_hex(6)}.part")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            for name, row, values in zip(names, ids.tolist(), strictly_falling(scores).tolist(), strict=True):
                for rank, (document, score) in enumerate(zip(row, values, strict=True), 1):
                    if document >= 0:
                        file.write(f"{name} Q0 {documents[document]} {rank} {score:.9g} llmds\n")
        os.replace(temporary, path)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such folder") from error
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{path}: {np.count_nonzero(ids >= 0):,} results for {len(names):,} queries")


def strictly_falling(scores: np.ndarray) -> np.ndarray:
    """Scores (n, k), float32, best first, with equal ones moved down by a unit in the last place each.

    Evaluators sort a run by score and settle ties in ways of their own; so they keep ours.
    """
    bits = scores.view(np.int32).astype(np.int64)
    ordered = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)  # integers in the order of the floats
    rank = np.arange(scores.shape[1])
    ordered = np.minimum.accumulate(ordered + rank, axis=1) - rank
    return np.where(ordered < 0, -ordered | -0x80000000, ordered).astype(np.int32).view(np.float32)
