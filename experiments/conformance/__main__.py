"""Compares this library with vector files that the authors' own code has made.

    python -m experiments.conformance FOLDER                  # a line a file: ok, FAIL or unknown
    python -m experiments.conformance FOLDER --json all.json  # every comparison, for programs

Every .npz file in the folder is read. Its family is known by the start of its name; a family that this
version does not have is "unknown". Masks, orders and decisions must be equal; outputs, log-sum-exps and
gradients may differ by what roundings in float32 explain. The exit status is 1 if anything fails.
"""

import dataclasses
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from experiments import command
from experiments.conformance.check import Check
from experiments.conformance.families import FAMILIES, family_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      folder: holds the .npz files.
      json: file for all comparisons; must not be there yet.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    json: Path | None = None

    def __post_init__(self):
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} is no folder; give one with .npz files")
        if self.json is not None and self.json.exists():
            raise FileExistsError(f"{self.json} exists and is not overwritten; choose another name")
        if self.json is not None and not self.json.absolute().parent.is_dir():
            raise FileNotFoundError(f"no folder {self.json.parent} for {self.json.name}; make it")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a file's comparisons say.

    Attributes:
      name: of the file, without suffix.
      verdict: "ok", "FAIL" or "unknown".
      checks: all comparisons.
      problem: why a file could not be compared to its end.
    """

    name: str
    verdict: str
    checks: tuple[Check, ...] = ()
    problem: str = ""

    def line(self) -> str:
        """One line of text."""
        start = f"{self.verdict:8}{self.name:32}"
        if self.verdict == "unknown":
            return f"{start}a family that this version does not know"
        if self.problem:
            return f"{start}{self.problem}"
        worst = max(self.checks, key=lambda check: check.share)
        return (
            f"{start}{len(self.checks)} compared; worst is {worst.what}: {worst.error:.1e}, "
            f"allowed {worst.allowed:.1e} ({worst.why})"
        )


def judge(path: Path) -> Verdict:
    """Compares one file; what goes wrong on the way is a FAIL."""
    family = family_of(path.stem)
    if family is None:
        return Verdict(path.stem, "unknown")
    checks: list[Check] = []
    try:
        with (
            path.open("rb") as file,  # NumPy would leave a torn one open
            np.load(file, allow_pickle=False) as vectors,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # files hold odd settings on purpose
            checks.extend(FAMILIES[family](vectors))
    except (
        Exception
    ) as problem:  # any: a vector that stops us is a failed vector, and others follow
        message = f"{type(problem).__name__}: {problem}".splitlines()[0]
        return Verdict(path.stem, "FAIL", tuple(checks), message)
    if not checks:
        return Verdict(path.stem, "FAIL", (), "nothing was compared")
    verdict = "ok" if all(check.ok for check in checks) else "FAIL"
    return Verdict(path.stem, verdict, tuple(checks))


def judged(folder: Path) -> Iterator[Verdict]:
    """The verdict of every .npz file of a folder, by name."""
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no .npz file; give a folder with vector files")
    return map(judge, paths)


def main(config: Config) -> None:
    """Runs the command."""
    verdicts = []
    for verdict in judged(config.folder):
        print(verdict.line(), flush=True)
        verdicts.append(verdict)
    if config.json is not None:
        rows = [dataclasses.asdict(v) for v in verdicts]
        config.json.write_text(json.dumps(rows, indent=1, allow_nan=True) + "\n")
    counts = {kind: sum(v.verdict == kind for v in verdicts) for kind in ("ok", "FAIL", "unknown")}
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    if counts["FAIL"]:
        sys.exit(1)


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
