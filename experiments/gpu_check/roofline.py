"""Takes the records of `gpu_check` into the results, and draws density against time, with the floor at peak.

python -m experiments.gpu_check.roofline --take FOLDER         # into the results, the picture and the pages
python -m experiments.gpu_check.roofline                       # every device with records
python -m experiments.gpu_check.roofline --folder out/h200 --picture out/roofline.png
"""

import argparse
import collections
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import record
from experiments.gpu_check.shapes import PEAK_TFLOPS

COLUMNS = {
    "problem": "{measured[case]}",
    "direction": "{measured[direction]}",
    "what": "{measured[candidate]}",
    "shape": "{measured[shape]}",
    "density": "{measured[density]:.3f}",
    "ms": "{measured[latency_ms]:.3f}",
    "TFLOPS": "{measured[rate_tflops]:.0f}",
    "dense-equivalent": "{measured[dense_equivalent_tflops]:.0f}",
    "of peak": "{measured[fraction_of_peak]:.2f}",
}

TARGETS = {
    "target": "{measured[verdict]}",
    "measured": "{measured[value_ratio]:.3g}",
    "wanted, at least": "{measured[target_ratio]:g}",
    "unit": "{measured[unit]}",
    "reached": "{measured[reached]}",
}


def take(folder: Path, results: Path) -> Path:
    """Adds the records of a run to those of its device; what is there already is not added again.

    Args:
      folder: of gpu_check.jsonl, which may end in half a line where a run was cut off; stays as it is.
      results: with a folder for each device.

    Returns:
      The device's folder.

    Raises:
      FileNotFoundError: no records are there.
      ValueError: a line is no record, or comes from a dry run, from uncommitted code, or from no NVIDIA GPU or several.
    """
    name = "gpu_check.jsonl"
    source = folder / name
    if not source.exists():
        raise FileNotFoundError(
            f"there is no {source}; --take wants the folder that gpu-check wrote its records to"
        )
    lines, _, _ = source.read_bytes().rpartition(b"\n")
    with tempfile.TemporaryDirectory() as whole:
        Path(whole, name).write_bytes(lines)
        rows = record.read("gpu_check", folder=Path(whole))
    if not rows:
        raise ValueError(f"{source} is empty: the run has recorded nothing")
    if any(row["config"].get("dry_run") for row in rows):
        raise ValueError(
            f"{source} holds records of a dry run, whose times say nothing; take those of a GPU"
        )
    if any(row["dirty"] for row in rows):
        raise ValueError(
            f"{source} holds records of uncommitted code; run a clone or what git archive HEAD wrote, without "
            "--allow-dirty"
        )
    devices = sorted({row["environment"]["device"] for row in rows})
    if len(devices) > 1 or not devices[0].startswith("NVIDIA "):
        raise ValueError(
            f"{source} must hold records of one NVIDIA GPU, not of {', '.join(devices)}"
        )
    target = results / devices[0].split()[1].lower()
    target.mkdir(parents=True, exist_ok=True)
    old = (target / name).read_bytes() if (target / name).exists() else b""
    if old and not old.endswith(b"\n"):
        raise ValueError(f"{target / name} does not end with a whole line; restore the file first")
    known = set(old.splitlines())
    new = [line for line in lines.splitlines() if line.strip() and line not in known]
    with (target / name).open("ab") as file:
        file.write(b"".join(line + b"\n" for line in new))
    print(f"{len(new)} of {len(rows)} records are new in {target.name}/{name}")
    return target


def attention_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest record of every attention timing, in order of first appearance."""
    last: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        measured = row["measured"]
        if (
            measured["part"] not in ("forward", "backward", "dense")
            or "rate_tflops" not in measured
        ):
            continue
        extra = {"direction": "forward", "dense_equivalent_tflops": measured["rate_tflops"]}
        row = row | {"measured": extra | measured}
        last[measured["part"], measured["case"], measured["candidate"], measured["dtype"]] = row
    return list(last.values())


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, one line for each timing."""
    return record.markdown_table(attention_rows(rows), COLUMNS)


def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    """Time over the floor of dense attention against density, both logarithmic.

    The times of a problem are divided by the time its dense FLOPs take at peak; so the floor is the
    line time = density, and one picture holds all problems.

    Raises:
      ValueError: no record holds an attention timing.
    """
    points = attention_rows(rows)
    if not points:
        raise ValueError("no attention timings in these records; run make gpu-check first")
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for axis, direction in zip(axes, ("forward", "backward"), strict=True):
        line = np.geomspace(0.02, 1.0, 50)
        axis.plot(line, line, color="black", linewidth=1)
        axis.text(0.022, 0.0155, f"floor: {PEAK_TFLOPS:.0f} TFLOPS", fontsize=8)
        axis.plot(line, line / 0.65, color="gray", linewidth=0.8, linestyle="--")
        chosen = [row["measured"] for row in points if row["measured"]["direction"] == direction]
        for name in dict.fromkeys(point["candidate"] for point in chosen):
            mine = [point for point in chosen if point["candidate"] == name]
            xs = [point["density"] for point in mine]
            ys = [point["density"] * point["latency_ms"] / point["floor_ms"] for point in mine]
            axis.plot(xs, ys, "o", markersize=4, label=name)
            for x, y, point in zip(xs, ys, mine, strict=True):
                if point["case"] in ("S1", "S2", "V4"):
                    axis.annotate(point["case"], (x, y), (3, 3), textcoords="offset points", fontsize=7)  # fmt: skip
        axis.set(xscale="log", yscale="log", title=direction, xlabel="density")
        axis.grid(alpha=0.3, which="both")
        if chosen:
            axis.legend(fontsize=7)
    axes[0].set_ylabel("time / time of dense attention at peak")
    device = rows[-1]["environment"]["device"]
    figure.suptitle(f"{device}: attention against the floor (dashed: 65 % of peak)")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)
    pyplot.close(figure)


def readme_block(results: Path = record.RESULTS) -> str:
    """For pallas_kernels/README.md: the picture and the targets of each GPU with records, or that there is none."""
    files = sorted(results.glob("*/gpu_check.jsonl"))
    if not files:
        return "**No GPU has run these kernels yet**, so there is no figure of their speed here."
    return "\n\n".join(_of_device(file.parent) for file in files)


def _of_device(folder: Path) -> str:
    rows = record.read("gpu_check", folder=folder)
    device, picture = rows[-1]["environment"]["device"], folder / "roofline.png"
    blocks = []
    if attention_rows(rows):
        if not picture.exists():
            raise ValueError(f"there is no {picture}; run python -m experiments.gpu_check.roofline")
        inside = picture.is_relative_to(record.ROOT)
        shown = Path("..") / picture.relative_to(record.ROOT) if inside else picture
        blocks.append(
            f"![{device}: time of attention against density, with the floor]({shown.as_posix()})"
        )
    last = {row["measured"]["verdict"]: row for row in rows if "verdict" in row["measured"]}
    blocks.append(
        record.markdown_table(last.values(), TARGETS) if last else "No target was measured."
    )
    made = ", ".join(sorted({f"commit {row['git_sha'][:10]}, {row['time'][:10]}" for row in rows}))
    blocks.append(f"{device}; TFLOPS of selected blocks; {_checks(rows)}; {made}.")
    return "\n\n".join(blocks)


def _checks(rows: list[dict[str, Any]]) -> str:
    """How the newest run of each check ended, in words."""
    last = {x["check"]: x["outcome"] for x in (row["measured"] for row in rows) if "check" in x}
    if not last:
        return "no values were checked"
    counts = collections.Counter(last.values())
    wrong = [name for name, outcome in last.items() if outcome in ("WRONG", "FAILED")]
    return f"{counts['right']} of {len(last)} checks of values right" + "".join(
        f"; **{x}: {last[x]}**" for x in wrong
    )


def main(arguments: list[str] | None = None) -> None:
    """Prints the table and draws the picture of each device."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu_check.roofline")
    parser.add_argument("--folder", type=Path, help="of gpu_check.jsonl; all devices by default")
    parser.add_argument(
        "--picture", type=Path, help="DIR/roofline.png beside the records by default"
    )
    parser.add_argument(
        "--take", type=Path, metavar="FOLDER", dest="take_from", help="of a run: into the results"
    )
    flags: Mapping[str, Path | None] = vars(parser.parse_args(arguments))
    try:
        _main(**flags)
    except (OSError, ValueError) as problem:
        sys.exit(f"error: {problem}")


def _main(take_from: Path | None, folder: Path | None, picture: Path | None) -> None:
    if take_from:
        folder = take(take_from, record.RESULTS)
    folders = [folder] if folder else [x.parent for x in record.RESULTS.glob("*/gpu_check.jsonl")]
    for device in folders:
        rows = record.read("gpu_check", folder=device)
        if attention_rows(rows) or not take_from:
            draw(rows, picture or device / "roofline.png")
            print(table(rows))
    if take_from:
        from experiments import readme_tables  # which imports this file

        readme_tables.main(readme_tables.Config())


if __name__ == "__main__":
    main()
