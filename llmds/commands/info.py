"""`llmds info`: what an index holds."""

import argparse
import json
from pathlib import Path

from .collection import Collection


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("index", metavar="INDEX", help="what `llmds index` wrote")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> None:
    """Load, examine and print."""
    collection = Collection.load(options.index)
    pipeline = collection.pipeline
    told = {
        "documents": len(collection),
        "encoder": collection.encoder_spec or "embeddings given",
        "embedding_dim": pipeline.embedding_dim,
        "file_bytes": Path(options.index).stat().st_size,
        "memory_bytes": collection.documents.nbytes + pipeline.nbytes,
        "vectors": pipeline.stats()["hnsw"],
        "text": pipeline.stats()["inverted_index"],
    }
    if options.json:
        print(json.dumps(told))
        return
    for name, value in told.items():
        if isinstance(value, dict):
            print(name)
            for inner, part in value.items():
                print(f"  {inner:<22} {_figure(part)}")
        else:
            print(f"{name:<24} {_figure(value)}")


def _figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
