"""A pool of page ids, allocated and freed, in one int64 array.

    head   int64 (HEAD,)         counts, by the names below
    stack  int32 (max_pages,)    the first head[FREE] are the free pages; the last of them is allocated next
    state  uint8 (max_pages,)    ALLOCATED or 0

`new` makes the array, `parts` cuts it; the caller owns it. Functions return -1 for success; otherwise nothing
is changed.
"""

from typing import NamedTuple

import numpy as np

from .compiling import njit

HEAD = 8
MAX_PAGES, PAGE_SIZE, FREE, ALLOCATIONS, FREES = 0, 1, 2, 3, 4
ALLOCATED = 1


class Arrays(NamedTuple):
    """The array of a pool."""

    pages: np.ndarray


@njit(cache=True)
def new(page_size, max_pages):
    """Return a pool whose pages are all free; they are allocated in the order 0, 1, 2, ... O(max_pages)."""
    pages = np.zeros(size(max_pages), np.int64)
    pages[MAX_PAGES], pages[PAGE_SIZE] = max_pages, page_size
    defragment(pages)
    return pages


@njit(cache=True)
def size(max_pages):
    """Return the length of the array of a pool of `max_pages`."""
    return HEAD + (max_pages + 1) // 2 + (max_pages + 7) // 8


@njit(cache=True)
def parts(pages):
    """Return (head, stack, state), views of `pages`."""
    n = pages[MAX_PAGES]
    stop = HEAD + (n + 1) // 2
    return pages[:HEAD], pages[HEAD:stop].view(np.int32)[:n], pages[stop:].view(np.uint8)[:n]


@njit(cache=True)
def alloc(pages, out):
    """Fill `out` int32 (n,) with pages. Returns -1, or how many are free if those are fewer than n. O(n)."""
    head, stack, state = parts(pages)
    n, free = out.shape[0], head[FREE]
    if n > free:
        return free
    for i in range(n):
        page = stack[free - 1 - i]
        state[page] = ALLOCATED
        out[i] = page
    head[FREE] -= n
    head[ALLOCATIONS] += n
    return np.int64(-1)


@njit(cache=True)
def free(pages, page_ids):
    """Free `page_ids` int64 (n,). Returns -1, or the index of the first that is not allocated or occurs twice. O(n).

    They are allocated again in the order given.
    """
    head, stack, state = parts(pages)
    n = page_ids.shape[0]
    for i in range(n):
        page = page_ids[i]
        if page < 0 or page >= head[MAX_PAGES] or state[page] != ALLOCATED:
            for back in range(i):
                state[page_ids[back]] = ALLOCATED
            return np.int64(i)
        state[page] = 0
    for i in range(n):
        stack[head[FREE] + i] = page_ids[n - 1 - i]
    head[FREE] += n
    head[FREES] += n
    return np.int64(-1)


@njit(cache=True)
def defragment(pages):
    """Sort the free pages, so that they are allocated in ascending order. O(max_pages)."""
    head, stack, state = parts(pages)
    count = 0
    for page in range(head[MAX_PAGES] - 1, -1, -1):
        if state[page] != ALLOCATED:
            stack[count] = page
            count += 1
    head[FREE] = count


@njit(cache=True)
def compact(pages):
    """Move the allocated pages to the lowest ids. Returns (old ids, new ids), int32 (moves,) each. O(max_pages)."""
    head, _, state = parts(pages)
    allocated = head[MAX_PAGES] - head[FREE]
    moves = 0
    for page in range(allocated):
        moves += state[page] != ALLOCATED
    old, fresh = np.empty(moves, np.int32), np.empty(moves, np.int32)
    hole = 0
    for page in range(allocated):
        if state[page] != ALLOCATED:
            fresh[hole] = page
            hole += 1
    mover = 0
    for page in range(allocated, head[MAX_PAGES]):
        if state[page] == ALLOCATED:
            old[mover] = page
            mover += 1
    for move in range(moves):
        state[fresh[move]], state[old[move]] = ALLOCATED, 0
    defragment(pages)
    return old, fresh


@njit(cache=True)
def longest_free_run(pages):
    """Return the largest number of free pages with consecutive ids. O(max_pages)."""
    head, _, state = parts(pages)
    longest = run = 0
    for page in range(head[MAX_PAGES]):
        run = 0 if state[page] == ALLOCATED else run + 1
        longest = max(longest, run)
    return longest


@njit(cache=True)
def well_formed(pages):
    """Return whether `parts` can cut this array, any int64 (n,)."""
    return (
        pages.shape[0] >= HEAD
        and 1 <= pages[MAX_PAGES] < 2**31
        and pages.shape[0] == size(pages[MAX_PAGES])
        and 1 <= pages[PAGE_SIZE] < 2**31
    )


@njit(cache=True)
def first_fault(pages):
    """Return the first page that is not allocated or free exactly once; -2 if the counts are wrong, -1 if none.

    Safe on any contents of a `well_formed` array.
    """
    head, stack, state = parts(pages)
    n = head[MAX_PAGES]
    if head[FREE] < 0 or head[FREE] > n or head[FREES] < 0 or head[ALLOCATIONS] != head[FREES] + n - head[FREE]:
        return np.int64(-2)
    listed = np.zeros(n, np.bool_)
    for at in range(head[FREE]):
        page = stack[at]
        if page < 0 or page >= n or listed[page]:
            return np.int64(-2)
        listed[page] = True
    for page in range(n):
        if state[page] > ALLOCATED or (state[page] == ALLOCATED) == listed[page]:
            return np.int64(page)
    return np.int64(-1)
