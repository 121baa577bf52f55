"""Small traces, and what a cache finds of one by a simulation too simple to be wrong."""

import random
from collections import OrderedDict

from tests.traces.test_trace import made


def of(requests):
    """A trace of lists of ids, one token a block."""
    return made(*((0.0, len(ids), 1, ids) for ids in requests), block_size=1)


def grown(seed, requests=60, longest=9):
    """Lists of ids that mean prefixes: each request follows an earlier one for a while."""
    chance, made_so_far, following = random.Random(seed), [[]], 0
    for _ in range(requests):
        start = list(chance.choice(made_so_far))[: chance.randrange(longest)]
        more = chance.randrange(0 if start else 1, longest + 1 - len(start))
        made_so_far.append(start + list(range(following, following + more)))
        following += more
    return made_so_far[1:]


def plain_simulation(requests, capacity):
    """(blocks found, blocks looked for): the leading blocks of a request that are cached, under LRU.

    All of its blocks are held at once, then let go, the last one first. A request longer than the pool cannot
    be held: it passes by and neither counts nor leaves a trace.
    """
    cached, hits, total = OrderedDict(), 0, 0
    for blocks in requests:
        if len(blocks) > capacity:
            continue
        found = next((i for i, block in enumerate(blocks) if block not in cached), len(blocks))
        hits, total = hits + found, total + len(blocks)
        for block in blocks[:found]:
            del cached[block]
        while len(cached) + len(blocks) > capacity:
            cached.popitem(last=False)
        cached.update(dict.fromkeys(blocks[::-1]))
    return hits, total
