"""`llmds eval`: the quality of a run."""

import argparse
import json
from typing import Any

from .corpus import read_judgements, read_run


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run", metavar="RUN", help="search results as a TREC run, written by `llmds search -o`")
    parser.add_argument(
        "qrels", metavar="QRELS", help="relevance judgements: lines of query, document, grade, or TREC's four columns"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, measure by measure")


def run(options: argparse.Namespace) -> None:
    """Compute the measures and print them.

    A query with judgements but no results counts as 0; a query without judgements is ignored.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise ImportError("eval needs the package ir-measures: pip install 'llmds[eval]'") from error
    results, judgements = read_run(options.run), read_judgements(options.qrels)
    measures: dict[str, Any] = {
        "nDCG@10": ir_measures.nDCG @ 10,
        "MRR@10": ir_measures.RR @ 10,
        "recall@100": ir_measures.R @ 100,
        "hit@10": ir_measures.Success @ 10,
    }
    values = dict.fromkeys(measures, 0.0)
    names = {measure: name for name, measure in measures.items()}
    for metric in ir_measures.iter_calc(list(measures.values()), judgements, results):
        if metric.query_id in judgements:
            values[names[metric.measure]] += metric.value / len(judgements)
    if options.json:
        print(json.dumps({"queries": len(judgements), **values}))
    else:
        print(f"{'queries':<12}{len(judgements):>8,}")
        for name, value in values.items():
            print(f"{name:<12}{value:8.4f}")
