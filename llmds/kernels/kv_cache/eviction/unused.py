"""Functions that do nothing, for eviction policies that do not need them."""

from ...compiling import njit_no_nrt


@njit_no_nrt(cache=True)
def begin(pages, page):
    """Do nothing when a page has become findable."""


@njit_no_nrt(cache=True)
def attached(pages, tables, start, found, findable):
    """Do nothing when a sequence has been attached."""


@njit_no_nrt(cache=True)
def drop(pages, page):
    """Do nothing when a referenced page is about to be forgotten."""


@njit_no_nrt(cache=True)
def evicted(pages, page):
    """Do nothing when a page is evicted."""


@njit_no_nrt(cache=True)
def forgotten(pages, parent):
    """Do nothing when a page below `parent` has been forgotten."""
