"""Sums up how the steps of a run ended, and what to run next."""

import json
import shlex
from collections.abc import Iterable

from experiments.gpu_check.flags import GO_ON
from experiments.gpu_check.limited_jobs import Result
from experiments.gpu_check.steps import PLANTED

COMMAND = "python -m experiments.gpu_check"
UNFINISHED = ("cut off", "failed", "no time", "no GPU", "not here")


def outcome(result: Result) -> str:
    """The result's outcome; "right so far" where the step ended in time with work left."""
    return "right so far" if result.outcome == "right" and _goes_on(result) else result.outcome


def failures(result: Result) -> list[str]:
    """What a step recorded as wrong or failed."""
    found = []
    for line in result.records:
        measured = json.loads(line).get("measured", {})
        if measured.get("outcome") in ("WRONG", "FAILED"):
            what = measured.get("check") or f"{measured.get('case')}, {measured.get('candidate')}"
            why = measured.get("result") or measured.get("refused")
            found.append(f"{measured['outcome']} {what}: {why}")
    return found


def is_expected(result: Result) -> bool:
    """Whether nothing is amiss; want of time is no fault, and a planted job must end as planned."""
    if result.job.name in PLANTED:
        return result.outcome in (PLANTED[result.job.name], "no time")
    if result.outcome == "cut off":  # by the end of the budget, or at its own limit
        return result.limit_s < result.job.limit_s
    return result.outcome in ("right", "no time") or bool(result.job.absent)


def text(results: Iterable[Result], *, seconds: float, minutes: float, again: str) -> str:
    """The table of steps, what failed, and the commands to run next.

    Args:
      results: of all steps, in order.
      seconds: that all took.
      minutes: that they had.
      again: flags that a next run of the same kind takes.
    """
    results = list(results)
    lines = [f"\n{'step':20s} {'outcome':13s} {'seconds':>7s} {'of':>5s} {'records':>7s}"]
    for result in results:
        planted = "  planted, as it should be" if result.job.name in PLANTED else ""
        if planted and not is_expected(result):
            planted = f"  planted, and should be {PLANTED[result.job.name]}"
        times = (
            f"{result.seconds:7.1f} {result.limit_s:5.0f} {len(result.records):7d}"
            if result.limit_s
            else f"{'-':>7s} {result.job.limit_s:5.0f} {0:7d}"
        )
        lines.append(f"{result.job.name:20s} {outcome(result):13s} {times}{planted}")
    lines.append(f"{seconds:.0f} s of {60 * minutes:.0f}")
    lines += [f"{result.job.name}: {found}" for result in results for found in failures(result)]
    return "\n".join([*lines, "", "next:", *_next(results, again)])


def _next(results: list[Result], again: str) -> list[str]:
    own = [result for result in results if result.job.name not in PLANTED]
    lines = []
    if wrong := [result.job.name for result in own if result.outcome == "wrong"]:
        lines.append(f"  values are wrong in {', '.join(wrong)}: no time of those kernels counts")
    lines += [
        f"  {COMMAND} {_goes_on(result)}" for result in own if outcome(result) == "right so far"
    ]
    left = [r.job.name for r in own if r.outcome in UNFINISHED and not r.job.absent]
    if left:
        lines.append(f"  {COMMAND} {again} --step {' '.join(left)}")
    if not (left or wrong or "--tune" in again):
        lines.append(f"  {COMMAND} --tune {again}")
    return [*lines, "  python -m experiments.gpu_check.roofline --take FOLDER  # with the records"]


def _goes_on(result: Result) -> str:
    """The flags that a part printed when its time was over."""
    for line in result.output.splitlines():
        if line.startswith(GO_ON):
            return shlex.join(shlex.split(line.removeprefix(GO_ON)))
    return ""
