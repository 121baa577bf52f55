"""Sequences put into a KV cache. State and answers: `kv_cache.sequences`.

What is to be attached comes as
    requests  int64 (n, REQUEST)  row[SEQ] the sequence, row[SALT] under which its pages are found,
                                  row[FIRST], row[LENGTH] its first entry in `entries` and how many,
                                  row[FIRST_ID], row[NAMED] the first id of its prefix in `prefix` and how many
    entries   uint8               entry_bytes each, end to end; none where none are stored
    prefix    uint8               id_bytes each, end to end
With `blocks` (a bool) the prefixes are content ids (int64) instead, one for each page, and all pages are whole;
`entries` is empty, and those of new pages are zeros.
"""

import numpy as np

from .. import table
from ..compiling import always_inline, njit, njit_no_nrt
from ..simd import prefetch, word_at
from . import layout as kv
from . import sequences as seq
from .eviction import dispatch as kv_eviction
from .hashes import block_key, page_name, root_name, same_bytes
from .pages import acquire, available, bucket_of, copy_bytes, copy_entries, find, link, same_entries, take
from .sequences import FULL, NO_PAGES, OK, UNPREPARED, pages_for

SEQ, SALT, FIRST, LENGTH, FIRST_ID, NAMED, REQUEST = 0, 1, 2, 3, 4, 5, 6
# A helper is compiled anew for a literal and for an int32, so both are made int64 before a call.
_ZERO, _ONE = np.int64(0), np.int64(1)


@njit(cache=True)
def attach(pool, seqs, tables, ids, store, requests, entries, prefix, blocks):
    """Attach n sequences in order, or none: OK, FULL or NO_PAGES. What is there under their ids is replaced.

    Where it is not certain beforehand that the pages suffice for several, the work is done on a copy of the bookkeeping
    first, and entries are copied when it has succeeded: a page is overwritten only then. O(entries), with `blocks`
    O(ids); + O(max_pages) on a copy.
    """
    page_size, shead = pool[kv.PAGE_SIZE], seqs[: table.HEAD]
    if shead[table.RETIRED]:
        return FULL, _ZERO, _ZERO
    if seq.unprepared(pool, entries):
        return UNPREPARED, _ZERO, _ZERO
    n, most, width, id_width = requests.shape[0], _ZERO, pool[kv.ENTRY_BYTES], pool[kv.ID_BYTES]
    for e in range(n):
        named = _ZERO if blocks else requests[e, NAMED]
        if named > 0 and ids.shape[0] == 0 and pool[kv.SHARING]:
            first, entry = requests[e, FIRST_ID] * id_width, requests[e, FIRST] * width
            if not (pool[kv.CONTENT] and same_bytes(prefix, first, entries, entry, named * width)):
                return UNPREPARED, _ONE, _ZERO
        most += pages_for(named, page_size) + pages_for(requests[e, LENGTH] - named, page_size)
    _, srows, _ = table.parts(seqs)
    if not seq.has_room(shead, srows, tables, n, most):
        return FULL, _ZERO, _ZERO
    certain = n == 1 or most <= available(pool)  # one that does not succeed changes nothing
    origin = np.empty((0 if certain else pool[kv.MAX_PAGES], 3), np.int64)
    for page in range(origin.shape[0]):
        origin[page, 1] = -1
    pool_, seqs_, tables_ = pool, seqs, tables
    if not certain:
        pool_, seqs_, tables_ = pool.copy(), seqs.copy(), tables.copy()
    head, rows, names, buckets, memory = kv.parts(pool_)
    shead, srows, sbuckets = table.parts(seqs_)
    for e in range(n):
        code, a, b = attach_one(
            head, rows, names, buckets, memory, shead, srows, sbuckets, tables_, ids, store, origin, requests, e,
            entries, prefix, blocks,
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
        for page in range(origin.shape[0]):
            if origin[page, 1] >= 0:
                own, count = rows[page, kv.STATE] & kv.OWN != 0, np.int64(rows[page, kv.COUNT])
                at, entry, used = origin[page, 0], origin[page, 1], origin[page, 2]
                _fill(head, ids, store, page, own, count, prefix, at, entries, entry, used, blocks)
    return OK, _ZERO, _ZERO


@njit_no_nrt(cache=True)
def attach_one(
    head,
    rows,
    names,
    buckets,
    memory,
    shead,
    srows,
    sbuckets,
    tables,
    ids,
    store,
    origin,
    requests,
    e,
    entries,
    prefix,
    blocks,
):
    """Attach requests[e]; there must be room for it. (OK, pages found, _) or NO_PAGES.

    The state comes cut by `kv_cache.layout.parts` and `table.parts`. With an `origin` (as in `kv_cache.pages`) of
    max_pages, entries and ids are not copied, but where they come from is noted.
    """
    salt, entry, length = requests[e, SALT], requests[e, FIRST], requests[e, LENGTH]
    first, named = requests[e, FIRST_ID], requests[e, NAMED]
    page_size, width, id_width = head[kv.PAGE_SIZE], head[kv.ENTRY_BYTES], head[kv.ID_BYTES]
    prefix_length = _ZERO if blocks or head[kv.SHARING] == 0 else named
    prefix_pages = pages_for(prefix_length, page_size)
    total = prefix_pages + pages_for(length - prefix_length, page_size)
    content = head[kv.CONTENT] != 0 and not blocks
    own_pages = prefix_pages  # these have ids beside their entries
    if content and same_bytes(prefix, first * id_width, entries, entry * width, prefix_length * width):
        own_pages = _ZERO
    keyed = _ZERO
    if head[kv.SHARING]:
        keyed = named if blocks else prefix_pages
        if content and prefix_length == prefix_pages * page_size:
            keyed += (length - prefix_length) // page_size

    # What is found is noted in the slots that the new table will have, which nobody reads yet.
    start, parent, found, distinct, cached = shead[seq.TOP_SLOT], head[kv.MAX_PAGES], _ZERO, True, _ZERO
    key, name, at, count = root_name(salt), _ZERO, _ZERO, _ZERO
    while found < keyed:
        own, begin = found < own_pages, entry + found * page_size
        at, count = _place(head, first, begin, prefix_length, found, prefix_pages, own, blocks)
        key, name = _key(prefix, entries, at, count * id_width, key, own, blocks)
        page = find(
            head, rows, names, buckets, ids, store, origin, prefix, entries, parent, salt, key, name, own, at, count
        )
        if page < 0:
            break
        compared = head[kv.VERIFY] == 0 or not (own or rows[page, kv.STATE] & kv.OWN)
        if head[kv.STORED] and not blocks and not compared:
            if not same_entries(head, store, origin, page, entries, begin, count):
                distinct = False
                break
        tables[start + found] = page
        cached += rows[page, kv.REFS] == 0
        parent = page
        found += 1
    row = table.find(srows, sbuckets, requests[e, SEQ])
    free = available(head) - cached
    if row >= 0:
        for i in range(srows[row, seq.PAGES]):
            page = tables[srows[row, seq.START] + i]
            # a page that can be found stands at the same place in every table
            free += rows[page, kv.REFS] == 1 and not (i < found and tables[start + i] == page)
    if total - found > free:
        return NO_PAGES, total - found, free

    for i in range(found):
        acquire(head, rows, names, memory, np.int64(tables[start + i]))
    shead[seq.TOP_SLOT] += total
    if row >= 0:
        seq.release_pages(head, rows, names, memory, shead, srows, tables, row, _ZERO)
        seq.give_back_slots(shead, srows, row)
    else:
        row = seq.add(shead, srows, sbuckets, requests[e, SEQ])
    shead[seq.LIVE] += total
    srows[row, seq.START], srows[row, seq.PAGES], srows[row, seq.ROOM] = start if total > 0 else 0, total, total
    srows[row, seq.LENGTH], srows[row, seq.SALT] = length, salt
    srows[row, seq.PREFIX], srows[row, seq.PREFIX_PAGES] = prefix_length, prefix_pages
    new = keyed if distinct else _ZERO
    key_1, name_1, key_2, name_2 = key, _ZERO, _ZERO, _ZERO
    if found + 1 < new:
        own = found + 1 < own_pages
        at, count = _place(
            head, first, entry + (found + 1) * page_size, prefix_length, found + 1, prefix_pages, own, blocks
        )
        key_1, name_1 = _key(prefix, entries, at, count * id_width, key, own, blocks)
    for i in range(found, total):
        if i + 2 < new:  # known two pages ahead, so that its bucket is there when it is wanted
            own = i + 2 < own_pages
            at, count = _place(
                head, first, entry + (i + 2) * page_size, prefix_length, i + 2, prefix_pages, own, blocks
            )
            key_2, name_2 = _key(prefix, entries, at, count * id_width, key_1, own, blocks)
            prefetch(buckets, bucket_of(buckets, key_2), _ONE)
        page = take(head, rows, names, buckets, memory)
        tables[start + i] = page
        own, begin = False, i * page_size if i < prefix_pages else prefix_length + (i - prefix_pages) * page_size
        if i < new:
            own = i < own_pages
            at, count = _place(head, first, entry + begin, prefix_length, i, prefix_pages, own, blocks)
            link(head, rows, names, buckets, memory, page, parent, salt, key, name, count, blocks or count == page_size)
            if own:
                rows[page, kv.STATE] |= kv.OWN
            parent, key, name, key_1, name_1 = page, key_1, name_1, key_2, name_2
        used = seq.filled(srows, row, page_size, i)
        if origin.shape[0] > 0:
            origin[page, 0], origin[page, 1], origin[page, 2] = at, entry + begin, used
        else:
            _fill(head, ids, store, page, own, count, prefix, at, entries, entry + begin, used, blocks)
    head[kv.ATTACHED] += 1
    kv_eviction.attached(head, rows, names, memory, tables, start, found, max(found, new))
    if keyed > 0:
        sought = named * page_size if blocks else prefix_length + (keyed - prefix_pages) * page_size
        head[kv.LOOKUPS] += sought
        head[kv.HITS] += min(found * page_size, sought)
        head[kv.SHARES] += found > 0
    return OK, found, _ZERO


@njit_no_nrt(cache=True, forceinline=True)
def _place(head, first, begin, prefix_length, i, prefix_pages, own, blocks):
    """(first byte, number) of the ids of page i: in the prefixes if `own`, else in the entries from `begin` on."""
    page_size = head[kv.PAGE_SIZE]
    if blocks:
        return 8 * (first + i), _ZERO
    count = min(page_size, prefix_length - i * page_size) if i < prefix_pages else page_size
    return ((first + i * page_size) if own else begin) * head[kv.ID_BYTES], count


@njit_no_nrt(cache=True, forceinline=True)
def _key(prefix, entries, at, size, before, own, blocks):
    """(key, name) of a page below one whose key is `before`."""
    if blocks:
        name = np.int64(word_at(prefix, at))
        return block_key(before, name), name
    name = page_name(prefix, at, size, before) if own else page_name(entries, at, size, before)
    return name, name


@njit_no_nrt(cache=True)
def _fill(head, ids, store, page, own, count, prefix, at, entries, entry, used, blocks):
    """Copy what a new page holds: `used` entries and, if they are its own, `count` ids from byte `at` on."""
    always_inline()
    if own:
        size = head[kv.PAGE_SIZE] * head[kv.ID_BYTES]
        copy_bytes(ids, page * size, prefix, at, count * head[kv.ID_BYTES])
    if not blocks:
        if head[kv.STORED]:
            copy_entries(head, store, page, _ZERO, entries, entry, used)
    elif head[kv.STORED]:
        size = head[kv.PAGE_SIZE] * head[kv.ENTRY_BYTES]
        for byte in range(page * size, (page + 1) * size):
            store[byte] = 0
