"""Documents end to end in one byte array, their ids in a table of strings (see `strings`).

State, owned by the caller:
    head     int64 (HEAD,)        head[COUNT] is the number of documents
    data     uint8 (capacity,)    the UTF-8 bytes of each document: id, title, text
    offsets  int64 (PARTS * rows + 1,)  where those begin; the id of row r is string PARTS * r, and so on
    buckets  int64 (power of 2,)  the table of the ids, with stride PARTS
"""

from . import strings
from .compiling import njit

HEAD, COUNT = 1, 0
PARTS, ID, TITLE, TEXT = 3, 0, 1, 2


@njit(cache=True)
def append(head, data, offsets, buckets, more, more_offsets):
    """Add m documents, packed as the state is (uint8 (bytes,), int64 (PARTS * m + 1,)), whose ids are new and distinct.

    The caller has seen to it that they fit. O(bytes).
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
