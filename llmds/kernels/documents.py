"""Documents end to end in one byte array, their ids in a table of strings (see `strings`).

State (`Arrays`), owned by the caller:
    head     int64 (HEAD,)        head[COUNT] is the number of documents
    data     uint8 (capacity,)    the UTF-8 bytes of each document: id, title, text
    offsets  int64 (PARTS * rows + 1,)  where these begin; part p (ID, TITLE or TEXT) of row r is
             data[offsets[PARTS * r + p]:offsets[PARTS * r + p + 1]]
    buckets  int64 (power of 2,)  the table of the ids, with stride PARTS
"""

from typing import NamedTuple

import numpy as np

from . import strings
from .compiling import njit

HEAD, COUNT = 1, 0
PARTS, ID, TITLE, TEXT = 3, 0, 1, 2


class Arrays(NamedTuple):
    """The arrays of a Documents, in the order in which `append` takes them."""

    head: np.ndarray  # int64 (HEAD,), as above
    data: np.ndarray  # uint8 (capacity,)
    offsets: np.ndarray  # int64 (PARTS * rows + 1,)
    buckets: np.ndarray  # int64 (power of 2,)


@njit(cache=True)
def append(head, data, offsets, buckets, more, more_offsets):
    """Add m documents whose ids are new and distinct. O(bytes).

    They are packed as those present are: more uint8 (bytes,), more_offsets int64 (PARTS * m + 1,). The caller makes
    sure that the arrays have room for them.
    """
    count = head[COUNT]
    begin = offsets[PARTS * count]
    documents = (more_offsets.shape[0] - 1) // PARTS
    for position in range(more_offsets[PARTS * documents]):
        data[begin + position] = more[position]
    for entry in range(PARTS * documents):
        offsets[PARTS * count + entry + 1] = begin + more_offsets[entry + 1]
    for row in range(count, count + documents):
        strings.insert(buckets, row, strings.tag(data, offsets[PARTS * row], offsets[PARTS * row + 1]))
    head[COUNT] = count + documents
