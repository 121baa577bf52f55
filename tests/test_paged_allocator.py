"""The allocator beside a set of free pages."""

import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numba import njit

from llmds.kernels import paged_allocator as kernels
from llmds.paged_allocator import OutOfPagesError, PagedAllocator, PageStats
from tests import face

MOST = 9


class BesideModel(RuleBasedStateMachine):
    """Any sequence of calls answers as a list of free pages, the next one last, does."""

    @initialize(max_pages=st.integers(1, MOST))
    def start(self, max_pages):
        self.allocator, self.n = PagedAllocator(16, max_pages), max_pages
        self.free, self.taken, self.given = list(range(max_pages))[::-1], 0, 0

    def expect(self, n):
        pages = [self.free.pop() for _ in range(n)]
        self.taken += n
        return pages

    @rule(n=st.integers(0, MOST + 1))
    def alloc(self, n):
        if n > len(self.free):
            with pytest.raises(OutOfPagesError, match=f"{n} pages are needed, {len(self.free)} of {self.n}"):
                self.allocator.alloc(n)
        else:
            assert self.allocator.alloc(n) == self.expect(n)

    @rule(counts=st.lists(st.integers(0, 3), max_size=4))
    def alloc_many(self, counts):
        if sum(counts) > len(self.free):
            with pytest.raises(OutOfPagesError):
                self.allocator.alloc_many(counts)
        else:
            pages = self.allocator.alloc_many(np.array(counts, np.int64))
            assert pages.dtype == np.int32 and pages.tolist() == self.expect(sum(counts))

    @rule(pages=st.lists(st.integers(-1, MOST), max_size=4), many=st.booleans())
    def give_back(self, pages, many):
        held = set(range(self.n)) - set(self.free)
        call = self.allocator.free_many if many else self.allocator.free
        if not held.issuperset(pages) or len(set(pages)) < len(pages):
            with pytest.raises(ValueError, match="allocated and distinct"):
                call(pages)
        else:
            call(pages)
            self.free += pages[::-1]
            self.given += len(pages)

    @rule()
    def defragment(self):
        self.allocator.defragment()
        self.free.sort(reverse=True)

    @rule()
    def compact(self):
        held = sorted(set(range(self.n)) - set(self.free))
        old, new = self.allocator.compact()
        assert old.dtype == new.dtype == np.int32
        moved = dict(zip(old.tolist(), new.tolist(), strict=True))
        assert len(moved) == len(old) and set(moved) <= set(held) and not set(moved.values()) & set(held)
        assert sorted(moved.get(page, page) for page in held) == list(range(len(held)))
        self.free = list(range(len(held), self.n))[::-1]

    @invariant()
    def agree(self):
        if not hasattr(self, "allocator"):
            return
        self.allocator.check()
        runs = "".join("f" if page in self.free else " " for page in range(self.n)).split()
        longest = max(map(len, runs), default=0)
        assert self.allocator.stats() == PageStats(
            total_pages=self.n,
            allocated_pages=self.n - len(self.free),
            free_pages=len(self.free),
            fragmentation_ratio=1 - longest / len(self.free) if self.free else 0.0,
            allocation_count=self.taken,
            free_count=self.given,
        )
        assert len(self.allocator) == self.n - len(self.free)
        for page in range(-1, self.n + 1):
            assert (page in self.allocator) == (0 <= page < self.n and page not in self.free)


TestBesideModel = BesideModel.TestCase


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda pages: pages.alloc(8), OutOfPagesError),
        (lambda pages: pages.alloc(10**18), OutOfPagesError),
        (lambda pages: pages.alloc(-1), ValueError),
        (lambda pages: pages.alloc(1.0), TypeError),
        (lambda pages: pages.alloc(True), TypeError),
        (lambda pages: pages.alloc_many([4, 4]), OutOfPagesError),
        (lambda pages: pages.alloc_many([2**62, 2**62, 2**62, 2**62]), OutOfPagesError),
        (lambda pages: pages.alloc_many([1, -1]), ValueError),
        (lambda pages: pages.alloc_many([1.5]), TypeError),
        (lambda pages: pages.free([0, 1, 0]), ValueError),
        (lambda pages: pages.free([0, 1, 3]), ValueError),
        (lambda pages: pages.free([0, 1, -1]), ValueError),
        (lambda pages: pages.free([0, 1, 2**62]), ValueError),
        (lambda pages: pages.free([0.0]), TypeError),
        (lambda pages: pages.free(0), TypeError),
    ],
)
def test_a_refused_call_changes_nothing(call, error):
    pages, untouched = PagedAllocator(16, 10), PagedAllocator(16, 10)
    pages.alloc(3), untouched.alloc(3)
    with pytest.raises(error):
        call(pages)
    pages.check()
    face.same_arrays(pages, untouched)


@pytest.mark.parametrize(
    "arguments, error", [((0, 1), ValueError), ((1, 0), ValueError), ((1, 2**31), ValueError), ((1, 1.0), TypeError)]
)
def test_a_pool_has_pages_and_pages_have_tokens(arguments, error):
    with pytest.raises(error, match=r"page_size|max_pages"):
        PagedAllocator(*arguments)


def test_running_out_is_a_value_error():
    assert issubclass(OutOfPagesError, ValueError)


def test_statistics_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PagedAllocator(1, 1).stats().free_pages = 3


def test_defragmenting_makes_later_pages_contiguous_and_touches_none_that_are_held():
    pages = PagedAllocator(16, 100)
    held = pages.alloc(100)
    pages.free(held[::2]), pages.free([1, 51])
    pages.defragment()
    assert pages.alloc(5) == [0, 1, 2, 4, 6] and 3 in pages
    assert pages.stats().fragmentation_ratio == 1 - 3 / 47  # 50, 51, 52


def test_threads_never_get_the_same_page():
    allocator, got = PagedAllocator(16, 4012), [[], [], [], []]

    def work(mine):
        for _ in range(500):
            pages = allocator.alloc(3)
            allocator.free(pages[1:2])
            mine += [pages[0], pages[2]]

    threads = [threading.Thread(target=work, args=(mine,)) for mine in got]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    allocator.check()
    assert len({page for mine in got for page in mine}) == len(allocator) == 4000


def test_every_type_shares_one_compilation():
    pages = PagedAllocator(np.int32(16), np.uint8(20))
    pages.alloc(np.int16(3)), pages.alloc_many(np.array([1, 2], np.uint64))
    for page_ids in ([0], np.array([1], np.int32), np.frombuffer(np.int64(2).tobytes(), np.int64)):
        pages.free(page_ids)
    assert {len(kernel.signatures) for kernel in (kernels.new, kernels.alloc, kernels.free)} == {1}


def test_memory_is_five_bytes_a_page_and_true():
    pages = PagedAllocator(16, 100_000)
    assert pages.nbytes == sum(array.nbytes for array in pages._to_arrays().values())
    assert 5 <= pages.nbytes / 100_000 < 5.01


def test_files_and_pickles_keep_everything(tmp_path):
    pages = PagedAllocator(16, 11)
    pages.alloc(7), pages.free([3, 1])
    for other in face.keeps_everything(pages, tmp_path):
        assert other.stats() == pages.stats() and repr(other) == repr(pages)
        assert other.alloc(3) == [3, 1, 7]


def test_no_damaged_file_passes_or_crashes(tmp_path):
    pages = PagedAllocator(16, 11)
    pages.alloc(7), pages.free([3, 1])
    face.survives_damage(pages, tmp_path)
    face.refuses_other_files(PagedAllocator, tmp_path)


@njit
def alloc_and_free(pages, rounds):
    """Allocate three pages in each round, and free the middle one."""
    out = np.empty(3, np.int32)
    freed = np.empty(1, np.int64)
    for _ in range(rounds):
        if kernels.alloc(pages, out) < 0:
            freed[0] = out[1]
            kernels.free(pages, freed)


def test_arrays_are_for_loops_of_ones_own():
    allocator = PagedAllocator(16, 100)
    alloc_and_free(allocator.arrays.pages, 10)
    allocator.check()
    stats = allocator.stats()
    assert (stats.allocated_pages, stats.allocation_count, stats.free_count) == (20, 30, 10)
    assert allocator.arrays.pages is allocator._pages
