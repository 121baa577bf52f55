"""A chat load of several turns on simulated time: admission, batching and a paged KV cache work together.

Conversations share a few system prompts; the prompt of each turn is the whole conversation so far. A batch takes time
in proportion to the prompt tokens that are not in the cache; then its requests decode. This is a demonstration with
round figures for costs, not a model of any machine.
"""

from dataclasses import dataclass, field

import numpy as np

from ..admissions import AdmissionController
from ..base.progress import bar
from ..indexed_heap import IndexedHeap
from ..kv_cache.cache import KVCache
from ..paged_allocator import OutOfPagesError
from ..scheduler.scheduler import Scheduler

PAGE = 16
PREFILL_SECONDS_PER_TOKEN = 60e-6
BATCH_SECONDS = 8e-3
DECODE_SECONDS_PER_TOKEN = 12e-3


@dataclass
class Load:
    """Requests in order of arrival; parallel arrays of shape (n,)."""

    arrival: np.ndarray  # seconds
    prompt: np.ndarray  # tokens
    reply: np.ndarray  # tokens
    conversation: np.ndarray
    system: np.ndarray  # which system prompt
    system_tokens: int

    def block_ids(self, request: int) -> np.ndarray:
        """Return the content ids of a request's prompt, one for each page, int64 (pages,).

        Those of the shared system prompt come first, then those of the conversation.
        """
        pages = -(-int(self.prompt[request]) // PAGE)
        ids = np.arange(pages) + (int(self.conversation[request]) + 1) * 1_000_000
        shared = min(self.system_tokens // PAGE, pages)
        ids[:shared] = np.arange(shared) + (int(self.system[request]) + 1) * 10_000
        if self.prompt[request] % PAGE:  # the last page is not full, so no other turn has the same content
            ids[-1] = -1 - request
        return ids & (2**62 - 1)


@dataclass
class Outcome:
    """Figures of a load that was served."""

    computed_tokens: int = 0
    prompt_tokens: int = 0
    served: int = 0
    rejected: int = 0
    first_token_seconds: list[float] = field(default_factory=list)
    peak_pages: int = 0
    kv: dict = field(default_factory=dict)
    scheduler: dict = field(default_factory=dict)


def make_load(conversations: int = 300, seed: int = 0) -> Load:
    """Return conversations of 2 to 9 turns that begin within five minutes, with pauses to read and type."""
    rng = np.random.default_rng(seed)
    turns = rng.integers(2, 10, conversations)
    conversation = np.repeat(np.arange(conversations), turns)
    n = len(conversation)
    first = np.r_[True, conversation[1:] != conversation[:-1]]
    message, reply = rng.integers(20, 200, n), rng.integers(40, 300, n)
    begin = np.flatnonzero(first)
    pause = rng.exponential(25.0, n) + reply * DECODE_SECONDS_PER_TOKEN
    pause[first] = rng.uniform(0, 300.0, conversations)
    system_tokens = 50 * PAGE

    def running_sum(values: np.ndarray) -> np.ndarray:  # starts again at 0 with each conversation
        sums = np.cumsum(values)
        return sums - np.repeat(sums[begin] - values[begin], turns)

    total, arrival = running_sum(message + reply), running_sum(pause)
    order = np.argsort(arrival, kind="stable")
    return Load(
        arrival[order],
        (system_tokens + total - reply)[order],
        reply[order],
        conversation[order],
        rng.integers(0, 4, conversations)[conversation][order],
        system_tokens,
    )


def serve(load: Load, sharing: bool, max_pages: int = 24_000, progress: bool = False) -> Outcome:
    """Serve a load with the three structures, on a clock that this function sets."""
    now = 0.0
    clock = lambda: now  # noqa: E731
    admission = AdmissionController(qps_target=20.0, token_rate_limit=9_000, window_size=10, clock=clock)
    scheduler = Scheduler(max_batch_size=16, max_wait_ms=40.0, max_batch_tokens=16_384, clock=clock)
    cache = KVCache(PAGE, max_pages, sharing, store=False)
    running = IndexedHeap()  # request -> when its reply is complete
    outcome = Outcome()
    index_of: dict[int, int] = {}
    following, n = 0, len(load.arrival)
    with bar(progress, n, f"serving, prefixes {'shared' if sharing else 'not shared'}", "requests") as advance:
        while following < n or len(running) or scheduler.stats()["queue_size"]:
            while following < n and load.arrival[following] <= now:
                prompt = int(load.prompt[following])
                admitted, _ = admission.should_admit(prompt)
                if admitted:
                    admission.record_request(prompt)
                    index_of[scheduler.submit(prompt)] = following
                else:
                    outcome.rejected += 1
                following += 1
                advance(1)
            while (done := running.peek()) is not None and done[0] <= now:
                _, request = running.pop()
                cache.detach(request)
                scheduler.complete_batch([request])
                outcome.served += 1
            computed = 0
            batch = scheduler.get_batch() or []
            started = []
            for request in batch:
                index = index_of[request]
                before = cache.stats()["hit_tokens"]
                try:
                    cache.attach_blocks(request, load.block_ids(index))
                except OutOfPagesError:  # back into the queue until replies end and pages become free
                    scheduler.update_priority(request, int(load.prompt[index]))
                    continue
                computed += max(int(load.prompt[index]) - (cache.stats()["hit_tokens"] - before), 1)
                started.append(request)
            if started:
                now += BATCH_SECONDS + computed * PREFILL_SECONDS_PER_TOKEN
                outcome.computed_tokens += computed
                outcome.peak_pages = max(outcome.peak_pages, cache.stats()["allocated_pages"])
                for request in started:
                    index = index_of[request]
                    outcome.prompt_tokens += int(load.prompt[index])
                    outcome.first_token_seconds.append(now - float(load.arrival[index]))
                    running.push(request, now + int(load.reply[index]) * DECODE_SECONDS_PER_TOKEN)
            else:
                coming = [now + 0.010] if scheduler.stats()["queue_size"] else []
                coming += [float(load.arrival[following])] if following < n else []
                coming += [done[0]] if (done := running.peek()) is not None else []
                now = max(min(coming, default=now), now)
    outcome.kv, outcome.scheduler = cache.stats(), scheduler.stats()
    return outcome
