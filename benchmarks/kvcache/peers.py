"""The bookkeeping of a KV cache in plain Python, and figures recorded of serving engines.

The code is what an expert would write in plain Python: dicts and lists in local names, whole slices, no unnecessary
call.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Recorded(NamedTuple):
    """A figure that was measured once, on another machine, and is not measured here."""

    contender: str
    operations_a_second: float
    text: str


# Mooncake conversation trace, 10,000 pages of 512 tokens or 320,000 of 16, one thread. Ranges are given by both ends.
MACHINE = "recorded on another machine (two cores), one thread, the Mooncake conversation trace"
RECORDED: dict[str, tuple[Recorded, ...]] = {
    "attach, pages of 512": (
        Recorded("vLLM 0.33 block pool", 3_200, "with hashing, 3.0 to 3.2 thousand requests a second"),
        Recorded("vLLM 0.33 block pool, no hashing", 14_000, "hashes given, 13 to 14 thousand requests a second"),
        Recorded("SGLang radix tree, Python", 6_400, "6.4 thousand requests a second"),
        Recorded("SGLang radix tree, Rust", 13_000, "11 to 13 thousand requests a second"),
    ),
    "attach, pages of 16": (
        Recorded("vLLM 0.33 block pool", 340, "0.34 thousand requests a second"),
        Recorded("SGLang radix tree, Rust", 8_100, "8.1 thousand requests a second"),
    ),
    "decode step": (Recorded("vLLM 0.33 block pool", 1 / 1.16e-3, "1.16 ms a step of 256 sequences"),),
    "match waiting": (Recorded("SGLang radix tree, Rust", 1 / 11e-3, "11 ms for 1,000 waiting requests"),),
}
RECORDED_BYTES = Recorded("vLLM 0.33 block pool", 0.0, "344 bytes a block")


def simulate(requests: Sequence[list[int]], capacity: int) -> tuple[int, OrderedDict]:
    """Simulate an LRU cache in which each request holds its blocks and at once releases them, the last one first.

    Returns how many blocks were found, and what is cached in the end, the oldest first. No pages, no references. A
    block id occurs under one prefix only.
    """
    cached: OrderedDict[int, None] = OrderedDict()
    found, make, popitem = 0, dict.fromkeys, cached.popitem
    for blocks in requests:
        if len(blocks) > capacity:
            continue
        hits = 0
        for block in blocks:
            if block not in cached:
                break
            hits += 1
        for block in blocks[:hits]:
            del cached[block]
        for _ in range(len(cached) + len(blocks) - capacity):
            popitem(False)
        cached.update(make(reversed(blocks)))
        found += hits
    return found, cached


def match_all(requests: Sequence[list[int]], cached: Any) -> list[int]:
    """Return how many leading blocks of each request are in a dict."""
    found = []
    for blocks in requests:
        hits = 0
        for block in blocks:
            if block not in cached:
                break
            hits += 1
        found.append(hits)
    return found


class PlainCache:
    """Prefix caching in pages of token ids: a dict of chained hashes, an OrderedDict of free pages, reference counts.

    A hash is trusted, as vLLM trusts its own. `tokens` are lists, or arrays whose bytes are hashed.
    """

    def __init__(self, page_size: int, max_pages: int):
        self.page_size = page_size
        self.page_of: dict[int, int] = {}
        self.hash_of: list[int | None] = [None] * max_pages
        self.refs = [0] * max_pages
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(max_pages))
        self.pages_of: dict[int, list[int]] = {}
        self.tokens_of: dict[int, list[int]] = {}
        self.last_hash: dict[int, int] = {}
        self.hits = 0

    def attach(self, seq: int, tokens: Any) -> None:
        """Hold the pages of a sequence, those found and new ones."""
        size, page_of, refs, free = self.page_size, self.page_of, self.refs, self.free
        n, pages, parent, at = len(tokens), [], 0, 0
        key_of = tuple if isinstance(tokens, list) else np.ndarray.tobytes
        full = n - n % size
        hashes = []
        for start in range(0, full, size):
            parent = hash((parent, key_of(tokens[start : start + size])))  # type: ignore[operator]
            hashes.append(parent)
        for key in hashes:
            page = page_of.get(key)
            if page is None:
                break
            if refs[page] == 0:
                del free[page]
            refs[page] += 1
            pages.append(page)
        self.hits += len(pages)
        wanted = -(-n // size)
        if wanted - len(pages) > len(free):
            raise MemoryError("no pages")
        for at in range(len(pages), wanted):
            pages.append(self._take(hashes[at] if at < len(hashes) else None))
        self.pages_of[seq], self.last_hash[seq] = pages, parent

    def detach(self, seq: int) -> None:
        """Release the pages of a sequence, the last one first."""
        refs, free, hash_of = self.refs, self.free, self.hash_of
        for page in reversed(self.pages_of.pop(seq)):
            refs[page] -= 1
            if refs[page] == 0:
                free[page] = None
                if hash_of[page] is None:
                    free.move_to_end(page, last=False)

    def start(self, seq: int, tokens: list[int]) -> None:
        """Attach a sequence that `step` can lengthen."""
        self.attach(seq, tokens)
        self.tokens_of[seq] = tokens[len(tokens) - len(tokens) % self.page_size :]

    def step(self, seqs: Sequence[int], tokens: Sequence[int]) -> None:
        """Append one token to each sequence."""
        size, tokens_of, pages_of = self.page_size, self.tokens_of, self.pages_of
        for seq, token in zip(seqs, tokens, strict=True):
            last = tokens_of[seq]
            if not last:
                pages_of[seq].append(self._take(None))
            last.append(token)
            if len(last) == size:
                key = self.last_hash[seq] = hash((self.last_hash[seq], tuple(last)))
                page = pages_of[seq][-1]
                if key not in self.page_of:
                    self.page_of[key], self.hash_of[page] = page, key
                tokens_of[seq] = []

    def _take(self, key: int | None) -> int:
        page, _ = self.free.popitem(False)
        old = self.hash_of[page]
        if old is not None:
            del self.page_of[old]
        if key is not None:
            self.page_of[key] = page
        self.hash_of[page] = key
        self.refs[page] = 1
        return page
