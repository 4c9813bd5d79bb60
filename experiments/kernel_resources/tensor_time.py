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


class _Step(NamedTuple):
    """What an instruction needs and does."""

    waits: tuple[int, ...]
    pipe: str | None
    interval: int  # until the pipe takes the next
    clears: tuple[int, ...]  # scoreboards
    latency: float
    stall: int
    product: int  # cycles, or 0
    ends: bool  # a group of products
    under_way: int | None  # groups that may be, behind it
    turn: str  # "wait", "arrive", or ""


class _Warp:
    """Where one warp is."""

    def __init__(self, number: int, waits_first: bool):
        self.number, self.place, self.passes = number, 0, 0
        self.clear = [0.0] * 8  # when each scoreboard is
        self.pending: collections.deque = (
            collections.deque()
        )  # products not begun: cycles, end of a group, when
        self.pending_cycles = 0
        self.groups_under_way = 0
        self.arrivals, self.waits = number, 0  # of turns; the second has given the first its turn
        self.waits_first = waits_first  # for its turn, before it begins
        self.blocked = False


class _Scheduler:
    def __init__(self, loop, consumers, assumption):
        self.assumption = assumption
        exchange = turns(loop)
        # Two waits a pass: warps meet before each kind of product, and the second begins a meeting late.
        meets = sum("TRYWAIT" in loop[i].opcode for i in exchange) > 1
        self.steps = [
            _Step(
                one.waits,
                *PIPES.get(one.name, (None, 0)),
                tuple(i for i in (one.read, one.write) if i is not None),
                LATENCY[one.name] * assumption.latency,
                max(one.stall, 1),
                one.columns // 2 if one.is_product else 0,
                "gsb0" in one.operands,
                one.under_way,
                "" if i not in exchange else "wait" if "TRYWAIT" in one.opcode else "arrive",
            )
            for i, one in enumerate(loop)
        ]
        self.warps = [_Warp(n, meets and n == 1) for n in range(consumers)]
        self.events: list[tuple[float, int, _Warp | None]] = []
        self.order = itertools.count()
        self.issue_free = 0.0
        self.pipe_free: dict[str, float] = dict.fromkeys((pipe for pipe, _ in PIPES.values()), 0.0)
        self.running: tuple[_Warp, int, bool] | None = (
            None  # whose product, its cycles, whether it ends a group
        )
        self.last = consumers - 1  # warp whose product was begun last
        self.work = 0  # cycles of products that have ended

    def run(self) -> float:
        """The share of time in which the tensor core works, once the loop has settled."""
        began: tuple[float, int] | None = None
        for warp in self.warps:
            self._at(warp.number * self.assumption.apart, warp)
        while self.events:
            now, _, warp = heapq.heappop(self.events)
            if warp is None:
                self._product_ended(now)
                continue
            before = warp.passes
            self._issue(now, warp)
            if warp.passes != before:
                passes = min(warp.passes for warp in self.warps)
                if passes >= _WARM and began is None:
                    began = now, self.work
                if passes >= _PASSES and began:
                    return (self.work - began[1]) / (now - began[0])
        raise ValueError(
            "warps wait for each other for ever: the turns in this loop are not understood"
        )

    def _at(self, time: float, warp: _Warp | None) -> None:
        heapq.heappush(self.events, (time, next(self.order), warp))

    def _issue(self, now: float, warp: _Warp) -> None:
        step = self.steps[warp.place]
        ready = max(now, self.issue_free)
        for scoreboard in step.waits:
            ready = max(ready, warp.clear[scoreboard])
        if step.pipe:
            ready = max(ready, self.pipe_free[step.pipe])
        if ready > now:
            self._at(ready, warp)
            return
        if self._must_wait(step, warp):
            warp.blocked = True
            return
        self.issue_free = now + 1
        if step.pipe:
            self.pipe_free[step.pipe] = now + step.interval
        for scoreboard in step.clears:
            warp.clear[scoreboard] = now + step.latency
        if step.product:
            warp.pending.append((step.product, step.ends, now))
            warp.pending_cycles += step.product
            warp.groups_under_way += step.ends
            if self.running is None:
                self._begin(now)
        if step.turn == "arrive":
            warp.arrivals += 1
            self._wake(now)
        warp.place += 1
        if warp.place == len(self.steps):
            warp.place, warp.passes = 0, warp.passes + 1
        self._at(now + step.stall, warp)

    def _must_wait(self, step: _Step, warp: _Warp) -> bool:
        """For products, for room for one more, or for its turn."""
        if warp.waits_first:
            if not self._has_turn(warp):
                return True
            warp.waits_first = False
        if step.product:
            return warp.pending_cycles >= self.assumption.ahead
        if step.under_way is not None:
            return warp.groups_under_way > step.under_way
        return step.turn == "wait" and not self._has_turn(warp)

    def _has_turn(self, warp: _Warp) -> bool:
        if min(w.arrivals for w in self.warps if w is not warp) <= warp.waits:
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
        warp.pending_cycles -= cycles
        self.last, self.running = warp.number, (warp, cycles, ends)
        self._at(now + cycles, None)
        self._wake(now)  # there is room for one more

    def _product_ended(self, now: float) -> None:
        assert self.running
        warp, cycles, ends = self.running
        warp.groups_under_way -= ends
        self.work += cycles
        self.running = None
        self._begin(now)
        self._wake(now)

    def _wake(self, now: float) -> None:
        for warp in self.warps:
            if warp.blocked:
                warp.blocked = False
                self._at(now, warp)
