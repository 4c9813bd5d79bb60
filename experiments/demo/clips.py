"""Makes the clips: dense first, then the other methods two at a time. Each is written as soon as it is made."""

from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from experiments.demo.clip_runner import Runner
from experiments.demo.compared_methods import Method
from experiments.demo.comparison import clip_row
from experiments.demo.folder import write_results
from experiments.demo.plan import Plan
from experiments.media import write_clip
from experiments.progress import progress_bar

TOGETHER = 2
"""Methods that run at a time: while one compiles, on one core, the other has work for the rest."""


def make_clips(
    runner: Runner, plan: Plan, folder: Path
) -> tuple[list[Method], dict[str, dict[str, Any]]]:
    """Runs every method and writes its clip, and all rows so far, into `folder`.

    Returns:
      The methods, dense first, and their rows (`clip_row` with the names of files) by key, both as the plan has them.
    """
    steps, order = runner.config.steps, ("dense", *plan.keys)
    methods: dict[str, Method] = {}
    rows: dict[str, dict[str, Any]] = {}

    def made(method: Method, clip: np.ndarray) -> None:
        methods[method.key] = method
        files = write_clip(folder, method.key, clip, dense)
        rows[method.key] = clip_row(method, clip, dense) | files
        write_results(folder, {"methods": [rows[key] for key in order if key in rows]})

    with progress_bar(
        "making the clips", total=steps + sum(map(plan.own_steps, plan.keys))
    ) as advance:

        def make(key: str) -> tuple[Method, np.ndarray]:
            method = plan.method(key, runner)
            return method, runner.run(method, advance)

        method, dense = make("dense")
        made(method, dense)
        pool = ThreadPoolExecutor(TOGETHER)
        jobs = {key: pool.submit(make, key) for key in plan.keys}
        try:
            for job in as_completed(jobs.values()):
                made(*job.result())
        finally:  # after Ctrl-C or an error no method goes on, and none that is finished is lost
            runner.stopped = True
            pool.shutdown(cancel_futures=True)
            for key, job in jobs.items():
                if key not in rows and not job.cancelled() and job.exception() is None:
                    made(*job.result())
    return [methods[key] for key in order], {key: rows[key] for key in order}
