"""Are the GPU kernels right, and how fast are they, on this machine's GPU?

    make gpu-check ARGS="--minutes 8"                   # the most important, within 8 minutes
    make gpu-check ARGS="--tune --minutes 8"            # candidates, a layer, whole denoising steps
    make gpu-check ARGS="--step S1_backward profile"
    python -m experiments.gpu_check --part check --case 128x64 dense_ragged --seed 7
    python -m experiments.gpu_check --part forward --case S1 V4
    make gpu-check ARGS="--dry-run --minutes 1"         # small problems, any machine

Checks every kernel against `reference` and, at full size, against float64; then times it beside cuDNN. Each step runs
in a process of its own and is killed at its limit. Records and everything printed go to $OUT, else to a new folder
below out/gpu_check/; `python -m experiments.gpu_check.roofline --take FOLDER` brings them into the results. Exits with
1 where something failed, 3 where values are wrong. Needs jax, flax and safetensors; torch, nvidia-smi and ncu are used
where they are.
"""

import dataclasses
import os
import signal
import sys
import time

# Read when jax is imported. Torch's baselines need memory too; the interpreter needs threads.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("NPROC", "16")

MINUTES = 60.0


def main(arguments: list[str] | None = None) -> None:
    """Runs the wanted parts here, or the wanted steps in processes of their own."""
    started = time.monotonic()
    from experiments.gpu_check import flags

    config = flags.parse(arguments)
    if config.implementation:
        _check_names(config.implementation)
    if config.part:
        _parts(config)
    else:
        _steps(config, started)


def _check_names(implementations) -> None:
    """What no operation has would leave nothing to do, and nothing would fail."""
    from experiments.gpu_check.session import OPERATIONS

    known = sorted({name for table in OPERATIONS.values() for name in table})
    if unknown := sorted({*implementations} - {*known}):
        sys.exit(
            f"error: --implementation {' '.join(unknown)} must be of {', '.join(known)}; or leave it out"
        )


def _parts(config) -> None:
    from experiments.gpu_check import checks, flags, parts, session, shapes, tune

    known = {*checks.SMALL, *shapes.CASES, *tune.CANDIDATES, *tune.METHODS}
    if unknown := sorted({*config.case} - known):
        sys.exit(
            f"no problem is called {', '.join(unknown)}; --case takes {', '.join(sorted(known))}"
        )
    here = session.Session(config)
    work = parts.PARTS | {
        "machine": checks.machine,
        "check": checks.check,
        "launch": checks.launch,
        "tune": tune.tune,
        "denoise": tune.denoise,
    }
    for part in flags.PARTS:
        if part in config.part:
            here.begin(part)
            work[part](here)
    if here.run:
        print(f"\nrecords: {here.run.path}")
    if here.failures:
        print("\n".join(["", f"{len(here.failures)} failed:", *here.failures]), file=sys.stderr)
        sys.exit(here.exit_code)


def _steps(config, started: float) -> None:
    from experiments import record
    from experiments.gpu_check import flags, limited_jobs, steps, summary

    try:
        record.code(allow_dirty=config.allow_dirty or config.dry_run)
        names = [step.name for step in steps.wanted(config)]
    except ValueError as problem:
        sys.exit(f"error: {problem}")
    seed = config.seed if config.seed is not None else int.from_bytes(os.urandom(4))
    minutes = config.minutes or MINUTES
    config = dataclasses.replace(config, seed=seed)
    folder = flags.folder(config.dry_run)
    folder.mkdir(parents=True, exist_ok=True)
    records, log = folder / "gpu_check.jsonl", folder / "gpu_check.log"
    print(f"{minutes:g} minutes for {', '.join(names)}; seed {seed}; records: {records}")
    results = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        jobs = steps.jobs(config, records)
        until = started + 60 * minutes
        for result in limited_jobs.carry_out(
            jobs, until=until, records=records, log=log, last=("no GPU",)
        ):
            results.append(result)
            print(
                f"== {result.job.name}: {summary.outcome(result)}, {result.seconds:.1f} s",
                flush=True,
            )
    finally:
        seconds = time.monotonic() - started
        again = f"{'--tune ' if config.tune else ''}--minutes {minutes:g}"
        said = summary.text(results, seconds=seconds, minutes=minutes, again=again)
        (folder / "gpu_check.txt").write_text(said + "\n", encoding="utf-8")
        print(said, flush=True)
    if any(result.outcome == "wrong" for result in results):
        sys.exit(flags.WRONG)
    late = seconds > 60 * minutes and any(result.limit_s for result in results)
    if late or not all(summary.is_expected(result) for result in results):
        sys.exit(flags.FAILED)


if __name__ == "__main__":
    main()
