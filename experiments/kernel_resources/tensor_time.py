"""A simple model of how busy a kernel keeps the tensor cores: its main loop, played on a quarter of a multiprocessor.

Each of the four schedulers of a multiprocessor has one warp of every consumer warpgroup, a quarter of the tensor cores
and pipes of its own. All four do the same, so one is played, instruction by instruction:

- A product of 64 x N x 16 takes N / 2 cycles: 4,096 floating-point operations of 16 bits in a cycle of a
  multiprocessor. The tensor core does a warp's products in order and never stops while it has one. Products of N = 64
  whose operands both lie in shared memory need all of its bandwidth and are taken to run at the full rate too.
- One instruction is issued in a cycle. A warp waits as many cycles behind each as ptxas has written (it knows what each
  result takes), for scoreboards, and for its pipe, which takes an instruction every so many cycles (`PIPES`: the
  throughput table of the CUDA programming guide, for compute capability 9.0).
- Results without a fixed time come after `LATENCY` cycles, rounded values of the kind that microbenchmarks of Ampere
  and Hopper give (arXiv:2208.11174, arXiv:2402.13499); loads hit the first cache.
- Tiles of keys and values are always there, tests that can spare work spare it, and nothing else takes time: neither
  memory, nor the start and end of a list, nor the limit of power. What comes out is thus a ceiling.
- A barrier whose address stays the same in the loop belongs to no ring of tiles: by it warpgroups take turns.

Four things are not known and are varied (`ASSUMPTIONS`): how far products may be issued ahead, whether the tensor core
takes products in the order of issue or from each warp in turn, whether warps start together, and whether latencies are
half as long again. Products are issued some hundred cycles ahead at least: overlap inside a warpgroup, of which
FlashAttention 3 reports 570 -> 661 TFLOPS (arXiv:2407.08608), needs that.
"""

import collections
import dataclasses
import heapq
import itertools
import re
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from experiments.kernel_resources.sass import Instruction

PIPES = {  # name of an instruction -> pipe, cycles until it takes the next
    "MUFU": ("special functions", 8),
    **dict.fromkeys(("FFMA", "FMUL", "FADD"), ("multiply and add", 1)),
    "IMAD": ("multiply and add", 2),
    **dict.fromkeys(("SHFL", "LDS", "STS", "LDG", "LDSM", "STSM"), ("loads and shuffles", 4)),
    **dict.fromkeys(
        (
            *(
                "FMNMX",
                "FSEL",
                "FSETP",
                "F2FP",
                "ISETP",
                "IADD3",
                "LOP3",
                "SHF",
                "LEA",
                "SEL",
                "PRMT",
            ),
            *("VIADD", "VIMNMX", "VIADDMNMX", "PLOP3", "SGXT"),
        ),
        ("comparisons and integers", 2),
    ),
}
LATENCY = collections.defaultdict(lambda: 20, SHFL=24, LDS=30, LDG=40)  # cycles from issue


class Assumption(NamedTuple):
    """What is not known of the hardware.

    Attributes:
      ahead: cycles of products that a warp may have issued and not seen begun.
      in_turn: whether the tensor core takes one product of each warp in turn, or all in the order of issue.
      apart: cycles between the starts of the warps.
      latency: factor on `LATENCY`.
    """

    ahead: int
    in_turn: bool
    apart: int
    latency: float


ASSUMPTIONS = tuple(
    itertools.starmap(
        Assumption, itertools.product((256, 1024), (False, True), (0, 700), (1.0, 1.5))
    )
)
_PASSES, _WARM = 12, 4  # through the loop: all, and those before it is measured


@dataclasses.dataclass(frozen=True)
class Share:
    """Part of the time in which the tensor cores work, under all assumptions."""

    lowest: float
    median: float
    highest: float


def share(loop: Sequence[Instruction], consumers: int) -> Share:
    """The model's share of tensor-core time for a main loop that so many warpgroups run."""
    found = [busy(loop, consumers, assumption) for assumption in ASSUMPTIONS]
    return Share(min(found), statistics.median(found), max(found))


def turns(loop: Sequence[Instruction]) -> list[int]:
    """Places of the waits and arrivals by which warpgroups take turns."""
    changed = set()
    for one in loop:
        for operand in one.operands[:2]:
            if match := re.fullmatch(r"(U?R)(\d+)", operand):
                wide = 2 if re.search(r"\.(64|WIDE)\b", one.opcode) else 1
                changed |= {f"{match[1]}{int(match[2]) + i}" for i in range(wide)}
            if "[" in operand or not re.match(r"!?U?P[\dT]", operand):
                break  # only predicates stand before a result
    found = []
    for place, one in enumerate(loop):
        if "TRYWAIT" in one.opcode or one.opcode.startswith("SYNCS.ARRIVE"):
            address = next(x for x in one.operands if x.startswith("["))
            if not changed & set(re.findall(r"U?R\d+", address)):
                found.append(place)
    return found


def busy(loop: Sequence[Instruction], consumers: int, assumption: Assumption) -> float:
    """The share under one assumption."""
    return _Scheduler(loop, consumers, assumption).run()


class _Warp:
    """Where one warp is."""

    def __init__(self, number: int, waits_first: bool):
        self.number, self.place, self.passes = number, 0, 0
        self.clear = [0] * 8  # when each scoreboard is
        self.pending: collections.deque = (
            collections.deque()
        )  # products not begun: (cycles, end of a group, when)
        self.groups_issued = self.groups_done = 0
        self.arrivals, self.waits = number, 0  # of turns; the second has given the first its turn
        self.waits_first = waits_first  # for its turn, before it begins
        self.blocked = False


class _Scheduler:
    def __init__(self, loop, consumers, assumption):
        self.loop, self.assumption = loop, assumption
        exchange = turns(loop)
        self.turns = set(exchange)
        # Two waits a pass: warps meet before each kind of product, and the second begins a meeting late.
        meets = sum("TRYWAIT" in loop[i].opcode for i in exchange) > 1
        self.warps = [_Warp(n, meets and n == 1) for n in range(consumers)]
        self.events: list[tuple[float, int, _Warp | None]] = []
        self.order = itertools.count()
        self.issue_free, self.pipe_free = 0, collections.Counter()
        self.running: tuple[_Warp, bool] | None = (
            None  # whose product the tensor core does; ends a group
        )
        self.last = consumers - 1  # warp that was served last
        self.work = 0  # cycles of products that have ended
        self.measured_from: tuple[int, int] | None = None

    def run(self) -> float:
        for warp in self.warps:
            self._at(warp.number * self.assumption.apart, warp)
        while self.events:
            now, _, warp = heapq.heappop(self.events)
            if warp is None:
                self._product_ended(now)
            else:
                self._issue(now, warp)
            passes = min(warp.passes for warp in self.warps)
            if passes >= _WARM and self.measured_from is None:
                self.measured_from = now, self.work
            if passes >= _PASSES and self.measured_from:
                began, work = self.measured_from
                return (self.work - work) / (now - began)
        raise ValueError(
            "warps wait for each other for ever; the turns in this loop are not understood"
        )

    def _at(self, time: float, warp: _Warp | None) -> None:
        heapq.heappush(self.events, (time, next(self.order), warp))

    def _issue(self, now: float, warp: _Warp) -> None:
        one = self.loop[warp.place]
        pipe, interval = PIPES.get(one.name, (None, 0))
        ready = max([now, self.issue_free, *(warp.clear[i] for i in one.waits)])
        if pipe:
            ready = max(ready, self.pipe_free[pipe])
        if ready > now:
            self._at(ready, warp)
            return
        if self._must_wait(one, warp):
            warp.blocked = True
            return
        self.issue_free = now + 1
        if pipe:
            self.pipe_free[pipe] = now + interval
        for scoreboard in (one.read, one.write):
            if scoreboard is not None:
                warp.clear[scoreboard] = now + self.assumption.latency * LATENCY[one.name]
        if one.is_product:
            ends = "gsb0" in one.operands
            warp.pending.append((one.columns // 2, ends, now))
            warp.groups_issued += ends
            if self.running is None:
                self._begin(now)
        if warp.place in self.turns and "ARRIVE" in one.opcode:
            warp.arrivals += 1
            self._wake(now)
        warp.place += 1
        if warp.place == len(self.loop):
            warp.place, warp.passes = 0, warp.passes + 1
        self._at(now + max(one.stall, 1), warp)

    def _must_wait(self, one: Instruction, warp: _Warp) -> bool:
        """For products, for room for one more, or for its turn."""
        if warp.waits_first:
            if not self._has_turn(warp):
                return True
            warp.waits_first = False
        if one.is_product:
            return sum(cycles for cycles, *_ in warp.pending) >= self.assumption.ahead
        if one.under_way is not None:
            return warp.groups_issued - warp.groups_done > one.under_way
        if warp.place in self.turns and "TRYWAIT" in one.opcode:
            return not self._has_turn(warp)
        return False

    def _has_turn(self, warp: _Warp) -> bool:
        others = [w.arrivals for w in self.warps if w is not warp]
        if min(others) <= warp.waits:
            return False
        warp.waits += 1
        return True

    def _begin(self, now: float) -> None:
        waiting = [warp for warp in self.warps if warp.pending]
        if not waiting:
            return
        if self.assumption.in_turn:
            warp = min(waiting, key=lambda w: (w.number - self.last - 1) % len(self.warps))
        else:
            warp = min(waiting, key=lambda w: w.pending[0][2])
        cycles, ends, _ = warp.pending.popleft()
        self.last, self.running = warp.number, (warp, ends)
        self.cycles = cycles
        self._at(now + cycles, None)
        self._wake(now)  # there is room for one more

    def _product_ended(self, now: float) -> None:
        warp, ends = self.running
        warp.groups_done += ends
        self.work += self.cycles
        self.running = None
        self._begin(now)
        self._wake(now)

    def _wake(self, now: float) -> None:
        for warp in self.warps:
            if warp.blocked:
                warp.blocked = False
                self._at(now, warp)
