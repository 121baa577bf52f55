"""What is done with the sequences of a KV cache once they are there. State and answers: `kv_cache.sequences`.

Entries come as uint8, entry_bytes each, end to end; none where none are stored.
"""

import numpy as np

from .. import table
from ..compiling import njit, njit_no_nrt
from ..table import RETIRED
from . import layout as kv
from . import sequences as seq
from .hashes import page_name, root_name
from .pages import acquire, available, copy_bytes, copy_entries, find, forget, link, release, same_entries, take
from .sequences import ABSENT, FULL, NO_PAGES, OK, OUTSIDE, PRESENT, TWICE, UNPREPARED, pages_for

# A helper is compiled anew for a literal and for an int32, so both are made int64 before a call.
_ZERO, _ONE, _FALSE, _TRUE = np.int64(0), np.int64(1), np.bool_(False), np.bool_(True)
SMALL = 64  # bytes of an entry that are copied faster one by one than by a call


@njit(cache=True)
def detach(pool, seqs, tables, ids, store, seq_id):
    """Let go of a sequence: its last page becomes the oldest of its own. O(pages)."""
    shead, srows, sbuckets = table.parts(seqs)
    if shead[RETIRED]:
        return FULL, 0, 0
    row = table.find(srows, sbuckets, seq_id)
    if row < 0:
        return ABSENT, seq_id, 0
    head, rows, names, _, memory = kv.parts(pool)
    seq.release_pages(head, rows, names, memory, shead, srows, tables, row, _ZERO)
    seq.give_back_slots(shead, srows, row)
    table.remove(srows, sbuckets, row)
    table.free_row(shead, srows, row)
    return OK, 0, 0


@njit(cache=True)
def gather(pool, seqs, tables, ids, store, seq_id):
    """(code, entries of a sequence, uint8 (length * entry_bytes,)). O(length)."""
    shead, srows, sbuckets = table.parts(seqs)
    row = np.int64(-1) if shead[RETIRED] else table.find(srows, sbuckets, seq_id)
    if row < 0:
        return FULL if shead[RETIRED] else ABSENT, np.empty(0, np.uint8)
    page_size, width = pool[kv.PAGE_SIZE], pool[kv.ENTRY_BYTES]
    entries = np.empty(srows[row, seq.LENGTH] * width, np.uint8)
    done = _ZERO
    for i in range(srows[row, seq.PAGES]):
        first = tables[srows[row, seq.START] + i] * page_size * width
        stop = seq.filled(srows, row, page_size, i) * width
        copy_bytes(entries, done, store, first, stop)
        done += stop
    return OK, entries


@njit(cache=True)
def append(pool, seqs, tables, ids, store, seq_ids, each, entries):
    """Add `each` entries to the end of every one of n distinct sequences, or to none. O(n * each)."""
    shead, srows, sbuckets = table.parts(seqs)
    if shead[RETIRED]:
        return FULL, 0, 0
    if seq.unprepared(pool, entries):
        return UNPREPARED, 0, 0
    head, rows, names, buckets, memory = kv.parts(pool)
    n, page_size = seq_ids.shape[0], head[kv.PAGE_SIZE]
    found, copied = np.empty(n, np.int64), np.empty(n, np.bool_)
    code, at, planned, needed, slots = OK, _ZERO, _ZERO, _ZERO, _ZERO
    # Two forks that share their last page need one copy of it, not two. So the plan takes references away as the
    # appends will, and marks what it has seen by a negative length; both are undone below.
    for e in range(n):
        row = table.find(srows, sbuckets, seq_ids[e])
        if row < 0 or srows[row, seq.LENGTH] < 0:
            code, at = (ABSENT, np.int64(e)) if row < 0 else (TWICE, np.int64(e))
            break
        pages, copies = _growth(head, rows, srows, tables, row, each)
        found[e], copied[e] = row, copies > 0
        if copies:
            rows[tables[srows[row, seq.START] + srows[row, seq.PAGES] - 1], kv.REFS] -= 1
        needed += pages - srows[row, seq.PAGES] + copies
        slots += seq.wanted_slots(srows, row, pages)
        srows[row, seq.LENGTH] = ~srows[row, seq.LENGTH]
        planned += 1
    for e in range(planned):
        row = found[e]
        srows[row, seq.LENGTH] = ~srows[row, seq.LENGTH]
        if copied[e]:
            rows[tables[srows[row, seq.START] + srows[row, seq.PAGES] - 1], kv.REFS] += 1
    if code != OK:
        return code, at, 0
    if needed > available(head):
        return NO_PAGES, needed, available(head)
    if not seq.has_room(shead, srows, tables, _ZERO, slots):
        return FULL, 0, 0
    width, stored = head[kv.ENTRY_BYTES], head[kv.STORED] != 0
    for e in range(n):
        row = found[e]
        left = (
            (srows[row, seq.PAGES] - srows[row, seq.PREFIX_PAGES]) * page_size
            - srows[row, seq.LENGTH]
            + srows[row, seq.PREFIX]
        )
        if left > 0 and each == 1:
            page = tables[srows[row, seq.START] + srows[row, seq.PAGES] - 1]
            if (
                rows[page, kv.REFS] == 1 and rows[page, kv.BUCKET] < 0
            ):  # as a rule; handing arrays on took 4 times as long
                srows[row, seq.LENGTH] += 1
                to, start = ((page + 1) * page_size - left) * width, e * width
                if stored and width > SMALL:
                    copy_bytes(store, to, entries, start, width)
                elif stored:
                    for byte in range(width):
                        store[to + byte] = entries[start + byte]
                continue
        pages = srows[row, seq.PAGES] + (pages_for(each - left, page_size) if each > left else 0)
        _append(head, rows, names, buckets, memory, shead, srows, tables, store, row, pages, each, entries, e * each)
    if head[kv.CONTENT] and head[kv.SHARING]:  # only now, since the plan knows nothing of pages that come free by it
        origin = np.empty((0, 3), np.int64)
        for e in range(n):
            row = found[e]
            whole = srows[row, seq.PREFIX_PAGES] * page_size == srows[row, seq.PREFIX]
            if whole and (each > 1 or _slots_left(head, srows, row) == 0):
                length = srows[row, seq.LENGTH]
                for i in range((length - each) // page_size, length // page_size):
                    _settle(head, rows, names, buckets, memory, srows, tables, ids, store, origin, row, np.int64(i))
    return OK, 0, 0


@njit(cache=True)
def write(pool, seqs, tables, ids, store, seq_id, start, count, entries):
    """Replace entries start..start + count of a sequence, all within its length. O(count + page_size)."""
    shead, srows, sbuckets = table.parts(seqs)
    if shead[RETIRED]:
        return FULL, 0, 0
    if seq.unprepared(pool, entries):
        return UNPREPARED, 0, 0
    row = table.find(srows, sbuckets, seq_id)
    if row < 0:
        return ABSENT, seq_id, 0
    length = srows[row, seq.LENGTH]
    if start > length or count > length - start:
        return OUTSIDE, length, 0
    if count == 0:
        return OK, 0, 0
    head, rows, names, buckets, memory = kv.parts(pool)
    page_size, first = head[kv.PAGE_SIZE], srows[row, seq.START]
    at, slot = seq.place(srows, row, page_size, start)
    last, _ = seq.place(srows, row, page_size, start + count - 1)
    needed = _ZERO
    for i in range(at, last + 1):
        needed += rows[tables[first + i], kv.REFS] > 1
    if needed > available(head):
        return NO_PAGES, needed, available(head)
    done = _ZERO
    for i in range(at, last + 1):
        used = seq.filled(srows, row, page_size, i)
        page = _own(head, rows, names, buckets, memory, store, tables, first + i, used)
        part = min(count - done, used - slot)
        if head[kv.STORED]:
            copy_entries(head, store, page, slot, entries, done, part)
        done += part
        slot = _ZERO
    return OK, 0, 0


@njit(cache=True)
def truncate(pool, seqs, tables, ids, store, seq_id, length):
    """Cut a sequence to its first `length` entries. A prefix that is cut into is no longer named. O(pages let go)."""
    shead, srows, sbuckets = table.parts(seqs)
    if shead[RETIRED]:
        return FULL, 0, 0
    row = table.find(srows, sbuckets, seq_id)
    if row < 0:
        return ABSENT, seq_id, 0
    if length > srows[row, seq.LENGTH]:
        return OUTSIDE, srows[row, seq.LENGTH], 0
    if length < srows[row, seq.PREFIX]:
        srows[row, seq.PREFIX] = srows[row, seq.PREFIX_PAGES] = 0
    head, rows, names, _, memory = kv.parts(pool)
    rest = pages_for(length - srows[row, seq.PREFIX], head[kv.PAGE_SIZE])
    seq.release_pages(head, rows, names, memory, shead, srows, tables, row, srows[row, seq.PREFIX_PAGES] + rest)
    srows[row, seq.LENGTH] = length
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
    pages = srows[row, seq.PAGES]
    if not seq.has_room(shead, srows, tables, _ONE, pages):
        return FULL, 0, 0
    head, rows, names, _, memory = kv.parts(pool)
    other, start = seq.add(shead, srows, sbuckets, target), shead[seq.TOP_SLOT]
    for column in (seq.PAGES, seq.LENGTH, seq.PREFIX, seq.PREFIX_PAGES, seq.SALT):
        srows[other, column] = srows[row, column]
    srows[other, seq.START], srows[other, seq.ROOM] = start if pages > 0 else 0, pages
    shead[seq.TOP_SLOT] += pages
    shead[seq.LIVE] += pages
    for i in range(pages):
        page = np.int64(tables[srows[row, seq.START] + i])
        acquire(head, rows, names, memory, page)
        tables[start + i] = page
    return OK, 0, 0


@njit_no_nrt(cache=True)
def _slots_left(head, srows, row):
    """Slots that are free in the last page of a sequence; 0 if its prefix ends there. Without a division."""
    return (
        (srows[row, seq.PAGES] - srows[row, seq.PREFIX_PAGES]) * head[kv.PAGE_SIZE]
        - srows[row, seq.LENGTH]
        + srows[row, seq.PREFIX]
    )


@njit_no_nrt(cache=True)
def _growth(head, rows, srows, tables, row, count):
    """(pages that a sequence will have after `count` more entries, copies of shared pages that takes: 0 or 1)."""
    left, pages = _slots_left(head, srows, row), srows[row, seq.PAGES]
    shared = left > 0 and count > 0 and rows[tables[srows[row, seq.START] + pages - 1], kv.REFS] > 1
    if count > left:
        pages += pages_for(count - left, head[kv.PAGE_SIZE])
    return pages, np.int64(shared)


@njit(cache=True)
def _append(head, rows, names, buckets, memory, shead, srows, tables, store, row, pages, count, entries, entry):
    """Add entries to a sequence that will have `pages` pages then; there are enough of them, and slots."""
    page_size, left = head[kv.PAGE_SIZE], _slots_left(head, srows, row)
    seq.widen(shead, srows, tables, row, pages)
    start, done = srows[row, seq.START], _ZERO
    if left > 0 and count > 0:
        used = page_size - left
        page = _own(head, rows, names, buckets, memory, store, tables, start + srows[row, seq.PAGES] - 1, used)
        done = min(count, left)
        if head[kv.STORED]:
            copy_entries(head, store, page, used, entries, entry, done)
    for i in range(srows[row, seq.PAGES], pages):
        page = take(head, rows, names, buckets, memory)
        tables[start + i] = page
        part = min(count - done, page_size)
        if head[kv.STORED]:
            copy_entries(head, store, page, _ZERO, entries, entry + done, part)
        done += part
    shead[seq.LIVE] += pages - srows[row, seq.PAGES]
    srows[row, seq.PAGES] = pages
    srows[row, seq.LENGTH] += count


@njit_no_nrt(cache=True)
def _settle(head, rows, names, buckets, memory, srows, tables, ids, store, origin, row, i):
    """Let page i of a sequence, just filled and nobody else's, be found, if the page before it can be.

    If one with the same ids after the same pages is there already, that takes its place.
    """
    slot, salt = srows[row, seq.START] + i, srows[row, seq.SALT]
    parent, before = head[kv.MAX_PAGES], root_name(salt)
    if i > 0:
        parent = np.int64(tables[slot - 1])
        before = names[parent, kv.NAME]
        if rows[parent, kv.BUCKET] < 0 or 0 < rows[parent, kv.COUNT] < head[kv.PAGE_SIZE]:
            return
    page, page_size, size = np.int64(tables[slot]), head[kv.PAGE_SIZE], head[kv.PAGE_SIZE] * head[kv.ID_BYTES]
    name = page_name(store, page * size, size, before)
    same = find(
        head, rows, names, buckets, ids, store, origin, store, store, parent, salt, name, name, _FALSE, page * size,
        page_size,
    )  # fmt: skip
    if same < 0:
        link(head, rows, names, buckets, memory, page, parent, salt, name, name, page_size, _TRUE)
    elif rows[same, kv.STATE] & kv.OWN == 0 or same_entries(
        head, store, origin, same, store, page * page_size, page_size
    ):
        acquire(head, rows, names, memory, same)
        release(head, rows, names, memory, page)
        tables[slot] = same


@njit_no_nrt(cache=True)
def _own(head, rows, names, buckets, memory, store, tables, slot, used):
    """The page in a slot of `tables`, made one that may be written to; its first `used` entries stay.

    A page that others hold is copied. One that can be found no longer can, since its entries change.
    """
    page = np.int64(tables[slot])
    if rows[page, kv.REFS] > 1:
        fresh = take(head, rows, names, buckets, memory)
        if head[kv.STORED]:
            copy_entries(head, store, fresh, _ZERO, store, page * head[kv.PAGE_SIZE], used)
        release(head, rows, names, memory, page)
        tables[slot] = fresh
        head[kv.COPIES] += 1
        return fresh
    if rows[page, kv.BUCKET] >= 0:
        forget(head, rows, names, buckets, memory, page)
    return page
