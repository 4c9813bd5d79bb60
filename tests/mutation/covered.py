"""python -m tests.mutation.covered: records line and branch coverage of a run; says what an earlier one covered more.

Lines are compared as text within their file, because their numbers move.
"""

import collections
import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments import command
from experiments.record import RESULTS, Run

from .clone import clone, resolve

PACKAGES = ("pallas_kernels", "sparsevdit_jax", "models")
_COUNTS = {
    "statements": "num_statements",
    "covered_statements": "covered_lines",
    "branches": "num_branches",
    "covered_branches": "covered_branches",
}
_RC = Path(__file__).with_name("coveragerc")


@dataclasses.dataclass(frozen=True)
class Config:
    """Records line and branch coverage of each package, and compares it with an earlier run's.

    Attributes:
      label: what the row is called: before, after, ...
      ref: commit that ran.
      data: its coverage data; files whose names go on after this one count too, and all stay.
      earlier_ref: commit of an earlier run to compare with.
      earlier_data: its coverage data.
      folder: of coverage.jsonl.
    """

    label: str
    ref: str = "HEAD"
    data: Path = Path(os.environ.get("COVERAGE_FILE", "/tmp/cov/data"))
    earlier_ref: str = ""
    earlier_data: Path | None = None
    folder: Path = RESULTS

    def __post_init__(self):
        if bool(self.earlier_ref) != (self.earlier_data is not None):
            raise ValueError("earlier_ref and earlier_data belong together; give both or neither")


def main(config: Config) -> None:
    commit = resolve(config.ref)
    settings = {"label": config.label, "commit": commit}
    settings["coverage"] = importlib.metadata.version("coverage")
    run = Run.start("coverage", settings, folder=config.folder)
    sources, report = _report(commit, config.data)
    counts = {name: _sums(report, name + "/") for name in PACKAGES} | {"total": _sums(report, "")}
    for name, numbers in counts.items():
        print(f"{name:15}", *(f"{key} {number}" for key, number in numbers.items()))
    lost: dict[str, list[str]] = {}
    if config.earlier_data is not None:
        lost = _lost(*_report(resolve(config.earlier_ref), config.earlier_data), sources, report)
        for file, lines in lost.items():
            print(f"{file}: covered earlier and not now", *lines, sep="\n    ")
    run.log(**counts, lost=lost)


def _report(commit: str, data: Path) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Lines of every measured file at the commit, and what coverage's JSON report says of it."""
    paths = [str(path) for path in sorted(data.absolute().parent.glob(data.name + "*"))]
    if not paths:
        raise FileNotFoundError(f"no coverage data at {data}; see python -m pydoc tests.mutation")
    with tempfile.TemporaryDirectory() as folder:
        tree, whole, text = (Path(folder, name) for name in ("tree", "data", "report"))
        clone(tree, commit)
        options = [f"--rcfile={_RC}", f"--data-file={whole}", "-q"]
        for arguments in (["combine", "--keep", *paths], ["json", "-o", str(text)]):
            words = [sys.executable, "-m", "coverage", arguments[0], *options, *arguments[1:]]
            done = subprocess.run(words, cwd=tree, capture_output=True, text=True)
            if done.returncode:
                raise ValueError(f"coverage {arguments[0]}: {done.stdout}{done.stderr}".strip())
        report = json.loads(text.read_text())["files"]
        sources = {file: (tree / file).read_text(encoding="utf-8").split("\n") for file in report}
    return sources, report


def _sums(report: dict[str, Any], prefix: str) -> dict[str, int]:
    summaries = [found["summary"] for file, found in report.items() if file.startswith(prefix)]
    return {name: sum(summary[key] for summary in summaries) for name, key in _COUNTS.items()}


def _lost(earlier_sources, earlier, sources, report) -> dict[str, list[str]]:
    """For every file that still is there the lines that were covered, still are there, and are not covered."""
    lost = {}
    for file in earlier.keys() & report.keys():
        was = _texts(earlier_sources[file], earlier[file]["executed_lines"])
        missing = _texts(sources[file], report[file]["missing_lines"])
        missed_before = _texts(earlier_sources[file], earlier[file]["missing_lines"])
        if lines := [*((missing - missed_before) & was).elements()]:
            lost[file] = lines
    return dict(sorted(lost.items()))


def _texts(lines: list[str], numbers: list[int]) -> collections.Counter:
    return collections.Counter(lines[number - 1].strip() for number in numbers)


if __name__ == "__main__":
    command.run(main, Config)
