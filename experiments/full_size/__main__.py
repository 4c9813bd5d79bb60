"""Do the published models fit, at their usual resolutions, on one H200?

    python -m experiments.full_size                        # all cases, about an hour on two cores
    python -m experiments.full_size --only "hunyuanvideo sta"
    python -m experiments.readme_tables                    # writes the table of models/README.md

Builds each full-size transformer without weights, counts its parameters, and compiles one whole denoising step
(guidance's second row and the scheduler included) for an H200, on any machine. Memory is XLA's own plan for that
GPU. Needs jax >= 0.11.2 and the packages of the extra `aot` (`make test` installs them). No GPU, no checkpoint.
"""

import dataclasses
import sys

from experiments import command
from experiments.full_size.published_clips import CASES, METHODS
from experiments.kernel_resources.deviceless import compile_for_h200
from experiments.record import Run

H200_BYTES = 141 * 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      only: names of cases, such as "wan2.1-t2v-14b sta"; all by default.
      timeout_s: for one case.
      allow_dirty: record results of uncommitted code, marked as such.
    """

    only: tuple[str, ...] = ()
    timeout_s: float = 3600
    allow_dirty: bool = False


def main(config: Config) -> None:
    """Compiles and records the cases, each in a process of its own."""
    known = {f"{case.name} {method}": (case, method) for case in CASES for method in METHODS}
    if unknown := sorted(set(config.only) - known.keys()):
        raise ValueError(f"only={unknown} are no cases; choose from {sorted(known)}")
    run = Run.start("full_size", config, allow_dirty=config.allow_dirty)
    too_large = []
    for name in config.only or known:
        case, method = known[name]
        steps = "experiments.full_size.published_clips:steps"
        (done,) = compile_for_h200(steps, name, timeout_s=config.timeout_s, dump=False)
        if done.error or done.memory is None:
            raise RuntimeError(f"{name} does not compile: {done.error}")
        parameters, tensors = case.counts()
        memory = done.memory
        peak = memory["argument"] + memory["temp"] + memory["output"] - memory["alias"]
        row = run.log(
            model=case.name,
            method=method,
            parameters=parameters,
            tensors=tensors,
            clip=str(case.clip),
            tokens=case.denoiser("dense").grid.num_tokens,
            density=case.density(method),
            guided=case.guided,
            arguments_gb=memory["argument"] / 1e9,
            temporaries_gb=memory["temp"] / 1e9,
            peak_gb=peak / 1e9,
            compile_s=done.seconds,
        )
        print(row["measured"], flush=True)
        if peak > H200_BYTES:
            too_large.append(f"{name}: {peak / 1e9:.1f} GB")
    if too_large:
        sys.exit(f"more than an H200's {H200_BYTES / 1e9:.0f} GB: {'; '.join(too_large)}")


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
