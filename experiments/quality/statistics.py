"""Means with 95 % intervals over clips, paired differences, and the settings that none beats."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

CONFIDENCE = 0.95

METRICS = {"psnr_db": +1, "ssim": +1, "lpips": -1}
"""Metric -> whether more (+1) or less (-1) is better."""

Clip = tuple[int, int]
"""Digit and seed."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and half of its interval; NaN where one value leaves it open."""

    mean: float
    half: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the mean differs from 0 at this confidence."""
        return abs(self.mean) > self.half


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A setting and its values by clip.

    Attributes:
      key: the setting's.
      family: whose setting it is.
      label: what tells it from others of its family.
      density: kept / all token pairs in the sparse steps, mean over the clips.
      run_density: the same over the whole run, with 1 for a dense step.
      values: metric -> clip -> value.
    """

    key: str
    family: str
    label: str
    density: float
    run_density: float
    values: Mapping[str, Mapping[Clip, float]]

    def interval(self, metric: str) -> Interval:
        """Mean over the clips."""
        return mean_interval(list(self.values[metric].values()))


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and half width of its 95 % interval by Student's t; the values are taken as independent."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Interval(mean, math.nan)
    quantile = float(special.stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return Interval(mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(count))


def difference(a: Point, b: Point, metric: str) -> Interval:
    """a - b over the clips that both have: the pairing takes out how hard a clip is."""
    shared = sorted(a.values[metric].keys() & b.values[metric].keys())
    if not shared:
        raise ValueError(f"{a.key} and {b.key} share no clip; run the sweep for both")
    return mean_interval([a.values[metric][c] - b.values[metric][c] for c in shared])


def front(points: Sequence[Point], metric: str) -> list[Point]:
    """Points that no other beats in both run density and mean quality, by rising density."""
    better, found = METRICS[metric], []
    ordered = [p for p in points if p.values[metric]]
    ordered.sort(key=lambda p: (p.run_density, -better * p.interval(metric).mean))
    for point in ordered:
        mean = better * point.interval(metric).mean
        if not found or mean > better * found[-1].interval(metric).mean:
            found.append(point)
    return found


def duels(points: Sequence[Point], *, within: float = 0.02) -> list[tuple[Point, Point]]:
    """Pairs of different families whose run densities differ by at most `within`, sparsest first."""
    ordered = sorted(points, key=lambda p: p.run_density)
    pairs = itertools.combinations(ordered, 2)
    return [
        (a, b) for a, b in pairs if a.family != b.family and b.run_density - a.run_density <= within
    ]


def points_of(rows: Sequence[Mapping]) -> list[Point]:
    """Points of records of `experiments.quality`, in the order in which their settings first occur.

    Where a setting's attention has changed only the newest one's records count, and where a clip was
    measured twice, the newest.
    """
    measurements = [row["measured"] for row in rows]
    newest = {m["setting"]: m["attention"] for m in measurements}
    settings: dict[str, dict[Clip, Mapping]] = {}
    for m in measurements:
        if m["attention"] == newest[m["setting"]]:
            settings.setdefault(m["setting"], {})[m["digit"], m["seed"]] = m
    return [_point(key, clips) for key, clips in settings.items()]


def on_common_clips(points: Sequence[Point]) -> list[Point]:
    """The points on the clips that all of them have, since some clips are harder than others; as they are if
    there are none. Densities are means over a point's own clips.
    """
    shared = set.intersection(*(set(p.values["psnr_db"]) for p in points)) if points else set()
    if not shared:
        return list(points)

    def kept(values: Mapping[str, Mapping[Clip, float]]) -> dict[str, dict[Clip, float]]:
        return {m: {c: v for c, v in own.items() if c in shared} for m, own in values.items()}

    return [dataclasses.replace(p, values=kept(p.values)) for p in points]


def _point(key: str, clips: Mapping[Clip, Mapping]) -> Point:
    last, measured = list(clips.values())[-1], clips.values()
    return Point(
        key=key,
        family=last["family"],
        label=last["label"],
        density=float(np.mean([m["density"] for m in measured])),
        run_density=float(np.mean([m["run_density"] for m in measured])),
        values={name: {c: m[name] for c, m in clips.items() if name in m} for name in METRICS},
    )
