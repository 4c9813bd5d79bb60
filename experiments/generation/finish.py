"""Ends a run: writes its video and report, loses nothing and overwrites nothing."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import hosts
from experiments.generation.generate_flags import Config
from experiments.generation.jobs import Job
from experiments.generation.run_report import compare, describe, timing, write_report
from experiments.generation.store import Denoised, check_kept
from experiments.media import write_video
from sparsevdit_jax import SparseAttention

Settings = Callable[[Job, str], Mapping[str, Any]]


def unfinished(
    jobs: Sequence[Job], settings: Settings, attentions: Sequence[str], *, compare: bool
) -> list[Job]:
    """The videos that are still to be made, of a call that may have been interrupted.

    A video of several is finished where it lies beside the report of the same run. One that lies there without a
    report is this run's where its latents are kept, and stays.

    Args:
      jobs: of the call.
      settings: of a job and the name of an attention, as runs are kept with.
      attentions: their names.
      compare: whether dense videos are made too.

    Raises:
      FileExistsError: something else lies there, or all is finished.
    """
    left = []
    for job in jobs:
        dense = {name: compare and name == "dense" for name in attentions}
        videos = {name: job.video(dense=dense[name]) for name in attentions}
        mine = json.loads(json.dumps({name: settings(job, name) for name in attentions}))
        if job.report.exists():
            if not _is_report_of(job, mine) or not all(path.exists() for path in videos.values()):
                raise FileExistsError(
                    f"{job.report} exists and is not overwritten; choose another --out"
                )
            continue
        for name, path in videos.items():
            kept = job.latents(dense=dense[name])
            if path.exists() and check_kept(kept, mine[name]) is None:
                raise FileExistsError(f"{path} exists and is not overwritten; choose another --out")
        left.append(job)
    if not left:
        raise FileExistsError(
            f"{jobs[0].out} exists and is not overwritten; choose another --out"
            if len(jobs) == 1
            else f"all {len(jobs)} videos from {jobs[0].out} to {jobs[-1].out} are there; choose another --out for "
            "others"
        )
    if len(left) < len(jobs):
        hosts.say(f"{len(jobs) - len(left)} of {len(jobs)} videos are finished and stay")
    return left


def _is_report_of(job: Job, settings: Mapping[str, Any]) -> bool:
    try:
        return json.loads(job.report.read_text(encoding="utf-8")).get("settings") == settings
    except (OSError, ValueError, AttributeError):
        return False


def finish(
    config: Config,
    job: Job,
    videos: Mapping[str, np.ndarray],
    denoised: Mapping[str, Denoised],
    attention: SparseAttention | None,
    settings: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Writes videos, then the report, then lets go of what was kept; on the first process.

    Args:
      config: `filled`.
      job: that is finished.
      videos: name of an attention -> uint8 [frames, height, width, 3].
      denoised: name of an attention -> the end of its run.
      attention: that `config.attention` stands for.
      settings: name of an attention -> what its run was kept with.
      seconds: what took how long.

    Returns:
      The report.
    """
    files, phases = {}, {name: end.steps for name, end in denoised.items()}
    for name, video in videos.items():
        path = job.video(dense=config.compare and name == "dense")
        if not path.exists():  # else it is whole already, of the same latents
            written = write_video(path, video, fps=config.fps)
            path = written.path
            if written.message:
                hosts.say(f"warning: {written.message}")
        files[name] = str(path)
    report: dict[str, Any] = {
        "attention": config.attention,
        "pattern": describe(attention),
        "videos": files,
        "seconds": dict(seconds),
        "phases": {name: timing(steps) for name, steps in phases.items()},
    }
    if config.compare:
        report["comparison"] = compare(
            videos[config.attention], videos["dense"], phases, config.attention, config.steps
        )
    used = dataclasses.asdict(config) | {"prompt": job.prompt, "seed": job.seed, "out": job.out}
    write_report(job.report, used, report | {"settings": settings})
    for name in denoised:
        dense = config.compare and name == "dense"
        job.run(dense=dense).unlink(missing_ok=True)
        if not config.save_latents:
            job.latents(dense=dense).unlink(missing_ok=True)
    return report
