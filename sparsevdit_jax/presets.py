"""The papers' settings by name, and the same settings carried over to any latent grid and number of steps.

    PRESETS["hunyuanvideo-sta-117f"].attention()
    attention_for("sta", grid, num_layers=40, num_heads=40, num_steps=30)

`METHODS` holds those of this file, and those that each module of `sparsevdit_jax.patterns` lists as its `METHODS`.

Sources: STA arXiv 2502.04507 (section 4, appendix, released strategies), AdaSpa arXiv 2502.21079 (section 5),
Sparse-vDiT arXiv 2506.03065 (section 4). What a paper leaves open is said where it is filled in.
"""

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Iterable

from pallas_kernels._values import whole
from sparsevdit_jax import patterns
from sparsevdit_jax.attention import SparseAttention
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.method import Method, warm_up
from sparsevdit_jax.pattern import AttentionPattern
from sparsevdit_jax.patterns.adaspa import AdaSpa
from sparsevdit_jax.patterns.dense import Dense
from sparsevdit_jax.patterns.diagonal import Diagonal, MultiDiagonal
from sparsevdit_jax.patterns.per_head import PerHead
from sparsevdit_jax.patterns.sliding_tile import SlidingTile
from sparsevdit_jax.patterns.vertical_stripe import VerticalStripe
from sparsevdit_jax.schedule import StepSchedule

TILE = (6, 8, 8)
"""STA's tile, in tokens."""
WINDOW_SHARE = (1.0, 5 / 6, 1 / 2)
"""STA without training or search: (30, 40, 40) tokens of the latent grid (30, 48, 80), density 0.417."""
ADASPA_DENSITY = 0.2
SPARSE_VDIT_DENSITY = 0.3
"""What Sparse-vDiT's FLOPs imply for Wan after the warm-up (0.298), the largest of its three models."""


def sta_schedule(num_steps: int = 50) -> StepSchedule:
    """STA's: 12 of 50, 6 of 25 or 3 of 10 steps are dense at the start."""
    return StepSchedule(num_steps, math.ceil(0.24 * num_steps))


def adaspa_schedule(num_steps: int = 50) -> StepSchedule:
    """AdaSpa's: searches at 20 % and 60 % of the steps, {10, 30} of 50; dense until the first."""
    first = max(1, round(0.2 * num_steps))
    second = round(0.6 * num_steps)
    return StepSchedule.adaspa(num_steps, (first, second) if second > first else (first,))


def sparse_vdit_schedule(num_steps: int = 50) -> StepSchedule:
    """Sparse-vDiT's: the first 10 of 50 steps are dense."""
    return warm_up(0.2)(num_steps)


def sta_pattern(grid: VideoGrid) -> SlidingTile:
    """STA for any latent grid: the paper's window without search, as a share of the grid; odd where it is not full.

    A grid of less than two tiles along an axis gets a smaller tile there, so that there is something to leave out.
    """
    sizes = (min(t, max(1, -(-n // 2))) for t, n in zip(TILE, grid.shape, strict=True))
    tile = (next(sizes), next(sizes), next(sizes))
    window = []
    for n, t, share in zip(grid.shape, tile, WINDOW_SHARE, strict=True):
        tiles = -(-n // t)
        odd = 2 * round((share * tiles - 1) / 2) + 1
        window.append(tiles if share == 1 else min(tiles, max(1, odd)))
    return SlidingTile(tile, tuple(window))


def sparse_vdit_pattern(
    grid: VideoGrid, num_heads: int, density: float, *, block: int = 64
) -> PerHead:
    """Sparse-vDiT's three sparse modes, assigned to the heads in turn.

    The paper's table of modes was never published, nor were widths and densities. This stands in until a search
    (`sparsevdit_jax.search`, `experiments.search`) has found a table for the model at hand; `density` is
    declared for every head. Stripes hold the first frame, which is more than that of a short clip: there they have
    no other stripe (`VerticalStripe.least_density`; in a clip of one frame they are full).
    """
    stripes = max(density, VerticalStripe.least_density(grid, block))
    modes = (
        Diagonal(density, block),
        MultiDiagonal(density, block),
        VerticalStripe(stripes, block),
    )
    return PerHead.of(modes[head % 3] for head in range(num_heads))


_FOUNDING = (
    Method(
        name="sta",
        title="STA",
        source="arXiv 2502.04507",
        pattern=lambda grid, num_heads, layer: sta_pattern(grid),
        schedule=sta_schedule,
    ),
    Method(
        name="adaspa",
        title="AdaSpa",
        source="arXiv 2502.21079",
        pattern=lambda grid, num_heads, layer: AdaSpa(ADASPA_DENSITY),
        schedule=adaspa_schedule,
    ),
    Method(
        name="sparse-vdit",
        title="Sparse-vDiT",
        source="arXiv 2506.03065, whose table of modes was never published: heads take the sparse modes in turn",
        pattern=lambda grid, num_heads, layer: sparse_vdit_pattern(
            grid, num_heads, SPARSE_VDIT_DENSITY
        ),
        schedule=sparse_vdit_schedule,
    ),
)


def _collect() -> dict[str, Method]:
    found = list(_FOUNDING)
    for module in pkgutil.iter_modules(patterns.__path__, f"{patterns.__name__}."):
        found += getattr(importlib.import_module(module.name), "METHODS", ())
    methods = {method.name: method for method in found}
    if len(methods) < len(found):
        raise ValueError(f"methods {[m.name for m in found]} must have distinct names")
    return methods


METHODS: dict[str, Method] = _collect()
"""Every method by its name."""


def attention_for(
    method: str,
    grid: VideoGrid,
    *,
    num_layers: int,
    num_heads: int,
    num_steps: int = 50,
    model: str | None = None,
    dense_steps: int | None = None,
    dense_last_steps: int | None = None,
    dense_layers: Iterable[int] = (),
) -> SparseAttention:
    """A method's published settings, carried over to a latent grid, a model's size and a number of steps.

    Args:
      method: a name of `METHODS`, or "dense". With "sparse-vdit", heads take its modes in turn, see
        `sparse_vdit_pattern`.
      grid: the token sequence's shape.
      num_layers: layers that take a pattern.
      num_heads: heads of each.
      num_steps: denoising steps; warm-up and search steps keep their share of them.
      model: family of models, "wan", "hunyuanvideo" or "cogvideox", for which a method may have settings of its own.
      dense_steps: dense steps at the start, in place of the method's. AdaSpa's first search follows them.
      dense_last_steps: dense steps at the end; none by default.
      dense_layers: layers that stay dense, from 0, beside the method's. All three as in `SparseAttention.with_dense`.

    Raises:
      ValueError: no such method, or numbers that do not fit.
    """
    num_layers = whole("num_layers", num_layers, 1)
    num_heads, num_steps = whole("num_heads", num_heads, 1), whole("num_steps", num_steps, 1)
    if method == "dense":
        attention = SparseAttention.uniform(Dense(), num_layers, StepSchedule(num_steps, num_steps))
    elif method in METHODS:
        chosen = METHODS[method].of(model)
        layers = tuple(chosen.pattern(grid, num_heads, layer) for layer in range(num_layers))
        attention = SparseAttention(layers, chosen.schedule(num_steps))
        attention = attention.with_dense(None, None, chosen.dense_layers(num_layers))
    else:
        raise ValueError(f"{method=} must be one of {('dense', *METHODS)}")
    return attention.with_dense(dense_steps, dense_last_steps, dense_layers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """One published (or, where `source` says so, carried over) setting.

    Attributes:
      model: preset of the transformer in `models`.
      method: one of `METHODS`.
      clip: frames, height and width in pixels.
      grid: its token sequence.
      num_layers: layers that take a pattern.
      num_heads: heads of each.
      pattern: of every layer.
      schedule: of the run.
      density: published density of the sparse steps' video part; None where there is no figure.
      source: where the figures stand, and what was filled in.
    """

    model: str
    method: str
    clip: tuple[int, int, int]
    grid: VideoGrid
    num_layers: int
    num_heads: int
    pattern: AttentionPattern
    schedule: StepSchedule
    density: float | None
    source: str

    def attention(self) -> SparseAttention:
        """The whole model's choice, bound to this grid and head count."""
        return SparseAttention(
            (self.pattern,) * self.num_layers, self.schedule, self.grid, self.num_heads
        )


_HUNYUAN = dict(model="hunyuanvideo", num_layers=60, num_heads=24)
_HUNYUAN_117 = dict(**_HUNYUAN, clip=(117, 768, 1280), grid=VideoGrid(30, 48, 80, text_len=256))
_HUNYUAN_129 = dict(**_HUNYUAN, clip=(129, 720, 1280), grid=VideoGrid(33, 45, 80, text_len=256))
_WAN = dict(model="wan2.1-t2v-14b", num_layers=40, num_heads=40)
_WAN_69 = dict(**_WAN, clip=(69, 768, 1280), grid=VideoGrid(18, 48, 80))
_WAN_81 = dict(**_WAN, clip=(81, 720, 1280), grid=VideoGrid(21, 45, 80))
_WAN_SMALL = dict(
    model="wan2.1-t2v-1.3b",
    num_layers=30,
    num_heads=12,
    clip=(81, 480, 832),
    grid=VideoGrid(21, 30, 52),
)
_COG = dict(model="cogvideox1.5-5b", num_layers=42, num_heads=48)
_COG_81 = dict(
    **_COG, clip=(81, 768, 1360), grid=VideoGrid(11, 48, 85, text_len=226, text_first=True)
)
_COG_161 = dict(
    **_COG, clip=(161, 768, 1360), grid=VideoGrid(21, 48, 85, text_len=226, text_first=True)
)
_STA = dict(method="sta", schedule=sta_schedule())
_ADASPA = dict(
    method="adaspa", pattern=AdaSpa(ADASPA_DENSITY), schedule=adaspa_schedule(), density=0.2
)
_VDIT = dict(method="sparse-vdit", schedule=sparse_vdit_schedule())
_CARRIED = "not in the paper: its setting carried over to this model"
_UNSEARCHED = "; modes are assigned to heads in turn, for the paper's table was not published"

PRESETS: dict[str, Preset] = {
    "hunyuanvideo-sta-117f": Preset(
        **_HUNYUAN_117, **_STA, pattern=SlidingTile(TILE, (5, 5, 5)), density=0.4167,
        source="STA, tables 3 and 4: window (30, 40, 40) without training, 1.79x end to end",
    ),
    "hunyuanvideo-sta-117f-narrow": Preset(
        **_HUNYUAN_117, **_STA, pattern=SlidingTile(TILE, (3, 3, 3)), density=0.09,
        source="STA, tables 3 and 4: window (18, 24, 24), 3.53x end to end",
    ),
    "hunyuanvideo-sta-117f-trained": Preset(
        **_HUNYUAN_117, **_STA, pattern=SlidingTile(TILE, (5, 3, 5)), density=0.25,
        source="STA, table 4: window (30, 24, 40), meant for finetuned weights, 2.44x end to end",
    ),
    "hunyuanvideo-sta-129f": Preset(
        **_HUNYUAN_129, **_STA, pattern=sta_pattern(_HUNYUAN_129["grid"]), density=None,
        source=f"{_CARRIED}'s latent grid of AdaSpa and Sparse-vDiT; tiles at the border are ragged",
    ),
    "hunyuanvideo-adaspa-129f": Preset(
        **_HUNYUAN_129, **_ADASPA, source="AdaSpa, table 1: 720p, 129 frames, 1.78x"
    ),
    "hunyuanvideo-sparse-vdit-129f": Preset(
        **_HUNYUAN_129, **_VDIT, pattern=sparse_vdit_pattern(_HUNYUAN_129["grid"], 24, 0.15), density=0.15,
        source="Sparse-vDiT, table 2: 1.85x; density from its FLOPs" + _UNSEARCHED,
    ),
    "wan2.1-14b-sta-69f": Preset(
        **_WAN_69, **_STA, pattern=SlidingTile(TILE, (3, 3, 5)), density=0.25,
        source="STA, appendix: one of the windows of the Wan 2.1 search (69 frames, 1.60x with all of them)",
    ),
    "wan2.1-14b-sta-81f": Preset(
        **_WAN_81, **_STA, pattern=sta_pattern(_WAN_81["grid"]), density=None,
        source=f"{_CARRIED}'s usual latent grid, which tiles do not divide",
    ),
    "wan2.1-14b-adaspa-81f": Preset(**_WAN_81, **_ADASPA, source=_CARRIED),
    "wan2.1-14b-sparse-vdit-81f": Preset(
        **_WAN_81, **_VDIT, pattern=sparse_vdit_pattern(_WAN_81["grid"], 40, 0.298), density=0.298,
        source="Sparse-vDiT, table 2: 1.58x; density from its FLOPs" + _UNSEARCHED,
    ),
    "wan2.1-1.3b-sta-81f": Preset(
        **_WAN_SMALL, **_STA, pattern=sta_pattern(_WAN_SMALL["grid"]), density=None, source=_CARRIED
    ),
    "wan2.1-1.3b-adaspa-81f": Preset(**_WAN_SMALL, **_ADASPA, source=_CARRIED),
    "cogvideox1.5-5b-sta-81f": Preset(
        **_COG_81, **_STA, pattern=sta_pattern(_COG_81["grid"]), density=None, source=_CARRIED
    ),
    "cogvideox1.5-5b-adaspa-161f": Preset(
        **_COG_161, **_ADASPA,
        source="AdaSpa, table 1: 720p, 161 frames, 1.66x; 768 x 1360 is the model's own 720p",
    ),
    "cogvideox1.5-5b-sparse-vdit-81f": Preset(
        **_COG_81, method="sparse-vdit", schedule=StepSchedule(50),
        pattern=sparse_vdit_pattern(_COG_81["grid"], 48, 0.265), density=0.265,
        source="Sparse-vDiT, table 2: 1.76x, no warm-up; density from its FLOPs" + _UNSEARCHED,
    ),
}  # fmt: skip
