"""Pages of a fixed size from a fixed pool."""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .base import arguments
from .base import files as storage
from .base.structure import Structure
from .kernels import paged_allocator as kernels

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_PAGES = 2**31 - 1


class OutOfPagesError(ValueError):
    """There are fewer pages left than are needed. Nothing was changed."""


@dataclass(frozen=True)
class PageStats:
    """What `PagedAllocator.stats` found.

    `fragmentation_ratio` is 1 - longest run of free pages / free pages, 0.0 where none is free;
    `allocation_count` and `free_count` are pages handed out and taken back since the beginning.
    """

    total_pages: int
    allocated_pages: int
    free_pages: int
    fragmentation_ratio: float
    allocation_count: int
    free_count: int


class PagedAllocator(Structure):
    """Hands out page ids 0..max_pages-1, each to one owner at a time.

    The free pages are a stack, so a page freed last, whose memory is the warmest, is handed out
    first. `page_size` (tokens a page) is for the owner's arithmetic: the allocator holds no data.
    Memory: 5 bytes a page.

    A call is atomic under the GIL: threads may share an allocator.

    >>> allocator = PagedAllocator(page_size=16, max_pages=8)
    >>> allocator.alloc(3)
    [0, 1, 2]
    >>> allocator.free([1])
    >>> allocator.alloc(2), allocator.stats().free_pages
    ([1, 3], 4)
    """

    _schema: ClassVar[storage.Schema] = {"pages": (np.int64, 1)}

    def __init__(self, page_size: int, max_pages: int):
        page_size = arguments.integer("page_size", page_size, 1, MAX_PAGES)
        self._pages = kernels.new(page_size, arguments.integer("max_pages", max_pages, 1, MAX_PAGES))
        self._lock = threading.RLock()

    def alloc(self, num_pages: int) -> list[int]:
        """Take pages: their ids. O(num_pages). OutOfPagesError, with nothing taken, if fewer are free."""
        return self._alloc(arguments.integer("num_pages", num_pages, 0)).tolist()

    def free(self, page_ids: list[int]) -> None:
        """Give pages back. O(len(page_ids)).

        ValueError, with nothing given back, if one of them is not allocated or comes twice.
        """
        self.free_many(page_ids)  # type: ignore[arg-type]

    def alloc_many(self, counts: ArrayLike) -> np.ndarray:
        """Take counts (m,) pages for m owners: ids int32 (sum,), each owner's end to end. O(sum).

        OutOfPagesError, with nothing taken, if fewer than the sum are free.
        """
        counts = arguments.integers("counts", counts, 0)
        return self._alloc(int(counts.sum(dtype=object)) if counts.size else 0)

    def free_many(self, page_ids: ArrayLike) -> None:
        """As `free`, for an integer array (m,). O(m)."""
        page_ids = arguments.integers("page_ids", page_ids)
        wrong = kernels.free(self._pages, _writable(page_ids))
        if wrong >= 0:
            raise ValueError(f"page_ids must be allocated and distinct, page_ids[{wrong}] = {page_ids[wrong]} is not")

    def stats(self) -> PageStats:
        """Counts, and the fragmentation. O(max_pages)."""
        pages = self._pages
        longest, free = int(kernels.longest_free_run(pages)), int(pages[kernels.FREE])
        return PageStats(
            total_pages=self.max_pages,
            allocated_pages=self.max_pages - free,
            free_pages=free,
            fragmentation_ratio=1 - longest / free if free else 0.0,
            allocation_count=int(pages[kernels.ALLOCATIONS]),
            free_count=int(pages[kernels.FREES]),
        )

    def defragment(self) -> None:
        """Put the free pages in ascending order, so that pages allocated next are contiguous. O(max_pages).

        No page that a caller holds is touched.
        """
        kernels.defragment(self._pages)

    def compact(self) -> tuple[np.ndarray, np.ndarray]:
        """Move the allocated pages to ids 0..allocated-1: (old ids, new ids), both int32 (moves,). O(max_pages).

        For owners that can move the data and rewrite their page tables: old_ids[i] is free from now on, and whoever
        held it holds new_ids[i], which was free. Pages that are not named stay.
        """
        return kernels.compact(self._pages)

    @property
    def page_size(self) -> int:
        """Tokens a page."""
        return int(self._pages[kernels.PAGE_SIZE])

    @property
    def max_pages(self) -> int:
        """Pages in all."""
        return int(self._pages[kernels.MAX_PAGES])

    def __len__(self) -> int:
        return self.max_pages - int(self._pages[kernels.FREE])

    def __contains__(self, page_id: object) -> bool:
        if not isinstance(page_id, (int, np.integer)) or isinstance(page_id, bool):
            return False
        return bool(0 <= page_id < self.max_pages and kernels.parts(self._pages)[2][page_id] == kernels.ALLOCATED)

    def __repr__(self) -> str:
        return f"PagedAllocator(page_size={self.page_size}, max_pages={self.max_pages}, {len(self)} allocated)"

    def _alloc(self, n: int) -> np.ndarray:
        # asked for more than there is, an array of that size must not even be tried
        out = np.empty(min(n, self.max_pages), np.int32)
        free = kernels.alloc(self._pages, out) if n <= self.max_pages else int(self._pages[kernels.FREE])
        if free >= 0:
            raise OutOfPagesError(f"{n} pages were asked for, {free} of {self.max_pages} are free")
        return out

    def _to_arrays(self) -> storage.Arrays:
        return {"pages": self._pages}

    @classmethod
    def _from_arrays(cls, arrays: storage.Arrays, **given: Any) -> "Self":
        storage.expect(bool(kernels.well_formed(arrays["pages"])), "its pages do not add up")
        self = cls.__new__(cls)
        self._pages, self._lock = arrays["pages"], threading.RLock()
        return self

    def _fault(self) -> str | None:
        fault = int(kernels.first_fault(self._pages))
        if fault == -1:
            return None
        return "free pages and counts disagree" if fault < 0 else f"page {fault} is both free and allocated, or neither"


def _writable(array: np.ndarray) -> np.ndarray:
    """Kernels are compiled for writable arrays; a read-only one would be compiled for anew."""
    return array if array.flags.writeable else array.copy()
