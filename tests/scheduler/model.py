"""A scheduler as a list of dicts that is searched anew each time."""

import math

TICK = 1 / 64  # all times are multiples of it, and all weights powers of 2, so that no sum is rounded


class Clock:
    """Time that passes when told to."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


def largest_first(request):
    return -request.tokens


KEYS = {
    "sjf": lambda request: request["tokens"] - request["computed"],
    "fcfs": lambda request: request["queued"],
    "edf": lambda request: request["deadline"],
    "priority": lambda request: request["priority"],
    "lpm": lambda request: min(request.get("key", 0), -request["computed"]),
    "wfq": lambda request: 0,
}


class Model:
    def __init__(self, size, wait, policy, aging, service, most, chunk, cached):
        self.size, self.wait, self.policy, self.aging = size, wait, policy, aging
        self.service, self.most, self.chunk, self.cached = service, most, chunk, cached
        self.requests, self.next_id, self.order, self.now = {}, 0, 0, -math.inf
        self.batches, self.handed_out, self.completed, self.misses, self.waits = 0, 0, 0, 0, []
        self.preemptions, self.counts = 0, []
        self.counters, self.weights, self.left = {}, {}, 0.0
        self.lines = {}  # of each tenant the requests that wait, the first first
        self.held = set()  # (salt, prefix) that the cache holds

    def waiting(self):
        return [request for request in self.requests.values() if request["waits"]]

    def in_flight(self):
        return [number for number, request in self.requests.items() if not request["waits"]]

    def give_key(self, request):
        request["key"] = request["priority"] if self.policy is None else KEYS[self.policy](request)

    def least(self):
        counters = [self.counters[tenant] for tenant, line in self.lines.items() if line]
        return min(counters) if counters else self.left

    def begin_to_wait(self, request):
        line, tenant = self.lines.setdefault(request["tenant"], []), request["tenant"]
        if not line:
            self.counters[tenant] = max(self.counters.get(tenant, 0.0), self.least())
        line.append(request)
        self.order += 1
        request.update(waits=True, again=False, queued=self.now, order=self.order)
        self.give_key(request)

    def cease_to_wait(self, request):
        request["waits"] = False
        line = self.lines[request["tenant"]]
        line[:] = [other for other in line if other is not request]
        if not line:
            self.left = self.counters[request["tenant"]]

    def submit(self, tokens, slo, priority=0, tenant=0, prompt=(), salt=0):
        deadline = math.inf if slo is None else self.now + slo / 1000
        priority = -tokens if self.policy is None else priority
        request = {"id": self.next_id, "tokens": tokens, "submitted": self.now, "deadline": deadline, "computed": 0}
        request.update(priority=priority, tenant=tenant, prompt=tuple(prompt), salt=salt)
        self.requests[self.next_id] = request
        self.begin_to_wait(request)
        self.next_id += 1
        return request["id"]

    def update(self, number, tokens, priority):
        request = self.requests[number]
        request.update(tokens=tokens, computed=0)
        if self.policy is None:
            request["priority"] = -tokens
        elif priority is not None:
            request["priority"] = priority
        if request["waits"]:
            self.give_key(request)
        else:
            self.begin_to_wait(request)

    def wait_again(self, numbers, keep, rest):
        for number in reversed(numbers):
            request = self.requests[number]
            if not keep:
                request["computed"] = 0
            if not rest or request["computed"] < request["tokens"]:
                request.update(waits=True, again=True)
                self.lines[request["tenant"]].insert(0, request)
                self.give_key(request)
        self.preemptions += 0 if rest else len(numbers)

    def found(self, request):
        prompt, salt = request["prompt"], request["salt"]
        return max(n for n in range(len(prompt) + 1) if n == 0 or (salt, prompt[:n]) in self.held)

    def overdue_since(self, request, patience=math.inf):
        by_waiting = (request["queued"] + min(self.wait, patience), 0, request["order"])
        return min(by_waiting, (request["deadline"] - self.service, 1, request["order"]))

    def aged_key(self, request):
        key = self.counters[request["tenant"]] if self.policy == "wfq" else request["key"]
        return (key if math.isinf(key) else key - self.aging * (self.now - request["queued"]), request["order"])

    def ready(self):
        waiting = self.waiting()
        tokens = sum(min(request["tokens"] - request["computed"], self.chunk) for request in waiting)
        full = len(waiting) >= self.size or tokens >= self.most
        return bool(waiting) and (full or any(self.overdue_since(request)[0] <= self.now for request in waiting))

    def next(self):
        patience = 3600 if self.aging else math.inf
        since, number = min((self.overdue_since(request, patience), request["id"]) for request in self.waiting())
        if since[0] <= self.now:
            return self.requests[number]
        if self.policy == "wfq":
            return min((line[0] for line in self.lines.values() if line), key=self.aged_key)
        return min(self.waiting(), key=self.aged_key)

    def get_batch(self, force, size, most):
        if not (self.waiting() and (force or self.ready())):
            return None
        if self.policy == "lpm":
            for request in self.waiting():
                request["key"] = min(-self.found(request), -request["computed"])
        batch, counts, size, most = [], [], min(size, self.size), min(most, self.most)
        while self.waiting() and len(batch) < size:
            request = self.next()
            start, left = request["computed"], most - sum(counts)
            if self.cached:
                found = -request["key"] if self.policy == "lpm" else self.found(request)
                start = max(start, min(found, request["tokens"] - 1))
            count = min(request["tokens"] - start, self.chunk)
            if count > left:
                if left == 0 or (batch and self.chunk == math.inf):
                    break
                count = count if self.chunk == math.inf else left
            self.counters[request["tenant"]] += count / self.weights.get(request["tenant"], 1)
            self.cease_to_wait(request)
            request["computed"] = start + count
            if not request["again"]:
                self.waits.append(self.now - request["queued"])
            batch.append(request["id"]), counts.append(count)
        if not batch:
            return None
        self.batches += 1
        self.handed_out += len(batch)
        self.counts = counts
        return batch

    def forget(self, number):
        request = self.requests.pop(number)
        if request["waits"]:
            self.cease_to_wait(request)
        self.misses += self.now > request["deadline"]

    def stats(self):
        """All but the percentiles."""
        return {
            "queue_size": len(self.waiting()),
            "in_flight": len(self.in_flight()),
            "batch_count": self.batches,
            "total_processed": self.completed,
            "avg_batch_size": self.handed_out / self.batches if self.batches else 0.0,
            "slo_misses": self.misses,
            "preemptions": self.preemptions,
        }
