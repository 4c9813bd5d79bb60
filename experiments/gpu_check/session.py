"""One run of parts of `gpu_check`: its clock, what it prints and what it records."""

import dataclasses
import functools
import importlib.metadata
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.gpu_check.flags import FAILED, GO_ON, NO_GPU, WRONG, Config, folder
from experiments.gpu_check.shapes import PEAK_TFLOPS, Case
from experiments.record import Run
from experiments.timing import Timer, Timing, race, watched_clocks
from pallas_kernels.block_mass.api import IMPLEMENTATIONS as BLOCK_MASS
from pallas_kernels.block_sparse_attention.api import IMPLEMENTATIONS as BLOCK_SPARSE
from pallas_kernels.dense_attention.api import IMPLEMENTATIONS as DENSE

OPERATIONS = {"block_sparse_attention": BLOCK_SPARSE, "dense_attention": DENSE, "block_mass": BLOCK_MASS}  # fmt: skip
Item = TypeVar("Item")
BASELINES = ("torch", "flash_attn", "FlexAttention", "dense cudnn")  # how others' candidates begin


class Session:
    """Prints and records; knows what can run here and how much time is left."""

    def __init__(self, config: Config):
        self.config = config
        self.seed = config.seed if config.seed is not None else int.from_bytes(os.urandom(4))
        self.on_gpu = jax.default_backend() == "gpu"
        if not self.on_gpu and not config.dry_run:
            print(
                "gpu-check needs an NVIDIA GPU, and jax sees none; make gpu-check ARGS=--dry-run does small problems "
                "on any machine",
                file=sys.stderr,
            )
            sys.exit(NO_GPU)
        self.run = None
        if config.record:
            settings = dataclasses.asdict(config) | {"seed": self.seed, "machine": machine()}
            dirty = config.allow_dirty or config.dry_run
            self.run = Run.start(
                "gpu_check", settings, allow_dirty=dirty, folder=folder(config.dry_run)
            )
        self.failures: list[str] = []
        self.exit_code = 0
        self.begin("")
        print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, seed {self.seed}")
        print(", ".join(f"{name} {value}" for name, value in machine().items()))

    def begin(self, part: str) -> None:
        """Starts the clock of a part."""
        self.part, self.started = part, time.monotonic()
        if part:
            print(f"\n== {part}", flush=True)

    def in_time(self, work: Iterable[tuple[str, Item]]) -> Iterator[Item]:
        """What the wanted names stand for, until the part's time is used up; says what is left then.

        Args:
          work: (name of a problem, for --case; anything), a name as often as it has work.
        """
        wanted = [pair for pair in work if not self.config.case or pair[0] in self.config.case]
        for i, (_, item) in enumerate(wanted):
            if time.monotonic() - self.started > self.config.budget_s:
                left = " ".join(dict.fromkeys(name for name, _ in wanted[i:]))
                again = "" if self.part != "check" else f" --seed {self.seed}"
                print(f"{GO_ON}--part {self.part} --case {left}{again}")
                return
            yield item

    def cases(self, names: Iterable[str], table: Mapping[str, Case]) -> Iterator[Case]:
        """The wanted problems among `names`, until the part's time is used up."""
        for case in self.in_time((name, table[name]) for name in names):
            yield case.small() if self.config.dry_run else case

    def implementations(self, operation: str) -> list[str]:
        """Those of an operation that are to be checked and timed, `reference` never."""
        table = OPERATIONS[operation]
        if self.config.implementation:
            return [name for name in table if name in self.config.implementation]
        if not self.on_gpu:
            return ["xla"]
        return [name for name in table if name not in ("reference", "xla")]

    @property
    def chosen(self) -> str | None:
        """What whole layers run on: the first implementation that flags name, or None, the library's own choice."""
        return next(iter(self.config.implementation), None)

    def race(
        self,
        case: Case,
        density: float,
        timers: Mapping[str, Timer],
        flops: Mapping[str, int],
        dense: Iterable[str] = (),
        **extra: Any,
    ) -> dict[str, float]:
        """Times candidates in turns; prints and records each; returns milliseconds by name.

        Args:
          case: the problem.
          density: of its mask.
          timers: by candidate.
          flops: by candidate; 0 for what does no matrix products.
          dense: candidates that compute all pairs.
          **extra: recorded with every row.
        """
        dense = set(dense)
        with watched_clocks() as clocks:
            timings = race(timers, rounds=self.config.rounds, window_s=self.config.window_ms / 1e3)
        for name, timing in timings.items():
            what = {"part": self.part, "case": case.name, "candidate": name, "tokens": case.tokens}
            if isinstance(timing, Exception):
                reason = f"{type(timing).__name__}: {timing}".splitlines()[0][:300]
                there = name.startswith(BASELINES) or isinstance(timing, NotImplementedError)
                outcome = "not here" if there else "FAILED"
                print(f"  {case.name:12s} {name:24s} {outcome}: {reason}", flush=True)
                if self.run:
                    self.run.log(**what, refused=reason, outcome=outcome)
                if not there:
                    self._fails(f"{case.name}, {name}: {reason}", FAILED)
                continue
            share = 1.0 if name in dense else density
            self._row(what, case, share, timing, flops.get(name, 0), clocks | extra)
        return {n: t.latency_ms for n, t in timings.items() if isinstance(t, Timing)}

    def _row(self, what, case: Case, density: float, timing: Timing, flops: int, extra) -> None:
        row = what | {
            "shape": f"B{case.batch} H{case.heads} L{case.slots} D{case.head_dim}",
            "dtype": self.config.timed_dtype,
            "density": density,
            **dataclasses.asdict(timing),
            **extra,
        }
        text = f"  {case.name:12s} {what['candidate']:24s} {timing.latency_ms:9.3f} ms"
        if flops:
            rate = flops / timing.latency_ms / 1e9
            row |= {
                "selected_flops": flops,
                "rate_tflops": rate,
                "fraction_of_peak": rate / PEAK_TFLOPS,
                "floor_ms": flops / PEAK_TFLOPS / 1e9,
            }
            text += f"  {rate:7.1f} TFLOPS"
            if density < 1:
                row["dense_equivalent_tflops"] = rate / density
                text += f" selected, {rate / density:7.1f} dense-equivalent"
        print(text, flush=True)
        if self.run:
            self.run.log(**row)

    def verdict(self, what: str, value: float, target: float, unit: str) -> None:
        """Prints and records a measured value beside the target it must reach."""
        reached = value >= target
        print(
            f"  {'reached' if reached else 'MISSED '}  {what}: {value:.3g}, target {target:g} {unit}"
        )
        if self.run:
            self.run.log(
                part=self.part, verdict=what, value_ratio=value, target_ratio=target, unit=unit, reached=reached
            )  # fmt: skip

    def attempt(self, what: str, check: Callable[[], str]) -> None:
        """Prints and records whether a check holds; refusals by an implementation are no failure."""
        try:
            result, outcome = check(), "right"
        except NotImplementedError as reason:
            result, outcome = str(reason), "refused"
        except Exception as error:  # every other check still runs
            wrong = isinstance(error, ArithmeticError)
            result, outcome = (
                f"{type(error).__name__}: {error}"[:500],
                "WRONG" if wrong else "FAILED",
            )
            self._fails(f"{what}: {result}", WRONG if wrong else FAILED)
        print(f"  {outcome:7s} {what}: {result}", flush=True)
        if self.run:
            self.run.log(part=self.part, check=what, outcome=outcome, result=result)

    def _fails(self, what: str, code: int) -> None:
        self.failures.append(what)
        self.exit_code = max(self.exit_code, code)


@functools.cache
def machine() -> dict[str, str]:
    """Versions that a record's environment does not hold, and what nvidia-smi says of the card."""
    found = {"numpy": np.__version__}
    for package in (
        "jax-cuda13-plugin", "nvidia-cuda-nvcc", "nvidia-cudnn-cu13", "torch", "triton", "jax-triton", "flash-attn",
    ):  # fmt: skip
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    query = "driver_version,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "-i", "0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return found
    return found | dict(zip(query.split(","), answer.stdout.strip().split(", "), strict=False))
