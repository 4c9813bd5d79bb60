"""Draws density against time, with the floor at the card's peak, from the records of `gpu_check`.

python -m experiments.gpu_check.roofline                       # every device with records
python -m experiments.gpu_check.roofline --folder out/h200 --picture out/roofline.png
"""

import argparse
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
    """For README.md: the picture and the targets of each GPU with records, or that there is none."""
    files = sorted(results.glob("*/gpu_check.jsonl"))
    if not files:
        return "**No GPU has run these kernels yet**, so there is no figure of their speed here."
    return "\n\n".join(_of_device(file.parent) for file in files)


def _of_device(folder: Path) -> str:
    rows = record.read("gpu_check", folder=folder)
    device, picture = rows[-1]["environment"]["device"], folder / "roofline.png"
    if not picture.exists():
        raise ValueError(f"there is no {picture}; run python -m experiments.gpu_check.roofline")
    last = {row["measured"]["verdict"]: row for row in rows if "verdict" in row["measured"]}
    shown = picture.relative_to(record.ROOT) if picture.is_relative_to(record.ROOT) else picture
    made = ", ".join(sorted({f"commit {row['git_sha'][:10]}, {row['time'][:10]}" for row in rows}))
    table = record.markdown_table(last.values(), TARGETS) if last else "No target was measured."
    return (
        f"![{device}: time of attention against density, with the floor]({shown.as_posix()})\n\n{table}\n\n"
        f"{device}; TFLOPS of selected blocks; {made}."
    )


def main(arguments: list[str] | None = None) -> None:
    """Prints the table and draws the picture of each device."""
    parser = argparse.ArgumentParser(prog="roofline")
    parser.add_argument("--folder", type=Path, help="of gpu_check.jsonl; all devices by default")
    parser.add_argument(
        "--picture", type=Path, help="DIR/roofline.png beside the records by default"
    )
    flags: Mapping[str, Path | None] = vars(parser.parse_args(arguments))
    given = flags["folder"]
    folders = [given] if given else [x.parent for x in record.RESULTS.glob("*/gpu_check.jsonl")]
    for folder in folders:
        rows = record.read("gpu_check", folder=folder)
        draw(rows, flags["picture"] or folder / "roofline.png")
        print(table(rows))


if __name__ == "__main__":
    main()
