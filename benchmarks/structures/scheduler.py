"""Scheduler beside a heapq that does the same for one policy: shortest job first, batches of 256."""

import heapq
from typing import Any

import numpy as np

from llmds import Scheduler

from .. import harness

BATCH = 256


class HeapScheduler:
    """A heap of (tokens, id), and the set of ids handed out."""

    def __init__(self) -> None:
        self.heap: list[tuple[int, int]] = []
        self.in_flight: set[int] = set()
        self.next_id = 0

    def submit(self, tokens: int) -> int:
        """Return the id of a new request."""
        number = self.next_id
        heapq.heappush(self.heap, (tokens, number))
        self.next_id = number + 1
        return number

    def get_batch(self) -> list[int]:
        """Return the ids of a batch, of any size up to BATCH."""
        heap, pop = self.heap, heapq.heappop
        batch = [pop(heap)[1] for _ in range(min(BATCH, len(heap)))]
        self.in_flight.update(batch)
        return batch

    def complete_batch(self, batch: list[int]) -> None:
        """Forget the requests of a batch."""
        self.in_flight.difference_update(batch)


def race(contest: harness.Contest, items: int, seed: int, rounds: int) -> None:
    """Time requests that are submitted, handed out in batches and completed: in bulk, and with a `submit` for each."""
    tokens = np.random.default_rng(seed).integers(1, 4000, items)
    listed = tokens.tolist()

    def fresh() -> Scheduler:
        scheduler = Scheduler(BATCH, max_wait_ms=1e9)
        scheduler.reserve(items)
        return scheduler

    def drain(scheduler: Any) -> list[list[int]]:
        batches, get, complete = [], scheduler.get_batch, scheduler.complete_batch
        for _ in range(-(-items // BATCH)):
            batch = get(force=True) if isinstance(scheduler, Scheduler) else get()
            complete(batch)
            batches.append(batch)
        return batches

    def bulk(scheduler: Scheduler) -> list[list[int]]:
        scheduler.submit_many(tokens)
        return drain(scheduler)

    def single(scheduler: Any) -> list[list[int]]:
        submit = scheduler.submit
        for each in listed:
            submit(each)
        return drain(scheduler)

    if bulk(fresh()) != single(HeapScheduler()):
        raise SystemExit("scheduler: llmds and heapq hand out different batches")
    setup = {"llmds": fresh, "heapq": HeapScheduler}
    task = f"{items:,} requests, batches of {BATCH}"
    contest.race(f"scheduler, bulk: {task}", {"llmds": bulk, "heapq": single}, items, rounds, setup)
    contest.race(f"scheduler, single: {task}", {"llmds": single, "heapq": single}, items, rounds, setup)
