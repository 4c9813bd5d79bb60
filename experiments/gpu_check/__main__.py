"""Are the GPU kernels right, and how fast are they, on this machine's GPU?

    make gpu-check                                      # everything, part by part
    python -m experiments.gpu_check --part check        # nothing but correctness
    python -m experiments.gpu_check --part check --case 128x64 dense_ragged --seed 7
    python -m experiments.gpu_check --part forward --case S1 V4
    make gpu-check ARGS=--dry-run                       # small problems, any machine

Checks every kernel against `reference` and, at full size, against float64; then times it beside
cuDNN and what torch has. A part ends within 8 minutes: past 7 it starts nothing new and prints the
flags that go on. Exits with 1 where a check fails. Records: experiments/results/DEVICE/gpu_check.jsonl, or $OUT.
Needs jax, flax and safetensors; torch and nvidia-smi are used where they are.
"""

import os
import sys

# Read when jax is imported. Torch's baselines need memory too; the interpreter needs threads.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("NPROC", "16")


def main(arguments: list[str] | None = None) -> None:
    """Runs the wanted parts."""
    from experiments.gpu_check import checks, parts, session, shapes

    config = session.parse(arguments)
    known = {*checks.SMALL, *shapes.CASES}
    if unknown := sorted({*config.case} - known):
        sys.exit(
            f"no problem is called {', '.join(unknown)}; --case takes {', '.join(sorted(known))}"
        )
    here = session.Session(config)
    work = parts.PARTS | {"check": checks.check}
    for part in session.PARTS:
        if part in here.config.part:
            here.begin(part)
            work[part](here)
    if here.run:
        print(f"\nrecords: {here.run.path}")
    if here.failures:
        sys.exit("\n".join(["", f"{len(here.failures)} checks failed:", *here.failures]))


if __name__ == "__main__":
    main()
