"""The records of a compiled kernel, and their tables."""

import collections
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments import record
from experiments.kernel_resources import tensor_time
from experiments.kernel_resources.deviceless import Compiled
from experiments.kernel_resources.resources import Resources
from experiments.kernel_resources.sass import Instruction

NAME = "kernel_resources"
COUNTS = {  # heading -> names of instructions
    "exp2": ("MUFU",),
    "multiply, add": ("FFMA", "FMUL", "FADD"),
    "max": ("FMNMX",),
    "to 16 bits": ("F2FP",),
    "shuffles": ("SHFL",),
    "other": (),
}
TARGETS = {  # problem, kernel -> the least share of tensor-core time that we want; None: of any problem
    ("S1", "forward"): 0.95,
    ("V4", "forward"): 0.90,
    ("D1_16384_64", "forward"): 0.75,
    (None, "dq"): 0.85,
    (None, "dkv"): 0.85,
    (None, "block_mass"): 0.85,
}
_ROLES = {
    "block_sparse_attention": "forward",
    "block_sparse_attention_dq": "dq",
    "block_sparse_attention_dkv": "dkv",
    "block_mass": "block_mass",
}


def of(case: Compiled, *, jax: bool = False) -> list[dict[str, Any]]:
    """What is recorded of each kernel of a case, without the model's share: it takes seconds.

    Args:
      case: without an error.
      jax: whether the kernels are those of JAX's attention; only the forward one has a name, and dq has fewer products
        than dkv.
    """
    names = [_ROLES.get(k.name) for k in case.kernels]
    if jax:
        size = sorted(case.kernels, key=lambda k: (k.name != "entry", k.wgmma))
        names = [("forward", "dq", "dkv")[size.index(k)] for k in case.kernels]
    return [
        {"case": case.name, "kernel": name or k.name} | _of_kernel(k)
        for name, k in zip(names, case.kernels, strict=True)
    ]


def shares(kernel: Resources) -> dict[str, float]:
    """The model's share of tensor-core time of a kernel."""
    found = tensor_time.share(kernel.code.main_loop(), kernel.consumers)
    return {
        f"{name}_share": round(getattr(found, name), 3) for name in ("lowest", "median", "highest")
    }


def _of_kernel(kernel: Resources) -> dict[str, Any]:
    loop = kernel.code.main_loop()
    return {
        "registers": kernel.registers,
        "spill_bytes": kernel.spill_bytes,
        "smem_bytes": kernel.smem_bytes,
        "threads": kernel.threads,
        "wgmma": kernel.wgmma,
        "tma": kernel.tma,
        "waits_injected": kernel.waits_injected,
        "hazards": len(kernel.checked.hazards),
        "under_products": kernel.checked.under_products,
        "products": _products(loop),
        "waits": ", ".join(str(one.under_way) for one in loop if one.under_way is not None),
        "instructions": len(loop),
        "counts": _counts(loop),
    }


def _products(loop: Sequence[Instruction]) -> str:
    """Like "8 x N128, 8 x N128 of registers", in the order of the code."""
    found: collections.Counter[str] = collections.Counter()
    for one in loop:
        if one.is_product:
            left = " of registers" if re.match(r"R\d", one.operands[1]) else ""
            found[f"N{one.columns}{left}"] += 1
    return ", ".join(f"{count} x {kind}" for kind, count in found.items())


def _counts(loop: Sequence[Instruction]) -> dict[str, int]:
    found = dict.fromkeys(COUNTS, 0)
    for one in loop:
        if not one.is_product:
            heading = next((h for h, names in COUNTS.items() if one.name in names), "other")
            found[heading] += 1
    return found


def line(row: dict[str, Any]) -> str:
    """A row with its shares, for people at a terminal."""
    counts = " ".join(f"{name}={count}" for name, count in row["counts"].items())
    return (
        f"{row['case']}, {row['kernel']}: {row['registers']} registers, {row['spill_bytes']} bytes spilled, "
        f"{row['waits_injected']} waits injected, {row['smem_bytes']:,} bytes of shared memory; main loop "
        f"[{row['products']}] waits [{row['waits']}] {row['instructions']} instructions: {counts}; tensor cores busy "
        f"{row['median_share']:.2f} ({row['lowest_share']:.2f} to {row['highest_share']:.2f})"
    )


def newest(part: str, folder: Path = record.RESULTS) -> list[dict[str, Any]]:
    """The records of the last run of one part: "shipped", "problems" or "jax"."""
    rows = record.read(NAME, folder=folder)
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        measured = row["measured"]
        if row["git_sha"] == rows[-1]["git_sha"] and measured["part"] == part:
            last[measured["case"], measured["kernel"]] = row
    return list(last.values())


def resources_table(folder: Path = record.RESULTS) -> str:
    """What every shipped configuration takes."""
    rows = newest("shipped", folder)
    columns = {
        "kernel": "{title}",
        "registers": "{measured[registers]}",
        "spilled bytes": "{measured[spill_bytes]}",
        "waits injected": "{measured[waits_injected]}",
        "shared memory, bytes": "{measured[smem_bytes]:,}",
        "threads": "{measured[threads]}",
        "wgmma": "{measured[wgmma]}",
        "TMA": "{measured[tma]}",
        "instructions of the main loop": "{measured[instructions]}",
        "tensor cores busy": "{busy}",
    }
    return record.markdown_table([_shown(row) for row in rows], columns)


def loops_table(folder: Path = record.RESULTS) -> str:
    """Main loops at the size of known problems, beside JAX's."""
    rows = [_shown(row) for part in ("problems", "jax") for row in newest(part, folder)]
    columns = {
        "problem": "{problem}",
        "kernel": "{measured[kernel]}",
        "products of a pass": "{measured[products]}",
        "waits": "{measured[waits]}",
        "instructions": "{measured[instructions]}",
        **{heading: f"{{measured[counts][{heading}]}}" for heading in COUNTS},
        "spilled bytes": "{measured[spill_bytes]}",
        "waits injected": "{measured[waits_injected]}",
        "tensor cores busy": "{busy}",
        "wanted": "{wanted}",
    }
    table = record.markdown_table(rows, columns)
    missed = [f"{r['problem']} {r['measured']['kernel']}" for r in rows if r["missed"]]
    short = f" Below what is wanted: {', '.join(missed)}." if missed else ""
    checked = sum(row["measured"]["under_products"] for row in rows)
    hazards = sum(row["measured"]["hazards"] for row in rows)
    made = _provenance(rows[-1])
    return (
        f"{table}\n\nOf {checked:,} instructions that may be issued under a product, {hazards} touch its registers."
        f"{short} {made}"
    )


def _provenance(row: dict[str, Any]) -> str:
    """Where a record was made: versions and commit."""
    where = row["environment"]
    return f"Python {where['python']}, jax {where['jax']}; commit {row['git_sha'][:10]}, {row['time'][:10]}."


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A record with what its tables say of it."""
    measured = row["measured"]
    problem, _, rest = measured["case"].partition(", ")
    problem = f"{problem}, JAX" if rest == "JAX" else problem
    median = measured["median_share"]
    least = TARGETS.get((problem, measured["kernel"]))
    if least is None and rest in ("attention", "block_mass"):
        least = TARGETS.get((None, measured["kernel"]))
    several = measured["kernel"] in ("dq", "dkv")
    return row | {
        "title": f"{measured['case']}, {measured['kernel']}" if several else measured["case"],
        "problem": problem,
        "busy": f"{median:.2f} ({measured['lowest_share']:.2f}–{measured['highest_share']:.2f})",
        "wanted": "" if least is None else f"{least:.2f}",
        "missed": least is not None and median < least,
    }


def differences(made: Iterable[dict[str, Any]], part: str) -> list[str]:
    """What newly compiled kernels have otherwise than the newest records, one line each; shares aside."""
    known = {(r["measured"]["case"], r["measured"]["kernel"]): r["measured"] for r in newest(part)}
    lines = []
    for row in made:
        title, old = f"{row['case']}, {row['kernel']}", known.get((row["case"], row["kernel"]))
        if old is None:
            lines.append(f"{title} is not recorded")
        else:
            changed = {key: (old[key], value) for key, value in row.items() if old[key] != value}
            lines += [f"{title}: {key} {was} -> {now}" for key, (was, now) in changed.items()]
    return lines
