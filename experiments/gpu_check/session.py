"""One run of `gpu_check`: its flags, its clock, what it prints and what it records."""

import argparse
import dataclasses
import functools
import importlib.metadata
import os
import subprocess
import tempfile
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.gpu_check.shapes import PEAK_TFLOPS, Case
from experiments.record import RESULTS, Run
from experiments.timing import Timer, Timing, race, watched_clocks
from pallas_kernels.block_mass.api import IMPLEMENTATIONS as BLOCK_MASS
from pallas_kernels.block_sparse_attention.api import IMPLEMENTATIONS as BLOCK_SPARSE
from pallas_kernels.dense_attention.api import IMPLEMENTATIONS as DENSE

OPERATIONS = {"block_sparse_attention": BLOCK_SPARSE, "dense_attention": DENSE, "block_mass": BLOCK_MASS}  # fmt: skip
Item = TypeVar("Item")
PARTS = ("check", "ceilings", "forward", "backward", "mass", "reorder", "dense", "layer")
Part = typing.Literal[
    "check", "ceilings", "forward", "backward", "mass", "reorder", "dense", "layer"
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      part: what to do, in this order; all parts by default.
      case: only these problems (S1, V4, D1_8192_128, ...; in `check` also its small ones, 64x64,
        dense_ragged, mass_odd, order, ...); all of a part by default.
      implementation: only these; by default those that a GPU has, in a dry run xla.
      dtype: of q, k and v in timings.
      rounds: all candidates are timed in turns, so many times.
      window_ms: calls of a candidate fill so much time between two synchronisations.
      budget_s: after so long a part starts nothing new, and prints the flags that go on.
      baselines: also time cuDNN, and torch's attention where torch is installed.
      seed: of the checks' inputs; fresh by default, and printed.
      dry_run: small problems on any machine, to see that everything works; records go to a
        temporary folder.
      record: keep what is measured; --no-record only prints.
      allow_dirty: record results of uncommitted code, marked as such.
    """

    part: tuple[Part, ...] = PARTS
    case: tuple[str, ...] = ()
    implementation: tuple[str, ...] = ()
    dtype: typing.Literal["bfloat16", "float16", "float32"] = "bfloat16"
    rounds: int = 7
    window_ms: float = 60.0
    budget_s: float = 420.0
    baselines: bool = True
    seed: int | None = None
    dry_run: bool = False
    record: bool = True
    allow_dirty: bool = False


def parse(arguments: list[str] | None = None) -> Config:
    """Config from flags; argparse, because a GPU machine need not have tyro."""
    parser = argparse.ArgumentParser(prog="gpu_check", description="Check, then time, the kernels.")
    hints = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        flag, hint = "--" + field.name.replace("_", "-"), hints[field.name]
        if hint is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
            continue
        several = typing.get_origin(hint) is tuple
        kind = typing.get_args(hint)[0] if several or typing.get_args(hint) else hint
        choices = typing.get_args(kind) or (
            typing.get_args(hint) if isinstance(kind, str) else None
        )
        parser.add_argument(
            flag,
            nargs="+" if several else None,
            type=str if choices else kind,
            choices=choices,
            default=field.default,
        )
    values = vars(parser.parse_args(arguments))
    return Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


class Session:
    """Prints and records; knows what can run here and how much time is left."""

    def __init__(self, config: Config):
        self.config = config
        self.seed = config.seed if config.seed is not None else int.from_bytes(os.urandom(4))
        self.on_gpu = jax.default_backend() == "gpu"
        if not self.on_gpu and not config.dry_run:
            raise SystemExit(
                "gpu-check needs an NVIDIA GPU, and jax sees none; "
                'make gpu-check ARGS=--dry-run does small problems on any machine'
            )  # fmt: skip
        self.run = None
        if config.record:
            settings = dataclasses.asdict(config) | {"seed": self.seed, "machine": machine()}
            dirty = config.allow_dirty or config.dry_run
            self.run = Run.start("gpu_check", settings, allow_dirty=dirty, folder=self.folder())
        self.failures: list[str] = []
        self.begin("")
        print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, seed {self.seed}")
        print(", ".join(f"{name} {value}" for name, value in machine().items()))

    def folder(self) -> Path:
        """Where records go: $OUT, else the results of this kind of device."""
        if self.config.dry_run:
            return Path(tempfile.mkdtemp(prefix="gpu_check_"))
        if os.environ.get("OUT"):
            return Path(os.environ["OUT"])
        kind = jax.devices()[0].device_kind.lower().split()
        return RESULTS / (kind[1] if kind[0] == "nvidia" else kind[0])

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
                print(f"out of time; go on with --part {self.part} --case {left}{again}")
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
                print(f"  {case.name:12s} {name:24s} not here: {reason}", flush=True)
                if self.run:
                    self.run.log(**what, refused=reason)
                continue
            share = 1.0 if name in dense else density
            self._row(what, case, share, timing, flops.get(name, 0), clocks | extra)
        return {n: t.latency_ms for n, t in timings.items() if isinstance(t, Timing)}

    def _row(self, what, case: Case, density: float, timing: Timing, flops: int, extra) -> None:
        row = what | {
            "shape": f"B{case.batch} H{case.heads} L{case.slots} D{case.head_dim}",
            "dtype": self.config.dtype,
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
            result, outcome = f"{type(error).__name__}: {error}"[:500], "WRONG"
            self.failures.append(f"{what}: {result}")
        print(f"  {outcome:7s} {what}: {result}", flush=True)
        if self.run:
            self.run.log(part=self.part, check=what, outcome=outcome, result=result)


@functools.cache
def machine() -> dict[str, str]:
    """Versions that a record's environment does not hold, and what nvidia-smi says of the card."""
    found = {"numpy": np.__version__}
    for package in ("torch", "triton", "jax-triton", "nvidia-cudnn-cu13", "flash-attn"):
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
