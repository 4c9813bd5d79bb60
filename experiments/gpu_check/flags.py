"""Flags of `gpu_check`, the folder that records go to, and what a process ends with."""

import argparse
import dataclasses
import datetime
import functools
import math
import os
import tempfile
import typing
from pathlib import Path

from experiments.record import ROOT

Part = typing.Literal[
    "machine", "check", "ceilings", "forward", "backward", "mass", "reorder", "dense", "layer", "launch", "tune",
    "denoise",
]  # fmt: skip
PARTS: tuple[Part, ...] = typing.get_args(Part)
DType = typing.Literal["bfloat16", "float16", "float32"]
FAILED, WRONG, NO_GPU = 1, 3, 4  # exit codes; any other than 0 is a process that broke
GO_ON = "out of time; go on with "


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      minutes: all ends within so many; steps for which no time is left are named at the end. 60 by default.
      tune: instead of the checks: candidates for the measured table, then a layer and whole denoising steps.
      step: only these steps; all by default.
      part: not the steps but these parts, in this process and without a limit.
      case: of `part`: only these problems (S1, V4, D1_8192_128, ...; in `check` also its small ones, 64x64,
        dense_ragged, mass_odd, order, ...; in `tune` candidates).
      implementation: only these; by default those that a GPU has, in a dry run xla.
      dtype: of small checks, all 16-bit ones by default; of all else the first, bfloat16 by default.
      head_dim: of small checks.
      rounds: all candidates are timed in turns, so many times.
      window_ms: calls of a candidate fill so much time between two synchronisations.
      budget_s: after so long a part starts nothing new, and prints the flags that go on.
      torch: also time torch's attention, where it is installed; cuDNN's comes with jax.
      seed: of the checks' inputs; fresh by default, and printed.
      dry_run: small problems on any machine, to see that everything works; with steps also one that never returns and
        one that breaks.
      record: keep what is measured; --no-record only prints.
      allow_dirty: record results of uncommitted code, marked as such.
    """

    minutes: float | None = None
    tune: bool = False
    step: tuple[str, ...] = ()
    part: tuple[Part, ...] = ()
    case: tuple[str, ...] = ()
    implementation: tuple[str, ...] = ()
    dtype: tuple[DType, ...] = ()
    head_dim: tuple[int, ...] = (128, 64)
    rounds: int = 5
    window_ms: float = 60.0
    budget_s: float = 420.0
    torch: bool = False
    seed: int | None = None
    dry_run: bool = False
    record: bool = True
    allow_dirty: bool = False

    def __post_init__(self):
        if self.minutes is not None and not (math.isfinite(self.minutes) and self.minutes > 0):
            raise ValueError(f"--minutes {self.minutes} must be a positive number of minutes")
        if self.part and (self.minutes is not None or self.tune or self.step):
            raise ValueError(
                "--part runs parts here and now; --minutes, --tune and --step are for the steps, each a process of its "
                "own: leave one or the other out"
            )
        if self.case and not self.part:
            raise ValueError(
                "--case chooses problems of a --part; add one, or choose steps by --step"
            )
        if not (self.part or self.record):
            raise ValueError("steps always record; --no-record is for a --part")

    @property
    def timed_dtype(self) -> DType:
        """Of q, k and v in timings and at full size."""
        return self.dtype[0] if self.dtype else "bfloat16"


def parse(arguments: list[str] | None = None) -> Config:
    """Config from flags; argparse, because a GPU machine need not have tyro."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gpu_check", description="Check, then time, the kernels."
    )
    hints = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        flag, hint = "--" + field.name.replace("_", "-"), hints[field.name]
        if hint is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
            continue
        kind = hint if isinstance(hint, type) else typing.get_args(hint)[0]
        choices = typing.get_args(kind) or None
        several = "+" if typing.get_origin(hint) is tuple else None
        parser.add_argument(
            flag, nargs=several, type=str if choices else kind, choices=choices, default=field.default
        )  # fmt: skip
    values = vars(parser.parse_args(arguments))
    try:
        return Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except ValueError as problem:
        parser.error(str(problem))


@functools.cache
def folder(dry_run: bool) -> Path:
    """Where the records of this run go: $OUT, else a new folder of its own; `take` brings them into the results."""
    if os.environ.get("OUT"):
        return Path(os.environ["OUT"]).absolute()
    if dry_run:
        return Path(tempfile.mkdtemp(prefix="gpu_check_"))
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return ROOT / "out" / "gpu_check" / now
