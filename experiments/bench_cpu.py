"""How close does sparse attention on a CPU come to its ideal, dense time x density?

    python -m experiments.bench_cpu                    # all rows: some minutes on 2 cores
    python -m experiments.bench_cpu --lengths 4096 --directions forward --dtypes float32

Candidates of a row are timed in turns in one process, medians of `repeats`, after a correctness
gate against float64. STA, AdaSpa and a pooled choice of blocks of 64 tokens run through
`sparsevdit_jax`: reordering, padding, mask building and AdaSpa's search (a cached-LSE step) are
inside the timed region. "pooled_choice" is what of "pooled" chooses the blocks. Records go to
experiments/results/bench_cpu.jsonl; ratios compare medians of one run.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import command
from experiments.record import Run
from pallas_kernels import BlockMask, block_sparse_attention, dense_attention
from sparsevdit_jax import KernelOptions, Phase, StepContext, VideoGrid, attend, sparse_attention
from sparsevdit_jax.patterns import AdaSpa, LongCatBSA, SlidingTile

TILE = (4, 8, 4)
CANVAS_AND_WINDOW = {
    4096: ((16, 16, 16), (3, 2, 1)),
    8192: ((32, 16, 16), (5, 2, 1)),
    16384: ((32, 32, 16), (5, 3, 1)),
    32768: ((32, 32, 32), (3, 3, 3)),
}
MATERIALISED_LIMIT = 8192  # tokens up to which jax.nn's logits fit in memory with room to spare


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of the benchmark.

    Attributes:
      lengths: numbers of tokens.
      dtypes: dtypes of q, k and v.
      directions: time the forward pass, or the forward and backward pass.
      heads: number of heads.
      head_dim: channels of a head.
      block: tokens in a block.
      density: share of the blocks that sparse attention keeps.
      repeats: how often all candidates are timed, in turns.
      patterns: also time STA, AdaSpa and a pooled choice of blocks.
      record: append to experiments/results; --no-record only prints.
      allow_dirty: record results of uncommitted code, marked as such.
    """

    lengths: tuple[int, ...] = (4096, 8192, 16384, 32768)
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    directions: tuple[Literal["forward", "forward_backward"], ...] = ("forward", "forward_backward")
    heads: int = 6
    head_dim: int = 64
    block: int = 128
    density: float = 0.125
    repeats: int = 7
    patterns: bool = True
    record: bool = True
    allow_dirty: bool = False

    def __post_init__(self):
        unknown = set(self.lengths) - set(CANVAS_AND_WINDOW)
        if unknown:
            raise ValueError(f"lengths {sorted(unknown)} have no canvas; choose from "
                             f"{sorted(CANVAS_AND_WINDOW)}")  # fmt: skip
        if not 0 < self.density <= 1:
            raise ValueError(f"density={self.density} must lie in (0, 1]")
        if self.repeats < 7:
            raise ValueError(f"repeats={self.repeats} must be at least 7 for a steady median")
        for name in ("heads", "head_dim", "block"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if odd := [n for n in self.lengths if n % self.block]:
            raise ValueError(
                f"block={self.block} must divide every length, but not {odd}; pass a power of two"
            )


def random_keep(config: Config, length: int) -> np.ndarray:
    """Bool [1, H, N, N]: every row keeps the same number of blocks, drawn for each head."""
    n = length // config.block
    draw = np.random.default_rng(0).random((1, config.heads, n, n))
    return draw.argsort(-1) < max(round(config.density * n), 1)


def gate(config: Config, out: jax.Array, q, k, v, keep: np.ndarray | None) -> None:
    """Compares some rows of `out` with float64; a wrong candidate is never timed."""
    rows = np.random.default_rng(1).integers(0, q.shape[1], 8)
    q, k, v = (np.asarray(x[0], np.float64) for x in (q, k, v))
    logits = np.einsum("rhd,khd->hrk", q[rows], k) * config.head_dim**-0.5
    if keep is not None:
        block_rows = keep[0][:, rows // config.block]
        logits = np.where(block_rows.repeat(config.block, -1), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    exact = np.einsum("hrk,khd->rhd", weights / weights.sum(-1, keepdims=True), v)
    error = np.abs(np.asarray(out[0], np.float64)[rows] - exact).max()
    limit = 1e-5 if out.dtype == jnp.float32 else 2e-2
    if not error < limit:
        raise RuntimeError(f"output is off by {error:.2e} (limit {limit}); nothing was timed")


def matmuls(q, k, v):
    """The two products of dense attention in its own tiles, and nothing else: the rate to reach."""
    heads, rows, chunk = q.shape[2], 512, 512
    q, k, v = (x[0].swapaxes(0, 1) for x in (q, k, v))
    q, k, v = (
        x.reshape(heads, -1, size, x.shape[-1]).swapaxes(0, 1)
        for x, size in ((q, rows), (k, chunk), (v, chunk))
    )
    q, k, v = jax.lax.optimization_barrier((q, k, v))  # transposed once, not at every use

    def tile(q):
        def step(acc, kv):
            logits = jnp.einsum("hmd,hnd->hmn", q, kv[0], preferred_element_type=jnp.float32)
            weights = jax.lax.optimization_barrier(logits).astype(q.dtype)  # two products, not one
            more = jnp.einsum("hmn,hnd->hmd", weights, kv[1], preferred_element_type=jnp.float32)
            return acc + more, None

        return jax.lax.scan(step, jnp.zeros(q.shape), (k, v))[0]

    return jax.lax.map(tile, q)


def candidates(config: Config, length: int, q, k, v, d_out, direction: str) -> dict:
    """Name -> (call, density); compiled and gated."""
    keep = random_keep(config, length)
    mask = BlockMask.from_dense(keep, block_q=config.block, block_kv=config.block)
    both = direction == "forward_backward"

    def build(attend: Callable, *extra) -> Callable:
        def run(q, k, v, d_out, *extra):
            if not both:
                return attend(q, k, v, *extra)
            out, vjp = jax.vjp(lambda q, k, v: attend(q, k, v, *extra), q, k, v)
            return out, vjp(d_out)

        program = jax.jit(run)
        return lambda: program(q, k, v, d_out, *extra)

    def dense(q, k, v):
        return dense_attention(q, k, v, implementation="xla")[0]

    def sparse(q, k, v, mask):
        return block_sparse_attention(q, k, v, mask, implementation="xla")[0]

    table = {
        "dense_chunked": (build(dense), 1.0, None),
        "sparse": (build(sparse, mask), float(mask.density()), keep),
    }
    if length <= MATERIALISED_LIMIT:
        table["dense_jax_nn"] = build(jax.nn.dot_product_attention), 1.0, None
    for name, (call, _, rows) in table.items():
        result = jax.block_until_ready(call())
        gate(config, result[0] if both else result, q, k, v, rows)
        print(f"  {name}: correct")
    if not both:
        table["matmuls"] = build(matmuls), 1.0, None
    if config.patterns:
        table |= pattern_candidates(config, length, q, k, v, build, both)
    return {name: entry[:2] for name, entry in table.items()}


def pattern_candidates(config: Config, length: int, q, k, v, build, both: bool) -> dict:
    """STA, AdaSpa and a pooled choice from raster order to raster order, everything included."""
    canvas, window = CANVAS_AND_WINDOW[length]
    grid = VideoGrid(*canvas)
    sta = SlidingTile(TILE, window)
    density = float(sta.block_mask(grid, config.heads).density())

    def attend_sta(q, k, v):
        return sparse_attention(q, k, v, grid=grid, pattern=sta, implementation="xla")

    table = {"sta": (build(attend_sta), density, None)}
    if not both:
        pooled = LongCatBSA(config.density)
        ctx = StepContext(grid, kernel=KernelOptions("xla"))

        def choose(q, k, v):
            return pooled.plan(q, k, (), ctx)[0].mask

        mask = jax.jit(choose)(q, k, v)
        table["pooled"] = (
            build(lambda q, k, v: attend(pooled, q, k, v, (), ctx).out),
            float(mask.density()),
            None,
        )
        table["pooled_choice"] = (build(choose), 0.0, None)  # no pair is attended
        adaspa = AdaSpa(density=config.density, block=config.block)
        state = adaspa.init(grid, batch=1, num_heads=config.heads, head_dim=config.head_dim)
        first, search = (
            StepContext(grid, phase, kernel=KernelOptions("xla"))
            for phase in (Phase.FIRST_SEARCH, Phase.SEARCH)
        )
        state = jax.jit(attend, static_argnums=0)(adaspa, q, k, v, state, first).state
        table["adaspa_search"] = (
            build(lambda q, k, v, state: attend(adaspa, q, k, v, state, search).out, state),
            float(state.mask.density()),
            None,
        )
    return table


def measure(table: dict, repeats: int) -> dict[str, float]:
    """Median seconds of each candidate, timed in turns.

    Every timed call follows an untimed one, so that none pays for the memory its predecessor left.
    """
    seconds = {name: [] for name in table}
    for _ in range(repeats):
        for name, (call, _) in table.items():
            jax.block_until_ready(call())
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main(config: Config) -> None:
    """Times every row and prints ratios as it goes."""
    run = Run.start("bench_cpu", config, allow_dirty=config.allow_dirty) if config.record else None
    for length in config.lengths:
        for direction in config.directions:
            for dtype in config.dtypes:
                print(f"{length} tokens, {direction}, {dtype}")
                shape = (4, 1, length, config.heads, config.head_dim)
                q, k, v, d_out = jax.random.normal(jax.random.key(0), shape).astype(dtype)
                table = candidates(config, length, q, k, v, d_out, direction)
                seconds = measure(table, config.repeats)
                best = min(s for name, s in seconds.items() if name.startswith("dense"))
                flops = 4 * length**2 * config.heads * config.head_dim
                flops *= 3.5 if direction == "forward_backward" else 1
                for name, (_, density) in table.items():
                    row = {
                        "tokens": length,
                        "direction": direction,
                        "dtype": dtype,
                        "candidate": name,
                        "density": density,
                        "latency_ms": 1e3 * seconds[name],
                        "rate_gflops": density * flops / seconds[name] / 1e9,
                        "speedup": best / seconds[name],
                        "fraction_of_ideal": best * density / seconds[name],
                    }
                    print(
                        f"  {name:14s} {row['latency_ms']:9.1f} ms {row['rate_gflops']:6.0f} GFLOP/s"
                        f"  density {density:.3f}  speed-up {row['speedup']:5.2f}"
                        f"  of ideal {row['fraction_of_ideal']:.2f}"
                    )
                    if run is not None:
                        run.log(**row)
                if "pooled" in seconds:
                    share = seconds["pooled_choice"] / seconds["pooled"]
                    print(f"  the choice is {share:.0%} of pooled attention")


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
