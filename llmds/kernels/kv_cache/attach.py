"""Sequences attached to a KV cache. State and codes: `kv_cache.sequences`.

What to attach comes as
    requests  int64 (n, REQUEST)  row[SEQ] the sequence, row[SALT] under which its pages are found,
                                  row[FIRST], row[LENGTH] its first entry in `entries` and how many,
                                  row[FIRST_ID], row[NAMED] the first id of its prefix in `prefix` and how many
    entries   uint8               entry_bytes each, end to end; empty where none are stored
    prefix    uint8               id_bytes each, end to end
With `blocks` (a bool) the prefixes are content ids (int64) instead, one for each page, and all pages are whole;
`entries` is empty, and those of new pages are zeros.
"""

import numpy as np

from .. import table
from ..compiling import always_inline, njit, njit_no_nrt
from ..simd import prefetch, word_at
from . import layout, sequences
from .eviction import dispatch as eviction
from .hashes import block_key, page_name, root_name, same_bytes
from .pages import acquire, available, bucket_of, copy_bytes, copy_entries, find, link, same_entries, take
from .sequences import FULL, NO_PAGES, OK, UNPREPARED, pages_for

SEQ, SALT, FIRST, LENGTH, FIRST_ID, NAMED, REQUEST = 0, 1, 2, 3, 4, 5, 6
# A helper is compiled again for a literal and for an int32, so both are made int64 before a call.
_ZERO, _ONE = np.int64(0), np.int64(1)


@njit(cache=True)
def attach(pool, seqs, tables, ids, store, requests, entries, prefix, blocks):
    """Attach n sequences in order, or none: OK, FULL or NO_PAGES. A sequence with the same id is replaced.

    Where it is not certain beforehand that the pages suffice for several, the work is done on a copy of the bookkeeping
    first, and entries are copied when it has succeeded: a page is overwritten only then. O(entries), with `blocks`
    O(ids); + O(max_pages) on a copy.
    """
    page_size = pool[layout.PAGE_SIZE]
    if seqs[table.RETIRED]:
        return FULL, _ZERO, _ZERO
    if sequences.unprepared(pool, entries):
        return UNPREPARED, _ZERO, _ZERO
    n, most, width, id_width = requests.shape[0], _ZERO, pool[layout.ENTRY_BYTES], pool[layout.ID_BYTES]
    for e in range(n):
        named = _ZERO if blocks else requests[e, NAMED]
        if named > 0 and ids.shape[0] == 0 and pool[layout.SHARING]:
            first, entry = requests[e, FIRST_ID] * id_width, requests[e, FIRST] * width
            if not (pool[layout.CONTENT] and same_bytes(prefix, first, entries, entry, named * width)):
                return UNPREPARED, _ONE, _ZERO
        most += pages_for(named, page_size) + pages_for(requests[e, LENGTH] - named, page_size)
    if not sequences.has_room(sequences.parts(seqs, tables), n, most):
        return FULL, _ZERO, _ZERO
    certain = n == 1 or most <= available(pool)  # an attach that does not succeed changes nothing
    origin = np.empty((0 if certain else pool[layout.MAX_PAGES], 3), np.int64)
    for page in range(origin.shape[0]):
        origin[page, 1] = -1
    pool_, seqs_, tables_ = pool, seqs, tables
    if not certain:
        pool_, seqs_, tables_ = pool.copy(), seqs.copy(), tables.copy()
    pages, held = layout.parts(pool_), sequences.parts(seqs_, tables_)
    data = layout.Data(ids, store, prefix, entries, origin)
    for e in range(n):
        code, a, b = attach_one(pages, held, data, requests, e, blocks)
        if code != OK:
            return code, a, b
    if not certain:
        for i in range(pool.shape[0]):
            pool[i] = pool_[i]
        for i in range(seqs.shape[0]):
            seqs[i] = seqs_[i]
        for i in range(tables.shape[0]):
            tables[i] = tables_[i]
        rows = pages.rows
        for page in range(origin.shape[0]):
            if origin[page, 1] >= 0:
                own, count = rows[page, layout.STATE] & layout.OWN != 0, np.int64(rows[page, layout.COUNT])
                at, entry, used = origin[page, 0], origin[page, 1], origin[page, 2]
                _fill(pages.head, data, page, own, count, at, entry, used, blocks)
    return OK, _ZERO, _ZERO


@njit_no_nrt(cache=True)
def attach_one(pages, held, data, requests, e, blocks):
    """Attach requests[e]; there must be room for it. (OK, pages found, 0) or NO_PAGES.

    `pages`, `held`, `data`: the `Pages`, `Sequences` and `Data` of the cache. With a data.origin of max_pages rows,
    entries and ids are not copied, and where they come from is written there.
    """
    head, rows, buckets = pages.head, pages.rows, pages.buckets
    srows, tables = held.rows, held.tables
    salt, entry, length = requests[e, SALT], requests[e, FIRST], requests[e, LENGTH]
    first, named = requests[e, FIRST_ID], requests[e, NAMED]
    page_size, width, id_width = head[layout.PAGE_SIZE], head[layout.ENTRY_BYTES], head[layout.ID_BYTES]
    prefix_length = _ZERO if blocks or head[layout.SHARING] == 0 else named
    prefix_pages = pages_for(prefix_length, page_size)
    total = prefix_pages + pages_for(length - prefix_length, page_size)
    content = head[layout.CONTENT] != 0 and not blocks
    own_pages = prefix_pages  # these have ids beside their entries
    if content and same_bytes(data.prefix, first * id_width, data.entries, entry * width, prefix_length * width):
        own_pages = _ZERO
    keyed = _ZERO  # pages that have a key, so that they can be found
    if head[layout.SHARING]:
        keyed = named if blocks else prefix_pages
        if content and prefix_length == prefix_pages * page_size:
            keyed += (length - prefix_length) // page_size

    # The pages found are noted in the slots that the new table will have, which are not in use yet.
    start, parent, found, distinct, cached = held.head[sequences.TOP_SLOT], head[layout.MAX_PAGES], _ZERO, True, _ZERO
    key, name, at, count = root_name(salt), _ZERO, _ZERO, _ZERO
    while found < keyed:
        own, begin = found < own_pages, entry + found * page_size
        at, count = _place(head, first, begin, prefix_length, found, prefix_pages, own, blocks)
        key, name = _key(data, at, count * id_width, key, own, blocks)
        page = find(pages, data, parent, salt, key, name, own, at, count)
        if page < 0:
            break
        compared = head[layout.VERIFY] == 0 or not (own or rows[page, layout.STATE] & layout.OWN)
        if head[layout.STORED] and not blocks and not compared:
            if not same_entries(head, data, page, begin, count):
                distinct = False
                break
        tables[start + found] = page
        cached += rows[page, layout.REFS] == 0
        parent = page
        found += 1
    row = table.find(srows, held.buckets, requests[e, SEQ])
    free = available(head) - cached
    if row >= 0:
        for i in range(srows[row, sequences.PAGES]):
            page = tables[srows[row, sequences.START] + i]
            # a page that can be found has the same index in every page table
            free += rows[page, layout.REFS] == 1 and not (i < found and tables[start + i] == page)
    if total - found > free:
        return NO_PAGES, total - found, free

    for i in range(found):
        acquire(pages, np.int64(tables[start + i]))
    held.head[sequences.TOP_SLOT] += total
    if row >= 0:
        sequences.release_pages(pages, held, row, _ZERO)
        sequences.give_back_slots(held, row)
    else:
        row = sequences.add(held, requests[e, SEQ])
    held.head[sequences.LIVE] += total
    srows[row, sequences.START] = start if total > 0 else 0
    srows[row, sequences.PAGES] = srows[row, sequences.ROOM] = total
    srows[row, sequences.LENGTH], srows[row, sequences.SALT] = length, salt
    srows[row, sequences.PREFIX], srows[row, sequences.PREFIX_PAGES] = prefix_length, prefix_pages
    new = keyed if distinct else _ZERO
    key_1, name_1, key_2, name_2 = key, _ZERO, _ZERO, _ZERO
    if found + 1 < new:
        own, begin = found + 1 < own_pages, entry + (found + 1) * page_size
        at, count = _place(head, first, begin, prefix_length, found + 1, prefix_pages, own, blocks)
        key_1, name_1 = _key(data, at, count * id_width, key, own, blocks)
    for i in range(found, total):
        if i + 2 < new:  # hashed two pages ahead, so that the bucket is in the processor's cache when it is needed
            own, begin = i + 2 < own_pages, entry + (i + 2) * page_size
            at, count = _place(head, first, begin, prefix_length, i + 2, prefix_pages, own, blocks)
            key_2, name_2 = _key(data, at, count * id_width, key_1, own, blocks)
            prefetch(buckets, bucket_of(buckets, key_2), _ONE)
        page = take(pages)
        tables[start + i] = page
        own, begin = False, i * page_size if i < prefix_pages else prefix_length + (i - prefix_pages) * page_size
        if i < new:
            own = i < own_pages
            at, count = _place(head, first, entry + begin, prefix_length, i, prefix_pages, own, blocks)
            link(pages, page, parent, salt, key, name, count, blocks or count == page_size)
            if own:
                rows[page, layout.STATE] |= layout.OWN
            parent, key, name, key_1, name_1 = page, key_1, name_1, key_2, name_2
        used = sequences.filled(srows, row, page_size, i)
        if data.origin.shape[0] > 0:
            data.origin[page, 0], data.origin[page, 1], data.origin[page, 2] = at, entry + begin, used
        else:
            _fill(head, data, page, own, count, at, entry + begin, used, blocks)
    head[layout.ATTACHED] += 1
    eviction.attached(pages, tables, start, found, max(found, new))
    if keyed > 0:
        sought = named * page_size if blocks else prefix_length + (keyed - prefix_pages) * page_size
        head[layout.LOOKUPS] += sought
        head[layout.HITS] += min(found * page_size, sought)
        head[layout.SHARES] += found > 0
    return OK, found, _ZERO


@njit_no_nrt(cache=True, forceinline=True)
def _place(head, first, begin, prefix_length, i, prefix_pages, own, blocks):
    """Return (first byte, number) of the ids of page i: in the prefixes if `own`, else in the entries from `begin`."""
    page_size = head[layout.PAGE_SIZE]
    if blocks:
        return 8 * (first + i), _ZERO
    count = min(page_size, prefix_length - i * page_size) if i < prefix_pages else page_size
    return ((first + i * page_size) if own else begin) * head[layout.ID_BYTES], count


@njit_no_nrt(cache=True, forceinline=True)
def _key(data, at, size, before, own, blocks):
    """Return (key, name) of a page below one whose key is `before`."""
    if blocks:
        name = np.int64(word_at(data.prefix, at))
        return block_key(before, name), name
    name = page_name(data.prefix, at, size, before) if own else page_name(data.entries, at, size, before)
    return name, name


@njit_no_nrt(cache=True)
def _fill(head, data, page, own, count, at, entry, used, blocks):
    """Copy the contents of a new page: `used` entries and, if they are its own, `count` ids from byte `at` on."""
    always_inline()
    if own:
        size = head[layout.PAGE_SIZE] * head[layout.ID_BYTES]
        copy_bytes(data.ids, page * size, data.prefix, at, count * head[layout.ID_BYTES])
    if not blocks:
        if head[layout.STORED]:
            copy_entries(head, data.store, page, _ZERO, data.entries, entry, used)
    elif head[layout.STORED]:
        size = head[layout.PAGE_SIZE] * head[layout.ENTRY_BYTES]
        for byte in range(page * size, (page + 1) * size):
            data.store[byte] = 0
