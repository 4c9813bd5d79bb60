"""Times a step of each method beside a dense one, and the part that attention takes of it."""

import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from experiments.demo.clip_runner import Runner
from experiments.demo.compared_methods import Method
from experiments.demo.rounds import ROUNDS, Spread, in_rounds
from sparsevdit_jax import Phase, SparseAttention, StepContext
from sparsevdit_jax.ops import attend_dense
from sparsevdit_jax.schedule import exact_steps

ATTENTION_ROUNDS = 2

Spreads = dict[str, Spread]


def measure_times(
    runner: Runner, methods: Sequence[Method], layers: Sequence, advance: Callable[[str], None]
) -> dict[str, Spreads]:
    """Times of every method, by key and then by field of its row (see `spreads_of`).

    Args:
      runner: that has run all methods, so that their programs are compiled.
      methods: dense first.
      layers: q, k, v [1, L, H, D] of every layer at the probed step.
      advance: takes a step of a progress bar of `turns(methods)` steps.
    """
    sparse = [m for m in methods if m.attention is not None]
    steps = {m.key: lambda m=m: runner.time_step(m) for m in methods}
    pairs = in_rounds(steps, advance=advance)
    attention = dense_attention_timer(runner, layers)
    attention()  # compiles
    timers = {"dense": steps["dense"], "attention": attention}
    inside = in_rounds(timers, rounds=ATTENTION_ROUNDS, advance=advance)["attention"]
    shares = [own / step for own, step in inside]
    dense_ms = Spread.of([step for rows in (*pairs.values(), inside) for _, step in rows])
    found = {"dense": dense_spreads(dense_ms, shares, runner.config.steps)}
    for method in sparse:
        search_ms = None
        if method.attention.schedule.search_steps:
            search_ms = runner.time_step(method, Phase.SEARCH)
            advance(f"{method.key}, search")
        found[method.key] = spreads_of(pairs[method.key], shares, method.attention, search_ms)
    return found


def turns(methods: Sequence[Method]) -> int:
    """Timed runs of `measure_times`."""
    sparse = [m.attention for m in methods if m.attention is not None]
    searching = sum(bool(attention.schedule.search_steps) for attention in sparse)
    return ROUNDS * (len(sparse) + -(-len(sparse) // 2)) + 2 * ATTENTION_ROUNDS + searching


def dense_attention_timer(runner: Runner, layers: Sequence) -> Callable[[], float]:
    """Runs one dense step's attention, all layers and rows of the batch, and returns milliseconds."""
    rows = runner.conditions.rows
    inputs = [tuple(jnp.concatenate([x] * rows) for x in qkv) for qkv in layers]
    ctx, attend = StepContext(runner.grid, Phase.DENSE), jax.jit(attend_dense)

    def timer() -> float:
        began = time.perf_counter()
        jax.block_until_ready([attend(*qkv, ctx)[0] for qkv in inputs])
        return 1e3 * (time.perf_counter() - began)

    return timer


def dense_spreads(step_ms: Spread, shares: Sequence[float], steps: int) -> Spreads:
    """The row of dense itself: times, and no speed-ups."""
    share = Spread.of(shares)
    return dict(
        step_ms=step_ms,
        attention_ms=step_ms.scaled(share.median),
        run_s=step_ms.scaled(steps / 1e3),
    )


def spreads_of(
    pairs: Sequence[tuple[float, float]],
    shares: Sequence[float],
    attention: SparseAttention,
    search_ms: float | None,
) -> Spreads:
    """Times and speed-ups of a method: step_ms, attention_ms, run_s, speedup_step, _attention and _run.

    The rest of the model takes the same time under every method, so a step's attention is what is left when that rest
    is taken off. A run has its dense steps, its sparse ones, and what its searches add.

    Args:
      pairs: ms of the method's sparse step and of the dense step beside it, in each round.
      shares: of a dense step that its attention takes, each from a pair of runs.
      attention: the method's.
      search_ms: of a sparse step that also searches; None without searches.
    """
    relative = [own / dense for own, dense in pairs]
    inside = [max(r - (1 - a), 1e-3) / a for r in relative for a in shares]
    schedule, exact = attention.schedule, exact_steps(attention.schedule)
    middle = statistics.median(own for own, _ in pairs)
    extra = 0.0 if search_ms is None else max(search_ms / middle - 1, 0.0)
    searches = len(schedule.search_steps)
    reuse = schedule.num_steps - exact + searches * extra
    runs = [(exact + reuse * r) / schedule.num_steps for r in relative]
    dense_ms = statistics.median(dense for _, dense in pairs)
    own = Spread.of([ms for ms, _ in pairs])
    return dict(
        step_ms=own,
        attention_ms=Spread.of(inside).scaled(dense_ms * statistics.median(shares)),
        run_s=Spread.of(runs).scaled(schedule.num_steps * dense_ms / 1e3),
        speedup_step=Spread.of([1 / r for r in relative]),
        speedup_attention=Spread.of([1 / r for r in inside]),
        speedup_run=Spread.of([1 / r for r in runs]),
    )
