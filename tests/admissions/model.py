"""A clock that passes when told to, and admission control as a list of all that is in the window."""

import copy
import math


class Clock:
    """Time that passes when told to."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


class Model:
    def __init__(self, qps, rate, window, their_qps=math.inf, their_rate=math.inf):
        self.any, self.own = (their_qps, their_rate), {}
        self.requests, self.tokens, self.window = math.floor(qps * window), rate * window, window
        self.now, self.inside, self.next, self.last = -math.inf, [], 0, None
        self.admitted = self.rejected = 0

    def tell_time(self, now):
        self.now = max(self.now, now)
        self.inside = [entry for entry in self.inside if entry["time"] + self.window > self.now]

    def count(self, tokens, settled, tenant=None):
        entry = {"ticket": self.next, "time": self.now, "tokens": tokens, "settled": settled, "tenant": tenant}
        self.inside.append(entry)
        self.next += 1

    def limits(self, tenant):
        own = self.own.get(tenant, (None, None))
        return [rate if mine is None else mine for mine, rate in zip(own, self.any, strict=True)]

    def reason(self, tokens, tenant=None):
        if len(self.inside) + 1 > self.requests:
            return "qps"
        if sum(entry["tokens"] for entry in self.inside) + tokens > self.tokens:
            return "tokens"
        if tenant is not None:
            qps, rate = self.limits(tenant)
            theirs = [entry["tokens"] for entry in self.inside if entry["tenant"] == tenant]
            if len(theirs) + 1 > qps * self.window:
                return "tenant_qps"
            if sum(theirs) + tokens > rate * self.window:
                return "tenant_tokens"
        return "admitted"

    def should_admit(self, tokens, tenant=None):
        reason = self.reason(tokens, tenant)
        if reason != "admitted":
            self.rejected += 1
            return (False, reason)
        self.admitted += 1
        self.last = self.next
        self.count(tokens, False, tenant)
        return (True, "admitted")

    def retry_after(self, tokens, tenant, clock):
        """By trying every moment in which one leaves."""
        if self.reason(tokens, tenant) == "admitted":
            return 0.0
        future = copy.deepcopy(self)
        for moment in [entry["time"] + self.window for entry in self.inside]:
            future.tell_time(moment)
            if future.reason(tokens, tenant) == "admitted":
                return moment - clock
        return math.inf

    def record(self, tokens, ticket):
        if ticket is None:
            unsettled = [entry for entry in self.inside if not entry["settled"]]
            if not unsettled:
                self.count(tokens, True)
                return
            ticket = unsettled[0]["ticket"]
        for entry in self.inside:
            if entry["ticket"] == ticket:
                entry.update(tokens=tokens, settled=True)
