"""What is done with a KV cache: whole calls over its pool of pages and its sequences.

State, owned by the caller: `pool`, `ids` and `store` as in `kv_pool`, `seqs` and `tables` as in `kv_tables`. Every
function takes them first, in the order (pool, seqs, tables, ids, store), and answers (code, a, b):

    OK
    FULL       `kv_tables.resized` must make room first, or it already has (seqs is retired)
    ABSENT     a = the sequence (or, of several, its index in the call) that is not there
    PRESENT    the new sequence is there already
    NO_PAGES   a = pages needed, b = pages available
    OUTSIDE    a = the present length
    TWICE      a = index of the sequence that comes twice

Where it is not OK, nothing is changed. Entries come as uint8, entry_bytes each, end to end; none where none are stored.
"""

import numpy as np

from . import table
from .compiling import njit
from .kv_pool import (
    BUCKET,
    COPIES,
    COUNT,
    ENTRY_BYTES,
    HITS,
    LOOKUPS,
    MAX_PAGES,
    PAGE_SIZE,
    REFS,
    SHARES,
    SHARING,
    STORED,
    acquire,
    available,
    copy_bytes,
    copy_entries,
    find,
    forget,
    hash_ids,
    link,
    parts,
    release,
    same_entries,
    take,
)
from .kv_tables import (
    LENGTH,
    LIVE,
    PAGES,
    PREFIX,
    PREFIX_PAGES,
    ROOM,
    START,
    TOP_SLOT,
    add,
    filled,
    give_back_slots,
    has_room,
    pages_for,
    place,
    wanted_slots,
    widen,
)
from .table import RETIRED

OK, FULL, ABSENT, PRESENT, NO_PAGES, OUTSIDE, TWICE = 0, 1, 2, 3, 4, 5, 6
# A helper is compiled anew for a literal and for an int32, so both are made int64 before a call.
_ZERO, _ONE = np.int64(0), np.int64(1)
_FALSE = np.bool_(False)
SMALL = 64  # bytes of an entry that are copied faster one by one than by a call


@njit(cache=True)
def attach(pool, seqs, tables, ids, store, seq_ids, entries, indptr, prefix, prefix_indptr, blocks):
    """Attach n sequences in order, or none. What is there under their ids is replaced.

    Sequence e has entries indptr[e]..indptr[e + 1], the first of which are those of its prefix, ids
    prefix_indptr[e]..prefix_indptr[e + 1]. With `blocks` (a bool), these are content ids instead, one for each of its
    pages, which are whole; entries of new pages are then zeros, and `entries` is empty.

    Where it is not certain beforehand that the pages suffice for several, the work is done on a copy of the bookkeeping
    first, and entries are copied when it has succeeded: a page is overwritten only then. O(entries), with `blocks`
    O(ids); + O(max_pages) on a copy.
    """
    page_size, shead = pool[PAGE_SIZE], seqs[: table.HEAD]
    if shead[RETIRED]:
        return FULL, _ZERO, _ZERO
    n, most = seq_ids.shape[0], _ZERO
    for e in range(n):
        named = _ZERO if blocks else prefix_indptr[e + 1] - prefix_indptr[e]
        most += pages_for(named, page_size) + pages_for(indptr[e + 1] - indptr[e] - named, page_size)
    _, srows, _ = table.parts(seqs)
    if not has_room(shead, srows, tables, n, most):
        return FULL, _ZERO, _ZERO
    certain = n == 1 or most <= available(pool)  # one that does not succeed changes nothing
    origin = np.empty((0 if certain else pool[MAX_PAGES], 3), np.int64)
    for page in range(origin.shape[0]):
        origin[page, 1] = -1
    pool_, seqs_, tables_ = pool, seqs, tables
    if not certain:
        pool_, seqs_, tables_ = pool.copy(), seqs.copy(), tables.copy()
    for e in range(n):
        code, a, b = _attach(
            pool_, seqs_, tables_, ids, store, origin, seq_ids[e], indptr[e + 1] - indptr[e], entries, indptr[e],
            prefix, prefix_indptr[e], prefix_indptr[e + 1] - prefix_indptr[e], blocks,
        )  # fmt: skip
        if code != OK:
            return code, a, b
    if not certain:
        for i in range(pool.shape[0]):
            pool[i] = pool_[i]
        for i in range(seqs.shape[0]):
            seqs[i] = seqs_[i]
        for i in range(tables.shape[0]):
            tables[i] = tables_[i]
        head, rows, _, _ = parts(pool)
        for page in range(origin.shape[0]):
            if origin[page, 1] >= 0:
                for i in range(rows[page, COUNT]):
                    ids[page, i] = prefix[origin[page, 0] + i]
                if head[STORED]:
                    copy_entries(head, store, page, _ZERO, entries, origin[page, 1], origin[page, 2])
    return OK, _ZERO, _ZERO


@njit(cache=True)
def detach(pool, seqs, tables, ids, store, seq):
    """Let go of a sequence: its last page becomes the oldest of its own. O(pages)."""
    shead, srows, sbuckets = table.parts(seqs)
    if shead[RETIRED]:
        return FULL, 0, 0
    row = table.find(srows, sbuckets, seq)
    if row < 0:
        return ABSENT, seq, 0
    head, rows, _, _ = parts(pool)
    _release_pages(head, rows, shead, srows, tables, row, _ZERO)
    give_back_slots(shead, srows, row)
    table.remove(srows, sbuckets, row)
    table.free_row(shead, srows, row)
    return OK, 0, 0


@njit(cache=True)
def gather(pool, seqs, tables, ids, store, seq):
    """(code, entries of a sequence, uint8 (length * entry_bytes,)). O(length)."""
    shead, srows, sbuckets = table.parts(seqs)
    row = np.int64(-1) if shead[RETIRED] else table.find(srows, sbuckets, seq)
    if row < 0:
        return FULL if shead[RETIRED] else ABSENT, np.empty(0, np.uint8)
    page_size, width = pool[PAGE_SIZE], pool[ENTRY_BYTES]
    entries = np.empty(srows[row, LENGTH] * width, np.uint8)
    done = _ZERO
    for i in range(srows[row, PAGES]):
        first = tables[srows[row, START] + i] * page_size * width
        stop = filled(srows, row, page_size, i) * width
        copy_bytes(entries, done, store, first, stop)
        done += stop
    return OK, entries


@njit(cache=True)
def append(pool, seqs, tables, ids, store, seq_ids, each, entries):
    """Add `each` entries to the end of every one of n distinct sequences, or to none. O(n * each)."""
    shead, srows, sbuckets = table.parts(seqs)
    if shead[RETIRED]:
        return FULL, 0, 0
    head, rows, names, buckets = parts(pool)
    n, page_size = seq_ids.shape[0], head[PAGE_SIZE]
    found, copied = np.empty(n, np.int64), np.empty(n, np.bool_)
    code, at, planned, needed, slots = OK, _ZERO, _ZERO, _ZERO, _ZERO
    # Two forks that share their last page need one copy of it, not two. So the plan takes references away as the
    # appends will, and marks what it has seen by a negative length; both are undone below.
    for e in range(n):
        row = table.find(srows, sbuckets, seq_ids[e])
        if row < 0 or srows[row, LENGTH] < 0:
            code, at = (ABSENT, np.int64(e)) if row < 0 else (TWICE, np.int64(e))
            break
        pages, copies = _growth(head, rows, srows, tables, row, each)
        found[e], copied[e] = row, copies > 0
        if copies:
            rows[tables[srows[row, START] + srows[row, PAGES] - 1], REFS] -= 1
        needed += pages - srows[row, PAGES] + copies
        slots += wanted_slots(srows, row, pages)
        srows[row, LENGTH] = ~srows[row, LENGTH]
        planned += 1
    for e in range(planned):
        row = found[e]
        srows[row, LENGTH] = ~srows[row, LENGTH]
        if copied[e]:
            rows[tables[srows[row, START] + srows[row, PAGES] - 1], REFS] += 1
    if code != OK:
        return code, at, 0
    if needed > available(head):
        return NO_PAGES, needed, available(head)
    if not has_room(shead, srows, tables, _ZERO, slots):
        return FULL, 0, 0
    width, stored = head[ENTRY_BYTES], head[STORED] != 0
    for e in range(n):
        row = found[e]
        left = (srows[row, PAGES] - srows[row, PREFIX_PAGES]) * page_size - srows[row, LENGTH] + srows[row, PREFIX]
        if left > 0 and each == 1:
            page = tables[srows[row, START] + srows[row, PAGES] - 1]
            if rows[page, REFS] == 1 and rows[page, BUCKET] < 0:  # as a rule; handing arrays on took 4 times as long
                srows[row, LENGTH] += 1
                to, start = ((page + 1) * page_size - left) * width, e * width
                if stored and width > SMALL:
                    copy_bytes(store, to, entries, start, width)
                elif stored:
                    for byte in range(width):
                        store[to + byte] = entries[start + byte]
                continue
        pages = srows[row, PAGES] + (pages_for(each - left, page_size) if each > left else 0)
        _append(head, rows, names, buckets, shead, srows, tables, store, row, pages, each, entries, e * each)
    return OK, 0, 0


@njit(cache=True)
def write(pool, seqs, tables, ids, store, seq, start, count, entries):
    """Replace entries start..start + count of a sequence, all within its length. O(count + page_size)."""
    shead, srows, sbuckets = table.parts(seqs)
    if shead[RETIRED]:
        return FULL, 0, 0
    row = table.find(srows, sbuckets, seq)
    if row < 0:
        return ABSENT, seq, 0
    length = srows[row, LENGTH]
    if start > length or count > length - start:
        return OUTSIDE, length, 0
    if count == 0:
        return OK, 0, 0
    head, rows, names, buckets = parts(pool)
    page_size, first = head[PAGE_SIZE], srows[row, START]
    at, slot = place(srows, row, page_size, start)
    last, _ = place(srows, row, page_size, start + count - 1)
    needed = _ZERO
    for i in range(at, last + 1):
        needed += rows[tables[first + i], REFS] > 1
    if needed > available(head):
        return NO_PAGES, needed, available(head)
    done = _ZERO
    for i in range(at, last + 1):
        used = filled(srows, row, page_size, i)
        page = _own(head, rows, names, buckets, store, tables, first + i, used)
        part = min(count - done, used - slot)
        if head[STORED]:
            copy_entries(head, store, page, slot, entries, done, part)
        done += part
        slot = _ZERO
    return OK, 0, 0


@njit(cache=True)
def truncate(pool, seqs, tables, ids, store, seq, length):
    """Cut a sequence to its first `length` entries. A prefix that is cut into is no longer named. O(pages let go)."""
    shead, srows, sbuckets = table.parts(seqs)
    if shead[RETIRED]:
        return FULL, 0, 0
    row = table.find(srows, sbuckets, seq)
    if row < 0:
        return ABSENT, seq, 0
    if length > srows[row, LENGTH]:
        return OUTSIDE, srows[row, LENGTH], 0
    if length < srows[row, PREFIX]:
        srows[row, PREFIX] = srows[row, PREFIX_PAGES] = 0
    head, rows, _, _ = parts(pool)
    rest = pages_for(length - srows[row, PREFIX], head[PAGE_SIZE])
    _release_pages(head, rows, shead, srows, tables, row, srows[row, PREFIX_PAGES] + rest)
    srows[row, LENGTH] = length
    return OK, 0, 0


@njit(cache=True)
def fork(pool, seqs, tables, ids, store, source, target):
    """Let `target`, which must be new, hold the pages of `source`. O(pages)."""
    shead, srows, sbuckets = table.parts(seqs)
    if shead[RETIRED]:
        return FULL, 0, 0
    row = table.find(srows, sbuckets, source)
    if row < 0:
        return ABSENT, source, 0
    if table.find(srows, sbuckets, target) >= 0:
        return PRESENT, 0, 0
    pages = srows[row, PAGES]
    if not has_room(shead, srows, tables, _ONE, pages):
        return FULL, 0, 0
    head, rows, _, _ = parts(pool)
    other, start = add(shead, srows, sbuckets, target), shead[TOP_SLOT]
    for column in (PAGES, LENGTH, PREFIX, PREFIX_PAGES):
        srows[other, column] = srows[row, column]
    srows[other, START], srows[other, ROOM] = start if pages > 0 else 0, pages
    shead[TOP_SLOT] += pages
    shead[LIVE] += pages
    for i in range(pages):
        page = np.int64(tables[srows[row, START] + i])
        acquire(head, rows, page)
        tables[start + i] = page
    return OK, 0, 0


@njit(cache=True)
def _attach(pool, seqs, tables, ids, store, origin, seq, length, entries, entry, prefix, first, named, blocks):
    """Attach from entry number `entry` of `entries` and id number `first` of `prefix`; `named` ids, or content ids."""
    shead, srows, sbuckets = table.parts(seqs)
    if shead[RETIRED]:
        return FULL, 0, 0
    head, rows, names, buckets = parts(pool)
    page_size, sharing = head[PAGE_SIZE], head[SHARING] != 0
    prefix_length = named if sharing and not blocks else _ZERO
    prefix_pages = pages_for(prefix_length, page_size)
    total = prefix_pages + pages_for(length - prefix_length, page_size)
    keyed = (named if blocks else prefix_pages) if sharing else _ZERO
    if not has_room(shead, srows, tables, _ONE, total):
        return FULL, 0, 0

    # What is found is noted in the slots that the new table will have, which nobody reads yet.
    start, parent, found, distinct, cached = shead[TOP_SLOT], head[MAX_PAGES], _ZERO, True, _ZERO
    while found < keyed:
        name, at, count = _key(prefix, first, named, page_size, found, blocks)
        page = find(rows, names, buckets, ids, origin, parent, name, prefix, at, count)
        if page < 0:
            break
        begin = entry + found * page_size
        if not blocks and head[STORED] and not same_entries(head, store, origin, page, entries, begin, count):
            distinct = False
            break
        tables[start + found] = page
        cached += rows[page, REFS] == 0
        parent = page
        found += 1
    row = table.find(srows, sbuckets, seq)
    free = available(head) - cached
    if row >= 0:
        for i in range(srows[row, PAGES]):
            page = tables[srows[row, START] + i]
            # a page that can be found stands at the same place in every table
            free += rows[page, REFS] == 1 and not (i < found and tables[start + i] == page)
    if total - found > free:
        return NO_PAGES, total - found, free

    for i in range(found):
        acquire(head, rows, np.int64(tables[start + i]))
    shead[TOP_SLOT] += total
    if row >= 0:
        _release_pages(head, rows, shead, srows, tables, row, _ZERO)
        give_back_slots(shead, srows, row)
    else:
        row = add(shead, srows, sbuckets, seq)
    shead[LIVE] += total
    srows[row, START], srows[row, PAGES], srows[row, ROOM] = start if total > 0 else 0, total, total
    srows[row, LENGTH], srows[row, PREFIX], srows[row, PREFIX_PAGES] = length, prefix_length, prefix_pages
    for i in range(found, total):
        page = take(head, rows, names, buckets)
        tables[start + i] = page
        begin = i * page_size if i < prefix_pages else prefix_length + (i - prefix_pages) * page_size
        name, at, count = _ZERO, _ZERO, _ZERO
        if i < keyed and distinct:
            name, at, count = _key(prefix, first, named, page_size, i, blocks)
            link(head, rows, names, buckets, page, parent, name, count, blocks or count == page_size)
            parent = page
        used = filled(srows, row, page_size, i)
        if origin.shape[0] > 0:
            origin[page, 0], origin[page, 1], origin[page, 2] = at, entry + begin, used
            continue
        for k in range(count):
            ids[page, k] = prefix[at + k]
        if head[STORED]:
            if blocks:
                width = page_size * head[ENTRY_BYTES]
                for byte in range(page * width, (page + 1) * width):
                    store[byte] = 0
            else:
                copy_entries(head, store, page, _ZERO, entries, entry + begin, used)
    if keyed > 0:
        head[LOOKUPS] += named * (page_size if blocks else 1)
        head[HITS] += found * page_size if blocks else min(found * page_size, named)
        head[SHARES] += found > 0
    return OK, 0, 0


@njit(cache=True)
def _key(prefix, first, named, page_size, i, blocks):
    """(name, index of its first id, ids in it) of page number i of a prefix."""
    if blocks:
        return prefix[first + i], first, _ZERO
    at, count = first + i * page_size, min(page_size, named - i * page_size)
    return hash_ids(prefix, at, count), at, count


@njit(cache=True)
def _release_pages(head, rows, shead, srows, tables, row, keep):
    """Let go of all pages of a sequence but the first `keep`, the last one first."""
    start = srows[row, START]
    for i in range(srows[row, PAGES] - 1, keep - 1, -1):
        release(head, rows, np.int64(tables[start + i]))
    shead[LIVE] -= srows[row, PAGES] - keep
    srows[row, PAGES] = keep


@njit(cache=True)
def _slots_left(head, srows, row):
    """Slots that are free in the last page of a sequence; 0 if its prefix ends there. Without a division."""
    return (srows[row, PAGES] - srows[row, PREFIX_PAGES]) * head[PAGE_SIZE] - srows[row, LENGTH] + srows[row, PREFIX]


@njit(cache=True)
def _growth(head, rows, srows, tables, row, count):
    """(pages that a sequence will have after `count` more entries, copies of shared pages that takes: 0 or 1)."""
    left, pages = _slots_left(head, srows, row), srows[row, PAGES]
    shared = left > 0 and count > 0 and rows[tables[srows[row, START] + pages - 1], REFS] > 1
    if count > left:
        pages += pages_for(count - left, head[PAGE_SIZE])
    return pages, np.int64(shared)


@njit(cache=True)
def _append(head, rows, names, buckets, shead, srows, tables, store, row, pages, count, entries, entry):
    """Add entries to a sequence that will have `pages` pages then; there are enough of them, and slots."""
    page_size, left = head[PAGE_SIZE], _slots_left(head, srows, row)
    widen(shead, srows, tables, row, pages)
    start, done = srows[row, START], _ZERO
    if left > 0 and count > 0:
        used = page_size - left
        page = _own(head, rows, names, buckets, store, tables, start + srows[row, PAGES] - 1, used)
        done = min(count, left)
        if head[STORED]:
            copy_entries(head, store, page, used, entries, entry, done)
    for i in range(srows[row, PAGES], pages):
        page = take(head, rows, names, buckets)
        tables[start + i] = page
        part = min(count - done, page_size)
        if head[STORED]:
            copy_entries(head, store, page, _ZERO, entries, entry + done, part)
        done += part
    shead[LIVE] += pages - srows[row, PAGES]
    srows[row, PAGES] = pages
    srows[row, LENGTH] += count


@njit(cache=True)
def _own(head, rows, names, buckets, store, tables, slot, used):
    """The page in a slot of `tables`, made one that may be written to; its first `used` entries stay.

    A page that others hold is copied. One that can be found no longer can, since its entries change.
    """
    page = np.int64(tables[slot])
    if rows[page, REFS] > 1:
        fresh = take(head, rows, names, buckets)
        if head[STORED]:
            copy_entries(head, store, fresh, _ZERO, store, page * head[PAGE_SIZE], used)
        release(head, rows, page)
        tables[slot] = fresh
        head[COPIES] += 1
        return fresh
    if rows[page, BUCKET] >= 0:
        forget(head, rows, names, buckets, page)
    return page
