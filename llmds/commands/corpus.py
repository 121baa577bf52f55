"""Reading of texts, queries, embeddings, judgements and runs from files."""

import contextlib
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

TEXT_SUFFIXES = (".md", ".markdown", ".txt", ".rst")


class Corpus(NamedTuple):
    """Parallel lists: one id, title and text for each document."""

    ids: list[str]
    titles: list[str]
    texts: list[str]

    def searched(self, fields: list[str]) -> list[str]:
        """Return the text of each document to index: the named fields, "title" or "text", joined by a line end."""
        if fields == ["text"]:
            return self.texts
        columns = {"title": self.titles, "text": self.texts}
        return ["\n".join(filter(None, parts)) for parts in zip(*(columns[name] for name in fields), strict=True)]


def read_corpus(source: str) -> Corpus:
    """Read documents: JSON lines (plain or .gz), a folder of text files, or "-" for JSON lines from standard input.

    A line has `_id`, `text` and optionally `title`; of a folder, files with a suffix in TEXT_SUFFIXES are read. Raises
    ValueError, which names the wrong line or file.
    """
    corpus = Corpus([], [], [])
    seen: set[str] = set()
    for where, record in _folder(Path(source)) if source != "-" and Path(source).is_dir() else _records(source):
        name, title, text = record.get("_id"), record.get("title", ""), record.get("text")
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not isinstance(text, str) or not isinstance(title or "", str):
            raise ValueError(f"{where}: must have strings '_id', 'text' and optionally 'title', has {_kinds(record)}")
        if name in seen:
            raise ValueError(f"{where}: _id {name!r} occurs twice")
        seen.add(name)
        corpus.ids.append(name)
        corpus.titles.append(title or "")
        corpus.texts.append(text)
    if not corpus.ids:
        raise ValueError(f"{source}: no documents")
    return corpus


def read_queries(source: str) -> tuple[list[str], list[str]]:
    """Read queries, JSON lines (plain or .gz, or "-") with `_id` and `text`; return their ids and texts."""
    ids: list[str] = []
    texts: list[str] = []
    for where, record in _records(source):
        name, text = record.get("_id"), record.get("text")
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f"{where}: must have strings '_id' and 'text', has {_kinds(record)}")
        ids.append(name)
        texts.append(text)
    return ids, texts


def read_embeddings(path: str, rows: int, of: str) -> np.ndarray:
    """Read embeddings, float32 (rows, dim), from a .npy file. `of` names the items in messages."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: is not a .npy array ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(f"{path}: must hold an array of floats of shape (n, dim)")
    if len(array) != rows:
        raise ValueError(f"{path}: {len(array)} embeddings for {rows} {of}")
    return array.astype(np.float32)


def read_judgements(path: str) -> dict[str, dict[str, int]]:
    """Read judgements; return query id -> document id -> grade.

    Lines are `query document grade`, with tabs or spaces between them and with or without the header line of BEIR, or
    TREC's `query 0 document grade`. Raises ValueError, which names the wrong line.
    """
    judgements: dict[str, dict[str, int]] = {}
    for number, line in _lines(path):
        fields = line.split("\t") if "\t" in line else line.split()
        if number == 1 and [field.strip() for field in fields] == ["query-id", "corpus-id", "score"]:
            continue
        try:
            query, *iteration, document, grade = fields
            if len(iteration) > 1:
                raise ValueError
            judgements.setdefault(query, {})[document] = int(grade)
        except ValueError:
            raise ValueError(f"{path}, line {number}: is not a judgement: {line.strip()[:80]!r}") from None
    if not judgements:
        raise ValueError(f"{path}: no judgements")
    return judgements


def read_run(path: str) -> dict[str, dict[str, float]]:
    """Read a TREC run, `query Q0 document rank score tag`; return query id -> document id -> score.

    Raises ValueError, which names the wrong line.
    """
    run: dict[str, dict[str, float]] = {}
    for number, line in _lines(path):
        try:
            query, _, document, _, score, _ = line.split()
            run.setdefault(query, {})[document] = float(score)
        except ValueError:
            raise ValueError(f"{path}, line {number}: is not a line of a TREC run: {line.strip()[:80]!r}") from None
    if not run:
        raise ValueError(f"{path}: no results")
    return run


def _folder(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in TEXT_SUFFIXES and path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start})") from error
            title = next((line.lstrip("# ").strip() for line in text.splitlines() if line.strip()), "")
            yield str(path), {"_id": path.relative_to(folder).as_posix(), "title": title, "text": text}


def _records(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _lines(source):
        where = f"{'standard input' if source == '-' else source}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: is not JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where}: must be a JSON object, is {type(record).__name__}")
        yield where, record


def _lines(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    number = 0
    with _opened(source) as file:
        try:
            for number, raw in enumerate(file, 1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if line.strip():
                    yield number, line
        except UnicodeDecodeError as error:
            raise ValueError(f"{source}, line {number}: is not UTF-8 ({error.reason})") from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{source}: damaged gzip after line {number} ({error})") from error


@contextlib.contextmanager
def _opened(source: str) -> Iterator[IO[bytes]]:
    if source == "-":
        yield sys.stdin.buffer
    else:
        with open(source, "rb") as file:
            if file.peek(2)[:2] == b"\x1f\x8b":
                with gzip.open(file) as unpacked:
                    yield unpacked  # type: ignore[misc]
            else:
                yield file


def _kinds(record: dict[str, Any]) -> str:
    return ", ".join(f"{name!r} ({type(value).__name__})" for name, value in record.items())[:120] or "nothing"
