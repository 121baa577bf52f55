"""Changes of the sequences of a KV cache. State and codes: `kv_cache.sequences`.

Entries come as uint8, entry_bytes each, end to end; empty where none are stored.
"""

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt
from ..table import RETIRED
from . import layout, sequences
from .hashes import page_name, root_name
from .pages import acquire, available, copy_bytes, copy_entries, find, forget, link, release, same_entries, take
from .sequences import ABSENT, FULL, NO_PAGES, OK, OUTSIDE, PRESENT, TWICE, UNPREPARED, pages_for

# A helper is compiled again for a literal and for an int32, so both are made int64 before a call.
_ZERO, _ONE, _FALSE, _TRUE = np.int64(0), np.int64(1), np.bool_(False), np.bool_(True)
SMALL = 64  # bytes of an entry that are copied faster one by one than by a call


@njit(cache=True)
def detach(pool, seqs, tables, ids, store, seq_id):
    """Remove a sequence and release its pages, the last one first. O(pages)."""
    held = sequences.parts(seqs, tables)
    if held.head[RETIRED]:
        return FULL, 0, 0
    row = table.find(held.rows, held.buckets, seq_id)
    if row < 0:
        return ABSENT, seq_id, 0
    sequences.remove(layout.parts(pool), held, row)
    return OK, 0, 0


@njit(cache=True)
def gather(pool, seqs, tables, ids, store, seq_id):
    """Return (code, the entries of a sequence, uint8 (length * entry_bytes,)). O(length)."""
    head, srows, buckets = table.parts(seqs)
    row = np.int64(-1) if head[RETIRED] else table.find(srows, buckets, seq_id)
    if row < 0:
        return FULL if head[RETIRED] else ABSENT, np.empty(0, np.uint8)
    page_size, width = pool[layout.PAGE_SIZE], pool[layout.ENTRY_BYTES]
    entries = np.empty(srows[row, sequences.LENGTH] * width, np.uint8)
    done = _ZERO
    for i in range(srows[row, sequences.PAGES]):
        first = tables[srows[row, sequences.START] + i] * page_size * width
        stop = sequences.filled(srows, row, page_size, i) * width
        copy_bytes(entries, done, store, first, stop)
        done += stop
    return OK, entries


@njit(cache=True)
def append(pool, seqs, tables, ids, store, seq_ids, each, entries):
    """Add `each` entries to the end of every one of n distinct sequences, or to none. O(n * each)."""
    held = sequences.parts(seqs, tables)
    if held.head[RETIRED]:
        return FULL, 0, 0
    if sequences.unprepared(pool, entries):
        return UNPREPARED, 0, 0
    pages, srows = layout.parts(pool), held.rows
    head, rows = pages.head, pages.rows
    n, page_size = seq_ids.shape[0], head[layout.PAGE_SIZE]
    found, copied = np.empty(n, np.int64), np.empty(n, np.bool_)
    code, at, planned, needed, slots = OK, _ZERO, _ZERO, _ZERO, _ZERO
    # Two forks that share their last page need one copy of it, not two. So the plan removes references as the
    # appends will, and marks the sequences it has seen by a negative length; both are undone below.
    for e in range(n):
        row = table.find(srows, held.buckets, seq_ids[e])
        if row < 0 or srows[row, sequences.LENGTH] < 0:
            code, at = (ABSENT, np.int64(e)) if row < 0 else (TWICE, np.int64(e))
            break
        total, copies = _growth(head, rows, held, row, each)
        found[e], copied[e] = row, copies > 0
        if copies:
            rows[tables[srows[row, sequences.START] + srows[row, sequences.PAGES] - 1], layout.REFS] -= 1
        needed += total - srows[row, sequences.PAGES] + copies
        slots += sequences.wanted_slots(srows, row, total)
        srows[row, sequences.LENGTH] = ~srows[row, sequences.LENGTH]
        planned += 1
    for e in range(planned):
        row = found[e]
        srows[row, sequences.LENGTH] = ~srows[row, sequences.LENGTH]
        if copied[e]:
            rows[tables[srows[row, sequences.START] + srows[row, sequences.PAGES] - 1], layout.REFS] += 1
    if code != OK:
        return code, at, 0
    if needed > available(head):
        return NO_PAGES, needed, available(head)
    if not sequences.has_room(held, _ZERO, slots):
        return FULL, 0, 0
    width, stored = head[layout.ENTRY_BYTES], head[layout.STORED] != 0
    for e in range(n):
        row = found[e]
        left = _slots_left(head, srows, row)
        if left > 0 and each == 1:
            page = tables[srows[row, sequences.START] + srows[row, sequences.PAGES] - 1]
            # the common case is written out here: passing the arrays to a function takes 4 times as long
            if rows[page, layout.REFS] == 1 and rows[page, layout.BUCKET] < 0:
                srows[row, sequences.LENGTH] += 1
                to, start = ((page + 1) * page_size - left) * width, e * width
                if stored and width > SMALL:
                    copy_bytes(store, to, entries, start, width)
                elif stored:
                    for byte in range(width):
                        store[to + byte] = entries[start + byte]
                continue
        total = srows[row, sequences.PAGES] + (pages_for(each - left, page_size) if each > left else 0)
        _append(pages, held, store, row, total, each, entries, e * each)
    if head[layout.CONTENT] and head[layout.SHARING]:  # only now, since the plan does not count pages that this frees
        data = layout.Data(ids, store, store, store, np.empty((0, 3), np.int64))
        for e in range(n):
            row = found[e]
            whole = srows[row, sequences.PREFIX_PAGES] * page_size == srows[row, sequences.PREFIX]
            if whole and (each > 1 or _slots_left(head, srows, row) == 0):
                length = srows[row, sequences.LENGTH]
                for i in range((length - each) // page_size, length // page_size):
                    _settle(pages, held, data, row, np.int64(i))
    return OK, 0, 0


@njit(cache=True)
def write(pool, seqs, tables, ids, store, seq_id, start, count, entries):
    """Replace entries start..start + count of a sequence, all within its length. O(count + page_size)."""
    held = sequences.parts(seqs, tables)
    srows = held.rows
    if held.head[RETIRED]:
        return FULL, 0, 0
    if sequences.unprepared(pool, entries):
        return UNPREPARED, 0, 0
    row = table.find(srows, held.buckets, seq_id)
    if row < 0:
        return ABSENT, seq_id, 0
    length = srows[row, sequences.LENGTH]
    if start > length or count > length - start:
        return OUTSIDE, length, 0
    if count == 0:
        return OK, 0, 0
    pages = layout.parts(pool)
    head, rows = pages.head, pages.rows
    page_size, first = head[layout.PAGE_SIZE], srows[row, sequences.START]
    at, slot = sequences.place(srows, row, page_size, start)
    last, _ = sequences.place(srows, row, page_size, start + count - 1)
    needed = _ZERO
    for i in range(at, last + 1):
        needed += rows[tables[first + i], layout.REFS] > 1
    if needed > available(head):
        return NO_PAGES, needed, available(head)
    done = _ZERO
    for i in range(at, last + 1):
        used = sequences.filled(srows, row, page_size, i)
        page = _own(pages, store, tables, first + i, used)
        part = min(count - done, used - slot)
        if head[layout.STORED]:
            copy_entries(head, store, page, slot, entries, done, part)
        done += part
        slot = _ZERO
    return OK, 0, 0


@njit(cache=True)
def truncate(pool, seqs, tables, ids, store, seq_id, length):
    """Cut a sequence to its first `length` entries. A prefix that is cut is no longer named. O(pages released)."""
    held = sequences.parts(seqs, tables)
    srows = held.rows
    if held.head[RETIRED]:
        return FULL, 0, 0
    row = table.find(srows, held.buckets, seq_id)
    if row < 0:
        return ABSENT, seq_id, 0
    if length > srows[row, sequences.LENGTH]:
        return OUTSIDE, srows[row, sequences.LENGTH], 0
    if length < srows[row, sequences.PREFIX]:
        srows[row, sequences.PREFIX] = srows[row, sequences.PREFIX_PAGES] = 0
    rest = pages_for(length - srows[row, sequences.PREFIX], pool[layout.PAGE_SIZE])
    sequences.release_pages(layout.parts(pool), held, row, srows[row, sequences.PREFIX_PAGES] + rest)
    srows[row, sequences.LENGTH] = length
    return OK, 0, 0


@njit(cache=True)
def fork(pool, seqs, tables, ids, store, source, target):
    """Let `target`, which must be new, hold the pages of `source`. O(pages)."""
    held = sequences.parts(seqs, tables)
    srows = held.rows
    if held.head[RETIRED]:
        return FULL, 0, 0
    row = table.find(srows, held.buckets, source)
    if row < 0:
        return ABSENT, source, 0
    if table.find(srows, held.buckets, target) >= 0:
        return PRESENT, 0, 0
    total = srows[row, sequences.PAGES]
    if not sequences.has_room(held, _ONE, total):
        return FULL, 0, 0
    pages, other, start = layout.parts(pool), sequences.add(held, target), held.head[sequences.TOP_SLOT]
    for column in range(sequences.START, sequences.COLUMNS):
        srows[other, column] = srows[row, column]
    srows[other, sequences.START], srows[other, sequences.ROOM] = start if total > 0 else 0, total
    held.head[sequences.TOP_SLOT] += total
    held.head[sequences.LIVE] += total
    for i in range(total):
        page = np.int64(tables[srows[row, sequences.START] + i])
        acquire(pages, page)
        tables[start + i] = page
    return OK, 0, 0


@njit_no_nrt(cache=True)
def _slots_left(head, srows, row):
    """Return the free slots in the last page of a sequence; 0 if its prefix ends there. Without a division."""
    return (
        (srows[row, sequences.PAGES] - srows[row, sequences.PREFIX_PAGES]) * head[layout.PAGE_SIZE]
        - srows[row, sequences.LENGTH]
        + srows[row, sequences.PREFIX]
    )


@njit_no_nrt(cache=True)
def _growth(head, rows, held, row, count):
    """Return (pages of a sequence after `count` more entries, copies of shared pages that this takes: 0 or 1)."""
    srows = held.rows
    left, total = _slots_left(head, srows, row), srows[row, sequences.PAGES]
    shared = left > 0 and count > 0 and rows[held.tables[srows[row, sequences.START] + total - 1], layout.REFS] > 1
    if count > left:
        total += pages_for(count - left, head[layout.PAGE_SIZE])
    return total, np.int64(shared)


@njit(cache=True)
def _append(pages, held, store, row, total, count, entries, entry):
    """Add entries to a sequence that will have `total` pages then; there are enough of them, and slots."""
    head, srows, tables = pages.head, held.rows, held.tables
    page_size, left = head[layout.PAGE_SIZE], _slots_left(head, srows, row)
    sequences.widen(held, row, total)
    start, done = srows[row, sequences.START], _ZERO
    if left > 0 and count > 0:
        used = page_size - left
        page = _own(pages, store, tables, start + srows[row, sequences.PAGES] - 1, used)
        done = min(count, left)
        if head[layout.STORED]:
            copy_entries(head, store, page, used, entries, entry, done)
    for i in range(srows[row, sequences.PAGES], total):
        page = take(pages)
        tables[start + i] = page
        part = min(count - done, page_size)
        if head[layout.STORED]:
            copy_entries(head, store, page, _ZERO, entries, entry + done, part)
        done += part
    held.head[sequences.LIVE] += total - srows[row, sequences.PAGES]
    srows[row, sequences.PAGES] = total
    srows[row, sequences.LENGTH] += count


@njit_no_nrt(cache=True)
def _settle(pages, held, data, row, i):
    """Make page i of a sequence, just filled and referenced by it alone, findable, if the page before it is.

    If a page with the same ids after the same pages can be found already, that one takes its place.
    """
    head, rows, srows = pages.head, pages.rows, held.rows
    slot, salt = srows[row, sequences.START] + i, srows[row, sequences.SALT]
    parent, before = head[layout.MAX_PAGES], root_name(salt)
    if i > 0:
        parent = np.int64(held.tables[slot - 1])
        before = pages.names[parent, layout.NAME]
        if rows[parent, layout.BUCKET] < 0 or 0 < rows[parent, layout.COUNT] < head[layout.PAGE_SIZE]:
            return
    page, page_size, size = (
        np.int64(held.tables[slot]),
        head[layout.PAGE_SIZE],
        head[layout.PAGE_SIZE] * head[layout.ID_BYTES],
    )
    name = page_name(data.store, page * size, size, before)
    same = find(pages, data, parent, salt, name, name, _FALSE, page * size, page_size)
    if same < 0:
        link(pages, page, parent, salt, name, name, page_size, _TRUE)
    elif rows[same, layout.STATE] & layout.OWN == 0 or same_entries(head, data, same, page * page_size, page_size):
        acquire(pages, same)
        release(pages, page)
        held.tables[slot] = same


@njit_no_nrt(cache=True)
def _own(pages, store, tables, slot, used):
    """Return the page in a slot of `tables`, or the one now there, that may be written to; `used` entries are kept.

    A page that other sequences hold is copied. One that can be found no longer can, since its entries change.
    """
    head, rows = pages.head, pages.rows
    page = np.int64(tables[slot])
    if rows[page, layout.REFS] > 1:
        fresh = take(pages)
        if head[layout.STORED]:
            copy_entries(head, store, fresh, _ZERO, store, page * head[layout.PAGE_SIZE], used)
        release(pages, page)
        tables[slot] = fresh
        head[layout.COPIES] += 1
        return fresh
    if rows[page, layout.BUCKET] >= 0:
        forget(pages, page)
    return page
