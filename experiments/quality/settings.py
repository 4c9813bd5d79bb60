"""The settings that the sweep runs, most important first, and found patterns from files."""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from experiments.demo.compared_methods import SECOND_SEARCH, TILE, WINDOWS, warm_up_steps
from models.tiny import TinyConfig
from sparsevdit_jax import AttentionPattern, SparseAttention, StepSchedule, VideoGrid
from sparsevdit_jax.patterns import (
    AdaSpa,
    Compensated,
    Diagonal,
    MultiDiagonal,
    SlidingTile,
    VerticalStripe,
)
from sparsevdit_jax.presets import METHODS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One point of the sweep.

    Attributes:
      key: short and unique.
      family: what it is a setting of; its points share a colour.
      label: what tells it from the others of its family.
      attention: pattern per layer and schedule.
    """

    key: str
    family: str
    label: str
    attention: SparseAttention

    @property
    def digest(self) -> str:
        """Tells this attention from any other of the same key: 12 hexadecimal digits."""
        return hashlib.sha256(self.attention.to_json().encode()).hexdigest()[:12]


def published(num_layers: int, num_steps: int, *, block: int = 64) -> tuple[Setting, ...]:
    """The papers' methods at several densities; all have the same dense steps at the start.

    No search by output error is among them: those come as files (`from_file`).
    """
    warm_up = warm_up_steps(num_steps)
    plain = StepSchedule(num_steps, warm_up)
    # AdaSpa's first search is itself dense, so it is the last of the warm-up steps.
    second = max(warm_up + 1, round(SECOND_SEARCH * num_steps))
    searching = StepSchedule.adaspa(num_steps, (warm_up, second), first_step=1)

    def sta(windows) -> Setting:
        shown = "per head" if windows == WINDOWS else ",".join(map(str, windows))
        return _uniform("STA", shown, SlidingTile(tile=TILE, window=windows), num_layers, plain)

    def adaspa(density: float) -> Setting:
        pattern = AdaSpa(density=density, block=block)
        return _uniform("AdaSpa", f"{density:g}", pattern, num_layers, searching)

    modes = {"diagonal": Diagonal, "multi-diagonal": MultiDiagonal, "stripe": VerticalStripe}

    def mode(name: str, density: float) -> Setting:
        pattern = modes[name](density=density, block=block)
        return _uniform(f"Sparse-vDiT {name}", f"{density:g}", pattern, num_layers, plain)

    return (
        sta(WINDOWS),
        adaspa(0.2),
        *(mode(name, 0.25) for name in modes),
        sta((3, 3, 3)),
        adaspa(0.1),
        adaspa(0.5),
        *(mode(name, 0.4) for name in modes),
        sta((1, 3, 3)),
        sta((4, 1, 1)),
        adaspa(0.05),
        adaspa(0.3),
        *(mode(name, 0.15) for name in modes),
        sta((4, 3, 3)),
        sta((3, 3, 1)),
    )


DENSITIES = (0.2, 0.1, 0.05, 0.3, 0.5)
KNOBS: dict[str, tuple[dict, ...]] = {
    "efficient-vdit": tuple({"count": n} for n in (2, 1, 4)),
    "fastvideo-bsa": tuple({"cumulative": c} for c in (0.7, 0.5, 0.9)),
    "lite-attention": tuple({"block_q": 64, "block_kv": 64, "threshold": t} for t in (-4.0, -2.0)),
    # The authors' 21 reference frames are more than the tiny clip has, so all of it would be dense.
    "lvsa": tuple({"reference": 5, "window": w} for w in (1, 2, 3)),
    "monarch": ({"tied_frames": 1}, {"tied_frames": 2}, {"tied_frames": 4}),
    "nabla": tuple({"mass": m} for m in (0.6, 0.4, 0.8)),
    "radial": tuple({"decay": d} for d in (0.5, 0.2, 0.95)),
    "re-ttention": tuple({"density": d} for d in (0.2, 0.1, 0.05)),
    "skip-softmax": tuple({"block_q": 64, "block_kv": 64, "threshold": t} for t in (0.1, 0.3)),
    "sol-attn": tuple({"tau": t} for t in (1.0, 1.5, 2.0)),
    # The authors' tile is a quarter of the tiny clip.
    "ssta": tuple({"tile": (4, 4, 4), "window": (1, 1, 1), "topk": n} for n in (12, 6, 3)),
    "svg2": tuple({"q_clusters": 64, "k_clusters": 64, "top_p": p} for p in (0.7, 0.5, 0.9)),
    "svg-ear": tuple({"q_clusters": 64, "k_clusters": 64, "top_p": p} for p in (0.7, 0.5, 0.9)),
    "vorta-coreset": ({"rate": 0.5}, {"rate": 0.75}),
}
"""What is varied of a method that has no density: fields of its pattern, the setting that says most first."""
FOUNDING = ("sta", "adaspa", "sparse-vdit")
"""Methods of `published`."""


def of_methods(
    num_layers: int, num_heads: int, grid: VideoGrid, num_steps: int
) -> tuple[Setting, ...]:
    """Every other training-free method of the library, at several densities or values of its own knob, and STA,
    AdaSpa and Sparse-vDiT's diagonal with compensation; all with the same dense steps at the start.
    """
    warm_up = warm_up_steps(num_steps)
    found: list[list[Setting]] = []
    for name, method in METHODS.items():
        layers = [method.pattern(grid, num_heads, layer) for layer in range(num_layers)]
        if name in FOUNDING or any(p.has_side for p in layers):
            continue  # a second branch says nothing before the model is trained with it
        knobs = KNOBS.get(name)
        if knobs is None:
            can = all(p.takes_density for p in layers)
            knobs = tuple({"density": d} for d in DENSITIES) if can else ({},)
        schedule = method.schedule(num_steps).with_dense(warm_up)
        own = []
        for knob in knobs:
            patterns = tuple(dataclasses.replace(p, **knob) for p in layers)  # pyrefly: ignore
            if "density" in knob:  # in place of densities by step
                schedule = dataclasses.replace(schedule, density=None)
            label = ",".join(f"{value:g}" for value in list(knob.values())[-1:])
            own.append(_setting(method.title, label, SparseAttention(patterns, schedule)))
        found.append(own)
    plain = published(num_layers, num_steps)
    for family in ("STA", "AdaSpa", "Sparse-vDiT diagonal"):
        found.append([_compensated(s) for s in plain if s.family == family])
    # The first of every method, then the second of each: an interrupted sweep has something of all.
    rounds = itertools.zip_longest(*found)
    return tuple(setting for each in rounds for setting in each if setting is not None)


def _compensated(plain: Setting) -> Setting:
    patterns = tuple(Compensated(p) for p in plain.attention.patterns)
    attention = dataclasses.replace(plain.attention, patterns=patterns)
    return _setting(f"{plain.family} compensated", plain.label, attention)


def _setting(family: str, label: str, attention: SparseAttention) -> Setting:
    key = re.sub(r"[^a-z0-9.]+", "-", f"{family} {label}".lower()).strip("-")
    return Setting(key=key, family=family, label=label or "published", attention=attention)


def from_file(path: Path, *, grid: VideoGrid, model: TinyConfig, num_steps: int) -> Setting:
    """The attention that a search has written; its family is the file's name without a number at its end.

    Raises:
      ValueError: not such a file, or one made for another grid, model or number of steps.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path} for --attention; give one that a search has written"
        )
    sizes = dict(num_layers=model.num_layers, num_heads=model.num_heads)
    try:
        attention = SparseAttention.from_json(path.read_text(), grid=grid, **sizes)
        attention.init(grid, batch=1, num_heads=model.num_heads, head_dim=model.head_dim)
    except ValueError as problem:
        raise ValueError(f"{path.name}: {problem}") from problem
    if attention.schedule.num_steps != num_steps:
        raise ValueError(
            f"{path.name} is for {attention.schedule.num_steps} steps, but the sweep has {num_steps}; "
            "search again, or pass --steps"
        )
    family, number = re.fullmatch(r"(.*?)[-_.]*(\d*)", path.stem).groups()
    name = (family or path.stem).replace("_", " ")
    return Setting(key=path.stem, family=name, label=number or name, attention=attention)


def check_distinct(settings: Sequence[Setting]) -> None:
    """ValueError where two settings have one key, so that their records would be mixed up."""
    keys = [s.key for s in settings]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"settings {twice} occur twice; rename the files of --attention")


def _uniform(
    family: str, label: str, pattern: AttentionPattern, num_layers: int, schedule: StepSchedule
) -> Setting:
    key = re.sub(r"[ ,]+", "-", f"{family} {label}".lower())
    attention = SparseAttention.uniform(pattern, num_layers, schedule)
    return Setting(key=key, family=family, label=label, attention=attention)
