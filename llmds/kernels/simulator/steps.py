"""Continuous batching, step by step: requests arrive, wait, are computed and decoded, and finish.

One replica serves up to `slots` sequences. Before each step the waiting requests that there are slots, tokens and pages
for are started, in the scheduler's order; the first that does not fit ends that. A step computes prompts, in chunks,
beside one token for each sequence whose prompt is done; the last chunk of a prompt yields the first token. Where
pages run out, the sequence that was started last waits again, and what it had is computed anew. Whole blocks of a
prompt can be found by others from its start on.
Policies are those of `scheduling` and of the KV cache: nothing here decides who is next or what is evicted.

What goes in, arrays of one entry a request in order of arrival unless said otherwise:
    arrivals float64 seconds; inputs, outputs int64 tokens; accepted bool, what admission said; slos and keys float64,
    tenants int64: seconds, priority and tenant that the scheduler is told; blocks uint8, indptr int64 (n + 1,):
    content ids (int64) of the prompts, empty where there are none
What comes out:
    times float64 (n, TIMES): when a request was started, had its first token, finished; NaN: never
    counts int64 (n, COUNTS): tokens made, prompt tokens found in the cache, how often it was preempted
    samples float64 (m, SAMPLE): what was going on, at most every `real[INTERVAL]` seconds
Between calls, besides the arenas of the scheduler and the cache:
    whole int64 (WHOLE,), real float64 (REAL,): settings and sums, by the names below
    running int64 (slots, RUN), in order of start: the request, prompt tokens still to compute, and in this step
    order, tickets int64 (n,): the request of each scheduler id, and the other way round
"""

import numpy as np

from .. import table
from ..compiling import njit
from ..kv_cache import attach as kv_attach
from ..kv_cache import change as kv_cache
from ..kv_cache import layout as kv
from ..kv_cache import match as kv_match
from ..kv_cache import pages as kv_pool
from ..kv_cache import sequences as seq
from ..kv_cache.sequences import pages_for
from ..scheduler import batch as scheduling_batch
from ..scheduler import requests as scheduling
from ..scheduler.layout import LPM, POLICY, WAITING, WFQ, parts
from .step_cost import seconds

STARTED, FIRST, FINISHED, TIMES = 0, 1, 2, 3
MADE, CACHED, PREEMPTED, COUNTS = 0, 1, 2, 3
AT, RUNNING_THEN, WAITING_THEN, PAGES_THEN, MADE_THEN, SAMPLE = 0, 1, 2, 3, 4, 5

SLOTS, BUDGET, CHUNK, ARRIVED, RUNNING, PENDING, MADE_NOW, STEPS, PREFILLED, DECODED, SAMPLES, WHOLE = range(12)
NOW, BUSY, OCCUPIED, INTERVAL, NEXT_SAMPLE, REAL = range(6)
REQUEST, LEFT, PART, RUN = 0, 1, 2, 3

FINISHED_ALL, MORE, SCHEDULER_FULL, CACHE_FULL = 0, 1, 2, 3
# what comes next: AGAIN is PAGES after somebody was preempted
NOTHING, PAGES, AGAIN, NEWCOMERS, STEP, MORE_PAGES, END = 0, 1, 2, 3, 4, 5, 6
_FITS, _WAITS, _NO_ROOM = 0, 1, 2
_TOGETHER = np.int64(1 << 12)  # steps that are taken as one at most
_ZERO, _ONE, _ANY, _TRUE = np.int64(0), np.int64(1), np.int64(2**62), np.bool_(True)


@njit(cache=True, nogil=True)
def run(
    whole, real, arrivals, inputs, outputs, accepted, slos, keys, tenants, blocks, indptr, cost, times, counts, samples,
    running, order, tickets, arena, ledger, pool, seqs, tables, ids, store, work,
):  # fmt: skip
    """Go on until all requests have finished, or about as long as `work` (int64) allows: a step is 1, and 1
    more for each 8 sequences running, 8 pages attached or 64 steps taken as one.

    FINISHED_ALL; MORE; or room is wanted: SCHEDULER_FULL (`scheduling.resized`), CACHE_FULL
    (`kv_cache.sequences.resized`). In the last three cases call again; where a call ends makes no difference to what
    comes out. O(steps * running), less where the same sequences decode for long.
    """
    n = arrivals.shape[0]
    nothing, one = np.empty(0, np.uint8), np.zeros(1, np.int64)
    requests = np.zeros((1, kv_attach.REQUEST), np.int64)
    path = np.empty(pool[kv.MAX_PAGES] if blocks.shape[0] > 0 else _ZERO, np.int64)
    decoding = np.empty(whole[SLOTS], np.int64)
    while work > 0 or whole[PENDING] != NOTHING:
        if whole[PENDING] == NOTHING:
            if not _arrive(whole, real, arrivals, inputs, accepted, slos, keys, tenants, indptr, order, tickets, arena):
                return SCHEDULER_FULL
            whole[PENDING] = PAGES
        while whole[PENDING] == PAGES or whole[PENDING] == AGAIN:  # a page for each token decoded, or somebody waits
            decodes, _, _, _ = _plan(whole, running, inputs, counts, decoding)
            code, _, _ = kv_cache.append(pool, seqs, tables, ids, store, decoding[:decodes], _ONE, nothing)
            if code == seq.FULL:
                return CACHE_FULL
            if code == seq.NO_PAGES:
                _preempt(
                    whole, real, inputs, counts, indptr, running, tickets, one, arena, pool, seqs, tables, ids, store
                )
                whole[PENDING] = AGAIN
            else:  # who was preempted, and anybody else, waits for this step at least
                whole[PENDING] = NEWCOMERS if whole[PENDING] == PAGES else STEP
        if whole[PENDING] == NEWCOMERS or whole[PENDING] == STEP:
            work -= 1 + whole[RUNNING] // 8
            decodes, context, prefill, pairs = _plan(whole, running, inputs, counts, decoding)
            if arena[POLICY] == LPM and whole[PENDING] == NEWCOMERS and whole[RUNNING] < whole[SLOTS]:
                scheduling_batch.take_batch_cached(  # takes none, but looks up what is cached of those that wait
                    pool, seqs, tables, ids, store, arena, blocks, ledger, real[NOW], _TRUE, _ANY, one[:0]
                )
            while whole[PENDING] == NEWCOMERS and whole[RUNNING] < whole[SLOTS]:
                ticket = scheduling_batch.peek(arena, ledger, real[NOW])
                if ticket < 0:
                    break
                r, room = order[ticket], whole[BUDGET] - prefill - decodes
                code, left = _enter(
                    whole, inputs, counts, blocks, indptr, r, room, prefill == 0, requests, path, nothing, pool, seqs,
                    tables, ids, store,
                )  # fmt: skip
                if code == _NO_ROOM:
                    return CACHE_FULL
                if code == _WAITS:
                    break
                scheduling_batch.take_batch(arena, ledger, real[NOW], _TRUE, _ANY, one)
                work -= pages_for(inputs[r], pool[kv.PAGE_SIZE]) // 8
                if np.isnan(times[r, STARTED]):
                    times[r, STARTED] = real[NOW]
                at = whole[RUNNING]
                part = left if whole[CHUNK] == 0 else min(left, whole[CHUNK], room)
                running[at, REQUEST], running[at, LEFT], running[at, PART] = r, left, part
                whole[RUNNING] += 1
                prefill += part
                pairs += _attended(inputs[r] + counts[r, MADE] - left, part)
            _sample(whole, real, samples, arena, pool)
            if whole[RUNNING] == 0:
                whole[PENDING] = NOTHING
                if whole[ARRIVED] == n:
                    return FINISHED_ALL
                real[NOW] = max(real[NOW], arrivals[whole[ARRIVED]])
                continue
            # In the next step others may start, after a preemption or because a deadline has passed meanwhile.
            due = whole[RUNNING] < whole[SLOTS] and parts(arena)[2][table.COUNT] > 0
            single = prefill > 0 or due or whole[PENDING] == STEP
            count = _ONE if single else _alike(whole, outputs, counts, running, pool)
            before, now, done = real[NOW], real[NOW], _ZERO
            soonest = arrivals[whole[ARRIVED]] if whole[ARRIVED] < n and whole[RUNNING] < whole[SLOTS] else np.inf
            while done < count and (done == 0 or now < soonest):
                now += seconds(cost, np.float64(prefill), np.float64(decodes), np.float64(context), pairs)
                context += decodes
                done += 1
            real[NOW] = now
            real[BUSY] += now - before
            real[OCCUPIED] += (now - before) * whole[RUNNING]
            work -= done // 64
            whole[STEPS] += done
            whole[PREFILLED] += prefill
            whole[DECODED] += done * decodes
            whole[MADE_NOW], whole[PENDING] = done, MORE_PAGES if done > 1 else END
        if whole[PENDING] == MORE_PAGES:  # there are enough: `_alike` has seen to that
            decodes, _, _, _ = _plan(whole, running, inputs, counts, decoding)
            more = whole[MADE_NOW] - 1
            code, _, _ = kv_cache.append(pool, seqs, tables, ids, store, decoding[:decodes], more, nothing)
            if code == seq.FULL:
                return CACHE_FULL
            whole[PENDING] = END
        # before anything is told the scheduler of a later time
        if not _arrive(whole, real, arrivals, inputs, accepted, slos, keys, tenants, indptr, order, tickets, arena):
            return SCHEDULER_FULL
        _end_step(whole, real, outputs, times, counts, running, tickets, one, arena, pool, seqs, tables, ids, store)
    return MORE


@njit(cache=True)
def _arrive(whole, real, arrivals, inputs, accepted, slos, keys, tenants, indptr, order, tickets, arena):
    """Hand the scheduler who has come by now; False if it has no room."""
    while whole[ARRIVED] < arrivals.shape[0] and arrivals[whole[ARRIVED]] <= real[NOW]:
        r = whole[ARRIVED]
        if accepted[r]:
            ids = indptr[r + 1] - indptr[r]
            ticket = scheduling.submit_prompt(
                arena, arrivals[r], inputs[r], slos[r], keys[r], tenants[r], indptr[r], ids, _ZERO
            )
            if ticket < 0:
                return False
            order[ticket], tickets[r] = r, ticket
        whole[ARRIVED] += 1
    return True


@njit(cache=True)
def _plan(whole, running, inputs, counts, decoding):
    """Who decodes, and which part of the prompts under way is computed: (decodes, their context, tokens, pairs)."""
    decodes, context, prefill, pairs = _ZERO, _ZERO, _ZERO, 0.0
    for i in range(whole[RUNNING]):
        if running[i, LEFT] == 0:
            r = running[i, REQUEST]
            decoding[decodes] = r
            decodes += 1
            context += inputs[r] + counts[r, MADE]
    for i in range(whole[RUNNING]):
        if running[i, LEFT] > 0:
            r, room = running[i, REQUEST], max(whole[BUDGET] - decodes - prefill, _ZERO)
            part = running[i, LEFT] if whole[CHUNK] == 0 else min(running[i, LEFT], whole[CHUNK], room)
            running[i, PART] = part
            prefill += part
            pairs += _attended(inputs[r] + counts[r, MADE] - running[i, LEFT], part)
    return decodes, context, prefill, pairs


@njit(cache=True)
def _attended(before, part):
    """Pairs of `part` tokens with themselves and the `before` tokens before them, each with those up to it."""
    return np.float64(part) * np.float64(before) + 0.5 * np.float64(part) * np.float64(part + 1)


@njit(cache=True)
def _enter(
    whole, inputs, counts, blocks, indptr, r, room, first, requests, path, nothing, pool, seqs, tables, ids, store
):  # fmt: skip
    """Give a request its pages, if it may start in a step with `room` tokens left: (code, prompt tokens to compute).

    Without chunks, a prompt must fit, unless it is the `first` of the step. `path`: int64, for the pages found.
    """
    total, page_size = inputs[r] + counts[r, MADE], pool[kv.PAGE_SIZE]
    named, found, free = min(indptr[r + 1] - indptr[r], inputs[r] // page_size), _ZERO, kv_pool.available(pool)
    if room <= 0:
        return _WAITS, _ZERO
    if named > 0:
        pages = kv.parts(pool)
        data = kv_match.searched(ids, store, blocks)
        found, _ = kv_match.follow(pages, data, indptr[r], indptr[r] + named, _ZERO, _TRUE, path)
        for i in range(found):
            free -= pages.rows[path[i], kv.REFS] == 0
    cached, needed = min(found * page_size, total - 1), pages_for(total, page_size)
    if needed - found > free or (whole[CHUNK] == 0 and total - cached > room and not first):
        return _WAITS, _ZERO
    # for both calls below at once: what the first has attached could be found though nobody computed it
    if not seq.has_room(seq.parts(seqs, tables), _ONE, named + 2 * needed):
        return _NO_ROOM, _ZERO
    rest = total - named * page_size
    requests[0, kv_attach.SEQ], requests[0, kv_attach.FIRST_ID], requests[0, kv_attach.NAMED] = r, indptr[r], named
    requests[0, kv_attach.LENGTH] = named * page_size if named > 0 else total
    by_blocks = named > 0
    kv_attach.attach(
        pool, seqs, tables, ids, store, requests, nothing, blocks if by_blocks else nothing, np.bool_(by_blocks)
    )
    if by_blocks and rest > 0:
        kv_cache.append(pool, seqs, tables, ids, store, np.full(1, r), rest, nothing)
    counts[r, CACHED] += cached
    return _FITS, total - cached


@njit(cache=True)
def _alike(whole, outputs, counts, running, pool):
    """How many steps go by in which the same sequences decode, and there are pages for all of them."""
    n, count = whole[RUNNING], _TOGETHER
    for i in range(n):
        r = running[i, REQUEST]
        count = min(count, max(outputs[r], 1) - counts[r, MADE])
    return min(count, 1 + pool[kv.PAGE_SIZE] * (kv_pool.available(pool) // n))


@njit(cache=True)
def _preempt(whole, real, inputs, counts, indptr, running, tickets, one, arena, pool, seqs, tables, ids, store):
    """The sequence that was started last waits again, in its old place, and loses its pages."""
    whole[RUNNING] -= 1
    r, left = running[whole[RUNNING], REQUEST], running[whole[RUNNING], LEFT]
    if left > 0 and indptr[r + 1] > indptr[r]:  # pages that were never computed are not to be found
        pages = kv.parts(pool)
        _, srows, sbuckets = table.parts(seqs)
        at = (inputs[r] + counts[r, MADE] - left) // pool[kv.PAGE_SIZE]
        page = np.int64(tables[srows[table.find(srows, sbuckets, r), seq.START] + at])
        if pages.rows[page, kv.BUCKET] >= 0:
            kv_pool.forget(pages, page)
    kv_cache.detach(pool, seqs, tables, ids, store, r)
    one[0] = tickets[r]
    scheduling.wait_again(arena, real[NOW], one, scheduling.LOST)
    counts[r, PREEMPTED] += 1


@njit(cache=True)
def _end_step(whole, real, outputs, times, counts, running, tickets, one, arena, pool, seqs, tables, ids, store):
    """Tokens have been made: count them, and let go of who has all of its own."""
    kept, done, fair = _ZERO, whole[MADE_NOW], arena[POLICY] == WFQ
    tokens = np.full(1, done)
    whole[PENDING] = NOTHING
    for i in range(whole[RUNNING]):
        r, left = running[i, REQUEST], running[i, LEFT]
        if left == 0:
            counts[r, MADE] += done
            if fair:  # the prompt's were counted when it was taken
                one[0] = tickets[r]
                scheduling.bill(arena, one, tokens)
        elif left > running[i, PART]:
            running[i, LEFT] -= running[i, PART]
        else:
            running[i, LEFT] = 0
            counts[r, MADE] += 1
            if np.isnan(times[r, FIRST]):
                times[r, FIRST] = real[NOW]
        if running[i, LEFT] == 0 and counts[r, MADE] >= max(outputs[r], 1):
            times[r, FINISHED] = real[NOW]
            kv_cache.detach(pool, seqs, tables, ids, store, r)
            one[0] = tickets[r]
            scheduling.complete(arena, real[NOW], one)
            continue
        for column in range(RUN):
            running[kept, column] = running[i, column]
        kept += 1
    whole[RUNNING] = kept


@njit(cache=True)
def _sample(whole, real, samples, arena, pool):
    """Note what goes on, if it is time. Where there is no room, every other sample is dropped, and fewer come."""
    if real[NOW] < real[NEXT_SAMPLE]:
        return
    if whole[SAMPLES] == samples.shape[0]:
        whole[SAMPLES] //= 2
        for i in range(whole[SAMPLES]):
            for column in range(SAMPLE):
                samples[i, column] = samples[2 * i, column]
        real[INTERVAL] *= 2
    at = whole[SAMPLES]
    samples[at, AT], samples[at, RUNNING_THEN] = real[NOW], whole[RUNNING]
    samples[at, WAITING_THEN] = parts(arena)[1][WAITING]
    samples[at, PAGES_THEN] = pool[kv.MAX_PAGES] - kv_pool.available(pool)
    samples[at, MADE_THEN] = whole[DECODED] + whole[PREFILLED]
    whole[SAMPLES] += 1
    real[NEXT_SAMPLE] = real[NOW] + real[INTERVAL]
