"""`llmds info`: the contents of an index."""

import argparse
import json
from pathlib import Path

from .collection import Collection


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("index", metavar="INDEX", help="a file written by `llmds index`")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> None:
    """Load the index, which checks it, and print its figures."""
    collection = Collection.load(options.index)
    pipeline = collection.pipeline
    figures = {
        "documents": len(collection),
        "encoder": collection.encoder_spec or "embeddings given",
        "embedding_dim": pipeline.embedding_dim,
        "file_bytes": Path(options.index).stat().st_size,
        "memory_bytes": collection.documents.nbytes + pipeline.nbytes,
        "vectors": pipeline.stats()["hnsw"],
        "text": pipeline.stats()["inverted_index"],
    }
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        if isinstance(value, dict):
            print(name)
            for inner, part in value.items():
                print(f"  {inner:<22} {_figure(part)}")
        else:
            print(f"{name:<24} {_figure(value)}")


def _figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
