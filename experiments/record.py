"""Run: what was measured, with everything needed to measure it again, one JSON line each.

    run = Run.start("bench_cpu", config)
    run.log(tokens=4096, density=0.125, forward_ms=31.4)
    rows = read("bench_cpu")
    print(markdown_table(rows, {"tokens": "{measured[tokens]}", "ms": "{measured[forward_ms]}"}))

A line holds: name, time (UTC), git_sha, dirty, environment (versions, device, processor), config,
measured. Files only ever grow. Units stand in the keys of `measured` (`latency_ms`, `peak_memory_mib`);
a fractional number without one is refused unless its name is known to have no unit (`density`, ...).
"""

import dataclasses
import datetime
import enum
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
CODE = ("experiments", "models", "pallas_kernels", "sparsevdit_jax")
FIELDS = ("name", "time", "git_sha", "dirty", "environment", "config", "measured")
UNITS = frozenset(
    "ns us ms s min h bytes kib mib gib kb mb gb flops mflops gflops tflops db percent "
    "per_s mhz ghz w j tokens blocks steps heads".split()
)
UNITLESS = frozenset(
    "density sparsity recall ssim lpips loss error speedup ratio fraction share efficiency accuracy "
    "correlation slope scale guidance".split()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an experiment; `start` makes it, `log` appends a measurement to its file.

    Attributes:
      name: of the experiment and its file, lower-case letters, digits and underscores.
      config: the experiment's settings, as JSON.
      git_sha: the commit that was run, or "unknown" outside a repository and an export of one.
      dirty: whether the tree differed from that commit.
      environment: see `environment`.
      folder: where `<name>.jsonl` lies.
    """

    name: str
    config: dict[str, Any]
    git_sha: str
    dirty: bool
    environment: dict[str, Any]
    folder: Path

    @classmethod
    def start(
        cls, name: str, config: Any, *, allow_dirty: bool = False, folder: Path = RESULTS
    ) -> "Run":
        """Fixes what the run's measurements share.

        Args:
          name: of the experiment.
          config: a dataclass or a mapping of JSON values (paths, enums and numpy numbers too).
          allow_dirty: record results of uncommitted code, marked as such.
          folder: for `<name>.jsonl`; made if absent.

        Raises:
          ValueError: the name is no file name, or the tree is dirty or has no commit, and
            `allow_dirty` is not set.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"{name=} must be lower-case letters, digits and underscores")
        sha, dirty = code(allow_dirty=allow_dirty)
        settings = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config)
        run = cls(
            name=name,
            config=_json_value(settings, "config"),
            git_sha=sha,
            dirty=dirty,
            environment=environment(),
            folder=Path(folder),
        )
        run.folder.mkdir(parents=True, exist_ok=True)
        _check_can_append(run.path)
        return run

    @property
    def path(self) -> Path:
        """The file that `log` appends to."""
        return self.folder / f"{self.name}.jsonl"

    def log(self, **measured: Any) -> dict[str, Any]:
        """Appends one line to the file and returns it as a dict.

        Args:
          **measured: numbers with their unit in the key, and strings or flags that tell rows apart.

        Raises:
          ValueError: a fractional number without a unit, a NaN or infinity, or a damaged file.
        """
        if not measured:
            raise ValueError("nothing measured; give at least one key, like latency_ms=3.1")
        values = _json_value(measured, "measured")
        for key, value in values.items():
            if isinstance(value, float):
                _check_unit(key)
        row = {
            "name": self.name,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "git_sha": self.git_sha,
            "dirty": self.dirty,
            "environment": self.environment,
            "config": self.config,
            "measured": values,
        }
        _check_can_append(self.path)
        line = json.dumps(row, allow_nan=False) + "\n"
        with self.path.open("ab", buffering=0) as file:  # one write: a line is there whole or not
            file.write(line.encode())
            os.fsync(file.fileno())
        return row


def environment() -> dict[str, Any]:
    """Versions of Python, jax, jaxlib, flax and numpy, the device kind and count, the processor."""
    packages = ("jax", "jaxlib", "flax", "numpy")
    return {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "processor": _processor(),
        "num_cores": os.cpu_count(),
    }


def code(*, allow_dirty: bool = False) -> tuple[str, bool]:
    """The commit of this code, and whether the code differs from it.

    Raises:
      ValueError: it differs or has no commit, and `allow_dirty` is not set.
    """
    sha, changes = git_state()
    if sha == "unknown" and not allow_dirty:
        raise ValueError(
            f"there is no git commit at {ROOT.name}/, so a record could not name the code that made it: run in a "
            "clone or in what git archive HEAD wrote, or pass --allow-dirty to have it marked"
        )
    if changes and not allow_dirty:
        raise ValueError(
            f"the tree differs from commit {sha[:12]} ({changes[0].strip()!r} and {len(changes) - 1} more); a record "
            "must name the code that made it: commit first, or pass --allow-dirty to have it marked"
        )
    return sha, bool(changes)


def git_state(root: Path = ROOT) -> tuple[str, list[str]]:
    """The commit of the tree at `root` and the lines of `git status` about it, without what runs write.

    Where `git archive` wrote the tree, the commit stands in a file, and a Python file that is newer than that file was
    changed since. Without a repository or a commit: "unknown" and one line that says so, so it counts as dirty.
    """
    stamp = root / "experiments" / "COMMIT"
    if not (root / ".git").exists() and stamp.exists():
        sha, made = stamp.read_text(encoding="utf-8").strip(), stamp.stat().st_mtime
        if re.fullmatch("[0-9a-f]{40}", sha):
            source = [path for part in CODE for path in sorted((root / part).rglob("*.py"))]
            newer = [path.relative_to(root) for path in source if path.stat().st_mtime > made]
            return sha, [f" M {path.as_posix()}" for path in newer]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    try:
        sha = git("rev-parse", "HEAD").strip()
        written = [f":(exclude)experiments/{folder}" for folder in ("results", "methods/pages")]
        status = git("status", "--porcelain", "--", ".", *written)
    except (OSError, subprocess.CalledProcessError):
        return "unknown", ["no git commit here"]
    return sha, status.splitlines()


def read(name: str, *, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All measurements of experiment `name`, oldest first.

    Raises:
      FileNotFoundError: nothing was recorded under this name.
      ValueError: a line is not a record; the message gives file, line number and remedy.
    """
    path = Path(folder) / f"{name}.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"no records at {path}; run python -m experiments.{name} first")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            missing = [field for field in FIELDS if field not in row]
            if missing:
                raise ValueError(f"has no {', '.join(missing)}")
        except (TypeError, ValueError) as problem:
            raise ValueError(
                f"{path}:{number} is not a record ({problem}); delete that line or restore the file"
            ) from problem
        rows.append(row)
    return rows


def markdown_table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A Markdown table of records.

    Args:
      rows: what `read` returned, filtered and sorted as the reader should see it.
      columns: heading -> format string over a record, like "{measured[forward_ms]:.1f}".

    Raises:
      ValueError: a record lacks a column's key; the message names both.
    """
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = []
        for heading, template in columns.items():
            try:
                cells.append(template.format_map(row))
            except KeyError as problem:
                raise ValueError(
                    f"column {heading!r} reads {template!r}, but the record of {row['time']} "
                    f"has no {problem}; filter the rows or change the column"
                ) from problem
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _check_unit(key: str) -> None:
    words = key.split("_")
    if not (words[-1] in UNITS or "_".join(words[-2:]) in UNITS or UNITLESS.intersection(words)):
        raise ValueError(
            f"measured {key!r} does not say its unit; end it with one (like {key}_ms, _mib, "
            f"_gflops, _db), or with a word that has none (like {key}_ratio)"
        )


def _check_can_append(path: Path) -> None:
    """A file whose last line was cut off would swallow the next record."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            raise ValueError(
                f"{path} does not end with a whole line; delete its last line (an interrupted "
                "write) or restore the file, then run again"
            )


def _json_value(value: Any, where: str) -> Any:
    """`value` with paths, enums, tuples and numpy or jax scalars as plain JSON values."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [_json_value(item, f"{where}[{index}]") for index, item in enumerate(items)]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Path):  # a record names files of the project, not folders of a machine
        inside = value.is_absolute() and value.is_relative_to(ROOT)
        value = value.relative_to(ROOT) if inside else value
        return value.name if value.is_absolute() else value.as_posix()
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}; a record holds finite numbers, so leave it out")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}; a record holds JSON values: numbers, strings, "
        "flags, lists and mappings of them"
    )


def _processor() -> str:
    """The processor's model name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
