"""What do the Mosaic kernels take of a Hopper chip: registers, shared memory, instructions?

    python -m experiments.kernel_resources            # writes the table of pallas_kernels/README.md
    python -m experiments.kernel_resources --check    # exits with 1 where the table is out of date

Compiles every shipped configuration for an H200, on any machine, in about a second each. Needs
jax >= 0.11.2 and the packages of the extra `aot` (`make test` installs them).
"""

import re
import sys
from collections.abc import Iterable

from experiments.kernel_resources.deviceless import Compiled, compile_for_h200
from experiments.record import ROOT

README = ROOT / "pallas_kernels" / "README.md"
BLOCK = re.compile(r"(<!-- resources -->\n).*?(<!-- /resources -->)", re.DOTALL)
HEADINGS = (
    "kernel",
    "registers",
    "spilled bytes",
    "shared memory, bytes",
    "threads",
    "wgmma",
    "TMA",
)


def table(compiled: Iterable[Compiled]) -> str:
    """A Markdown table with one line for each kernel.

    Raises:
      ValueError: a case has a fault; the message lists all of them.
    """
    compiled = list(compiled)
    faults = [f"{case.name}: {fault}" for case in compiled for fault in case.faults()]
    if faults:
        raise ValueError("kernels that must not be shipped:\n" + "\n".join(faults))
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" + "|---:" * (len(HEADINGS) - 1) + "|"]
    for case in compiled:
        for k in case.kernels:
            name = case.name if len(case.kernels) == 1 else f"{case.name}, {k.name}"
            cells = (k.registers, k.spill_bytes, f"{k.smem_bytes:,}", k.threads, k.wgmma, k.tma)
            lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def filled(text: str, made: str) -> str:
    """`text` with `made` between its markers.

    Raises:
      ValueError: there are no markers.
    """
    if not BLOCK.search(text):
        raise ValueError(f"{README.name} has no <!-- resources --> ... <!-- /resources -->; add it")
    return BLOCK.sub(lambda found: f"{found[1]}{made}\n{found[2]}", text)


def main(arguments: list[str]) -> None:
    """Writes the table, or with --check compares it."""
    if set(arguments) - {"--check"}:
        sys.exit(__doc__)
    made = table(compile_for_h200("experiments.kernel_resources.cases:shipped"))
    old = README.read_text(encoding="utf-8")
    new = filled(old, made)
    if arguments and new != old:
        sys.exit(f"{README.name} is out of date: run python -m experiments.kernel_resources")
    README.write_text(new, encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main(sys.argv[1:])
