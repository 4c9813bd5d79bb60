"""What do the Mosaic kernels take of a Hopper chip, and how busy can they keep its tensor cores?

    python -m experiments.kernel_resources            # records, and writes the tables of pallas_kernels/HOPPER.md
    python -m experiments.kernel_resources --check    # exits with 1 where the newest records say otherwise

Compiles every shipped configuration and the problems of `production` for an H200, on any machine, without one: about
four minutes on two cores. Needs jax >= 0.11.2 and the packages of the extra `aot` (`make test` installs them).
"""

import dataclasses
from typing import Any

from experiments import command, readme_tables
from experiments.kernel_resources import deviceless, facts, known_faults
from experiments.record import Run

PARTS = {
    "shipped": "experiments.kernel_resources.shipped_kernels:shipped",
    "problems": "experiments.kernel_resources.production:ours",
    "jax": "experiments.kernel_resources.production:of_jax",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      check: compare with the newest records only.
      allow_dirty: record results of uncommitted code, marked as such.
    """

    check: bool = False
    allow_dirty: bool = False


def main(config: Config) -> None:
    """Compiles, prints and records everything, or compares it.

    Raises:
      ValueError: a kernel has a fault that is not known, or, with `check`, differs from its record.
    """
    run = None if config.check else Run.start(facts.NAME, {}, allow_dirty=config.allow_dirty)
    made: dict[str, list[dict[str, Any]]] = {}
    wrong = []
    for part, cases in PARTS.items():
        compiled = deviceless.compile_for_h200(cases, timeout_s=3600)
        if part == "jax":
            wrong += [f"{case.name}: {case.error}" for case in compiled if case.error]
        else:
            wrong += known_faults.unexpected(compiled)
        sound = [case for case in compiled if not case.error]
        made[part] = [row for case in sound for row in facts.of(case, jax=part == "jax")]
        if config.check:
            wrong += facts.differences(made[part], part)
            continue
        kernels = [kernel for case in sound for kernel in case.kernels]
        for row, kernel in zip(made[part], kernels, strict=True):
            row |= facts.shares(kernel)
            print(facts.line(row), flush=True)
    if wrong:
        raise ValueError("kernels are not as they should be:\n" + "\n".join(wrong))
    if run:
        for part, rows in made.items():
            for row in rows:
                run.log(part=part, **row)
        readme_tables.write(readme_tables.HOPPER)


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
