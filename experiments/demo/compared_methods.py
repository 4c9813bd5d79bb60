"""The methods that the demo compares: each published one with settings that fit the demo's latent grid."""

import dataclasses
from pathlib import Path

import numpy as np

from sparsevdit_jax import AttentionPattern, SparseAttention, StepSchedule, VideoGrid
from sparsevdit_jax.patterns import (
    AdaSpa,
    Dense,
    Diagonal,
    MultiDiagonal,
    PerHead,
    SlidingTile,
    VerticalStripe,
)

WARM_UP = 0.2
"""Share of steps with dense attention first, for every method: 10 of 50 in AdaSpa and Sparse-vDiT, 12 in STA."""

SECOND_SEARCH = 0.6
"""Where AdaSpa searches again: step 30 of 50."""

SHOWN = ("sta", "adaspa", "per-head", "mixture")
"""Keys of the methods that the demo runs beside dense by default."""

MODES = ("diagonal", "multi-diagonal", "stripe")
"""Keys of the methods that are modes of Sparse-vDiT, from which a head's mode is chosen."""

KEYS = ("sta", "adaspa", *MODES, "per-head", "mixture", "sta-wide", "adaspa-10")
"""Keys of all methods beside dense, in the order in which they run and are shown."""

SEARCHED = Path(__file__).parents[1] / "results" / "attention" / "mixture_020.json"
"""The assignment that `experiments.search --method mixture` found for the committed checkpoint."""

TILE = (4, 4, 4)
WINDOWS = ((3, 3, 3), (3, 3, 1), (3, 1, 3), (1, 3, 3))
"""STA's window of each head, in tiles: those that the checkpoint's last training stage used."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the comparison.

    Attributes:
      key: short name, used for files.
      label: name as people say it.
      note: one sentence on what it does.
      attention: pattern per layer and schedule; None is dense.
      variant: a second setting of a method, for the curve of quality against density only.
    """

    key: str
    label: str
    note: str
    attention: SparseAttention | None
    variant: bool = False


def warm_up_steps(num_steps: int) -> int:
    """Dense steps at the start of a run, at least one."""
    return max(1, round(WARM_UP * num_steps))


def published_methods(num_layers: int, num_steps: int, *, block: int = 64) -> tuple[Method, ...]:
    """Dense, STA, AdaSpa and the single modes of Sparse-vDiT, and two variants for the curve."""
    dense_steps = warm_up_steps(num_steps)
    plain = StepSchedule(num_steps, dense_steps)
    # The first search is itself dense, so it is the last of the warm-up steps.
    searching = StepSchedule.adaspa(
        num_steps,
        (dense_steps, max(dense_steps + 1, round(SECOND_SEARCH * num_steps))),
        first_step=1,
    )

    def everywhere(pattern: AttentionPattern, schedule: StepSchedule = plain) -> SparseAttention:
        return SparseAttention((pattern,) * num_layers, schedule)

    return (
        Method(key="dense", label="Dense", note="Every token reads every token.", attention=None),
        Method(
            key="sta",
            label="STA",
            note="Sliding tiles of 4x4x4 tokens: each head reads the tiles of its own 3-D window.",
            attention=everywhere(SlidingTile(tile=TILE, window=WINDOWS)),
        ),
        Method(
            key="adaspa",
            label="AdaSpa",
            note="Blocks with the most attention mass, searched twice during the run.",
            attention=everywhere(AdaSpa(density=0.2, block=block), searching),
        ),
        Method(
            key="diagonal",
            label="Sparse-vDiT diagonal",
            note="A band over frames: near frames only.",
            attention=everywhere(Diagonal(density=0.25, block=block)),
        ),
        Method(
            key="multi-diagonal",
            label="Sparse-vDiT multi-diagonal",
            note="A band over sites: the same place in all frames.",
            attention=everywhere(MultiDiagonal(density=0.25, block=block)),
        ),
        Method(
            key="stripe",
            label="Sparse-vDiT stripe",
            note="A few key blocks that every query reads.",
            attention=everywhere(VerticalStripe(density=0.25, block=block)),
        ),
        Method(
            key="sta-wide",
            label="STA (3,3,3)",
            note="The widest of the windows, for all heads.",
            attention=everywhere(SlidingTile(tile=TILE, window=(3, 3, 3))),
            variant=True,
        ),
        Method(
            key="adaspa-10",
            label="AdaSpa 10 %",
            note="Half the blocks.",
            attention=everywhere(AdaSpa(density=0.1, block=block), searching),
            variant=True,
        ),
    )


def searched_mixture(
    num_steps: int, *, grid: VideoGrid, num_layers: int, num_heads: int, path: Path = SEARCHED
) -> Method:
    """The committed mixture of all methods, on a schedule for `num_steps`.

    Its heads keep their pattern in all steps, so that it serves any number of them. The first search comes after the
    dense steps: only heads with AdaSpa are dense in it.

    Args:
      num_steps: of the run.
      grid: of the run; the assignment holds for one grid only, and so for `num_layers` and `num_heads`.
      num_layers: layers of the model.
      num_heads: heads of a layer.
      path: a file of `SparseAttention.to_json`.

    Raises:
      ValueError: the assignment was made for another grid or model.
    """
    sizes = dict(grid=grid, num_layers=num_layers, num_heads=num_heads)
    found = SparseAttention.from_json(path.read_text(encoding="utf-8"), **sizes)
    first = warm_up_steps(num_steps) + 1
    second = max(first + 1, round(SECOND_SEARCH * num_steps))
    schedule = StepSchedule(num_steps, first - 1, (first, second), first_step=1)
    return Method(
        key="mixture",
        label="Searched mixture",
        note="Each head has the method and density that an offline search over all of them found, at 20 % in all.",
        attention=dataclasses.replace(found, schedule=schedule),
    )


def per_head_mix(
    recalls: dict[AttentionPattern, list[np.ndarray]], num_steps: int, *, dense_share: float = 0.25
) -> SparseAttention:
    """Sparse-vDiT's idea in its simplest form: each head gets the mode that keeps most of its attention.

    The published search, by output error and cost, is another experiment; this rule needs one pass.

    Args:
      recalls: candidate pattern -> recall of each head [H] for every layer, on calibration inputs.
      num_steps: of the run.
      dense_share: share of the model's heads that stay dense, those whose best candidate keeps least.
    """
    candidates = list(recalls)
    table = np.stack([np.stack(rows) for rows in recalls.values()])  # [candidates, layers, heads]
    best, kept = table.argmax(0), table.max(0)
    stay = np.argsort(kept, axis=None, kind="stable")[: round(dense_share * kept.size)]
    dense = np.isin(np.arange(kept.size), stay).reshape(kept.shape)
    layers = tuple(
        PerHead.of(Dense() if d else candidates[i] for i, d in zip(*row, strict=True))
        for row in zip(best.tolist(), dense.tolist(), strict=True)
    )
    return SparseAttention(layers, StepSchedule(num_steps, warm_up_steps(num_steps)))
