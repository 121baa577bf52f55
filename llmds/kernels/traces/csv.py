"""Lines of CSV as the Azure traces have them, read from bytes."""

import numpy as np

from ..compiling import njit_no_nrt
from .trace import MAX_TOKENS

OK, TIME, INPUT, OUTPUT, COLUMNS = 0, 1, 2, 3, 4
_SECOND = np.int64(1_000_000_000)  # ns
_COMMA, _LINE, _RETURN, _SPACE, _LETTER_T, _LETTER_Z = 44, 10, 13, 32, 84, 90
_DOT, _COLON, _DASH, _PLUS, _ZERO = 46, 58, 45, 43, 48


@njit_no_nrt(cache=True, nogil=True)
def azure_rows(text, at, first, stop, nanoseconds, inputs, outputs):
    """Read lines into rows first..stop-1, from text[at] on.

    Return (OK, where the next line begins, stop), or (what is wrong, where the line that is wrong begins, its row).
    text uint8; nanoseconds int64 (n,): times since 1970; inputs, outputs int64 (n,): tokens of prompt and answer.
    There must be so many lines; the last may lack its line end. O(bytes).
    """
    end = text.shape[0]
    for row in range(first, stop):
        begin = at
        at, time = _time(text, at)
        if at < 0 or at >= end or text[at] != _COMMA:
            return TIME, begin, row
        at, tokens = _integer(text, at + 1)
        if at < 0 or tokens < 1:
            return INPUT, begin, row
        if at >= end or text[at] != _COMMA:
            return COLUMNS, begin, row
        at, answer = _integer(text, at + 1)
        if at < 0:
            return OUTPUT, begin, row
        if at < end and text[at] == _RETURN:
            at += 1
        if at < end and text[at] != _LINE:
            return COLUMNS, begin, row
        at += 1
        nanoseconds[row], inputs[row], outputs[row] = time, tokens, answer
    return OK, at, stop


@njit_no_nrt(cache=True)
def _integer(text, at):
    """Return (end, value) of the number in 0..MAX_TOKENS that begins at `at`; (-1, 0) if there is none."""
    begin, value = at, np.int64(0)
    while at < text.shape[0] and _is_digit(text[at]):
        value = 10 * value + text[at] - _ZERO
        at += 1
        if value > MAX_TOKENS:
            return np.int64(-1), np.int64(0)
    return (np.int64(-1), np.int64(0)) if at == begin else (at, value)


@njit_no_nrt(cache=True)
def _time(text, at):
    """Return (end, ns since 1970) of "YYYY-MM-DD hh:mm:ss[.fffffffff][+hh:mm]"; (-1, 0) if there is none."""
    wrong = np.int64(-1), np.int64(0)
    end = text.shape[0]
    if at + 19 > end:
        return wrong
    year = 100 * _pair(text, at) + _pair(text, at + 2)
    month, day = _pair(text, at + 5), _pair(text, at + 8)
    hour, minute, second = _pair(text, at + 11), _pair(text, at + 14), _pair(text, at + 17)
    if min(_pair(text, at), _pair(text, at + 2), month, day, hour, minute, second) < 0:
        return wrong
    dashes = text[at + 4] == _DASH and text[at + 7] == _DASH
    between = text[at + 10] == _SPACE or text[at + 10] == _LETTER_T
    if not (dashes and between and text[at + 13] == _COLON and text[at + 16] == _COLON):
        return wrong
    if not (1970 <= year < 2262 and 1 <= month <= 12 and 1 <= day <= _days_of(year, month)):
        return wrong
    if hour > 23 or minute > 59 or second > 59:
        return wrong
    at += 19
    fraction = np.int64(0)
    if at < end and text[at] == _DOT:
        at += 1
        unit, begin = _SECOND, at
        while at < end and _is_digit(text[at]):
            unit //= 10
            fraction += unit * (text[at] - _ZERO)  # a tenth decimal would add nothing
            at += 1
        if at == begin or at > begin + 9:
            return wrong
    offset = np.int64(0)
    if at < end and text[at] == _LETTER_Z:
        at += 1
    elif at < end and (text[at] == _PLUS or text[at] == _DASH):
        if at + 6 > end or text[at + 3] != _COLON:
            return wrong
        hours, minutes = _pair(text, at + 1), _pair(text, at + 4)
        if hours < 0 or minutes < 0 or hours > 23 or minutes > 59:
            return wrong
        offset = 60 * hours + minutes
        if text[at] == _DASH:
            offset = -offset
        at += 6
    days = _days_before(year, month) + day - 1
    return at, (60 * (60 * (24 * days + hour) + minute - offset) + second) * _SECOND + fraction


@njit_no_nrt(cache=True)
def _pair(text, at):
    """Return the number of the two digits at `at`, -1 if they are none."""
    if not (_is_digit(text[at]) and _is_digit(text[at + 1])):
        return np.int64(-1)
    return 10 * np.int64(text[at] - _ZERO) + np.int64(text[at + 1] - _ZERO)


@njit_no_nrt(cache=True)
def _is_digit(byte):
    """Return whether a byte is an ASCII digit."""
    return _ZERO <= byte <= _ZERO + 9


@njit_no_nrt(cache=True)
def _days_of(year, month):
    """Return the days of a month."""
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 + ((month + (month >> 3)) & 1)


@njit_no_nrt(cache=True)
def _days_before(year, month):
    """Return the days from 1970-01-01 to the first of a month (Gregorian calendar, computed in years from March on)."""
    shifted = year - (month <= 2)
    of_year = (153 * ((month + 9) % 12) + 2) // 5
    return 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + of_year - 719468
