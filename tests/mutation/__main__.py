"""python -m tests.mutation: runs every mutant against the tests that can see it; see the package."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments import command
from experiments.record import RESULTS, ROOT, Run, read

from .clone import clone, resolve
from .mutant import Mutant
from .mutants import MUTANTS
from .selection import Selection

_PLUGINS = "-p", "no:cacheprovider", "-p", "no:pytest_cov", "-p", "no:xdist"
_WORKER = Path(__file__).with_name("worker.py")


@dataclasses.dataclass(frozen=True)
class Config:
    """Runs every mutant against the tests that can see it, in a clone, and records which test failed.

    Attributes:
      label: what the rows are called: before, after, ...
      ref: commit to test.
      contexts: coverage data of this commit with a context for each test.
      times: beginning of the names of the files that tests.mutation.times wrote.
      only: run mutants whose "file: mistake" this regular expression finds.
      without: leave out tests that this regular expression finds: those that fail on the commit as it is.
      seconds: recorded CPU time that the tests of one mutant may take; a survivor is one within this limit.
      limit: seconds after which a mutant's tests are ended: a timeout.
      again: result, or "all", of the mutants to run again; what has a row of this label and commit is not otherwise.
      list: only say which mutants fit the commit and what is known of them.
      control: only run the tests that killed, on the commit as it is: none may fail.
      folder: of mutants.jsonl.
    """

    label: str
    ref: str = "HEAD"
    contexts: Path = Path(os.environ.get("COVERAGE_FILE", "/tmp/cov/data"))
    times: Path = Path(os.environ.get("TEST_TIMES", "/tmp/cov/times"))
    only: str = ""
    without: str = ""
    seconds: float = 20
    limit: int = 600
    again: str = ""
    list: bool = False
    control: bool = False
    folder: Path = RESULTS


def main(config: Config) -> None:
    commit = resolve(config.ref)
    known = {
        _name(row["measured"]): row["measured"]
        for row in (read("mutants", folder=config.folder) if _exists(config) else [])
        if (row["config"]["label"], row["config"]["commit"]) == (config.label, commit)
    }
    mutants = [m for m in _spread(MUTANTS) if re.search(config.only, f"{m.file}: {m.why}")]
    if config.list:
        for mutant in mutants:
            said = known.get(f"{mutant.file}: {mutant.why}", {"result": "not run"})
            fits = mutant.apply(_source(commit, mutant.file)) is not None
            print(f"{said['result'] if fits else 'gone':9}{mutant.file}: {mutant.why}")
        return
    with tempfile.TemporaryDirectory() as folder, _Clone(Path(folder), commit) as tree:
        if config.control:
            killers = sorted({row["by"] for row in known.values() if "::" in row["by"]})
            _, failed = tree.run(killers, 3600, "--maxfail=1000")
            print(f"{len(killers)} tests kill; without a mistake {len(failed)} fail", *failed)
            return
        times = sorted(config.times.parent.glob(config.times.name + "*"))
        selection = Selection(config.contexts, times, config.without)
        settings = {"label": config.label, "commit": commit, "seconds": config.seconds}
        if config.without:
            settings["without"] = config.without
        run = Run.start("mutants", settings, folder=config.folder)
        mutants = [m for m in mutants if _wanted(known.get(f"{m.file}: {m.why}"), config.again)]
        for number, mutant in enumerate(mutants, 1):
            row = run.log(**tree.judge(mutant, selection, config))["measured"]
            print(
                f"{number}/{len(mutants)} {row['result']:9} {_name(row)}  {row['by']}", flush=True
            )


class _Clone:
    """The commit in a folder of its own, and a worker that runs its tests."""

    def __init__(self, folder: Path, commit: str):
        self.tree, self.log = folder / "tree", folder / "log"
        clone(self.tree, commit)

    def __enter__(self):
        self.worker = subprocess.Popen(
            [sys.executable, str(_WORKER)],
            cwd=self.tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.count = 0
        return self

    def __exit__(self, *_):
        self.worker.stdin.close()
        self.worker.wait()

    def judge(self, mutant: Mutant, selection: Selection, config: Config) -> dict:
        """A row of the record."""
        path = self.tree / mutant.file
        source = path.read_text(encoding="utf-8") if path.is_file() else ""
        changed = mutant.apply(source)
        row = {"file": mutant.file, "mutant": mutant.why, "result": "gone", "by": ""}
        if changed is None:
            return row | {"tests": 0, "covering": 0, "tests_s": 0.0, "wall_s": 0.0}
        tests, covering, cost = selection.tests(mutant, self.tree, seconds=config.seconds)
        was, self.count = path.stat().st_mtime, self.count + 1
        path.write_text(changed, encoding="utf-8")
        # Bytecode is kept by time and size; a time of its own makes sure that none is an older one.
        os.utime(path, (was, was + self.count))
        start = time.monotonic()
        status, failed = self.run(tests, config.limit) if tests else (None, [])
        wall = time.monotonic() - start
        path.write_text(source, encoding="utf-8")
        os.utime(path, (was, was))
        results = {None: "uncovered", 0: "survived", -signal.SIGALRM: "timeout"}
        result = results.get(status, "killed" if status == 1 and failed else "unclear")
        by = failed[0] if failed else f"status {status}" * bool(status)
        counts = {"tests": len(tests), "covering": covering}
        seconds = {"tests_s": round(cost, 2), "wall_s": round(wall, 1)}
        return row | {"result": result, "by": by} | counts | seconds

    def run(self, tests: list[str], limit: int, stop: str = "-x") -> tuple[int, list[str]]:
        """Status of pytest, and the tests that failed."""
        arguments = [stop, "-q", "-rfE", "--tb=no", "--no-header", *_PLUGINS, *tests]
        self.worker.stdin.write(json.dumps([limit, str(self.log), arguments]) + "\n")
        self.worker.stdin.flush()
        status = int(self.worker.stdout.readline())
        output = self.log.read_text(encoding="utf-8", errors="replace")
        found = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
        if status and not (status == 1 and found):
            print(output[-2000:], file=sys.stderr)
        return status, found


def _spread(mutants: list[Mutant]) -> list[Mutant]:
    """The first of every file, then the second ones, ...: a run that is cut short has seen all files."""
    seen: dict[str, int] = {}
    numbered = []
    for mutant in mutants:
        seen[mutant.file] = seen.get(mutant.file, 0) + 1
        numbered.append((seen[mutant.file], mutant))
    return [mutant for _, mutant in sorted(numbered, key=lambda pair: pair[0])]


def _wanted(row: dict | None, again: str) -> bool:
    return row is None or again == "all" or row["result"] == again


def _name(row: dict) -> str:
    return f"{row['file']}: {row['mutant']}"


def _exists(config: Config) -> bool:
    return (config.folder / "mutants.jsonl").exists()


def _source(commit: str, file: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "show", f"{commit}:{file}"], capture_output=True, text=True
    )
    return done.stdout


if __name__ == "__main__":
    command.run(main, Config)
