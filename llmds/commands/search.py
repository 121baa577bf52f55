"""`llmds search`: results for people, for programs (--json), or for an evaluation (-o, a TREC run)."""

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
    """Add the options of the command."""
    parser.add_argument("index", metavar="INDEX", help="a file written by `llmds index`")
    parser.add_argument("query", metavar="QUERY", nargs="*", help="a query, in quotes if it has several words")
    parser.add_argument("--top-k", type=int, metavar="K", help="results for each query (default 10; with -o 100)")
    parser.add_argument(
        "--fusion",
        choices=FUSIONS,
        default="weighted",
        help="how text and vector scores are combined (default weighted)",
    )
    parser.add_argument(
        "--weight",
        type=float,
        default=0.5,
        help="weight of the vectors: 0 is text only, 1 is vectors only (default 0.5)",
    )
    parser.add_argument(
        "--depth", type=int, metavar="N", help="candidates from text and from vectors (default K, at least 100)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for each query")
    parser.add_argument(
        "--queries",
        metavar="FILE",
        help="many queries: JSON lines (plain or .gz) with _id and text, or - for standard input",
    )
    parser.add_argument("--query-embeddings", metavar="Q.npy", help="embeddings of the queries, in their order")
    parser.add_argument("-o", "--output", metavar="RUN", help="write the results of --queries as a TREC run")


def run(options: argparse.Namespace) -> None:
    """Load the index, search, and print or write the results."""
    if bool(options.query) == bool(options.queries):
        raise ValueError("give either queries, or a file of queries with --queries")
    if options.output and not options.queries:
        raise ValueError("-o writes the results of a file of queries: give --queries")
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
    """Return id, score, title and text of each result of one query."""
    documents = collection.documents
    return [
        {"id": documents.id_of(row), "score": score, "title": documents.title(row), "text": documents.text(row)}
        for row, score in zip(rows[rows >= 0].tolist(), scores.tolist(), strict=False)
    ]


def shown(query: str, found: list[dict[str, Any]]) -> str:
    """Return the results of one query as text."""
    lines = [f"{query}"] + ([] if found else ["   no results"])
    for rank, result in enumerate(found, 1):
        lines.append(f"{rank:>4}. {result['id']}  {result['score']:.4f}  {result['title'] or ''}".rstrip())
        lines.append(
            textwrap.indent(textwrap.fill(textwrap.shorten(result["text"], 240, placeholder=" ..."), 94), " " * 6)
        )
    return "\n".join(lines) + "\n"


def write_run(path: str, collection: Collection, names: list[str], ids: np.ndarray, scores: np.ndarray) -> None:
    """Write a TREC run, lines of `query Q0 document rank score tag`: the complete file or none."""
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
    """Return scores (n, k), float32, best first, with equal ones lowered by one unit in the last place each.

    Evaluation tools sort a run by score and order ties in different ways; without ties they keep our order.
    """
    bits = scores.view(np.int32).astype(np.int64)
    ordered = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)  # integers in the order of the floats
    rank = np.arange(scores.shape[1])
    ordered = np.minimum.accumulate(ordered + rank, axis=1) - rank
    return np.where(ordered < 0, -ordered | -0x80000000, ordered).astype(np.int32).view(np.float32)
