"""LHD: the cached page whose room is expected to bring the fewest hits is evicted, as learned from the load so far.

After Beckmann, Chen and Cidon (2018, "LHD: improving cache hit rate by maximizing hit density"), with counts that
survive eviction, censored ages, and Gittins' index (1979) as the worth of a page: over the best of all horizons, the
hits expected up to it divided by the time in the pool expected up to it. All times are requests (attached sequences).

- Every reference puts a page into a class, by how often it was referenced. What is known of an evicted page is
  remembered under its hash, so that its count and its age go on.
- Of each class and age, in buckets of a quarter of an octave: `reuses`, how many pages were referenced again at this
  age, cached or not; `at_risk`, how many reached this age without that. The quotient is the hazard, right also while
  most pages are still waiting (Kaplan and Meier 1958). It is mixed with that of all classes as if WEIGHT pages had been
  seen to have that, smoothed over neighbouring ages, and decays with a time constant of MEMORY requests.
- If hazards fall with age, the page that has waited longest is worth least, and the policy is LRU. If most pages are
  referenced again after some time, as in conversations, it keeps pages that near that time and evicts new ones.
- Only pages without others below them are candidates, so the last pages of a chain are evicted first. One pass over all
  of them puts the least of them, one in SHARE, in order: the next victims. When the last page below a page is evicted,
  that page is evicted next, as long as it is worth no more than the next in order.

O(SHARE + log) for an eviction, O(CLASSES BUCKETS) for an attached sequence; values are learned again every 128.

`memory`, from these positions on, by n = max_pages (counts are UNIT times as large, hazards and values ONE times):
    0           head, by the names below
    VALUE, REUSES, AT_RISK, HAZARD   (CLASSES, BUCKETS) each
    WAITING     (RING, CLASSES)  how many pages were last referenced by request number r, row r % RING
    PAGES       (n,)      what is known of a page: the number of the request that referenced it last (32 bits), how
                          often it was referenced (5 bits), its class (4 bits)
    + n         (n,)      the cached pages without others below them, dense; OLDER of a page is its place there
    + 2 n       (GHOSTS n,)  what is known of evicted pages, below a part of their hash (22 bits), 0 where none is
    + (2 + GHOSTS) n      (room, 2)  the next victims in order: their worth, as `_worth` returns it, and the page
"""

import numpy as np

from ...compiling import njit_no_nrt, optimize_for_size
from .. import layout
from ..hashes import content_hash
from .chains import below
from .unused import drop  # noqa: F401

# Classes: a new page, the last of its table; a new page of a conversation that goes on; any other new page; by count
CLASSES, BUCKETS, RING, GHOSTS = 10, 44, 4096, 8
# The hazard of a class before much is known, as a multiple of that of all
FACTORS = (0.1, 0.5, 0.7, 1.0, 1.4, 1.8, 2.0, 2.4, 3.0, 4.0)
WEIGHT, MEMORY, SHARE = 200.0, 6000, 64
UNIT, ONE = 1 << 10, 1 << 30

LEAVES, QUEUED, NEXT, RUN, LEARN = 0, 1, 2, 3, 4
VALUE = 8
REUSES = VALUE + CLASSES * BUCKETS
AT_RISK = REUSES + CLASSES * BUCKETS
HAZARD = AT_RISK + CLASSES * BUCKETS
WAITING = HAZARD + CLASSES * BUCKETS
PAGES = WAITING + RING * CLASSES
_REUSES, _AT_RISK = np.int64(REUSES), np.int64(AT_RISK)  # a literal would be compiled for separately

CLASS_BITS, COUNT_BITS, TIME_BITS, TAG_BITS = 4, 5, 32, 22
_COUNT, _TIME, _TAG = CLASS_BITS, CLASS_BITS + COUNT_BITS, CLASS_BITS + COUNT_BITS + TIME_BITS
MOST = (1 << COUNT_BITS) - 1
_CLASS, _TIMES = (1 << CLASS_BITS) - 1, (1 << TIME_BITS) - 1
_KNOWN = (1 << _TAG) - 1


def size(max_pages: int) -> int:
    """Return the number of elements of `memory`."""
    return PAGES + (2 + GHOSTS) * max_pages + 2 * _room.py_func(max_pages)


@njit_no_nrt(cache=True)
def prepare(pages):
    """Set the values of a policy that has learned nothing yet."""
    memory = pages.memory
    memory[RUN], memory[LEARN] = -1, 16
    _learn(memory)


@njit_no_nrt(cache=True)
def begin(pages, page):
    """Count a reference to a page that is new, or attached again after it was forgotten."""
    memory = pages.memory
    at, tag = _ghost(pages, page)
    known = memory[at] & _KNOWN if memory[at] >> _TAG == tag else np.int64(0)
    _reference(memory, page, known, pages.head[layout.ATTACHED])


@njit_no_nrt(cache=True)
def attached(pages, tables, start, found, findable):
    """Count references to the pages that were found, classify new ones, end a request. O(pages + CLASSES BUCKETS)."""
    memory = pages.memory
    now, continued = pages.head[layout.ATTACHED] - 1, False
    for i in range(findable):
        page = np.int64(tables[start + i])
        if i < found:
            _reference(memory, page, memory[PAGES + page], now)
        known = memory[PAGES + page]
        count = known >> _COUNT & MOST
        continued |= 1 < count < 21  # pages referenced more often belong to many conversations
        if count == 1 and (continued or i == findable - 1):
            waiting = WAITING + now % RING * CLASSES
            memory[waiting + (known & _CLASS)] -= 1
            known += (1 if i < findable - 1 else 0) - (known & _CLASS)
            memory[waiting + (known & _CLASS)] += 1
            memory[PAGES + page] = known
    for bucket in range(BUCKETS):  # those still waiting reach their next age
        since = now + min(bucket, 1) - _first_age(np.int64(bucket))
        if since >= 0:
            for class_ in range(CLASSES):
                memory[AT_RISK + class_ * BUCKETS + bucket] += memory[WAITING + since % RING * CLASSES + class_] * UNIT
    for class_ in range(CLASSES):
        memory[WAITING + (now + 1) % RING * CLASSES + class_] = 0
    if now + 1 >= memory[LEARN]:
        gap = max(16, min(128, (now + 1) // 8))
        memory[LEARN] = now + 1 + gap
        _learn(memory)
        for at in range(REUSES, HAZARD):
            memory[at] -= memory[at] * gap // MEMORY
        memory[NEXT] = memory[QUEUED] = 0


@njit_no_nrt(cache=True)
def enter(pages, page):
    """Make a page that is cached now a candidate, if there is none below it."""
    if below(pages.rows, page) < 0:
        _add(pages, page)


@njit_no_nrt(cache=True)
def leave(pages, page):
    """Remove a page from the candidates."""
    rows, memory = pages.rows, pages.memory
    place = np.int64(rows[page, layout.OLDER])
    if place >= 0:
        leaves = PAGES + pages.head[layout.MAX_PAGES]
        memory[LEAVES] -= 1
        last = memory[leaves + memory[LEAVES]]
        memory[leaves + place] = last
        rows[last, layout.OLDER] = place
        rows[page, layout.OLDER] = -1
        if memory[RUN] == page:
            memory[RUN] = -1


@njit_no_nrt(cache=True)
def evicted(pages, page):
    """Remember what is known of a page that is evicted."""
    at, tag = _ghost(pages, page)
    pages.memory[at] = tag << _TAG | pages.memory[PAGES + page]


@njit_no_nrt(cache=True)
def forgotten(pages, parent):
    """Make `parent`, below which a page has been forgotten, a candidate if it is cached and has none below it now."""
    rows = pages.rows
    if (
        parent < pages.head[layout.MAX_PAGES]
        and rows[parent, layout.REFS] == 0
        and rows[parent, layout.OLDER] < 0
        and rows[parent, layout.BUCKET] >= 0
        and below(rows, parent) < 0
    ):
        _add(pages, parent)
        pages.memory[RUN] = parent


@njit_no_nrt(cache=True)
def victim(pages):
    """Return the page to evict. O(SHARE + log) amortised."""
    optimize_for_size()
    head, rows, memory = pages.head, pages.rows, pages.memory
    queue, now, run = _queue(head), head[layout.ATTACHED], memory[RUN]
    memory[RUN] = -1
    if run >= 0 and memory[NEXT] < memory[QUEUED]:
        if _worth(memory, run, now) >> TIME_BITS <= memory[queue + 2 * memory[NEXT]] >> TIME_BITS:
            return run
    while memory[NEXT] < memory[QUEUED]:
        at = queue + 2 * memory[NEXT]
        memory[NEXT] += 1
        page = memory[at + 1]
        worth = _worth(memory, page, now)  # if it was referenced since, or replaced by another page, the time differs
        if rows[page, layout.OLDER] >= 0 and worth <= memory[at] and (worth ^ memory[at]) & _TIMES == 0:
            return page
    if memory[LEAVES] == 0:  # all cached pages have referenced ones below them, left there by writes into shared pages
        page = np.int64(0)
        while rows[page, layout.REFS] > 0 or rows[page, layout.BUCKET] < 0:
            page += 1
        return page
    _gather(head, memory, queue, now)
    return memory[queue + 1]


@njit_no_nrt(cache=True)
def fault(pages, cached):
    """Return whether the candidates are not what they should be, or a number is out of range; safe on any contents."""
    head, rows, memory = pages.head, pages.rows, pages.memory
    n, room = head[layout.MAX_PAGES], _room(head[layout.MAX_PAGES])
    leaves, queue = PAGES + n, _queue(head)
    if not (0 <= memory[LEAVES] <= n and 0 <= memory[NEXT] <= memory[QUEUED] <= room and -1 <= memory[RUN] < n):
        return True
    for at in range(VALUE, PAGES):
        if memory[at] < 0 or memory[at] > 1 << 52:
            return True
    for at in range(n):
        if memory[PAGES + at] & _CLASS >= CLASSES:
            return True
    for at in range(PAGES + 2 * n, queue):
        if memory[at] < 0 or memory[at] & _CLASS >= CLASSES:
            return True
    for at in range(memory[QUEUED]):
        if not 0 <= memory[queue + 2 * at + 1] < n:
            return True
    for at in range(memory[LEAVES]):
        page = memory[leaves + at]
        if page < 0 or page >= n or not cached[page] or rows[page, layout.OLDER] != at or below(rows, page) >= 0:
            return True
        cached[page] = False
    for page in range(n):
        if cached[page] and (rows[page, layout.OLDER] >= 0 or below(rows, page) < 0):
            return True
        if page == memory[RUN] and rows[page, layout.OLDER] < 0:
            return True
        if rows[page, layout.OLDER] >= memory[LEAVES] or (
            rows[page, layout.REFS] > 0 and rows[page, layout.OLDER] >= 0
        ):
            return True
        cached[page] = False
    return False


@njit_no_nrt(cache=True, forceinline=True)
def _room(max_pages):
    """Return how many victims are put in order at once, at most."""
    return max_pages // SHARE + 4


@njit_no_nrt(cache=True, forceinline=True)
def _queue(head):
    """Return where the next victims begin."""
    return PAGES + (2 + GHOSTS) * head[layout.MAX_PAGES]


@njit_no_nrt(cache=True, forceinline=True)
def _ghost(pages, page):
    """Return (where an evicted page is remembered, the part of its hash that is kept there)."""
    n = pages.head[layout.MAX_PAGES]
    hashed, slots = content_hash(pages.names, page), np.uint64(GHOSTS * n)
    at = np.int64((hashed & np.uint64(0xFFFFFFFF)) * slots >> np.uint64(32))
    return PAGES + 2 * n + at, np.int64(hashed >> np.uint64(64 - TAG_BITS))


@njit_no_nrt(cache=True)
def _add(pages, page):
    """Make a page a candidate."""
    memory = pages.memory
    memory[PAGES + pages.head[layout.MAX_PAGES] + memory[LEAVES]] = page
    pages.rows[page, layout.OLDER] = memory[LEAVES]
    memory[LEAVES] += 1


@njit_no_nrt(cache=True)
def _reference(memory, page, known, now):
    """Count a reference by request `now` to a page of which `known` is known."""
    count, class_ = known >> _COUNT & MOST, known & _CLASS
    if count > 0:
        last = known >> _TIME & _TIMES
        age = now - last & _TIMES
        memory[REUSES + class_ * BUCKETS + _bucket(age)] += UNIT
        waiting = WAITING + last % RING * CLASSES + class_
        if age < RING and memory[waiting] > 0:
            memory[waiting] -= 1
    count = min(count + 1, MOST)
    class_ = _class(count)
    memory[WAITING + now % RING * CLASSES + class_] += 1
    memory[PAGES + page] = (now & _TIMES) << _TIME | count << _COUNT | class_


@njit_no_nrt(cache=True, forceinline=True)
def _class(count):
    """Return the class of a page that was referenced `count` times."""
    if count <= 4:
        return count + 1
    return np.int64(6) + (count > 6) + (count > 11) + (count > 20)


@njit_no_nrt(cache=True, forceinline=True)
def _bucket(age):
    """Return the bucket of an age."""
    if age < 4:
        return age
    octave = np.int64(0)
    while age >= 8:
        age >>= 1
        octave += 1
    return min(4 * octave + age, np.int64(BUCKETS - 1))


@njit_no_nrt(cache=True, forceinline=True)
def _first_age(bucket):
    """Return the least age in a bucket."""
    return bucket if bucket < 4 else (bucket % 4 + 4) << (bucket // 4 - 1)


@njit_no_nrt(cache=True, forceinline=True)
def _worth(memory, page, now):
    """Return the value of a page, and in the low bits when it was last referenced: the least is evicted first."""
    known = memory[PAGES + page]
    last = known >> _TIME & _TIMES
    value = memory[VALUE + (known & _CLASS) * BUCKETS + _bucket(now - last & _TIMES)]
    return value << TIME_BITS | last


@njit_no_nrt(cache=True)
def _gather(head, memory, queue, now):
    """Put the candidates of least worth into the queue, in order. O(candidates)."""
    optimize_for_size()
    leaves, count = PAGES + head[layout.MAX_PAGES], memory[LEAVES]
    most = min(count, max(4, count // SHARE))
    for i in range(count):  # the largest of the least on top
        page = memory[leaves + i]
        worth = _worth(memory, page, now)
        if i < most:
            at = np.int64(i)
            while at > 0 and memory[queue + 2 * ((at - 1) // 2)] < worth:
                _copy(memory, queue, (at - 1) // 2, at)
                at = (at - 1) // 2
            memory[queue + 2 * at], memory[queue + 2 * at + 1] = worth, page
        elif worth < memory[queue]:
            _sink(memory, queue, most, worth, page)
    for last in range(most - 1, 0, -1):
        worth, page = memory[queue + 2 * last], memory[queue + 2 * last + 1]
        _copy(memory, queue, np.int64(0), np.int64(last))
        _sink(memory, queue, np.int64(last), worth, page)
    memory[QUEUED], memory[NEXT] = most, 1


@njit_no_nrt(cache=True)
def _sink(memory, queue, count, worth, page):
    """Replace the top of the first `count` entries of the queue, a heap. O(log count)."""
    optimize_for_size()
    at = np.int64(0)
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and memory[queue + 2 * (child + 1)] > memory[queue + 2 * child]:
            child += 1
        if memory[queue + 2 * child] <= worth:
            break
        _copy(memory, queue, child, at)
        at = child
    memory[queue + 2 * at], memory[queue + 2 * at + 1] = worth, page


@njit_no_nrt(cache=True, forceinline=True)
def _copy(memory, queue, source, target):
    """Copy an entry of the queue."""
    memory[queue + 2 * target] = memory[queue + 2 * source]
    memory[queue + 2 * target + 1] = memory[queue + 2 * source + 1]


@njit_no_nrt(cache=True)
def _learn(memory):
    """Compute hazards from counts, and values from hazards. O(CLASSES BUCKETS^2)."""
    optimize_for_size()
    for bucket in range(BUCKETS):
        reuses, at_risk = 2.0, 100.0
        for class_ in range(CLASSES):
            reuses += _smooth(memory, _REUSES, class_, bucket)
            at_risk += _smooth(memory, _AT_RISK, class_, bucket) * FACTORS[class_]
        for class_ in range(CLASSES):
            prior = WEIGHT * min(reuses / at_risk * FACTORS[class_], 0.95)
            seen = _smooth(memory, _AT_RISK, class_, bucket) + WEIGHT
            hazard = (_smooth(memory, _REUSES, class_, bucket) + prior) / seen
            memory[HAZARD + class_ * BUCKETS + bucket] = np.int64(min(hazard, 0.98) * ONE)
    for class_ in range(CLASSES):
        for age in range(BUCKETS):
            best, alive, hits, time = 0.0, 1.0, 0.0, 0.0
            for bucket in range(age, BUCKETS):
                hazard = memory[HAZARD + class_ * BUCKETS + bucket] / ONE
                first = _first_age(np.int64(bucket))
                wide = _first_age(np.int64(bucket + 1)) - first if bucket < BUCKETS - 1 else first
                time += wide * alive * (1.0 - 0.5 * hazard)
                hits += alive * hazard
                alive *= 1.0 - hazard
                if hits > best * time:
                    best = hits / time
            memory[VALUE + class_ * BUCKETS + age] = np.int64(best * ONE)


@njit_no_nrt(cache=True)
def _smooth(memory, table, class_, bucket):
    """Return a count, averaged with those of the neighbouring ages."""
    at = table + class_ * BUCKETS + bucket
    before = memory[at - 1] if bucket > 4 else memory[at]
    after = memory[at + 1] if 4 <= bucket < BUCKETS - 1 else memory[at]
    return (before + 2 * memory[at] + after) / (4.0 * UNIT)
