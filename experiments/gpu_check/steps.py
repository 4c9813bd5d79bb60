"""The steps of a run, most important first, each a part of `gpu_check` in a process of its own."""

import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from experiments.gpu_check.flags import FAILED, NO_GPU, WRONG, Config, Part
from experiments.gpu_check.limited_jobs import Job
from experiments.gpu_check.shapes import CASES, DENSE
from experiments.gpu_check.tune import CANDIDATES

OUTCOMES = {0: "right", FAILED: "failed", WRONG: "wrong", NO_GPU: "no GPU"}
SHARE = 0.7  # of a step's limit, after which it starts nothing new
NO_AUTOTUNING = "--xla_gpu_autotune_level=0"
NCU = (
    "ncu --clock-control none -k regex:block_sparse_attention -c 1 --section SpeedOfLight "
    "--section ComputeWorkloadAnalysis --section MemoryWorkloadAnalysis --section WarpStateStats"
).split()
NEVER_RETURNS = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("started", child.pid, flush=True)
with open(sys.argv[1], "a") as file:
    file.write('{"name": "half a rec')
time.sleep(600)
"""
PLANTED = {
    "never_returns": "cut off",
    "breaks": "failed",
}  # in dry runs; and what must come of them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One part, or some of its problems.

    Attributes:
      name: for --step and in the summary.
      limit_s: about twice what it should take.
      part: of `gpu_check`.
      case: its problems; all by default.
      flags: more of them.
      values: whether it only compares values, so that XLA need not look for its fastest programs.
      profiler: what it runs under.
    """

    name: str
    limit_s: float
    part: Part
    case: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    values: bool = False
    profiler: tuple[str, ...] = ()


EACH_KERNEL = ("384x384", "64x64", "128x128", "dense_ragged", "mass_square")
_OTHER_SMALL = (
    "64x128", "128x64", "192x192", "256x256", "dense", "mass", "mass_odd", "mass_parts", "order",
)  # fmt: skip
_OTHER = tuple(name for name in CASES if name not in ("S1", "V4", "S6") and name not in DENSE)
MACHINE = Step(name="machine", limit_s=40, part="machine")
CHECK = (
    MACHINE,
    Step(name="small", limit_s=110, part="check", case=EACH_KERNEL, values=True),
    Step(name="S1_values", limit_s=80, part="check", case=("S1",), values=True),
    Step(name="ceilings", limit_s=30, part="ceilings"),
    Step(name="S1", limit_s=70, part="forward", case=("S1",)),
    Step(name="V4", limit_s=50, part="forward", case=("V4",)),
    Step(name="S6", limit_s=60, part="forward", case=("S6",)),
    Step(name="S1_backward", limit_s=70, part="backward", case=("S1",)),
    Step(name="block_mass", limit_s=45, part="mass", case=("S1",)),
    Step(name="reorder", limit_s=40, part="reorder", case=("S1",)),
    Step(name="profile", limit_s=60, part="launch", case=("S1",), flags=("--no-record",), profiler=tuple(NCU)),
    Step(name="other_values", limit_s=420, part="check", case=(*_OTHER_SMALL, "S6", "V4", "D1_2048_64"), values=True),
    Step(name="dense", limit_s=300, part="dense", case=tuple(DENSE)),
    Step(name="layer", limit_s=150, part="layer", case=("S1", "S6")),
    Step(name="other_forward", limit_s=420, part="forward", case=_OTHER),
    Step(name="other_backward", limit_s=600, part="backward", case=tuple(name for name in CASES if name != "S1")),
    Step(name="other_mass", limit_s=120, part="mass", case=("S6", "V1")),
    Step(name="other_reorder", limit_s=60, part="reorder", case=("S6",)),
)  # fmt: skip
"""In about 7 minutes down to the profile."""
TUNE = (
    MACHINE,
    *(Step(name=name, limit_s=75, part="tune", case=(name,)) for name in CANDIDATES),
    Step(name="D1", limit_s=60, part="dense", case=("D1_16384_128", "D1_16384_64")),
    Step(name="S1_layer", limit_s=60, part="layer", case=("S1",)),
    Step(name="hunyuan_sta", limit_s=150, part="denoise", case=("sta",)),
    Step(name="hunyuan_dense", limit_s=180, part="denoise", case=("dense",)),
)


def wanted(config: Config) -> list[Step]:
    """The steps that flags ask for, in order.

    Raises:
      ValueError: there is no such step.
    """
    steps = TUNE if config.tune else CHECK
    names = [step.name for step in steps]
    if unknown := sorted({*config.step} - {*names}):
        other = "without --tune" if config.tune else "with --tune"
        raise ValueError(
            f"no step is called {', '.join(unknown)}; --step takes {', '.join(names)} (others {other})"
        )
    return [step for step in steps if not config.step or step.name in config.step]


def flags(step: Step, config: Config) -> list[str]:
    """What starts the step by hand, after `python -m experiments.gpu_check`."""
    case = step.case[:1] if config.dry_run else step.case  # one shows that the part works
    made = ["--part", step.part, *(["--case", *case] if case else []), *step.flags]
    # What compiles fastest, or what Hopper has.
    ours = ("reference",) if config.dry_run else ("mosaic_gpu", "cudnn")
    for name, values in (
        ("implementation", config.implementation or ours),
        ("dtype", config.dtype),
        ("head-dim", config.head_dim),
    ):
        made += [f"--{name}", *map(str, values)] if values else []
    switches = {"torch": config.torch, "dry-run": config.dry_run, "allow-dirty": config.allow_dirty}
    made += [f"--{name}" for name, on in switches.items() if on]
    rounds, window_ms = (1, 1) if config.dry_run else (config.rounds, config.window_ms)
    return [
        *made,
        *("--rounds", str(rounds), "--window-ms", f"{window_ms:g}", "--seed", str(config.seed)),
    ]


def jobs(config: Config, records: Path) -> Iterator[Job]:
    """What the runner is to run; in a dry run also a job that never returns, and one that breaks."""
    for i, step in enumerate(wanted(config)):
        yield _job(step, config, records)
        if config.dry_run and i == 0:
            yield Job(
                name="never_returns", limit_s=2,
                command=lambda _: [sys.executable, "-c", NEVER_RETURNS, str(records)],
            )  # fmt: skip
            yield Job(name="breaks", limit_s=5, command=lambda _: [sys.executable, "-c", "1 / 0"])


def _job(step: Step, config: Config, records: Path) -> Job:
    profiler = () if config.dry_run else step.profiler
    absent = f"there is no {profiler[0]}" if profiler and not shutil.which(profiler[0]) else ""
    made = flags(step, config)

    def command(limit: float) -> list[str]:
        budget = ["--budget-s", f"{SHARE * limit:.0f}"]
        return [*profiler, sys.executable, "-m", "experiments.gpu_check", *made, *budget]

    return Job(
        name=step.name, limit_s=step.limit_s, command=command, environment=_environment(step, config, records),
        outcomes=OUTCOMES, absent=absent,
    )  # fmt: skip


def _environment(step: Step, config: Config, records: Path) -> dict[str, str]:
    """Programs compiled by one step are there for the next, also for those of a later run on this machine."""
    # Not in $OUT: that is a folder to carry home, and some machines empty it before each command.
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.join(
        tempfile.gettempdir(), f"gpu_check_compiled_{os.getuid()}"
    )
    made = {
        "OUT": str(records.parent),
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    if config.dry_run:  # nobody reads these times
        made["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if step.values:
        made["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {NO_AUTOTUNING}".strip()
    return made
