"""Settings: what the sweep runs, the ones that say most first, and found patterns from files."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from experiments.demo.compared_methods import SECOND_SEARCH, TILE, WINDOWS, warm_up_steps
from models.tiny import TinyConfig
from sparsevdit_jax import AttentionPattern, SparseAttention, StepSchedule, VideoGrid
from sparsevdit_jax.patterns import AdaSpa, Diagonal, MultiDiagonal, SlidingTile, VerticalStripe


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
    """The papers' methods at several densities; every one has the same exact steps at the start.

    No search by output error is among them: those come as files (`from_file`).
    """
    warm_up = warm_up_steps(num_steps)
    plain = StepSchedule(num_steps, warm_up)
    # AdaSpa's first search is itself exact, so it is the last of the warm-up steps.
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
