"""BM25: the table of its methods, and the parameters of an index. The formulas are in `kernels.inverted_index.bm25`."""

from typing import Any, NamedTuple

import numpy as np

from ..base import arguments
from ..kernels.inverted_index import bm25 as kernels


class Method(NamedTuple):
    """A method: its number in `kernels.inverted_index.bm25`, and its default `delta` (None: it has no delta)."""

    number: int
    delta: float | None = None


METHODS = {
    "lucene": Method(kernels.LUCENE),
    "robertson": Method(kernels.ROBERTSON),
    "atire": Method(kernels.ATIRE),
    "bm25+": Method(kernels.BM25_PLUS, delta=1.0),
    "bm25l": Method(kernels.BM25_L, delta=0.5),
}
_MOST = 1e6  # of k1 and delta


class Settings(NamedTuple):
    """The parameters of an index, checked."""

    k1: float
    b: float
    method: str
    delta: float

    @classmethod
    def of(cls, k1: Any, b: Any, method: Any, delta: Any) -> "Settings":
        """Check the arguments of an index. Raises ValueError for a method without an entry or without a formula."""
        arguments.one_of("method", method, METHODS)
        default = METHODS[method].delta
        if delta is not None and default is None:
            allowed = [repr(name) for name, each in METHODS.items() if each.delta is not None]
            raise ValueError(f"delta must be None unless method is {' or '.join(allowed)}, got method={method!r}")
        settings = cls(
            arguments.real("k1", k1, 0.0, _MOST),
            arguments.real("b", b, 0.0, 1.0),
            method,
            (default or 0.0) if delta is None else arguments.real("delta", delta, 0.0, _MOST),
        )
        settings.form(1.0)  # refuses a method without a formula
        return settings

    @property
    def number(self) -> int:
        """Number of the method in the kernels."""
        return METHODS[self.method].number

    def form(self, average: float) -> np.ndarray:
        """Return the constants of the formula, float32 (FORM,), for documents of this average length."""
        return kernels.form(self.number, self.k1, self.b, self.delta, average)

    def to_numbers(self) -> list[float]:
        """Return the four parameters for a file, the method as its number."""
        return [self.k1, self.b, self.number, self.delta]

    @classmethod
    def from_numbers(cls, numbers: list[float]) -> "Settings":
        """Return the parameters that `to_numbers` stored. Raises ValueError if they are out of range."""
        k1, b, number, delta = numbers
        known = {float(method.number): name for name, method in METHODS.items()}
        if number not in known:
            raise ValueError(f"method must be the number of one of {', '.join(map(repr, METHODS))}, got {number}")
        if not (0 <= k1 <= _MOST and 0 <= b <= 1 and 0 <= delta <= _MOST):
            raise ValueError("settings are out of range")
        return cls(k1, b, known[number], delta)
