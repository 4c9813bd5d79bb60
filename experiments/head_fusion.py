"""Is one launch for heads of several modes faster than one launch for each mode?

    python -m experiments.head_fusion                 # the tiny model's shape: 3 minutes on 2 cores
    python -m experiments.head_fusion --grid 21 45 80 --text 0 --heads 40 --head-dim 128 --block 128 --tile 4 4 8

Ways to run a mix of patterns over the heads of a layer, each a jitted program from raster order to
raster order: "fused" (`PerHead`, one launch where blocks agree), "table" (`Table`, masks as data),
"per_mode" (gather the heads of a mode, attend, put them back; Sparse-vDiT, arXiv 2506.03065,
batches so) and "per_head". All ways must agree before they are timed, in turns, medians.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import command, measure_costs
from experiments.implementation import check_implementation
from experiments.measure_costs import Dtype, chain_timer, chosen_state, inputs
from experiments.record import Run
from experiments.timing import Timing, race
from sparsevdit_jax import AttentionPattern, KernelOptions, Phase, StepContext, attend
from sparsevdit_jax.patterns import (
    AdaSpa,
    Dense,
    Diagonal,
    MultiDiagonal,
    PerHead,
    Skip,
    SlidingTile,
    Table,
    VerticalStripe,
)
from sparsevdit_jax.search.costs import head_densities

BUDGET = {"float32": 1e-5, "bfloat16": 2e-2}
"""By how much two ways may differ: rounding, where they sum in another order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(measure_costs.Config):
    """Flags: those of `measure_costs`, of which `densities`, `out` and `again` mean nothing here."""

    density: float = 0.25
    """Of every mode that declares one."""


def mixes(config: Config) -> dict[str, tuple[AttentionPattern, ...]]:
    """Name -> pattern of each head; modes take turns."""
    size = dict(density=config.density, block=config.block)
    wide, flat = (SlidingTile(config.tile, window) for window in ((3, 3, 1), (1, 3, 3)))
    band, sites, stripe = Diagonal(**size), MultiDiagonal(**size), VerticalStripe(**size)
    table = {
        "two windows": (wide, flat),
        "four static modes": (wide, band, sites, stripe),
        "a quarter dense": (Dense(), wide, band, sites),
        "a quarter skipped": (Skip(), wide, band, sites),
        "AdaSpa and three": (AdaSpa(**size), wide, band, stripe),
    }
    return {
        name: tuple(modes[h % len(modes)] for h in range(config.heads))
        for name, modes in table.items()
    }


def ways(
    patterns: tuple[AttentionPattern, ...], config: Config
) -> dict[str, tuple[Callable, object]]:
    """Name -> (function(q, k, v, state) -> out, state)."""
    ctx = StepContext(config.video_grid, Phase.REUSE, kernel=KernelOptions(config.implementation))
    fused = PerHead.of(patterns)
    groups = [(p, list(heads), _state(p, len(heads), config)) for p, heads in fused.groups]
    own = {tuple(heads): s for _, heads, s in groups}  # static ones that share a launch have none
    parts = fused.parts(config.video_grid, config.heads) or ()
    state = tuple(own.get(heads, ()) for _, heads in parts)
    single = [(p, [h], _of_head(s, i)) for p, hs, s in groups for i, h in enumerate(hs)]
    found = {
        "fused": (lambda q, k, v, s: attend(fused, q, k, v, s, ctx).out, state),
        "per_mode": _loop(groups, ctx),
        "per_head": _loop(single, ctx),
    }
    table = _table(patterns, config)
    if table is not None:
        found["table"] = (lambda q, k, v, s: attend(table, q, k, v, s, ctx).out, ())
    return found


def _table(patterns: tuple[AttentionPattern, ...], config: Config) -> Table | None:
    """The mix as a Table of one step; None where it searches, or its blocks differ on this grid."""
    library = tuple(dict.fromkeys(patterns))
    sizes = dict(batch=config.batch, num_heads=config.heads, head_dim=config.head_dim)
    try:
        table = Table(library, (tuple(library.index(p) for p in patterns),))
        table.init(config.video_grid, **sizes)
    except ValueError as error:
        print(f"  left out: {error}")
        return None
    return table


def _state(pattern: AttentionPattern, num_heads: int, config: Config):
    return chosen_state(pattern, dataclasses.replace(config, heads=num_heads))


def _of_head(state, head: int):
    """Of a group's state [B, H, ...] the head's part, so that all ways compute the same."""
    return jax.tree.map(lambda x: x[:, head : head + 1] if x.ndim > 1 else x, state)


def _loop(parts, ctx):
    """(function, states): each part gathers its heads, attends and puts them back."""

    def loop(q, k, v, states):
        out = jnp.zeros_like(q)
        for (pattern, heads, _), state in zip(parts, states, strict=True):
            index = np.asarray(heads)
            taken = (jnp.take(x, index, axis=2) for x in (q, k, v))
            out = out.at[:, :, index].set(attend(pattern, *taken, state, ctx).out)
        return out

    return loop, tuple(state for _, _, state in parts)


def compare(
    patterns: tuple[AttentionPattern, ...], config: Config, dtype: Dtype
) -> dict[str, tuple[Timing, float]]:
    """Way -> (its times, largest difference of its output from the fused one's)."""
    q, k, v = inputs(config, dtype)
    programs = {
        name: (jax.jit(call), state) for name, (call, state) in ways(patterns, config).items()
    }
    outs = {name: call(q, k, v, state) for name, (call, state) in programs.items()}
    exact = np.asarray(outs["fused"], np.float32)
    errors = {
        name: float(np.abs(np.asarray(x, np.float32) - exact).max()) for name, x in outs.items()
    }
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= BUDGET[dtype]:
        raise RuntimeError(
            f"{worst} differs from fused by {errors[worst]:.2e} (limit {BUDGET[dtype]}); nothing was timed"
        )
    timers = {name: chain_timer(call, q, k, v, state) for name, (call, state) in programs.items()}
    times = race(timers, rounds=config.rounds)
    failed = [result for result in times.values() if isinstance(result, Exception)]
    if failed:
        raise failed[0]
    return {name: (times[name], errors[name]) for name in times}


def main(config: Config) -> None:
    """Times every way of every mix and prints ratios as it goes."""
    for dtype in config.dtypes:
        check_implementation(config.implementation, head_dim=config.head_dim, dtype=dtype)
    for pattern in {p for patterns in mixes(config).values() for p in patterns}:
        head_densities(pattern, config.video_grid, 1)  # one that does not fit is refused here
    run = (
        Run.start("head_fusion", config, allow_dirty=config.allow_dirty) if config.record else None
    )
    for dtype in config.dtypes:
        print(f"{config.video_grid}, {config.heads} x {config.head_dim}, {dtype}")
        for mix, patterns in mixes(config).items():
            results = compare(patterns, config, dtype)
            for way, (time, error) in results.items():
                row = {
                    "tokens": config.video_grid.num_tokens,
                    "num_heads": config.heads,
                    "head_dim": config.head_dim,
                    "batch": config.batch,
                    "dtype": dtype,
                    "implementation": config.implementation,
                    "mix": mix,
                    "num_modes": len(set(patterns)),
                    "way": way,
                    "latency_over_fused_ratio": time.latency_ms / results["fused"][0].latency_ms,
                    "output_error": error,
                    **dataclasses.asdict(time),
                }
                print(
                    f"  {mix:20s} {way:9s} {row['latency_ms']:9.2f} ms"
                    f"  of fused {row['latency_over_fused_ratio']:.2f}  differs by {error:.0e}"
                )
                if run is not None:
                    run.log(**row)


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
