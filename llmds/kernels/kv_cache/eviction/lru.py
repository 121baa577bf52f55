"""LRU: the page that lost its last reference first is evicted first.

`memory`: one chain of the cached pages, in the order in which they lost it.
"""

import numpy as np

from ...compiling import njit_no_nrt
from .. import layout
from . import chains
from .chains import LIST, OLDEST
from .unused import attached, begin, drop, evicted, forgotten  # noqa: F401

_CHAIN, _ANY = np.int64(0), np.int64(-1)


def size(max_pages: int) -> int:
    """Return the number of elements of `memory`."""
    return LIST


@njit_no_nrt(cache=True)
def prepare(pages):
    """Make the chain empty."""
    chains.clear(pages.memory, _CHAIN)


@njit_no_nrt(cache=True)
def enter(pages, page):
    """Put a page that is cached now at the newest end."""
    chains.push(pages.rows, pages.memory, _CHAIN, page)


@njit_no_nrt(cache=True)
def leave(pages, page):
    """Remove a page from the chain."""
    chains.pull(pages.rows, pages.memory, _CHAIN, page)


@njit_no_nrt(cache=True)
def victim(pages):
    """Return the oldest page."""
    return pages.memory[OLDEST]


@njit_no_nrt(cache=True)
def fault(pages, cached):
    """Return whether the chain is not that of the cached pages; safe on any contents."""
    return chains.first_fault(pages.rows, pages.memory, pages.head[layout.MAX_PAGES], _CHAIN, _ANY, cached)
