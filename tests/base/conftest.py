"""Both ways of reading a file."""

import pytest


@pytest.fixture(params=[False, True], ids=["read", "mmap"])
def mmap(request):
    """Both ways of reading."""
    return request.param
