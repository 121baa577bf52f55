"""Continuous batching, step by step: requests arrive, wait, are computed and decoded, and finish.

One replica serves up to `slots` sequences. Before each step the waiting requests for which there are slots, tokens and
pages are started, in the scheduler's order; the first that does not fit ends that. A step computes prompts, in chunks,
beside one token for each sequence whose prompt is done; the last chunk of a prompt yields the first token. Where
pages run out, the sequence that was started last waits again, and what it had is computed again. Whole blocks of a
prompt can be found by other requests from its start on.
Policies are those of the scheduler and of the KV cache: nothing here decides which request is next or what is evicted.

The arrays are grouped: `Load`, what is given; `Results`, what is computed; `Progress`, what is kept from one call
to the next beside the `Arrays` of the scheduler (`scheduler.layout`) and of the cache (`kv_cache.layout`). All belong
to the caller.
"""

from typing import NamedTuple

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
from ..scheduler.layout import POLICY, WAITING, parts
from ..scheduler.policies import LPM, WFQ
from .step_cost import seconds

# columns of results.times, results.counts and results.samples
STARTED, FIRST, FINISHED, TIMES = 0, 1, 2, 3
MADE, CACHED, PREEMPTED, COUNTS = 0, 1, 2, 3
AT, RUNNING_THEN, WAITING_THEN, PAGES_THEN, MADE_THEN, SAMPLE = 0, 1, 2, 3, 4, 5
# in progress.whole and progress.real, and columns of progress.running
SLOTS, BUDGET, CHUNK, ARRIVED, RUNNING, PENDING, MADE_NOW, STEPS, PREFILLED, DECODED, SAMPLES, WHOLE = range(12)
NOW, BUSY, OCCUPIED, INTERVAL, NEXT_SAMPLE, REAL = range(6)
REQUEST, LEFT, PART, RUN = 0, 1, 2, 3

FINISHED_ALL, MORE, SCHEDULER_FULL, CACHE_FULL = 0, 1, 2, 3
# whole[PENDING], what comes next: AGAIN is PAGES after a preemption
NOTHING, PAGES, AGAIN, NEWCOMERS, STEP, MORE_PAGES, END = 0, 1, 2, 3, 4, 5, 6
_FITS, _WAITS, _NO_ROOM = 0, 1, 2
_TOGETHER = np.int64(1 << 12)  # steps that are taken as one at most
_ZERO, _ONE, _ANY, _TRUE = np.int64(0), np.int64(1), np.int64(2**62), np.bool_(True)


class Load(NamedTuple):
    """What a replica serves, one entry a request in order of arrival."""

    arrivals: np.ndarray  # float64 (n,), seconds
    inputs: np.ndarray  # int64 (n,), tokens of each prompt
    outputs: np.ndarray  # int64 (n,), tokens of each answer
    accepted: np.ndarray  # bool (n,), what admission decided
    slos: np.ndarray  # float64 (n,), seconds that the scheduler gets
    keys: np.ndarray  # float64 (n,), priorities that the scheduler gets
    tenants: np.ndarray  # int64 (n,)
    blocks: np.ndarray  # uint8, content ids (int64) of the prompts end to end, (0,) if there are none
    indptr: np.ndarray  # int64 (n + 1,), where those of each request begin and end


class Results(NamedTuple):
    """What is computed of each request, and samples of what was going on."""

    times: np.ndarray  # float64 (n, TIMES): when it was started, had its first token, finished; NaN: never
    counts: np.ndarray  # int64 (n, COUNTS): tokens made, prompt tokens found in the cache, preemptions
    samples: np.ndarray  # float64 (m, SAMPLE): what was going on, at most every `real[INTERVAL]` seconds


class Progress(NamedTuple):
    """How far a simulation is."""

    whole: np.ndarray  # int64 (WHOLE,), settings and sums, by the names above
    real: np.ndarray  # float64 (REAL,), as `whole`
    running: (
        np.ndarray
    )  # int64 (slots, RUN), in order of start: the request, prompt tokens to compute, and in this step
    order: np.ndarray  # int64 (n,), the request of each scheduler id
    tickets: np.ndarray  # int64 (n,), the scheduler id of each request


@njit(cache=True, nogil=True)
def run(load, results, progress, cost, scheduler, cache, work):
    """Go on until all requests have finished, or about as long as `work` (int64) allows.

    A step counts 1, and 1 more for each 8 sequences running, 8 pages attached or 64 steps taken as one. cost: float64,
    see `simulator.step_cost`. scheduler and cache: their `Arrays`.

    Return FINISHED_ALL; MORE; or that room is needed: SCHEDULER_FULL (`scheduler.layout.resized`), CACHE_FULL
    (`kv_cache.sequences.resized`). In the last three cases call again; where a call ends makes no difference to the
    results. O(steps * running), less where the same sequences decode for long.
    """
    whole, real, running, order = progress.whole, progress.real, progress.running, progress.order
    arrivals, times, counts, blocks = load.arrivals, results.times, results.counts, load.blocks
    arena, ledger, pool = scheduler.arena, scheduler.ledger, cache.pool
    n = arrivals.shape[0]
    nothing, one = np.empty(0, np.uint8), np.zeros(1, np.int64)
    requests = np.zeros((1, kv_attach.REQUEST), np.int64)
    path = np.empty(pool[kv.MAX_PAGES] if blocks.shape[0] > 0 else _ZERO, np.int64)
    decoding = np.empty(whole[SLOTS], np.int64)
    while work > 0 or whole[PENDING] != NOTHING:
        if whole[PENDING] == NOTHING:
            if not _arrive(load, progress, arena):
                return SCHEDULER_FULL
            whole[PENDING] = PAGES
        while whole[PENDING] == PAGES or whole[PENDING] == AGAIN:  # a page for each token decoded, or a preemption
            decodes, _, _, _ = _plan(whole, running, load.inputs, counts, decoding)
            code = _append(cache, decoding[:decodes], _ONE, nothing)
            if code == seq.FULL:
                return CACHE_FULL
            if code == seq.NO_PAGES:
                _preempt(load, counts, progress, one, arena, cache)
                whole[PENDING] = AGAIN
            else:  # after a preemption nothing is started in this step
                whole[PENDING] = NEWCOMERS if whole[PENDING] == PAGES else STEP
        if whole[PENDING] == NEWCOMERS or whole[PENDING] == STEP:
            work -= 1 + whole[RUNNING] // 8
            decodes, context, prefill, pairs = _plan(whole, running, load.inputs, counts, decoding)
            if arena[POLICY] == LPM and whole[PENDING] == NEWCOMERS and whole[RUNNING] < whole[SLOTS]:
                scheduling_batch.take_batch_cached(  # takes none, but looks up what is cached of those that wait
                    pool, cache.seqs, cache.tables, cache.ids, cache.store, arena, blocks, ledger, real[NOW], _TRUE,
                    _ANY, one[:0],
                )  # fmt: skip
            while whole[PENDING] == NEWCOMERS and whole[RUNNING] < whole[SLOTS]:
                ticket = scheduling_batch.peek(arena, ledger, real[NOW])
                if ticket < 0:
                    break
                r, room = order[ticket], whole[BUDGET] - prefill - decodes
                code, left = _enter(load, counts, r, room, prefill == 0, whole[CHUNK], requests, path, nothing, cache)
                if code == _NO_ROOM:
                    return CACHE_FULL
                if code == _WAITS:
                    break
                scheduling_batch.take_batch(arena, ledger, real[NOW], _TRUE, _ANY, one)
                work -= pages_for(load.inputs[r], pool[kv.PAGE_SIZE]) // 8
                if np.isnan(times[r, STARTED]):
                    times[r, STARTED] = real[NOW]
                at = whole[RUNNING]
                part = left if whole[CHUNK] == 0 else min(left, whole[CHUNK], room)
                running[at, REQUEST], running[at, LEFT], running[at, PART] = r, left, part
                whole[RUNNING] += 1
                prefill += part
                pairs += _attended(load.inputs[r] + counts[r, MADE] - left, part)
            _sample(whole, real, results.samples, arena, pool)
            if whole[RUNNING] == 0:
                whole[PENDING] = NOTHING
                if whole[ARRIVED] == n:
                    return FINISHED_ALL
                real[NOW] = max(real[NOW], arrivals[whole[ARRIVED]])
                continue
            # In the next step others may start, after a preemption or because a deadline has passed meanwhile.
            due = whole[RUNNING] < whole[SLOTS] and parts(arena).deadlines[table.COUNT] > 0
            single = prefill > 0 or due or whole[PENDING] == STEP
            count = _ONE if single else _equal_steps(whole, load.outputs, counts, running, pool)
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
        if whole[PENDING] == MORE_PAGES:  # there are enough: `_equal_steps` has made sure
            decodes, _, _, _ = _plan(whole, running, load.inputs, counts, decoding)
            if _append(cache, decoding[:decodes], whole[MADE_NOW] - 1, nothing) == seq.FULL:
                return CACHE_FULL
            whole[PENDING] = END
        # before the scheduler is called with a later time
        if not _arrive(load, progress, arena):
            return SCHEDULER_FULL
        _end_step(load.outputs, results, progress, one, arena, cache)
    return MORE


@njit(cache=True)
def _arrive(load, progress, arena):
    """Submit the requests that have arrived by now to the scheduler; return False if it has no room."""
    whole, real, arrivals, indptr = progress.whole, progress.real, load.arrivals, load.indptr
    while whole[ARRIVED] < arrivals.shape[0] and arrivals[whole[ARRIVED]] <= real[NOW]:
        r = whole[ARRIVED]
        if load.accepted[r]:
            ids = indptr[r + 1] - indptr[r]
            ticket = scheduling.submit_prompt(
                arena, arrivals[r], load.inputs[r], load.slos[r], load.keys[r], load.tenants[r], indptr[r], ids, _ZERO
            )
            if ticket < 0:
                return False
            progress.order[ticket], progress.tickets[r] = r, ticket
        whole[ARRIVED] += 1
    return True


@njit(cache=True)
def _plan(whole, running, inputs, counts, decoding):
    """Find which sequences decode, and which part of the prompts under way is computed.

    Fill `decoding`, int64 (slots,), and return (decodes, their context, prompt tokens, attended pairs).
    """
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
    """Return the pairs of `part` tokens with the `before` tokens before them and with each other, up to each itself."""
    return np.float64(part) * np.float64(before) + 0.5 * np.float64(part) * np.float64(part + 1)


@njit(cache=True)
def _append(cache, ids, count, nothing):
    """Append `count` tokens to each of these sequences, all or none; return the code of `kv_cache.change.append`."""
    code, _, _ = kv_cache.append(cache.pool, cache.seqs, cache.tables, cache.ids, cache.store, ids, count, nothing)
    return code


@njit(cache=True)
def _enter(load, counts, r, room, first, chunk, requests, path, nothing, cache):
    """Give a request its pages, if it may start in a step with `room` tokens left.

    Return (code, prompt tokens to compute). Without chunks (`chunk` 0), a prompt must fit, unless it is the `first` of
    the step (a bool). `path`: int64, for the pages found.
    """
    inputs, blocks, indptr, pool = load.inputs, load.blocks, load.indptr, cache.pool
    total, page_size = inputs[r] + counts[r, MADE], pool[kv.PAGE_SIZE]
    named, found, free = min(indptr[r + 1] - indptr[r], inputs[r] // page_size), _ZERO, kv_pool.available(pool)
    if room <= 0:
        return _WAITS, _ZERO
    if named > 0:
        pages, data = kv.parts(pool), kv_match.searched(cache.ids, cache.store, blocks)
        found, _ = kv_match.follow(pages, data, indptr[r], indptr[r] + named, _ZERO, _TRUE, path)
        for i in range(found):
            free -= pages.rows[path[i], kv.REFS] == 0
    cached, needed = min(found * page_size, total - 1), pages_for(total, page_size)
    if needed - found > free or (chunk == 0 and total - cached > room and not first):
        return _WAITS, _ZERO
    # for both calls below at once: what the first has attached could be found though nothing computed it
    if not seq.has_room(seq.parts(cache.seqs, cache.tables), _ONE, named + 2 * needed):
        return _NO_ROOM, _ZERO
    rest = total - named * page_size
    requests[0, kv_attach.SEQ], requests[0, kv_attach.FIRST_ID], requests[0, kv_attach.NAMED] = r, indptr[r], named
    requests[0, kv_attach.LENGTH] = named * page_size if named > 0 else total
    by_blocks = named > 0
    kv_attach.attach(
        pool, cache.seqs, cache.tables, cache.ids, cache.store, requests, nothing, blocks if by_blocks else nothing,
        np.bool_(by_blocks),
    )  # fmt: skip
    if by_blocks and rest > 0:
        _append(cache, np.full(1, r), rest, nothing)
    counts[r, CACHED] += cached
    return _FITS, total - cached


@njit(cache=True)
def _equal_steps(whole, outputs, counts, running, pool):
    """Return how many steps pass in which the same sequences decode, and there are pages for all of them."""
    n, count = whole[RUNNING], _TOGETHER
    for i in range(n):
        r = running[i, REQUEST]
        count = min(count, max(outputs[r], 1) - counts[r, MADE])
    return min(count, 1 + pool[kv.PAGE_SIZE] * (kv_pool.available(pool) // n))


@njit(cache=True)
def _preempt(load, counts, progress, one, arena, cache):
    """Make the sequence that was started last wait again, in its old place, without its pages."""
    whole, real, running, inputs, indptr = progress.whole, progress.real, progress.running, load.inputs, load.indptr
    pool, seqs, tables = cache.pool, cache.seqs, cache.tables
    whole[RUNNING] -= 1
    r, left = running[whole[RUNNING], REQUEST], running[whole[RUNNING], LEFT]
    if left > 0 and indptr[r + 1] > indptr[r]:  # pages that were never computed must not be found
        pages, held = kv.parts(pool), seq.parts(seqs, tables)
        at = (inputs[r] + counts[r, MADE] - left) // pool[kv.PAGE_SIZE]
        page = np.int64(tables[held.rows[table.find(held.rows, held.buckets, r), seq.START] + at])
        if pages.rows[page, kv.BUCKET] >= 0:
            kv_pool.forget(pages, page)
    kv_cache.detach(pool, seqs, tables, cache.ids, cache.store, r)
    one[0] = progress.tickets[r]
    scheduling.wait_again(arena, real[NOW], one, scheduling.LOST)
    counts[r, PREEMPTED] += 1


@njit(cache=True)
def _end_step(outputs, results, progress, one, arena, cache):
    """Count the tokens that have been made, and release the sequences that have all of theirs."""
    whole, real, running, tickets = progress.whole, progress.real, progress.running, progress.tickets
    times, counts = results.times, results.counts
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
            kv_cache.detach(cache.pool, cache.seqs, cache.tables, cache.ids, cache.store, r)
            one[0] = tickets[r]
            scheduling.complete(arena, real[NOW], one)
            continue
        for column in range(RUN):
            running[kept, column] = running[i, column]
        kept += 1
    whole[RUNNING] = kept


@njit(cache=True)
def _sample(whole, real, samples, arena, pool):
    """Record what goes on, if it is time; if there is no room, drop every other sample and take fewer from then on."""
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
    samples[at, WAITING_THEN] = parts(arena).queue[WAITING]
    samples[at, PAGES_THEN] = pool[kv.MAX_PAGES] - kv_pool.available(pool)
    samples[at, MADE_THEN] = whole[DECODED] + whole[PREFILLED]
    whole[SAMPLES] += 1
    real[NEXT_SAMPLE] = real[NOW] + real[INTERVAL]
