"""The sweep on the terminal: a table of means with intervals, and methods of equal density beside each other."""

import math
from collections.abc import Sequence

from experiments.quality.statistics import METRICS, Interval, Point, difference, duels, front

REFERENCE = "other-noise"
"""Key of the comparison of unrelated dense clips, which is no method."""

FORMATS = {"psnr_db": ("PSNR dB", ".2f"), "ssim": ("SSIM", ".3f"), "lpips": ("LPIPS", ".3f")}


def methods(points: Sequence[Point]) -> list[Point]:
    """Without the comparison of unrelated clips, by family and density."""
    found = [p for p in points if p.key != REFERENCE]
    families = list(dict.fromkeys(p.family for p in found))
    return sorted(found, key=lambda p: (families.index(p.family), p.run_density))


def shown(interval: Interval, digits: str, *, sign: bool = False) -> str:
    """Like "21.3 ± 0.4"; without the second number where one clip leaves it open."""
    mean = format(interval.mean, ("+" if sign else "") + digits)
    return mean if math.isnan(interval.half) else f"{mean} ± {interval.half:{digits}}"


def print_table(points: Sequence[Point]) -> None:
    """All settings; a star where none is better at the same density or less."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="against dense attention on the same noise; mean and 95 % interval; * none is better"
    )
    for name in ("method", "setting", "clips", "density", "of the run"):
        table.add_column(name, justify="left" if name == "method" else "right")
    kinds = [m for m in METRICS if any(p.values[m] for p in points)]
    for metric in kinds:
        table.add_column(FORMATS[metric][0], justify="right")
    listed = methods(points)
    fronts = {metric: [p.key for p in front(listed, metric)] for metric in kinds}
    for p in [*listed, *(p for p in points if p.key == REFERENCE)]:
        cells = []
        for metric in kinds:
            text = shown(p.interval(metric), FORMATS[metric][1]) if p.values[metric] else "–"
            cells.append(text + (" *" if p.key in fronts[metric] else "  "))
        count = str(len(p.values["psnr_db"]))
        table.add_row(p.family, p.label, count, f"{p.density:.3f}", f"{p.run_density:.3f}", *cells)
    Console(width=max(Console().width, 130)).print(table)


def print_duels(points: Sequence[Point]) -> None:
    """Pairs of about one density: first less second on each clip; a star where the interval excludes 0."""
    from rich.console import Console

    console = Console(width=max(Console().width, 130))
    for a, b in duels(methods(points)):
        cells = []
        for metric, (name, digits) in FORMATS.items():
            if a.values[metric].keys() & b.values[metric].keys():
                gap = difference(a, b, metric)
                star = "*" if gap.excludes_zero else ""
                cells.append(f"{name} {shown(gap, digits, sign=True)}{star}")
        names = [f"{p.family} {p.label} ({p.run_density:.3f})" for p in (a, b)]
        text = " less ".join(names) + ": " + ", ".join(cells)
        console.print(text, highlight=False, soft_wrap=True)
