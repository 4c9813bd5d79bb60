"""How a method was verified: vector files, tests, and which kernels run it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import record
from experiments.methods import vectors
from experiments.provenance import newest, provenance

UP = "../../../"
"""From a page to the top of the repository."""


def verified(kinds: Sequence[type], found: dict[str, Any], folder: Path = record.RESULTS) -> str:
    """Vector files, tests, and which kernels run it."""
    families = set().union(*map(vectors.families_of, kinds))
    rows = newest(record.read(vectors.NAME, folder=folder), ("file",))
    rows = [row for row in rows if row["measured"]["family"] in families]
    parts = []
    if rows:
        lines = [
            "| vectors | compared | of them exactly | largest error / allowed |",
            "|---|---|---|---|",
        ]
        for measured in (row["measured"] for row in rows):
            worst = (
                f"{measured['worst_share']:.1%} ({measured['worst']})" if measured["worst"] else "–"
            )
            lines.append(
                f"| {measured['file']} | {measured['compared']} | {measured['exact']} | {worst} |"
            )
        parts.append(
            "\n".join(lines)
            + f"\n\n[Which code has made the vectors]({UP}tests/golden/README.md). Masks, orders and decisions are "
            "equal. Numbers may differ by what roundings in "
            f"float32 explain. `python -m experiments.conformance FOLDER` compares other files. {provenance(rows)}."
        )
    else:
        parts.append("No numbers that other code has made for it are here.")
    parts += [_tests(kinds), _kernels(found)]
    return "\n\n".join(parts)


def _tests(kinds: Sequence[type]) -> str:
    modules = [Path("tests", *kind.__module__.split(".")) for kind in kinds]
    files = dict.fromkeys(path.with_name(f"test_{path.name}.py").as_posix() for path in modules)
    links = ", ".join(f"[{file}]({UP}{file})" for file in files)
    texts = [(record.ROOT / file).read_text(encoding="utf-8") for file in files]
    if not all("Suite" in text for text in texts):
        return f"Tests: {links}."
    suite = "tests/conformance/pattern_suite.py"
    return (
        f"Tests: {links}. They compare it with the rule written once more in NumPy, as for "
        f"[every pattern]({UP}{suite}): on grids that blocks do not divide, with text before the video, after it and "
        "without, and in its gradients."
    )


def _kernels(found: dict[str, Any]) -> str:
    if not found["has_plan"]:
        return "Its `compute` is its own, beside that of other patterns: XLA runs it on any device."
    if found["skips"]:
        return "The GPU kernels refuse to skip blocks by their logits; XLA runs it on any device."
    sizes = ", ".join(found["blocks"])
    if found["hopper"]:
        return f"The kernels for Hopper GPUs have tiles for its blocks of {sizes} tokens (queries x keys)."
    return (
        f"The kernels for Hopper GPUs refuse its blocks of {sizes} tokens (queries x keys), for they take multiples "
        "of 64; XLA runs it on any device."
    )
