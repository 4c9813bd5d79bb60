"""Tokens are exchanged for heads once, whatever a pattern does, and values are those of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.kernel_resources.collectives import count
from models.attention import Attention, LayerAttention
from sparsevdit_jax import (
    Phase,
    SparseAttention,
    StepContext,
    TokenOrder,
    VideoGrid,
    attend,
    metrics,
    parallel,
)
from sparsevdit_jax.distill import layer_outputs, record
from sparsevdit_jax.patterns import (
    SVG,
    AdaSpa,
    Compensated,
    Diagonal,
    LiteAttention,
    Monarch,
    PerHead,
    Rettention,
    Skip,
    SlidingTile,
    SubBlock,
)
from sparsevdit_jax.search.probe import Probe
from sparsevdit_jax.search.rules import SparseVditRule
from tests import tolerances
from tests.toy_patterns import Gate, TopK, TwoOrders, WithMean

GRID, HEADS, DIM, BATCH = VideoGrid(5, 8, 8), 8, 16, 2
ADASPA = AdaSpa(0.3, 32)
ONCE = {
    "static": (SlidingTile((1, 4, 4), (3, 1, 1)), Phase.REUSE),
    "windows of heads": (
        SlidingTile((1, 4, 4), tuple((1 + 2 * (h % 2), 1, 1) for h in range(HEADS))),
        Phase.REUSE,
    ),
    "adaspa, reuse": (ADASPA, Phase.REUSE),
    "adaspa, search": (ADASPA, Phase.SEARCH),
    "adaspa, first search": (ADASPA, Phase.FIRST_SEARCH),
    "online top-k": (TopK(0.25, 32), Phase.REUSE),
    "mixture": (
        PerHead.of([*[TopK(0.25, 32)] * 4, *[Diagonal(d, 32) for d in (0.2, 0.3, 0.5, 0.6)]]),
        Phase.REUSE,
    ),
}


SHAPE = jax.ShapeDtypeStruct((BATCH, GRID.num_tokens, HEADS, DIM), np.float32)


def arrays(heads=HEADS, grid=GRID):
    shape = (3, BATCH, grid.num_tokens, heads, DIM)
    return jax.random.normal(jax.random.key(0), shape)


def some(cases, few):
    """`cases` by name; those that are parts of others are for make test-all."""
    slow = pytest.mark.slow
    names = [name if name in few else pytest.param(name, marks=slow) for name in cases]
    return pytest.mark.parametrize("name", names)


@some(ONCE, {"windows of heads", "adaspa, search", "adaspa, first search", "mixture"})
def test_tokens_are_exchanged_once(name):
    pattern, phase = ONCE[name]
    mesh = parallel.make_mesh(seq=4)
    by_tokens = jax.NamedSharding(mesh, jax.P(None, "seq"))

    @functools.partial(jax.jit, in_shardings=(by_tokens,) * 3, out_shardings=by_tokens)
    def step(q, k, v):
        state = pattern.init(GRID, batch=BATCH, num_heads=HEADS, head_dim=DIM)
        return attend(pattern, q, k, v, state, StepContext(GRID, phase)).out

    with jax.set_mesh(mesh):
        found = count(step.lower(*[SHAPE] * 3).compile().as_text())
    exchanged = 4 * BATCH * GRID.num_tokens * HEADS * DIM * 4 // 4
    assert found.pop("all-to-all") == {"count": 4, "bytes": exchanged}
    # What remains are recalls and counts: far less than q or k of one device.
    assert sum(kind["bytes"] for kind in found.values()) < exchanged / 16, found


VALUES = {
    "budgets by head": (
        SubBlock((0.1, 0.6, 0.3, 0.2, 0.5, 0.4), 16, 2, 2, multiple=1),
        6,
        dict(cfg=2, seq=4),
    ),
    "two orders": (TwoOrders(32, 16, 3), 5, dict(cfg=2, seq=4)),
    "a side branch": (WithMean(0.25, 16), 5, dict(seq=4)),
    "mixed": (
        PerHead(((TopK(0.25, 16), (0, 4)), (Diagonal(0.3, 16), (1, 2, 3)))),
        5,
        dict(cfg=2, seq=2),
    ),
    "voted in the step": (LiteAttention(-1.0, 16, 16), 5, dict(cfg=2, seq=4)),
    "compensated": (
        Compensated(PerHead(((TopK(0.25, 16), (0, 4)), (Diagonal(0.3, 16), (1, 2, 3))))),
        5,
        dict(cfg=2, seq=2),
    ),
    "online without blocks": (
        PerHead(
            (
                (SVG(dialect="hunyuanvideo", block=16, unit=16), (0, 3)),
                (Monarch(2, width_parts=2), (1,)),
                (Rettention(0.3, block=16), (2, 4)),
            )
        ),
        5,
        dict(cfg=2, seq=2),
    ),
    "probe": (
        Probe((TopK(0.25, 16), Skip()), SparseVditRule((0.25, 0.0), lam=0.02)),
        5,
        dict(cfg=2, seq=4),
    ),
}


@some(VALUES, {"two orders", "a side branch", "mixed", "probe"})
def test_values_are_those_of_one_device(name):
    pattern, heads, axes = VALUES[name]
    grid = VideoGrid(3, 7, 5, text_len=5)  # 110 tokens; nothing divides by anything
    ctx = StepContext(grid, text_lengths=jnp.asarray([3, 5], np.int32))

    @jax.jit
    def run(q, k, v):
        state = pattern.init(grid, batch=BATCH, num_heads=heads, head_dim=DIM)
        found = attend(pattern, q, k, v, state, ctx)
        return found.out, found.lse, found.side, found.state

    expected = run(*arrays(heads, grid))
    with jax.set_mesh(parallel.make_mesh(**axes)):
        found = run(*arrays(heads, grid))
    if name == "probe":  # means of squares over all tokens, which a device adds up in its own order
        state, wanted = found[-1], expected[-1]
        for got, want in ((state.error, wanted.error), (state.power, wanted.power)):
            tolerances.assert_rounding_apart(
                got, want, grid.num_tokens * DIM / 3, "mean of squares"
            )
        found, expected = (*found[:-1], state.choice), (*expected[:-1], wanted.choice)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if name == "compensated":  # means and what merges them are XLA's to fuse as it likes
            np.testing.assert_array_equal(np.isneginf(a), np.isneginf(b))
            a, b = (np.where(np.isneginf(x), 0, x) for x in (a, b))
            roundings = tolerances.attention_roundings(arrays(heads, grid)[1])
            tolerances.assert_rounding_apart(a, b, roundings, "compensated")
            continue
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("heads", "axes"), [(5, dict(cfg=2, seq=4)), (3, dict(seq=4))])
def test_a_measured_map_is_that_of_one_device(heads, axes):
    order, (q, k, _) = TokenOrder(GRID, 64), arrays(heads)
    measure = jax.jit(metrics.attention_map, static_argnames="order")
    expected = measure(q, k, StepContext(GRID), order=order)
    with jax.set_mesh(parallel.make_mesh(**axes)):
        found = measure(q, k, StepContext(GRID), order=order)
    n = tolerances.attention_roundings(k) + GRID.num_tokens  # a ring merges parts of the lse
    tolerances.assert_rounding_apart(found, expected, n, "map")


def test_recorded_outputs_are_the_layer_s():
    mixed = PerHead(((TopK(0.25, 16), (0, 4)), (Diagonal(0.3, 16), (1, 2, 3))))
    (pattern,) = record(SparseAttention((mixed,))).patterns

    @jax.jit
    def run(q, k, v):
        state = pattern.init(GRID, batch=BATCH, num_heads=5, head_dim=DIM)
        found = attend(pattern, q, k, v, state, StepContext(GRID))
        return found.out, layer_outputs([found.state])[0]

    with jax.set_mesh(parallel.make_mesh(seq=4)):
        np.testing.assert_array_equal(*run(*arrays(5)))


def test_what_combine_has_learned_gets_its_gradients_on_a_mesh():
    grid = VideoGrid(2, 4, 4)
    module = Attention(32, 4, combine=Gate(32, rngs=nnx.Rngs(1)), rngs=nnx.Rngs(0))
    layer = LayerAttention(WithMean(0.5), (), StepContext(grid))
    x = jax.random.normal(jax.random.key(2), (2, grid.num_tokens, 32))

    @jax.jit
    def gradient(module, x):
        return jax.grad(lambda module: (module(x, layer)[0] ** 2).sum())(module)

    expected = gradient(module, x)
    with jax.set_mesh(parallel.make_mesh(cfg=2, seq=4)):
        found = gradient(module, x)
    assert float(jnp.abs(found.combine.to_gate.kernel[...]).max()) > 1e-3
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # Sums over 64 tokens in another order, forward and back through three products of 32.
        tolerances.assert_rounding_apart(a, b, 3 * (32 + 64), "gradient")


def test_fewer_heads_than_devices_are_refused_where_a_pattern_needs_whole_heads():
    q, k, v = arrays(3)
    with (
        jax.set_mesh(parallel.make_mesh(seq=8)),
        pytest.raises(
            ValueError, match="TopK chooses blocks from whole sequences, but 3 heads on 8"
        ),
    ):
        attend(TopK(0.25, 32), q, k, v, (), StepContext(GRID))


def test_heads_of_a_random_mixture_have_about_the_same_work_on_every_device():
    rng = np.random.default_rng(3)
    pattern = PerHead.of([Diagonal(float(d), 16) for d in rng.uniform(0.05, 1, 40)])
    work = pattern.head_work((), StepContext(GRID), 40)
    places = parallel.assign_heads(work, 8)
    assert parallel.imbalance(work, 8, places) <= 1.05
