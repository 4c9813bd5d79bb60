"""Quality against density as a picture, one panel for each metric."""

from collections.abc import Sequence
from pathlib import Path

from experiments.quality.printed_tables import REFERENCE, methods
from experiments.quality.statistics import METRICS, Point, front

TITLES = {
    "psnr_db": "PSNR to dense, dB",
    "ssim": "SSIM to dense",
    "lpips": "LPIPS to dense (less is closer)",
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#5e3c99", "#555555")
"""Okabe and Ito's, apart from each other to every eye; families take them in turn."""
MARKERS = "osD^vPX*<>h"
"""Families that share a colour have different markers, the later one hollow."""


def draw(points: Sequence[Point], path: Path) -> None:
    """Writes a PNG: points with 95 % intervals, families joined thinly, unbeaten settings by a broad line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = [m for m in METRICS if any(p.values[m] for p in points)]
    count = min(len(p.values["psnr_db"]) for p in points)
    families = len({p.family for p in points})
    size = (5.2 * len(kinds), max(4.8, 0.25 * families))  # a line for each family's name
    figure, panels = plt.subplots(1, len(kinds), figsize=size, layout="constrained", squeeze=False)
    for axes, metric in zip(panels[0], kinds, strict=True):
        _draw_panel(axes, [p for p in points if p.values[metric]], metric)
    figure.suptitle(
        f"Sparse against dense attention on the same noise: mean of {count} or more clips, 95 % intervals; "
        "the grey line joins settings that none beats",
        fontsize=10,
    )
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _draw_panel(axes, points: Sequence[Point], metric: str) -> None:
    listed = methods(points)
    unbeaten = front(listed, metric)
    curve = [(p.run_density, p.interval(metric).mean) for p in unbeaten]
    axes.plot(*zip(*curve, strict=True), color="#bbbbbb", linewidth=7, alpha=0.6, zorder=0)
    for p in points:
        if p.key == REFERENCE:
            _draw_reference(axes, p.interval(metric).mean, p.label)
    families, ends = list(dict.fromkeys(p.family for p in listed)), []
    for index, family in enumerate(families):
        own = [p for p in listed if p.family == family]
        colour = COLOURS[index % len(COLOURS)]
        intervals = [p.interval(metric) for p in own]
        aside = 0.003 * (index - len(families) / 2)  # intervals at one density stay apart
        x, y = [p.run_density + aside for p in own], [i.mean for i in intervals]
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.5)
        axes.errorbar(
            x,
            y,
            yerr=[i.half for i in intervals],
            color=colour,
            marker=MARKERS[index % len(MARKERS)],
            markerfacecolor=colour if index < len(COLOURS) else "white",
            markersize=5,
            linestyle="none",
            elinewidth=0.8,
            capsize=2,
        )
        ends.append((y[-1], x[-1], family, colour))
    _label(axes, ends)
    axes.set(xlabel="attention computed in the whole run, share of dense", title=TITLES[metric])
    axes.grid(alpha=0.25)


def _draw_reference(axes, height: float, label: str) -> None:
    axes.axhline(height, color="#555555", linestyle=":", linewidth=1)
    axes.annotate(
        label,
        (0.98, height),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color="#555555",
    )


def _label(axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Family names right of their last points, moved apart so that none covers another."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.42 * (right - left))
    ends = sorted(ends)
    gap = min(0.055, 0.98 / max(len(ends), 1)) * (high - low)
    heights = spread([y for y, _, _, _ in ends], gap, high - gap / 2)
    for height, (y, x, family, colour) in zip(heights, ends, strict=True):
        axes.annotate(
            family.replace("Sparse-vDiT ", ""),
            (x, y),
            xytext=(right + 0.03 * (right - left), height),
            textcoords="data",
            color=colour,
            fontsize=9,
            va="center",
            arrowprops=dict(arrowstyle="-", color=colour, linewidth=0.5, alpha=0.6),
        )


def spread(heights: Sequence[float], gap: float, highest: float) -> list[float]:
    """Ascending heights moved so that neighbours are at least `gap` apart and none is above `highest`."""
    found, lowest = [], float("-inf")
    for height in heights:
        found.append(max(height, lowest))
        lowest = found[-1] + gap
    for i in reversed(range(len(found))):
        found[i] = min(found[i], highest)
        highest = found[i] - gap
    return found
