"""The eviction policies of the KV cache over lists and dicts, and the model of the cache that asks them."""

import numpy as np

from llmds.kernels.cmsketch import counters as sketch
from llmds.kernels.kv_cache import hashes
from tests.kv_cache.model import Model


def content_hash(page):
    """The 64 bits by which a page is known again."""
    return int(hashes.content_hash(np.array([[page.path[-1][1], page.path[0]]]), 0))


class PolicyModel(Model):
    """A cache of content ids, all sequences of which are attached by `attach_blocks`."""

    def __init__(self, page_size, max_pages, policy):
        super().__init__(page_size, max_pages)
        self.policy, self.births = policy(max_pages), 0
        self.policy.cache = self
        self.in_order = True  # whether no page left before one below it

    def below(self, page):
        """The pages below one, the newest first."""
        pages = [other for other in self.index.values() if other.path[:-1] == page.path]
        return sorted(pages, key=lambda other: -other.birth)

    def take(self, entries):
        if len(self.held) + len(self.cached) == self.max_pages and self.cached:
            page = self.policy.victim()
            assert page in self.cached
            self.in_order &= not self.below(page)
            self.policy.evicted(page)
            self.cached.remove(page), self.cached.insert(0, page)
        return super().take(entries)

    def acquire(self, page):
        super().acquire(page)
        if page.refs == 1:
            self.policy.leave(page, False)

    def release(self, pages):
        for page in reversed(pages):
            super().release([page])
            if page.refs == 0 and page.path is not None:
                self.policy.enter(page)

    def forget(self, page):
        paths = sorted((path for path in self.index if path[: len(page.path)] == page.path), key=len, reverse=True)
        for path in paths:
            below = self.index[path]
            self.policy.leave(below, True)
            parent = self.index.get(path[:-1])
            super().forget(below)
            if parent is not None and parent.refs == 0 and not self.below(parent):
                self.policy.bare(parent)

    def find(self, path, page):
        super().find(path, page)
        page.birth = self.births = self.births + 1
        self.policy.begin(page)

    def _attach(self, seq, pieces, keys, named, salt):
        shares, hits = self.shares, self.hits
        super()._attach(seq, pieces, keys, named, salt)
        found = (self.hits - hits) // self.page_size if self.shares > shares else 0
        self.policy.attached(self.seqs[seq], found)


class Lists:
    """Chains of cached pages, oldest first; page.number says in which one a page is."""

    def __init__(self, max_pages):
        self.max_pages, self.chains = max_pages, {number: [] for number in range(256)}

    def begin(self, page):
        page.number, page.found = 0, False

    def attached(self, pages, found):
        for page in pages[:found]:
            page.found = True

    def enter(self, page):
        self.chains[page.number].append(page)

    def leave(self, page, forgotten):
        if page.refs == 0 or not forgotten:
            self.chains[page.number].remove(page)

    def move(self, page, number):
        self.chains[page.number].remove(page)
        page.number = number
        self.chains[number].append(page)

    def lowest(self, page):
        way, at = [], page
        while below := self.cache.below(at):
            at = below[0]
            way.append(at)
        if not way or at.refs:
            return page
        for other in way:
            if other.refs == 0:
                self.chains[other.number].remove(other)
                other.number = page.number
                self.chains[page.number].insert(0, other)
        return at

    def victim(self):
        return self.chains[0][0]

    def evicted(self, page):
        pass

    def bare(self, page):
        pass


class LFU(Lists):
    def attached(self, pages, found):
        for page in pages:
            page.number = min(page.number + 1, 255)

    def victim(self):
        return self.lowest(next(chain for chain in self.chains.values() if chain)[0])


class SLRU(Lists):
    def enter(self, page):
        if page.found:
            page.number, page.found = 1, False
        super().enter(page)
        if len(self.chains[1]) > self.max_pages // 2 and page.number == 1:
            self.move(self.chains[1][0], 0)

    def victim(self):
        return self.lowest((self.chains[0] or self.chains[1])[0])


class TinyLFU(Lists):
    def __init__(self, max_pages):
        super().__init__(max_pages)
        self.window, self.since = max(1, max_pages // 100), 0
        self.sketch = np.zeros(sketch.HEAD + 4 * 2 * max_pages, np.int64)
        self.sketch[sketch.WIDTH], self.sketch[sketch.DEPTH] = 2 * max_pages, 4

    def count(self, page):
        sketch.add_hash(self.sketch, np.uint64(content_hash(page)), 1)
        self.since += 1
        if self.since >= 10 * self.max_pages:
            self.since //= 2
            self.sketch[sketch.HEAD :] //= 2

    def times(self, page):
        return sketch.estimate_hash(self.sketch, np.uint64(content_hash(page)))

    def begin(self, page):
        super().begin(page)
        self.count(page)

    def attached(self, pages, found):
        super().attached(pages, found)
        for page in pages[:found]:
            self.count(page)

    def enter(self, page):
        if page.found and page.number == 1:
            page.number = 2
        page.found = False
        super().enter(page)
        if page.number == 2 and len(self.chains[2]) > (self.max_pages - self.window) * 8 // 10:
            self.move(self.chains[2][0], 1)
        elif len(self.cache.held) + len(self.cache.cached) < self.max_pages and len(self.chains[0]) > self.window:
            self.move(self.chains[0][0], 1)

    def victim(self):
        if not self.chains[1] and not self.chains[2]:
            return self.lowest(self.chains[0][0])
        oldest = self.lowest((self.chains[1] or self.chains[2])[0])
        while len(self.chains[0]) > self.window:
            newer = self.chains[0][0]
            bare = not self.cache.below(newer)
            if bare and self.times(newer) < self.times(oldest):
                return newer
            self.move(newer, 1)
            if bare:
                break
        return oldest


class S3FIFO(Lists):
    def __init__(self, max_pages):
        super().__init__(max_pages)
        self.seen, self.next = {}, 1

    def place(self, page):
        hashed = content_hash(page)
        return (hashed % 2**32) * 2 * self.max_pages >> 32, hashed >> 32

    def begin(self, page):
        at, tag = self.place(page)
        other, when = self.seen.get(at, (None, 0))
        page.number, page.times, page.queued = int(other == tag and self.next - when <= self.max_pages), 0, False

    def attached(self, pages, found):
        for page in pages[:found]:
            page.times = min(page.times + 1, 3)

    def enter(self, page):
        if not page.queued:
            page.queued = True
            super().enter(page)

    def leave(self, page, forgotten):
        if forgotten and page.queued:
            page.queued = False
            self.chains[page.number].remove(page)

    def victim(self):
        while True:
            small = len(self.chains[0]) > max(1, self.max_pages // 10) or not self.chains[1]
            page = self.chains[0 if small else 1][0]
            if page.refs:
                self.leave(page, True)
            elif small and (page.times >= 2 or self.cache.below(page)):
                page.times = 0
                self.move(page, 1)
            elif not small and page.times:
                page.times -= 1
                self.move(page, 1)
            else:
                return self.lowest(page)

    def evicted(self, page):
        if page.number == 0:
            at, tag = self.place(page)
            self.seen[at] = tag, self.next
            self.next += 1


class LHD:
    """Ages in 44 buckets, by quarters of octaves; what is known of a page is (last, count, class)."""

    starts = (*range(4), *((4 + quarter) << octave for octave in range(10) for quarter in range(4)))
    factors = (0.1, 0.5, 0.7, 1.0, 1.4, 1.8, 2.0, 2.4, 3.0, 4.0)

    def __init__(self, max_pages):
        self.max_pages, self.leaves, self.ghosts, self.now, self.learn_at = max_pages, [], {}, 0, 16
        self.reuses, self.at_risk = np.zeros((10, 44), np.int64), np.zeros((10, 44), np.int64)
        self.waiting, self.queue, self.run = {}, [], None
        self.learn()

    def bucket(self, age):
        return max(bucket for bucket, start in enumerate(self.starts) if start <= age)

    def place(self, page):
        hashed = content_hash(page)
        return (hashed % 2**32) * 8 * self.max_pages >> 32, hashed >> 42

    def wait(self, now, class_, change):
        row = self.waiting.setdefault(now, [0] * 10)
        row[class_] = max(row[class_] + change, 0)

    def reference(self, page, known, now):
        last, count, class_ = known
        if count:
            self.reuses[class_, self.bucket(now - last)] += 1024
            if now - last < 4096:
                self.wait(last, class_, -1)
        count = min(count + 1, 31)
        page.known = now, count, next(c for c, most in enumerate((1, 2, 3, 4, 6, 11, 20, 31), 2) if count <= most)
        self.wait(now, page.known[2], 1)

    def begin(self, page):
        at, tag = self.place(page)
        other, known = self.ghosts.get(at, (0, (0, 0, 0)))
        self.reference(page, known if other == tag else (0, 0, 0), self.now)

    def attached(self, pages, found):
        now, continued = self.now, False
        for i, page in enumerate(pages):
            if i < found:
                self.reference(page, page.known, now)
            last, count, class_ = page.known
            continued |= 1 < count < 21
            if count == 1 and (continued or page is pages[-1]):
                self.wait(now, class_, -1)
                page.known = last, count, 0 if page is pages[-1] else 1
                self.wait(now, page.known[2], 1)
        for bucket, start in enumerate(self.starts):
            for class_, waiting in enumerate(self.waiting.get(now + min(bucket, 1) - start, [0] * 10)):
                self.at_risk[class_, bucket] += waiting * 1024
        self.waiting.pop(now + 1 - 4096, None)
        self.now += 1
        if self.now >= self.learn_at:
            gap = max(16, min(128, self.now // 8))
            self.learn_at = self.now + gap
            self.learn()
            self.reuses -= self.reuses * gap // 6000
            self.at_risk -= self.at_risk * gap // 6000
            self.queue = []

    def smooth(self, table, class_, bucket):
        row = table[class_]
        before = row[bucket - 1] if bucket > 4 else row[bucket]
        after = row[bucket + 1] if 4 <= bucket < 43 else row[bucket]
        return float(before + 2 * row[bucket] + after) / 4096

    def learn(self):
        hazards = np.zeros((10, 44))
        for bucket in range(44):
            reuses, at_risk = 2.0, 100.0
            for class_ in range(10):
                reuses += self.smooth(self.reuses, class_, bucket)
                at_risk += self.smooth(self.at_risk, class_, bucket) * self.factors[class_]
            for class_ in range(10):
                prior = 200.0 * min(reuses / at_risk * self.factors[class_], 0.95)
                seen = self.smooth(self.reuses, class_, bucket), self.smooth(self.at_risk, class_, bucket)
                hazards[class_, bucket] = int(min((seen[0] + prior) / (seen[1] + 200.0), 0.98) * 2**30) / 2**30
        self.values = [[self.best(hazards[class_], age) for age in range(44)] for class_ in range(10)]

    def best(self, hazards, age):
        best, alive, hits, time = 0.0, 1.0, 0.0, 0.0
        for bucket in range(age, 44):
            wide = self.starts[bucket + 1] - self.starts[bucket] if bucket < 43 else self.starts[bucket]
            time += wide * alive * (1.0 - 0.5 * hazards[bucket])
            hits += alive * hazards[bucket]
            alive *= 1.0 - hazards[bucket]
            if hits > best * time:
                best = hits / time
        return int(best * 2**30)

    def worth(self, page):
        last, _, class_ = page.known
        return self.values[class_][self.bucket(self.now - last)], last

    def enter(self, page):
        if not self.cache.below(page):
            self.leaves.append(page)

    def leave(self, page, forgotten):
        if page in self.leaves:
            self.leaves.remove(page)
            if self.run is page:
                self.run = None

    def bare(self, page):
        self.leaves.append(page)
        self.run = page

    def evicted(self, page):
        at, tag = self.place(page)
        self.ghosts[at] = tag, page.known

    def victim(self):
        run, self.run = self.run, None
        if run is not None and self.queue and self.worth(run)[0] <= self.queue[0][0][0]:
            return run
        while self.queue:
            worth, page = self.queue.pop(0)
            if page in self.leaves and self.worth(page) <= worth and self.worth(page)[1] == worth[1]:
                return page
        order = sorted(self.leaves, key=self.worth)[: max(4, len(self.leaves) // 64)]
        self.queue = [(self.worth(page), page) for page in order]
        return self.queue.pop(0)[1]


POLICIES = {"lru": Lists, "lfu": LFU, "slru": SLRU, "tinylfu": TinyLFU, "s3fifo": S3FIFO, "lhd": LHD}
