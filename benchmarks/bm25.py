"""BM25: InvertedIndex beside bm25s (NumPy and Numba back ends) and rank_bm25, on queries with judgements.

Same terms for all: those of `llmds.Tokenizer`, without stop words. What is timed:

    search      2,000 queries (10 results each) from one thread. llmds is given the queries as text; the peers are
                given the terms that llmds has cut beforehand, bm25s as ids, so their analysis costs them nothing.
    index       from raw text to an index that answers. The peers cut text with their own means (bm25s.tokenize,
                for rank_bm25 a regular expression), without stemming.
    update      one document added to the full index and one query answered. bm25s has no such call: it indexes anew.

hit@10, MRR@10, nDCG@10 (binary) stand beside the speeds, and `agreement`: the share of ranks at which a peer
gives a document whose score is that of ours within 1e-5.
"""

import argparse
import gzip
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from llmds.inverted_index import InvertedIndex
from llmds.tokenizer import Tokenizer

from . import harness

K = 10
_SLOW_QUERIES = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--data", type=Path, help="folder with corpus, queries and qrels (default: cppdocs)")
    parser.add_argument("--with-stop-words", action="store_true", help="keep stop words (default: without)")
    parser.add_argument("--no-slow", action="store_true", help="leave rank_bm25 out")


def run(options: argparse.Namespace) -> None:
    """Race, and write the JSON."""
    folder = harness.data_folder("cppdocs", options.data)
    corpus, queries = _lines(folder / "corpus.jsonl.gz"), _lines(folder / "queries.jsonl.gz")
    texts, asked = [line["text"] for line in corpus], [line["text"] for line in queries]
    relevant = _judgements(folder / "qrels.tsv", corpus, queries)
    stop_words = None if options.with_stop_words else "english"
    contest = harness.Contest(
        "bm25",
        {"data": folder.name, "documents": len(texts), "queries": len(asked), "k": K, "stop_words": stop_words},
    )
    index = InvertedIndex(stop_words=stop_words)
    index.add_documents(np.arange(len(texts)), texts)
    index.shrink_to_fit()
    contest.note("memory", harness.OURS, bytes=index.nbytes, **index.stats())
    _race_search(contest, options, index, texts, asked, relevant, Tokenizer(stop_words=stop_words))
    _race_index(contest, options, texts, stop_words)
    _race_update(contest, options, index, texts, asked)
    contest.finish(options.out)


def _race_search(
    contest: harness.Contest,
    options: argparse.Namespace,
    index: InvertedIndex,
    texts: list[str],
    asked: list[str],
    relevant: list[set[int]],
    tokenizer: Tokenizer,
) -> None:
    import bm25s
    from rank_bm25 import BM25Okapi

    terms, query_terms = _cut(tokenizer, texts), _cut(tokenizer, asked)
    corpus = _tokenized(terms)
    known = corpus.vocab
    ids = [[known[term] for term in query if term in known] for query in query_terms]
    contenders: dict[str, Any] = {
        harness.OURS: lambda: index.search_batch(asked, K, threads=1),
        "llmds, one query a call": lambda: [index.search(query, K) for query in asked],
    }
    results = {harness.OURS: index.search_batch(asked, K, threads=1)}
    for backend in ("numpy", "numba"):
        peer = bm25s.BM25(k1=1.2, b=0.75, method="lucene", backend=backend)
        peer.index(corpus, show_progress=False)
        name = f"bm25s, {backend}"
        contest.note("memory", name, bytes=sum(peer.scores[part].nbytes for part in ("data", "indices", "indptr")))
        contenders[name] = lambda peer=peer, backend=backend: peer.retrieve(
            ids, k=K, show_progress=False,
            n_threads=1 if backend == "numba" else 0, backend_selection=backend,
        )  # fmt: skip
        found = contenders[name]()
        results[name] = np.asarray(found.documents), np.asarray(found.scores)
    quality = {name: _quality(*result, relevant) for name, result in results.items()}
    for name, result in results.items():
        if name != harness.OURS:
            quality[name]["agreement"] = _agreement(results[harness.OURS], result)
    quality["llmds, one query a call"] = quality[harness.OURS]
    contest.race("search", contenders, len(asked), options.rounds, extra=quality)
    all_cores = {harness.OURS: lambda: index.search_batch(asked, K)}
    contest.race("search, all cores", all_cores, len(asked), options.rounds)
    if not options.no_slow:
        few = asked[:_SLOW_QUERIES]
        slow = BM25Okapi(terms, k1=1.2, b=0.75)
        contest.race(
            f"search, {_SLOW_QUERIES} queries",
            {
                harness.OURS: lambda: index.search_batch(few, K, threads=1),
                "rank_bm25": lambda: [np.argsort(-slow.get_scores(query))[:K] for query in query_terms[: len(few)]],
            },
            len(few),
            3,
        )


def _race_index(
    contest: harness.Contest, options: argparse.Namespace, texts: list[str], stop_words: str | None
) -> None:
    import bm25s
    from rank_bm25 import BM25Okapi

    stopped = "english" if stop_words else []

    def ours() -> None:
        InvertedIndex(stop_words=stop_words).add_documents(np.arange(len(texts)), texts)

    def bm25s_numpy() -> None:
        terms = bm25s.tokenize(texts, stopwords=stopped, show_progress=False)
        bm25s.BM25(k1=1.2, b=0.75, method="lucene").index(terms, show_progress=False)

    def rank_bm25() -> None:
        BM25Okapi([re.findall(r"\w+", text.lower()) for text in texts])

    contenders: dict[str, Any] = {harness.OURS: ours, "bm25s": bm25s_numpy}
    if not options.no_slow:
        contenders["rank_bm25"] = rank_bm25
    contest.race("index from raw text", contenders, len(texts), min(options.rounds, 5))


def _race_update(
    contest: harness.Contest, options: argparse.Namespace, index: InvertedIndex, texts: list[str], asked: list[str]
) -> None:
    """One document replaced by itself and one query, alternating."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(texts), 500).tolist()

    def ours() -> None:
        for row in rows:
            index.add_document(row, texts[row])
            index.search(asked[row % len(asked)], K)

    contest.race("update and search", {harness.OURS: ours}, len(rows), options.rounds)


def _cut(tokenizer: Tokenizer, texts: list[str]) -> list[list[str]]:
    """The terms of every text, as lists of str."""
    terms = tokenizer.terms(texts)
    strings, ends = terms.strings(), [0, *terms.ends.tolist()]
    return [strings[start:stop] for start, stop in pairwise(ends)]


def _tokenized(terms: list[list[str]]) -> Any:
    import bm25s

    vocabulary: dict[str, int] = {}
    ids = [[vocabulary.setdefault(term, len(vocabulary)) for term in document] for document in terms]
    return bm25s.tokenization.Tokenized(ids=ids, vocab=vocabulary)


def _quality(found: np.ndarray, scores: np.ndarray, relevant: Sequence[set[int]]) -> dict[str, float]:
    """Means over the queries that have judgements."""
    hits, reciprocal, gain = [], [], []
    discount = 1 / np.log2(np.arange(2, K + 2))
    for row, row_scores, wanted in zip(found, scores, relevant, strict=True):
        if wanted:
            good = np.array([doc in wanted and score > 0 for doc, score in zip(row.tolist(), row_scores, strict=True)])
            hits.append(good.any())
            reciprocal.append(1 / (1 + good.argmax()) if good.any() else 0.0)
            gain.append((discount * good).sum() / discount[: len(wanted)].sum())
    return {"hit@10": float(np.mean(hits)), "MRR@10": float(np.mean(reciprocal)), "nDCG@10": float(np.mean(gain))}


def _agreement(ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of our results whose rank holds the same document with the peer, or one that scores the same."""
    there = ours[0] >= 0
    same = (ours[0] == theirs[0]) | np.isclose(ours[1], theirs[1], rtol=1e-5, atol=0)
    return float(same[there].mean())


def _judgements(path: Path, corpus: list[dict], queries: list[dict]) -> list[set[int]]:
    rows = {line["_id"]: row for row, line in enumerate(corpus)}
    wanted: dict[str, set[int]] = {line["_id"]: set() for line in queries}
    for line in path.read_text().splitlines()[1:]:
        query, document, _ = line.split("\t")
        wanted[query].add(rows[document])
    return list(wanted.values())


def _lines(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
