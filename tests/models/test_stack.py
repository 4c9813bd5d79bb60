"""Patterns per layer, and stacks of blocks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import layers
from models.attention import LayerAttention
from models.stack import layer_attentions, loop_blocks, run_blocks
from sparsevdit_jax import (
    Attended,
    AttentionPattern,
    KernelOptions,
    Phase,
    SparseAttention,
    StepContext,
    StepSchedule,
    VideoGrid,
)
from sparsevdit_jax.patterns import AdaSpa, Dense, SlidingTile
from tests import tolerances

GRID = VideoGrid(4, 4, 4, text_len=3)
LAYERS = 2 * (20 + 8 + GRID.num_tokens)  # roundings: of two, 8 wide, see tests/models/parity.py
SIZES = dict(grid=GRID, num_layers=2, num_heads=2)


class Block(nnx.Module):
    """Attention of x with itself, through whatever pattern is given."""

    def __init__(self, rngs):
        self.linear = layers.Linear(8, 8, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x, gain, *, layer):
        q = self.linear(x).reshape(*x.shape[:2], 2, 4)
        attended = layer.attend(q, q, q)
        return x + gain * attended.out.reshape(x.shape), attended.state


@pytest.fixture
def blocks():
    return nnx.List([Block(nnx.Rngs(i)) for i in range(2)])


def test_no_attention_is_dense_with_the_text_that_is_there():
    lengths = jnp.asarray([2], jnp.int32)
    layers = layer_attentions(None, (), None, **SIZES, text_lengths=lengths)
    assert [(layer.pattern, layer.state) for layer in layers] == [(Dense(), ())] * 2
    for layer in layers:
        assert layer.ctx.phase is Phase.DENSE
        assert layer.ctx.text_lengths is lengths
    given = StepContext(GRID, kernel=KernelOptions("reference"))
    assert layer_attentions(None, (), given, **SIZES)[0].ctx.kernel.implementation == "reference"


def test_the_input_s_text_lengths_go_into_the_context():
    attention = SparseAttention.uniform(Dense(), 2, StepSchedule(5))
    given = StepContext(GRID, step=3, kernel=KernelOptions("xla"))
    lengths = jnp.asarray([2], jnp.int32)
    for layer in layer_attentions(attention, ((), ()), given, **SIZES, text_lengths=lengths):
        assert layer.ctx.text_lengths is lengths
        assert int(layer.ctx.step) == 3
        assert layer.ctx.kernel.implementation == "xla"


@pytest.mark.parametrize(
    ("states", "ctx", "layers", "message"),
    [
        (((), ()), None, 2, "attention= needs ctx="),
        (((), ()), StepContext(VideoGrid(4, 4, 5, text_len=3)), 2, "but this input has VideoGrid"),
        (((), (), ()), StepContext(GRID), 3, "patterns were made for 3 layers"),
        (((),), StepContext(GRID), 2, "1 states for 2 layers"),
    ],
)
def test_what_does_not_fit_is_refused(states, ctx, layers, message):
    attention = SparseAttention.uniform(Dense(), layers)
    with pytest.raises(ValueError, match=message):
        layer_attentions(attention, states, ctx, **SIZES)


def test_blocks_run_in_turn_and_hand_their_states_on(blocks, key):
    attention = SparseAttention(
        (SlidingTile((2, 2, 2), (1, 1, 1)), AdaSpa(0.5, 16)), StepSchedule.adaspa(4, (1, 2))
    )
    states = attention.init(GRID, batch=1, num_heads=2, head_dim=4)
    x = jax.random.normal(key, (1, GRID.num_tokens, 8))
    ctx = StepContext(GRID, Phase.FIRST_SEARCH)
    layers = layer_attentions(attention, states, ctx, **SIZES)
    got, new = jax.jit(lambda b, x, layers: run_blocks(b, x, 0.5, layers=layers))(blocks, x, layers)
    want = x
    for block, layer in zip(blocks, layers, strict=True):
        want, _ = block(want, 0.5, layer=layer)
    tolerances.assert_rounding_apart(got, want, LAYERS, "in turn")
    assert new[0] == ()
    assert (new[1].mask.kv_counts < new[1].mask.num_kv_blocks).any()


@dataclasses.dataclass(frozen=True)
class Traced(AttentionPattern):
    """Notes when it is traced; patterns of one name are equal."""

    name: str
    seen: list = dataclasses.field(compare=False)

    def compute(self, q, k, v, state, ctx):
        self.seen.append(self.name)
        return Attended(v, None, state)


@pytest.mark.parametrize("remat", [False, True])
def test_layers_of_one_pattern_are_traced_once(remat):
    seen = []
    blocks = nnx.List([nnx.eval_shape(lambda: Block(nnx.Rngs(0))) for _ in range(4)])
    a, b = f"a{remat}", f"b{remat}"  # no other test has traced them
    patterns = [Traced(name, seen) for name in (a, b, a, b)]
    layers = [LayerAttention(pattern, (), StepContext(GRID)) for pattern in patterns]
    x = jax.ShapeDtypeStruct((1, GRID.num_tokens, 8), jnp.float32)
    jax.eval_shape(lambda b, x: run_blocks(b, x, 0.5, layers=layers, remat=remat)[0], blocks, x)
    assert seen == [a, b]


def test_remat_changes_no_gradient(blocks, key):
    layers = layer_attentions(None, (), None, **SIZES)
    x = jax.random.normal(key, (1, GRID.num_tokens, 8))

    def loss(x, remat):
        return run_blocks(blocks, x, 0.5, layers=layers, remat=remat)[0].sum()

    plain, again = (jax.jit(jax.grad(loss), static_argnums=1)(x, remat) for remat in (False, True))
    tolerances.assert_rounding_apart(again, plain, 3 * LAYERS, "gradient")
    assert "remat" in str(jax.make_jaxpr(lambda x: jax.grad(loss)(x, True))(x))


@pytest.mark.parametrize("remat", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_loop_over_equal_blocks_is_what_they_are_in_turn(blocks, key, remat):
    attention = SparseAttention.uniform(AdaSpa(0.5, 16), 2, StepSchedule.adaspa(4, (1, 2)))
    states = attention.init(GRID, batch=1, num_heads=2, head_dim=4)
    x = jax.random.normal(key, (1, GRID.num_tokens, 8))
    layers = layer_attentions(attention, states, StepContext(GRID, Phase.FIRST_SEARCH), **SIZES)

    def in_turn(blocks, x):
        out, new = run_blocks(blocks, x, 0.5, layers=layers, remat=remat)
        return out.sum(), (out, new)

    def as_loop(blocks, x):
        out, new = loop_blocks(blocks, x, 0.5, layers=layers, remat=remat)
        return out.sum(), (out, new)

    (got, own), (want, wanted) = (
        jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(blocks, x)
        for run in (as_loop, in_turn)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), own, wanted)


def test_a_loop_over_layers_of_several_patterns_is_refused(blocks):
    layers = [LayerAttention(p, (), StepContext(GRID)) for p in (Dense(), AdaSpa(0.5, 16))]
    with pytest.raises(ValueError, match="several patterns; take run_blocks"):
        loop_blocks(blocks, jnp.zeros((1, GRID.num_tokens, 8)), 0.5, layers=layers)
