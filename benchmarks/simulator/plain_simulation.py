"""What `llmds.simulator` simulates, as a plain Python event loop: lists, dicts and heapq, one token at a time.

The tests compare the two request by request, the benchmark compares their speed.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from typing import Any

# seconds of a step of so many prompt tokens, decoding sequences, tokens of their context, attended pairs
Seconds = Callable[[float, float, float, float], float]


class Running:
    """A request that has pages."""

    __slots__ = ("entries", "left", "number", "part")

    def __init__(self, number: int, entries: int, left: int, part: int):
        self.number, self.entries, self.left, self.part = number, entries, left, part


def plain_simulation(
    arrivals: Sequence[float],
    inputs: Sequence[int],
    outputs: Sequence[int],
    seconds: Seconds,
    *,
    slots: int = 256,
    pages: int | None = None,
    page_size: int = 16,
    policy: str = "fcfs",
    aging: float = 0.0,
    deadlines: Sequence[float] | None = None,
    max_batch_tokens: int = 8192,
    prefill_chunk: int | None = None,
    blocks: Sequence[Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """For each request: started, first_token, finished (NaN: never), refused, cached_tokens, preemptions.

    deadlines: seconds after arrival. blocks: content ids of the prompts' blocks, of which the whole ones are cached for
    ever from their first start on; without a limit of pages.
    """
    requests: list[dict[str, Any]] = [
        {"started": math.nan, "first_token": math.nan, "finished": math.nan, "refused": False, "cached_tokens": 0,
         "preemptions": 0}
        for _ in arrivals
    ]  # fmt: skip
    made = [0] * len(arrivals)
    waiting: list[tuple[float, int, int]] = []  # rank, order of arrival in the queue, request
    running: list[Running] = []
    known: set[tuple[int, ...]] = set()
    now, arrived, pushed, used = 0.0, 0, 0, 0

    due = [math.inf] * len(arrivals)
    if policy == "edf" and deadlines is not None:
        due = [arrival + deadline for arrival, deadline in zip(arrivals, deadlines, strict=True)]

    def first_of_all() -> tuple[float, int, int]:
        if aging and policy == "edf":  # what is overdue goes by its deadline alone
            overdue = [(due[number], order, (rank, order, number)) for rank, order, number in waiting]
            earliest = min(overdue)
            if earliest[0] <= now:
                return earliest[2]
        return waiting[0]

    def pages_of(entries: int) -> int:
        return -(-entries // page_size)

    turns: dict[int, int] = {}

    def wait(number: int, since: float) -> None:
        nonlocal pushed
        key = {"fcfs": since, "sjf": float(inputs[number]), "edf": due[number]}[policy]
        turn = turns.setdefault(number, pushed)  # a request that waits again keeps its place
        heapq.heappush(waiting, (key if math.isinf(key) else key + aging * since, turn, number))
        pushed += 1

    while True:
        while arrived < len(arrivals) and arrivals[arrived] <= now:
            if pages is not None and pages_of(inputs[arrived] + max(outputs[arrived] - 1, 0)) > pages:
                requests[arrived]["refused"] = True
            else:
                wait(arrived, arrivals[arrived])
            arrived += 1
        if not running and not waiting:
            if arrived == len(arrivals):
                return requests
            now = arrivals[arrived]
            continue

        preempted = False
        while True:  # a page for each token that is decoded, or the request started last waits again
            decoding = [each for each in running if each.left == 0]
            more = sum(each.entries % page_size == 0 for each in decoding)
            if pages is None or used + more <= pages:
                break
            last = running.pop()
            used -= pages_of(last.entries)
            requests[last.number]["preemptions"] += 1
            wait(last.number, arrivals[last.number])
            preempted = True
        used += more
        context, prefill, pairs = 0, 0, 0.0
        for each in decoding:
            each.entries += 1
            context += each.entries
        for each in running:
            if each.left > 0:
                each.part = each.left
                if prefill_chunk is not None:
                    each.part = min(each.left, prefill_chunk, max(max_batch_tokens - len(decoding) - prefill, 0))
                prefill += each.part
                pairs += each.part * (each.entries - each.left) + each.part * (each.part + 1) / 2

        while waiting and len(running) < slots and not preempted:
            number, room = first_of_all()[2], max_batch_tokens - prefill - len(decoding)
            entries = inputs[number] + made[number]
            cached = 0
            whole = tuple(blocks[number][: inputs[number] // page_size]) if blocks is not None else ()
            while cached < len(whole) and whole[: cached + 1] in known:
                cached += 1
            cached = min(cached * page_size, entries - 1)
            left = part = entries - cached
            fits = prefill_chunk is not None or left <= room or prefill == 0
            if room <= 0 or not fits or (pages is not None and used + pages_of(entries) > pages):
                break
            if number == waiting[0][2]:
                heapq.heappop(waiting)
            else:
                waiting.remove(first_of_all())
                heapq.heapify(waiting)
            known.update(whole[: end + 1] for end in range(len(whole)))
            if prefill_chunk is not None:
                part = min(left, prefill_chunk, room)
            running.append(Running(number, entries, left, part))
            used += pages_of(entries)
            prefill += part
            pairs += part * (entries - left) + part * (part + 1) / 2
            requests[number]["cached_tokens"] += cached
            if math.isnan(requests[number]["started"]):
                requests[number]["started"] = now

        now += seconds(prefill, len(decoding), context, pairs)
        kept = []
        for each in running:
            number = each.number
            each.left -= min(each.part, each.left)
            if each.left == 0:
                made[number] += 1
                if math.isnan(requests[number]["first_token"]):
                    requests[number]["first_token"] = now
                if made[number] >= max(outputs[number], 1):
                    requests[number]["finished"] = now
                    used -= pages_of(each.entries)
                    continue
            kept.append(each)
        running = kept
