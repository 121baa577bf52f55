"""Strings as UTF-8 bytes, many of them end to end in one array.

State, owned by the caller:
    data     uint8 (total,), the bytes of all strings
    offsets  int64 (n + 1,), string i is data[offsets[i]:offsets[i + 1]]
"""

from numba import njit


@njit(cache=True)
def characters_to_bytes(data, offsets):
    """Turn `offsets`, counted in characters, into offsets counted in bytes, in place. O(total).

    `data` must be well-formed UTF-8 of exactly offsets[-1] characters.
    """
    character = 0
    entry = 0
    for position in range(data.shape[0]):
        if data[position] & 0xC0 != 0x80:  # the first byte of a character
            while entry < offsets.shape[0] and offsets[entry] == character:
                offsets[entry] = position
                entry += 1
            character += 1
    while entry < offsets.shape[0]:
        offsets[entry] = data.shape[0]
        entry += 1
