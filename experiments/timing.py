"""Times programs in turns: many calls for each synchronisation, medians over rounds.

A device runs what it is given in order, so the clock of the host around n queued calls, n of them
long enough together that a launch and a synchronisation (tens of microseconds) do not matter, is
the device's time for n calls.
"""

import contextlib
import dataclasses
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

Timer = Callable[[int], float]
"""Runs a program n times, waits, and returns the seconds that took."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: the median over rounds, and the spread of the rounds.

    Attributes:
      latency_ms: median.
      fastest_ms: of all rounds.
      slowest_ms: of all rounds.
      calls: in a round, between two synchronisations.
      rounds: of all candidates in turns.
    """

    latency_ms: float
    fastest_ms: float
    slowest_ms: float
    calls: int
    rounds: int


def timer(program: Callable[..., Any], *arguments: Any) -> Timer:
    """A timer of a jitted function."""

    def run(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            result = program(*arguments)
        jax.block_until_ready(result)
        return time.perf_counter() - start

    return run


def race(
    timers: Mapping[str, Timer], *, rounds: int = 7, window_s: float = 0.06
) -> dict[str, Timing | Exception]:
    """Times every candidate once in each round, in order; one that fails has its error instead.

    Args:
      timers: by name.
      rounds: how many; the first calls, which compile, come before them.
      window_s: calls are repeated to fill so much time.
    """
    calls: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}
    results: dict[str, Timing | Exception] = {}
    for name, run in timers.items():
        try:
            run(1)
            calls[name] = max(1, min(round(window_s / max(run(1), 1e-6)), 1000))
            run(calls[name])
            seconds[name] = []
        except Exception as error:  # a baseline that cannot run here must not stop the others
            results[name] = error
    for _ in range(rounds):
        for name in list(seconds):
            try:
                seconds[name].append(1e3 * timers[name](calls[name]) / calls[name])
            except Exception as error:
                results[name] = error
                del seconds[name]
    for name, values in seconds.items():
        median = statistics.median(values)
        results[name] = Timing(median, min(values), max(values), calls[name], rounds)
    return {name: results[name] for name in timers}


@contextlib.contextmanager
def watched_clocks() -> Iterator[dict[str, float]]:
    """Fills the yielded dict, when the block ends, with what nvidia-smi saw meanwhile.

    Medians of the busy samples: sm_clock_mhz, memory_clock_mhz, power_w. Empty without nvidia-smi.
    """
    seen: dict[str, float] = {}
    query = "clocks.sm,clocks.mem,power.draw,utilization.gpu"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "-lms", "100"]
    with tempfile.TemporaryFile("w+") as file:
        try:
            watcher = subprocess.Popen(
                [*command, "-i", "0"], stdout=file, stderr=subprocess.DEVNULL
            )
        except OSError:
            yield seen
            return
        try:
            yield seen
        finally:
            watcher.terminate()
            watcher.wait()
            file.seek(0)
            seen.update(_medians(file.read()))


def _medians(text: str) -> dict[str, float]:
    rows = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # "[N/A]", or a line cut off
            rows.append([float(x) for x in line.split(",")])
    busy = [row for row in rows if len(row) == 4 and row[3] > 50]
    names = ("sm_clock_mhz", "memory_clock_mhz", "power_w")
    return {name: statistics.median(row[i] for row in busy) for i, name in enumerate(names) if busy}
