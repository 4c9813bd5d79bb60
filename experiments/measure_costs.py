"""What does a head of each pattern cost on this device, relative to a dense one?

    python -m experiments.measure_costs                        # the tiny model's shape: 4 minutes on 2 cores
    python -m experiments.measure_costs --grid 21 45 80 --text 0 --heads 40 --head-dim 128 --block 128 --tile 4 4 8

Every pattern kind at several densities, and dense, in turns in one process: medians. Timed is what
`attend` does in a REUSE step, from raster order to raster order: reordering, padding, the launch
(no search: `schedule.attention_cost` counts that). Writes experiments/results/costs/<device>.json,
a `sparsevdit_jax.search.costs.CostTable` to which another shape or dtype is added, and a record for
each row. Shapes that the table holds are not measured again, unless with --again.
"""

import dataclasses
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import jax
import numpy as np

from experiments import command
from experiments.implementation import check_implementation
from experiments.record import RESULTS, Run, environment
from experiments.timing import Timer, race
from experiments.timing import Timing as Race
from sparsevdit_jax import (
    AttentionPattern,
    KernelOptions,
    Phase,
    StepContext,
    TokenOrder,
    VideoGrid,
    attend,
    codec,
)
from sparsevdit_jax.patterns import (
    AdaSpa,
    Dense,
    Diagonal,
    MultiDiagonal,
    SlidingTile,
    VerticalStripe,
)
from sparsevdit_jax.search.costs import CostTable, Measurement, Timing, head_densities

Dtype = Literal["bfloat16", "float32"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of the measurement.

    Attributes:
      grid: frames, rows and columns of the video in tokens.
      text: number of text tokens.
      heads: number of heads in the layer.
      head_dim: channels of a head.
      batch: batch rows. Guidance makes two of one clip.
      dtypes: dtypes of q, k and v.
      tile: frames, rows and columns of a tile of sliding tile attention, in tokens.
      block: tokens in a block of the other patterns.
      densities: measure every kind of pattern at about these densities.
      implementation: name for the kernels; they choose by default.
      rounds: how often all candidates are timed, in turns.
      out: folder of the table.
      again: measure shapes that the table holds already, and replace them.
      record: append to experiments/results; --no-record only prints and writes the table.
      allow_dirty: record results of uncommitted code, marked as such.
    """

    GROUPS: ClassVar = {
        "layer": ("grid", "text", "heads", "head_dim", "batch", "dtypes"),
        "candidates": ("tile", "block", "densities", "implementation", "rounds"),
        "output": ("out", "again", "record", "allow_dirty"),
    }

    grid: tuple[int, int, int] = (16, 16, 16)
    text: int = 8
    heads: int = 4
    head_dim: int = 64
    batch: int = 2
    dtypes: tuple[Dtype, ...] = ("bfloat16", "float32")
    tile: tuple[int, int, int] = (4, 4, 4)
    block: int = 64
    densities: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.75)
    implementation: str | None = None
    rounds: int = 7
    out: Path = RESULTS / "costs"
    again: bool = False
    record: bool = True
    allow_dirty: bool = False

    def __post_init__(self):
        bad = [d for d in self.densities if not 0 < d <= 1]
        if bad or not self.densities:
            raise ValueError(f"densities {bad} must lie in (0, 1], and there must be one at least")
        for name in ("rounds", "heads", "head_dim", "batch"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if TokenOrder(self.video_grid, self.block).num_video_blocks < 2:
            raise ValueError(
                f"block={self.block} puts all of {self.video_grid} in one block; choose a smaller --block"
            )

    @property
    def video_grid(self) -> VideoGrid:
        """The sequence's shape."""
        return VideoGrid(*self.grid, text_len=self.text)


def candidates(config: Config) -> Iterator[AttentionPattern]:
    """Every kind at every density that it can have on the grid; Dense is not among them."""
    grid, block = config.video_grid, config.block
    for density in config.densities:
        yield Diagonal(density=density, block=block)
        yield MultiDiagonal(density=density, block=block)
        yield AdaSpa(density=density, block=block)
        stripe = VerticalStripe(density=density, block=block)
        if _fits(stripe, config):
            yield stripe
    windows = _windows(SlidingTile(config.tile, (1, 1, 1)).token_order(grid).tiles)
    share = {w: head_densities(SlidingTile(config.tile, w), grid, 1)[0] for w in windows}
    nearest = [min(share, key=lambda w: abs(share[w] - d)) for d in config.densities]
    for window in dict.fromkeys(nearest):
        yield SlidingTile(config.tile, window)


def _fits(pattern: AttentionPattern, config: Config) -> bool:
    """Whether the grid has room for the pattern; a stripe needs density for the first frame."""
    try:
        head_densities(pattern, config.video_grid, config.heads)
    except ValueError as error:
        print(f"left out: {error}")
        return False
    return True


def _windows(tiles: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Windows, odd or whole along each axis."""
    axes = ([*range(1, n, 2), n] for n in tiles)
    return list(itertools.product(*axes))


def inputs(config: Config, dtype: Dtype) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normal q, k, v [B, L, H, D]; times do not depend on values."""
    shape = (config.batch, config.video_grid.num_tokens, config.heads, config.head_dim)
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, shape, dtype) for key in keys)
    return q, k, v


def chosen_state(pattern: AttentionPattern, config: Config):
    """The pattern's state in a REUSE step: one that searches has searched random q and k."""
    sizes = dict(batch=config.batch, num_heads=config.heads, head_dim=config.head_dim)
    state = pattern.init(config.video_grid, **sizes)
    if not pattern.searches:
        return state
    kernel = KernelOptions(config.implementation)
    search = StepContext(config.video_grid, Phase.FIRST_SEARCH, kernel=kernel)
    return jax.jit(attend, static_argnums=0)(
        pattern, *inputs(config, "float32"), state, search
    ).state


def chain_timer(program, q, k, v, state) -> Timer:
    """A timer of program(q, k, v, state) -> out; each call takes the output of the one before it
    for q, so that no two run at the same time.
    """

    def run(calls: int) -> float:
        out, start = q, time.perf_counter()
        for _ in range(calls):
            out = program(out, k, v, state)
        jax.block_until_ready(out)
        return time.perf_counter() - start

    return run


def attend_timer(pattern: AttentionPattern, config: Config, q, k, v) -> Timer:
    """A timer of the pattern's REUSE step as a model's layer runs it."""
    state = chosen_state(pattern, config)
    ctx = StepContext(config.video_grid, Phase.REUSE, kernel=KernelOptions(config.implementation))
    program = jax.jit(lambda q, k, v, state: attend(pattern, q, k, v, state, ctx).out)
    return chain_timer(program, q, k, v, state)


def measure(config: Config, dtype: Dtype) -> tuple[Measurement, dict[AttentionPattern, Race]]:
    """Times dense and every candidate in turns; a candidate that fails is named and left out."""
    q, k, v = inputs(config, dtype)
    patterns = [Dense(), *candidates(config)]
    results = race(
        {str(p): attend_timer(p, config, q, k, v) for p in patterns}, rounds=config.rounds
    )
    times: dict[AttentionPattern, Race] = {}
    for pattern in patterns:
        result = results[str(pattern)]
        if isinstance(result, Race):
            times[pattern] = result
        elif pattern.is_dense:
            raise result
        else:
            print(f"left out: {pattern}: {result}")
    timings = (
        Timing(
            codec.class_name(type(pattern)),
            pattern.block_on(config.video_grid),
            float(np.mean(head_densities(pattern, config.video_grid, config.heads))),
            result.latency_ms,
        )
        for pattern, result in times.items()
        if not pattern.is_dense
    )
    device, *facts = (environment()[k] for k in ("device", "jax", "jaxlib", "processor"))
    measurement = Measurement(
        device=device,
        implementation=config.implementation,
        dtype=dtype,
        tokens=config.video_grid.num_tokens,
        num_heads=config.heads,
        head_dim=config.head_dim,
        batch=config.batch,
        environment=tuple(zip(("jax", "jaxlib", "processor"), facts, strict=True)),
        dense_ms=times[Dense()].latency_ms,
        timings=tuple(sorted(timings, key=lambda t: (t.kind, t.block, t.density))),
    )
    return measurement, times


def table_path(folder: Path) -> Path:
    """The table of this machine's device: "nvidia-h200.json"."""
    name = re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    return folder / f"{name}.json"


def read_table(path: Path) -> CostTable:
    """The table at `path`, empty if there is none."""
    if not path.exists():
        return CostTable()
    try:
        return CostTable.from_json(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(
            f"{path} holds no table of costs ({problem}); restore it, or move it away and measure again"
        ) from problem


def is_measured(table: CostTable, config: Config, dtype: Dtype) -> bool:
    """Whether the table holds this shape on this device."""
    shape = (config.video_grid.num_tokens, config.heads, config.head_dim, config.batch)
    setting = (jax.devices()[0].device_kind, config.implementation, dtype, *shape)
    return setting in [m.setting for m in table.measurements]


def main(config: Config) -> None:
    """Measures what the table lacks, and writes it after each dtype."""
    for dtype in config.dtypes:
        check_implementation(config.implementation, head_dim=config.head_dim, dtype=dtype)
    path = table_path(config.out)
    table, run = read_table(path), None
    for dtype in config.dtypes:
        if is_measured(table, config, dtype) and not config.again:
            print(f"{path.name} holds this shape in {dtype}; --again measures it anew")
            continue
        if config.record and run is None:
            run = Run.start("measure_costs", config, allow_dirty=config.allow_dirty)
        print(f"{config.video_grid}, {config.heads} x {config.head_dim}, {dtype}")
        measurement, times = measure(config, dtype)
        for pattern, result in times.items():
            density = head_densities(pattern, config.video_grid, config.heads)
            row = {
                "tokens": measurement.tokens,
                "num_heads": config.heads,
                "head_dim": config.head_dim,
                "batch": config.batch,
                "dtype": dtype,
                "implementation": config.implementation,
                "pattern": codec.class_name(type(pattern)),
                "block": pattern.block_on(config.video_grid),
                "setting": str(pattern),
                "density": float(np.mean(density)),
                "cost_ratio": result.latency_ms / measurement.dense_ms,
                **dataclasses.asdict(result),
            }
            print(
                f"  {row['pattern']:32s} density {row['density']:.3f}  {row['latency_ms']:9.2f} ms"
                f"  cost {row['cost_ratio']:.3f}"
            )
            if run is not None:
                run.log(**row)
        table = table.replace(measurement)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(table.to_json() + "\n", encoding="utf-8")


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
