"""Figure: a published number beside ours, with a verdict. Number: a value that comes from print."""

import dataclasses
import math

import numpy as np

BY_HAND = "by hand"


@dataclasses.dataclass(frozen=True)
class Number:
    """A value, and how far off it may be because it comes from rounded print."""

    value: float
    spread: float = 0.0

    def __add__(self, other):
        other = number(other)
        return Number(self.value + other.value, self.spread + other.spread)

    def __mul__(self, other):
        other = number(other)
        spread = abs(self.value) * other.spread + abs(other.value) * self.spread
        return Number(self.value * other.value, spread)

    def __sub__(self, other):
        return self + number(other) * -1.0

    def __truediv__(self, other):
        other = number(other)
        return self * Number(1 / other.value, other.spread / other.value**2)


def number(x) -> Number:
    """`x`: a Number, a string as printed (half a unit of its last digit off), or an exact value."""
    if isinstance(x, Number):
        return x
    return Number(float(x), last_digit(x) / 2 if isinstance(x, str) else 0.0)


def last_digit(printed: str) -> float:
    """The unit of the last digit: 0.01 for "1.78"."""
    return 10.0 ** -len(printed.partition(".")[2])


@dataclasses.dataclass(frozen=True)
class Figure:
    """One published figure.

    Attributes:
      system: "sta", "adaspa", "sparse-vdit" or "others".
      group: what is checked.
      name: which of them.
      computed: ours; an int is a count, which must agree to the last unit.
      printed: theirs, digit for digit; "< 5" is a bound and "80..90" a range.
      where: the place in the paper, or `BY_HAND`.
      note: what is wrong with a slip.
    """

    system: str
    group: str
    name: str
    computed: Number | float
    printed: str
    where: str
    note: str = ""
    is_count: bool = dataclasses.field(init=False, default=False)

    def __post_init__(self):
        object.__setattr__(self, "is_count", isinstance(self.computed, int | np.integer))
        object.__setattr__(self, "computed", number(self.computed))

    @property
    def is_bound(self) -> bool:
        """Whether print gives no value but a bound or a range."""
        return self.printed.startswith("<") or ".." in self.printed

    @property
    def difference(self) -> float:
        """Computed less printed; 0 for bounds."""
        return 0.0 if self.is_bound else self.computed.value - float(self.printed)

    @property
    def tolerance(self) -> float:
        """How far computed and printed may lie apart when both are right; 0 for bounds, counts."""
        if self.is_bound or self.is_count:
            return 0.0
        return last_digit(self.printed) / 2 + self.computed.spread

    @property
    def verdict(self) -> str:
        """exact, rounding, holds or slip: see `experiments.paper_figures`."""
        if self.is_bound:
            low, high = self._range()
            return "holds" if low <= self.computed.value <= high else "slip"
        unit = last_digit(self.printed)
        off, hair = self.difference, 1e-9 * max(1.0, abs(self.computed.value))
        if abs(off) <= (0.0 if self.is_count else unit / 2) + hair:
            return "exact"
        cut_off = not self.is_count and 0 < off < unit
        return "rounding" if abs(off) <= self.tolerance + hair or cut_off else "slip"

    def _range(self):
        low, dots, high = self.printed.partition("..")
        return (float(low), float(high)) if dots else (-math.inf, float(self.printed.lstrip("< ")))

    def show(self, value: float, *, sign: bool = False) -> str:
        """`value` with two digits more than are printed; counts as they are."""
        last = self.printed.lstrip("< ").rpartition("..")[2]
        digits = 0 if self.is_count else 2 + len(last.partition(".")[2])
        value = round(value, digits) + 0.0  # no "-0.00"
        return f"{value:{'+' if sign else ''}.{digits}f}"

    def to_dict(self) -> dict:
        """All of it, for JSON."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        own["computed"] = self.computed.value
        return own | {n: getattr(self, n) for n in ("difference", "tolerance", "verdict")}
