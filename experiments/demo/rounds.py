"""Times several programs in rounds, and decides what their spread allows to say.

Another process on the machine slows whatever runs beside it. So every method is timed right beside dense, again in
each round, and compared with that dense run alone. The ratios of n rounds lie on both sides of their true median
unless all fall on one side of it, which happens in 2 of 2**n cases whatever the noise: their range holds the true
median with a chance of 1 - 2 ** (1 - n), seven in eight for four rounds.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

ROUNDS = 4
WIDEST = 0.25
"""A range wider than this share of its median allows no number."""

LEAST = 0.05
"""What is not in every round faster, or in every round slower, by so much is not told apart from dense."""

Verdict = Literal["number", "faster", "slower", "unclear"]

READING = {
    "unclear": "in one round at least too near to dense, or on the other side of it, to be called faster or slower",
    "faster": "than dense in every round, but by how much differs too much between rounds for a number",
    "slower": "than dense in every round, but by how much differs too much between rounds for a number",
    "unsteady": "the time differs too much between rounds for a number",
}
"""What stands in place of a number, and what it means."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median of several measurements, and their range.

    Attributes:
      median: of all.
      low: the smallest.
      high: the largest.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of `values`, at least one."""
        return cls(statistics.median(values), min(values), max(values))

    def scaled(self, factor: float) -> "Spread":
        """All three, times a positive factor."""
        return Spread(factor * self.median, factor * self.low, factor * self.high)

    @property
    def steady(self) -> bool:
        """Whether the range is narrow enough for the median to be quoted."""
        return self.high - self.low <= WIDEST * self.median


def verdict(speedup: Spread) -> Verdict:
    """What a speed-up over dense allows to say.

    "unclear" where the range holds 1 or comes near it, so that the two cannot be told apart; else "number" where it is
    narrow, and where it is wide only whether the method is "faster" or "slower".
    """
    if speedup.low < 1 + LEAST and speedup.high > 1 - LEAST:
        return "unclear"
    if speedup.steady:
        return "number"
    return "faster" if speedup.low > 1 else "slower"


def beside(keys: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The turns of a round: ("sta", "dense", "adaspa"), ... so that every method has dense right beside it."""
    for i in range(0, len(keys), 2):
        first, *second = keys[i : i + 2]
        yield first, "dense", *second


def in_rounds(
    timers: Mapping[str, Callable[[], float]],
    *,
    rounds: int = ROUNDS,
    advance: Callable[[str], None] = lambda status: None,
) -> dict[str, list[tuple[float, float]]]:
    """(own time, time of dense beside it) of every round, by key; without "dense" itself.

    Args:
      timers: "dense" and the methods; each runs its program once, compiled before, and returns the time it took.
      rounds: how often every method is timed.
      advance: called after each turn with what ran.
    """
    keys = [key for key in timers if key != "dense"]
    pairs: dict[str, list[tuple[float, float]]] = {key: [] for key in keys}
    for _ in range(rounds):
        for turn in beside(keys):
            times = {}
            for key in turn:
                times[key] = timers[key]()
                advance(key)
            for key in times.keys() - {"dense"}:
                pairs[key].append((times[key], times["dense"]))
    return pairs


def spread_of(row: Mapping[str, Any], field: str) -> Spread | None:
    """The measurement of several rounds that a row of results.json has under `field`, or None."""
    value = row.get(field)
    if not isinstance(value, Mapping) or value.keys() != {"median", "low", "high"}:
        return None
    numbers = value.values()
    known = all(isinstance(x, int | float) and 0 < x < float("inf") for x in numbers)
    return Spread(**value) if known else None


def word_for(spread: Spread, *, speedup: bool) -> str | None:
    """The word of `READING` that stands in place of the median; None where the spread allows the number."""
    if speedup:
        said = verdict(spread)
        return None if said == "number" else said
    return None if spread.steady else "unsteady"
