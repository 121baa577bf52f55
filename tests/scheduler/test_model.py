"""The scheduler beside a list of dicts, under any sequence of calls, any policy and any option."""

import math

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmds.kv_cache.cache import KVCache
from llmds.scheduler.scheduler import Scheduler
from tests.scheduler.model import TICK, Clock, Model, largest_first

POLICIES = ["sjf", "fcfs", "edf", None, "priority", "lpm", "wfq"]
tokens_ = st.integers(0, 9) | st.just(2**31 - 1)
slos = st.none() | st.integers(0, 20).map(lambda ticks: ticks * TICK * 1000)
prompts = st.lists(st.integers(0, 1), max_size=4)
tenants = st.sampled_from([0, 1, 2, -(2**63)])
requests_ = st.tuples(tokens_, slos, st.integers(-3, 3), tenants, prompts, st.integers(0, 1))


class BesideModel(RuleBasedStateMachine):
    """Any sequence of calls answers as the model does."""

    @initialize(
        size=st.integers(1, 4),
        wait=st.sampled_from([0, 4 * TICK, 15 * TICK, math.inf]),
        policy=st.sampled_from(POLICIES),
        aging=st.sampled_from([0.0, 1.0, 64.0]),
        service=st.sampled_from([0, 3 * TICK]),
        most=st.sampled_from([None, 1, 12]),
        chunk=st.sampled_from([None, 1, 4]),
        cached=st.booleans(),
        start=st.integers(-100, 100).map(lambda ticks: ticks * TICK),
    )
    def start(self, size, wait, policy, aging, service, most, chunk, cached, start):
        self.clock, self.seqs = Clock(start), 0
        cached = cached or policy == "lpm"
        self.cache = KVCache(page_size=1, max_pages=1000, store=False) if cached else None
        self.scheduler = Scheduler(
            size,
            wait * 1000,
            largest_first if policy is None else None,
            policy=policy,
            aging=aging,
            service_ms=service * 1000,
            max_batch_tokens=most,
            prefill_chunk=chunk,
            cache=self.cache,
            blocks=True,
            clock=self.clock,
        )
        limits = math.inf if most is None else most, math.inf if chunk is None else chunk
        self.model = Model(size, wait, policy, aging, service, *limits, cached)

    def pick(self, data, condition=lambda request: True):
        there = [number for number, request in self.model.requests.items() if condition(request)]
        return data.draw(st.sampled_from(there) if there else st.just(self.model.next_id))

    def some_in_flight(self, data, count):
        return data.draw(st.permutations(self.model.in_flight()))[:count]

    def tell_time(self):
        self.model.now = max(self.model.now, self.clock.now)

    @rule(ticks=st.integers(-2, 8) | st.just(3600 * 64))
    def time_passes(self, ticks):
        self.clock.now += ticks * TICK

    @rule(request=requests_)
    def submit(self, request):
        self.tell_time()
        tokens, slo, priority, tenant, prompt, salt = request
        if self.cache is None:
            prompt = None
        number = self.scheduler.submit(tokens, slo, priority=priority, tenant=tenant, prompt=prompt, salt=salt)
        assert number == self.model.submit(tokens, slo, priority, tenant, prompt or (), salt)

    @rule(items=st.lists(requests_, max_size=20), bare=st.booleans())
    def submit_many(self, items, bare):
        if items:
            self.tell_time()
        if bare:
            items = [(tokens, None, 2, 1, (), 0) for tokens, *_ in items]
            numbers = self.scheduler.submit_many([item[0] for item in items], priority=2, tenant=1)
        else:
            named = {}
            if self.cache is not None:
                named["prompts"] = np.array([token for item in items for token in item[4]], np.int64)
                named["indptr"] = np.cumsum([0, *(len(item[4]) for item in items)])
                named["salt"] = [item[5] for item in items]
            else:
                items = [(*item[:4], (), 0) for item in items]
            limits = [math.inf if item[1] is None else item[1] for item in items]
            named["priority"], named["tenant"] = [item[2] for item in items], [item[3] for item in items]
            numbers = self.scheduler.submit_many([item[0] for item in items], limits, **named)
        assert numbers.dtype == np.int64 and numbers.tolist() == [self.model.submit(*item) for item in items]

    @precondition(lambda self: self.cache is not None)
    @rule(prompt=prompts, salt=st.integers(0, 1))
    def cache_a_prompt(self, prompt, salt):
        self.cache.attach_blocks(self.seqs, prompt, salt=salt)
        self.seqs += 1
        self.model.held |= {(salt, tuple(prompt[:n])) for n in range(1, len(prompt) + 1)}

    @rule(force=st.booleans(), size=st.none() | st.integers(0, 3), most=st.none() | st.integers(0, 9))
    def get_batch(self, force, size, most):
        self.tell_time()
        batch = self.scheduler.get_batch(force, max_requests=size, max_tokens=most)
        limits = math.inf if size is None else size, math.inf if most is None else most
        assert batch == self.model.get_batch(force, *limits)

    @rule(data=st.data(), count=st.integers(0, 3))
    def complete(self, data, count):
        numbers = self.some_in_flight(data, count)
        if numbers:
            self.tell_time()
        self.scheduler.complete_batch(numbers)
        for number in numbers:
            self.model.forget(number)
        self.model.completed += len(numbers)

    @rule(data=st.data(), count=st.integers(0, 4), keep=st.booleans(), rest=st.booleans())
    def wait_again(self, data, count, keep, rest):
        numbers = self.some_in_flight(data, count)
        if numbers:
            self.tell_time()
        if rest:
            self.scheduler.continue_batch(numbers)
        else:
            self.scheduler.preempt(numbers, keep=keep)
        self.model.wait_again(numbers, keep or rest, rest)

    @rule(data=st.data())
    def name_what_is_not_in_flight(self, data):
        in_flight = self.model.in_flight()
        wrong = self.pick(data, lambda request: request["waits"])
        for numbers in ([*in_flight, wrong], [*in_flight[:1], *in_flight[:1], wrong]):
            for call in (self.scheduler.complete_batch, self.scheduler.preempt, self.scheduler.continue_batch):
                with pytest.raises(KeyError):
                    call(numbers)

    @rule(data=st.data(), tokens=tokens_, priority=st.none() | st.integers(-3, 3))
    def update_priority(self, data, tokens, priority):
        number = self.pick(data)
        if number not in self.model.requests:
            with pytest.raises(KeyError):
                self.scheduler.update_priority(number, tokens, priority=priority)
            return
        self.tell_time()
        self.scheduler.update_priority(number, tokens, priority=priority)
        self.model.update(number, tokens, priority)

    @rule(data=st.data())
    def cancel(self, data):
        number = self.pick(data)
        if number not in self.model.requests:
            with pytest.raises(KeyError):
                self.scheduler.cancel(number)
        else:
            self.tell_time()
            self.scheduler.cancel(number)
            self.model.forget(number)

    @precondition(lambda self: self.model.policy == "wfq")
    @rule(tenant=tenants, weight=st.sampled_from([0.25, 1, 4]))
    def weigh(self, tenant, weight):
        self.scheduler.set_weight(tenant, weight)
        self.model.weights[tenant] = weight

    @precondition(lambda self: self.model.policy == "wfq")
    @rule(data=st.data(), tokens=st.integers(0, 9))
    def charge(self, data, tokens):
        number = self.pick(data)
        if number not in self.model.requests:
            with pytest.raises(KeyError):
                self.scheduler.charge([*self.model.requests, number], tokens)
        else:
            self.scheduler.charge([number], tokens)
            tenant = self.model.requests[number]["tenant"]
            self.model.counters[tenant] += tokens / self.model.weights.get(tenant, 1)

    @rule()
    def shrink(self):
        self.scheduler.shrink_to_fit()

    @rule()
    def predict(self):
        """Nothing is ready before `ready_at`, and something is then."""
        at, scheduler, model = self.scheduler.ready_at(), self.scheduler, self.model
        if at is None:
            assert not model.waiting() or (not model.ready() and model.wait == math.inf)
        elif at == -math.inf:
            assert model.ready()
        else:
            assert at == min(model.overdue_since(request)[0] for request in model.waiting())
        assert len(scheduler) == len(model.requests)

    @invariant()
    def agree(self):
        if not hasattr(self, "scheduler"):
            return
        scheduler, model = self.scheduler, self.model
        scheduler.check()
        for number in range(max(0, model.next_id - 40), model.next_id + 1):
            assert (number in scheduler) == (number in model.requests)
            if number in model.requests:
                known = model.requests[number]
                key = model.counters[known["tenant"]] if model.policy == "wfq" else known["key"]
                fields = (known["tokens"], key, known["submitted"], known["deadline"])
                state = "waiting" if known["waits"] else "in flight"
                seen = scheduler.request(number)
                assert seen == (number, *fields, state, known["computed"], known["tenant"])
            else:
                with pytest.raises(KeyError):
                    scheduler.request(number)
        assert scheduler.batch_tokens().dtype == np.int64 and scheduler.batch_tokens().tolist() == model.counts
        stats, waits = scheduler.stats(), sorted(model.waits)
        for percent in (50, 95, 99):
            exact = waits[max(math.ceil(percent / 100 * len(waits)), 1) - 1] if waits else 0.0
            assert stats.pop(f"wait_p{percent}_ms") == pytest.approx(1000 * exact, rel=0.01)
        assert stats == model.stats()


TestBesideModel = BesideModel.TestCase
