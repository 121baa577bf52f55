"""Pages of a fixed size from a fixed pool."""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .base import arguments, files
from .base.structure import Structure
from .kernels import paged_allocator as kernels

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_PAGES = 2**31 - 1


class OutOfPagesError(ValueError):
    """Fewer pages are free than a call needs. Nothing was changed."""


@dataclass(frozen=True)
class PageStats:
    """Counts of a `PagedAllocator`.

    Attributes
    ----------
    total_pages, allocated_pages, free_pages
        Numbers of pages.
    fragmentation_ratio
        1 - longest run of free pages / free pages, 0.0 if none is free.
    allocation_count, free_count
        Pages allocated and freed since the start.
    """

    total_pages: int
    allocated_pages: int
    free_pages: int
    fragmentation_ratio: float
    allocation_count: int
    free_count: int


class PagedAllocator(Structure):
    """An allocator of page ids 0..max_pages-1, each allocated to one owner at a time.

    It holds no data; `page_size` is only a number for its owner.

    Parameters
    ----------
    page_size
        Tokens per page, 1..2**31-1.
    max_pages
        Number of pages, 1..2**31-1.

    Notes
    -----
    The free pages are a stack, so the page freed last, whose memory is still in the processor's cache, is allocated
    first. Memory: 5 bytes per page. A call is atomic under the GIL: threads may share an allocator.

    Examples
    --------
    >>> allocator = PagedAllocator(page_size=16, max_pages=8)
    >>> allocator.alloc(3)
    [0, 1, 2]
    >>> allocator.free([1])
    >>> allocator.alloc(2), allocator.stats().free_pages
    ([1, 3], 4)
    """

    _schema: ClassVar[files.Schema] = {"pages": (np.int64, 1)}

    def __init__(self, page_size: int, max_pages: int):
        page_size = arguments.integer("page_size", page_size, 1, MAX_PAGES)
        self._pages = kernels.new(page_size, arguments.integer("max_pages", max_pages, 1, MAX_PAGES))
        self._lock = threading.RLock()

    @property
    def arrays(self) -> kernels.Arrays:
        """The pool, as `Arrays(pages)`: int64 (n,), laid out as `llmds.kernels.paged_allocator` describes.

        The array is the allocator's own and writable, for kernels and your own `@njit` functions. It is never
        replaced, so it stays valid as long as the allocator. O(1).
        """
        return kernels.Arrays(self._pages)

    def alloc(self, num_pages: int) -> list[int]:
        """Allocate pages. O(num_pages).

        Parameters
        ----------
        num_pages
            Number of pages, 0 or more.

        Returns
        -------
        list of int
            The ids of the pages.

        Raises
        ------
        OutOfPagesError
            Fewer pages are free. Nothing is allocated then.
        """
        return self._alloc(arguments.integer("num_pages", num_pages, 0)).tolist()

    def free(self, page_ids: list[int]) -> None:
        """Free pages. O(len(page_ids)).

        Parameters
        ----------
        page_ids
            Ids of allocated pages.

        Raises
        ------
        ValueError
            A page is not allocated or occurs twice. Nothing is freed then.
        """
        self.free_many(page_ids)  # type: ignore[arg-type]

    def alloc_many(self, counts: ArrayLike) -> np.ndarray:
        """Allocate pages for m owners. O(sum).

        Parameters
        ----------
        counts
            Number of pages for each owner, int64 (m,), 0 or more.

        Returns
        -------
        ndarray
            The ids of the pages, int32 (sum,), those of each owner together, in order.

        Raises
        ------
        OutOfPagesError
            Fewer pages are free than the sum. Nothing is allocated then.
        """
        counts = arguments.integers("counts", counts, 0)
        return self._alloc(int(counts.sum(dtype=object)) if counts.size else 0)

    def free_many(self, page_ids: ArrayLike) -> None:
        """Free many pages, as `free` does. O(m).

        Parameters
        ----------
        page_ids
            Ids of allocated pages, int64 (m,).

        Raises
        ------
        ValueError
            A page is not allocated or occurs twice. Nothing is freed then.
        """
        page_ids = arguments.integers("page_ids", page_ids)
        wrong = kernels.free(self._pages, page_ids)
        if wrong >= 0:
            raise ValueError(f"page_ids must be allocated and distinct, page_ids[{wrong}] = {page_ids[wrong]} is not")

    def stats(self) -> PageStats:
        """Return counts and fragmentation as `PageStats`. O(max_pages)."""
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
        """Sort the free pages, so that pages allocated next are contiguous. O(max_pages).

        Allocated pages do not change.
        """
        kernels.defragment(self._pages)

    def compact(self) -> tuple[np.ndarray, np.ndarray]:
        """Move the allocated pages to the ids 0..allocated-1. O(max_pages).

        For owners that can move the data and rewrite their page tables: page old_ids[i] is free from now on, and its
        owner owns new_ids[i], which was free, instead. Other pages stay.

        Returns
        -------
        old_ids, new_ids
            Both int32 (moves,).
        """
        return kernels.compact(self._pages)

    @property
    def page_size(self) -> int:
        """Tokens per page."""
        return int(self._pages[kernels.PAGE_SIZE])

    @property
    def max_pages(self) -> int:
        """Number of pages."""
        return int(self._pages[kernels.MAX_PAGES])

    def __len__(self) -> int:
        """Return the number of allocated pages. O(1)."""
        return self.max_pages - int(self._pages[kernels.FREE])

    def __contains__(self, page_id: object) -> bool:
        """Return whether the page is allocated. O(1)."""
        if not isinstance(page_id, (int, np.integer)) or isinstance(page_id, bool):
            return False
        _, _, state = kernels.parts(self._pages)
        return bool(0 <= page_id < self.max_pages and state[page_id] == kernels.ALLOCATED)

    def __repr__(self) -> str:
        """Return a short description."""
        return f"PagedAllocator(page_size={self.page_size}, max_pages={self.max_pages}, {len(self)} allocated)"

    def _alloc(self, n: int) -> np.ndarray:
        # more than there are may be too large for an array
        out = np.empty(min(n, self.max_pages), np.int32)
        free = kernels.alloc(self._pages, out) if n <= self.max_pages else int(self._pages[kernels.FREE])
        if free >= 0:
            raise OutOfPagesError(f"{n} pages are needed, {free} of {self.max_pages} are free")
        return out

    def _to_arrays(self) -> files.Arrays:
        return {"pages": self._pages}

    @classmethod
    def _from_arrays(cls, arrays: files.Arrays, **given: Any) -> "Self":
        files.expect(bool(kernels.well_formed(arrays["pages"])), "its counts and length do not fit together")
        self = cls.__new__(cls)
        self._pages, self._lock = arrays["pages"], threading.RLock()
        return self

    def _fault(self) -> str | None:
        fault = int(kernels.first_fault(self._pages))
        if fault == -1:
            return None
        return "free pages and counts disagree" if fault < 0 else f"page {fault} is both free and allocated, or neither"
