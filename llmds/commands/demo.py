"""`llmds demo`: the main tasks, on data that every machine has, without network or files."""

import argparse
import shutil
import subprocess
import sys
import textwrap
import time

import numpy as np

from ..base.progress import bar
from ..encoders import LSAEncoder
from ..retrieval_pipeline import RetrievalPipeline
from .chat_load import make_load, serve
from .docstrings import Passage, gather

QUESTIONS = (
    "how do I copy a file tree",
    "run a function in another thread and wait for its result",
    "round half to even",
    "read a compressed archive member by member",
)
_COMPILE_SERVING = "from llmds.commands.chat_load import make_load, serve; serve(make_load(2), True)"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "questions", metavar="QUESTION", nargs="*", help="a question, in quotes (default: four examples)"
    )
    parser.add_argument("--top-k", type=int, default=3, metavar="K", help="answers for each question (default 3)")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the encoder, the graph and the load (default 0)"
    )


def run(options: argparse.Namespace) -> None:
    """Search the documentation, then serve a chat load."""
    start = time.perf_counter()
    # The kernels of the second part are compiled in another process meanwhile: Numba compiles on one core.
    compiling = subprocess.Popen([sys.executable, "-c", _COMPILE_SERVING], stdin=subprocess.DEVNULL)
    try:
        _search(options.questions or QUESTIONS, options.top_k, options.seed)
        compiling.wait()
    finally:
        compiling.kill()
    _serve(options.seed)
    print(f"\n{time.perf_counter() - start:.0f} s in total, with the compilation of kernels that were not cached.")


def _search(questions: tuple[str, ...] | list[str], top_k: int, seed: int) -> None:
    print("Hybrid search over the documentation of this Python's standard library\n")
    passages = gather(progress=True)
    texts = [passage.searched for passage in passages]
    encoder = LSAEncoder(128, seed=seed).fit(texts, progress=True)
    pipeline = RetrievalPipeline(encoder.dim, seed=seed, encoder=encoder, stop_words="english")
    pipeline.add_documents(np.arange(len(texts)), texts, progress=True)
    print(
        f"\n{len(passages):,} texts, {pipeline.nbytes / 1e6:.0f} MB of arrays. Scores: fused = half vectors, half BM25."
    )
    with bar(True, len(questions), "searching", "questions") as advance:
        for question in questions:  # compiles, so that the times below are only those of searches
            pipeline.search(question, top_k=top_k)
            advance(1)
    for question in questions:
        began = time.perf_counter()
        found = pipeline.search(question, top_k=top_k)
        took = time.perf_counter() - began
        print(f"\n{question}   ({took * 1e3:.1f} ms)")
        if not found:
            print("   no results")
            continue
        ids = np.array([[doc_id for doc_id, _ in found]])
        dense, text = pipeline.side_scores([question], None, ids)
        for (doc_id, fused), similarity, bm25 in zip(found, dense[0], text[0], strict=True):
            _show(passages[doc_id], fused, similarity, bm25)


def _show(passage: Passage, fused: float, similarity: float, bm25: float) -> None:
    width = min(shutil.get_terminal_size().columns, 110) - 6
    cosine = f"{similarity:.2f}" if np.isfinite(similarity) else "-"
    print(f"   {passage.name}   [{passage.place}]   fused {fused:.2f}  vectors {cosine}  BM25 {bm25:.2f}")
    excerpt = textwrap.shorten(passage.text, 2 * width, placeholder=" ...")
    print(textwrap.indent(textwrap.fill(excerpt, width), "      "))


def _serve(seed: int) -> None:
    load = make_load(seed=seed)
    print(f"\n\nA chat load: {len(load.arrival):,} turns in {load.conversation.max() + 1} conversations, ", end="")
    print(f"{load.prompt.sum():,} prompt tokens, four system prompts\n")
    shared, separate = outcomes = [serve(load, sharing, progress=True) for sharing in (True, False)]
    rows = [
        ("prompt tokens computed", f"{shared.computed_tokens:,}", f"{separate.computed_tokens:,}"),
        ("found in the cache", *(f"{1 - out.computed_tokens / out.prompt_tokens:.1%}" for out in outcomes)),
        ("most pages in use", f"{shared.peak_pages:,}", f"{separate.peak_pages:,}"),
        ("time to first token, median", *(f"{np.median(out.first_token_seconds):.2f} s" for out in outcomes)),
        ("time to first token, p95", *(f"{np.percentile(out.first_token_seconds, 95):.2f} s" for out in outcomes)),
        ("turns served / rejected", *(f"{out.served:,} / {out.rejected:,}" for out in outcomes)),
    ]
    print(f"\n{'':<30}{'prefixes shared':>18}{'not shared':>18}")
    for name, left, right in rows:
        print(f"{name:<30}{left:>18}{right:>18}")
