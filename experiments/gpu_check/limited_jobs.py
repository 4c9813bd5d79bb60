"""Runs commands one after another within a budget of time, each under a limit of its own.

Each is a process group, which is killed at the limit: what never returns costs only itself, and what it has recorded
until then stays. Nothing here knows what the commands do.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from experiments.record import ROOT

LEAST_S = 15.0  # a step with less time than this, and less than its limit, is not begun
MARGIN_S = 4.0  # of the whole budget: to kill the last step and to sum up
TAIL = 40  # lines of a step's output that are shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A command to run.

    Attributes:
      name: of the step.
      limit_s: it is killed after so long, or earlier where the budget ends.
      command: program and arguments, given the limit in seconds that holds.
      environment: variables beside this process's own.
      outcomes: by exit code; "failed" for all others.
      absent: why it cannot run here, or nothing.
    """

    name: str
    limit_s: float
    command: Callable[[float], list[str]]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    outcomes: Mapping[int, str] = dataclasses.field(default_factory=lambda: {0: "right"})
    absent: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a job.

    Attributes:
      job: the job.
      outcome: one of its outcomes, "failed", "cut off", "no time" or "not here".
      seconds: it took.
      limit_s: that held.
      records: lines that it added to the records.
      output: what it printed.
    """

    job: Job
    outcome: str
    seconds: float = 0.0
    limit_s: float = 0.0
    records: tuple[bytes, ...] = ()
    output: str = ""


def carry_out(
    jobs: Iterable[Job], *, until: float, records: Path, log: Path, last: Iterable[str] = ()
) -> Iterator[Result]:
    """Runs jobs in order and yields each one's result when it has ended.

    Args:
      jobs: most important first.
      until: all have ended by then, in `time.monotonic()` seconds.
      records: the file of JSON lines that jobs append to; half a line, where one was cut off, is dropped.
      log: everything that they print is appended here.
      last: outcomes after which no other job can do better, so that none is begun.
    """
    over = ""
    for job in jobs:
        limit = min(job.limit_s, until - MARGIN_S - time.monotonic())
        if over or job.absent:
            yield Result(job=job, outcome="not here", output=job.absent or f"as {over}")
        elif limit < min(job.limit_s, LEAST_S):
            yield Result(job=job, outcome="no time")
        else:
            result = _run(job, limit, records, log)
            over = job.name if result.outcome in last else ""
            yield result


def _run(job: Job, limit: float, records: Path, log: Path) -> Result:
    before, written = _size(records), _size(log)
    start = time.monotonic()
    outcome = _end_of(job, limit, log)
    seconds = time.monotonic() - start
    drop_half_a_line(records)
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(written)
        output = file.read().decode(errors="replace")
        sys.stdout.write("".join(f"  | {line}\n" for line in output.splitlines()[-TAIL:]))
    lines: tuple[bytes, ...] = ()
    with contextlib.suppress(FileNotFoundError), records.open("rb") as file:
        file.seek(min(before, _size(records)))
        lines = tuple(file.read().splitlines())
    return Result(
        job=job, outcome=outcome, seconds=seconds, limit_s=limit, records=lines, output=output
    )


def _end_of(job: Job, limit: float, log: Path) -> str:
    """Runs the job to its end, or to its limit; nothing of it is left running."""
    with log.open("ab") as out:
        try:
            # A group, and not a session: what looks after this process's session still finds all of it.
            child = subprocess.Popen(
                job.command(limit), cwd=ROOT, env=os.environ | job.environment, process_group=0,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except OSError as problem:
            out.write(f"{problem}\n".encode())
            return "failed"
    try:
        code = child.wait(limit)
        return job.outcomes.get(code, "failed")
    except subprocess.TimeoutExpired:
        return "cut off"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold a process for good
            child.wait(MARGIN_S / 2)


def drop_half_a_line(path: Path) -> None:
    """Cuts a file back to its last whole line, since `record.Run` refuses to add to half a one."""
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        text = file.read()
        if text and not text.endswith(b"\n"):
            file.truncate(text.rfind(b"\n") + 1)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
