"""What a layer attends by, and the modules that attend by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.attention import Attention, JointAttention, LayerAttention
from models.keys import KeyTable, check_fit, checkpoint_slots
from models.layers import LayerNorm, RMSNorm
from models.tensors import TensorFiles, fill, write_file
from sparsevdit_jax import Phase, StepContext, VideoGrid
from sparsevdit_jax.patterns import AdaSpa, Dense, SlidingTile
from tests import tolerances
from tests.attending import jitted
from tests.toy_patterns import Gate, Project, TopK, WithLinear, WithMean

GRID = VideoGrid(2, 4, 4)


def test_a_layer_attends_as_its_pattern_does(key):
    pattern, ctx = AdaSpa(0.5, 8), StepContext(GRID, Phase.FIRST_SEARCH)
    state = pattern.init(GRID, batch=1, num_heads=2, head_dim=8)
    q, k, v = jax.random.normal(key, (3, 1, GRID.num_tokens, 2, 8))
    attended = jax.jit(lambda layer, *qkv: layer.attend(*qkv))(
        LayerAttention(pattern, state, ctx), q, k, v
    )
    want, _, after = jitted(pattern)(q, k, v, state, ctx)
    np.testing.assert_array_equal(attended.out, want)
    jax.tree.map(np.testing.assert_array_equal, attended.state, after)
    assert attended.side is None


def layer_of(pattern=None, state=(), phase=Phase.REUSE):
    return LayerAttention(pattern or Dense(), state, StepContext(GRID, phase))


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(0), (2, GRID.num_tokens, 16))


@jax.jit
def attend(module, x, layer, rope=None):
    return module(x, layer, rope=rope)


def test_full_windows_are_dense_and_the_module_holds_no_state(x):
    module = Attention(16, 2, rngs=nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(module))
    dense, _ = attend(module, x, layer_of())
    sparse, _ = attend(module, x, layer_of(SlidingTile((2, 2, 2), (1, 2, 2))))
    assert dense.shape == x.shape
    np.testing.assert_allclose(sparse, dense, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(module), before)


def test_the_pattern_s_state_comes_back(x):
    pattern = AdaSpa(0.5, 8)
    state = pattern.init(GRID, batch=2, num_heads=2, head_dim=8)
    module = Attention(16, 2, qk_norm=None, bias=False, rngs=nnx.Rngs(0))
    _, state = attend(module, x, layer_of(pattern, state, Phase.FIRST_SEARCH))
    assert (state.mask.kv_counts < state.mask.num_kv_blocks).any()
    assert module.norm_q is module.norm_k is module.to_q.bias is None


def test_rope_turns_q_and_k_only(x):
    """By half a turn both change their sign, which their product does not."""
    module = Attention(16, 2, rngs=nnx.Rngs(0))
    half = -jnp.ones((GRID.num_tokens, 4)), jnp.zeros((GRID.num_tokens, 4))
    plain, turned = attend(module, x, layer_of())[0], attend(module, x, layer_of(), half)[0]
    np.testing.assert_allclose(turned, plain, rtol=1e-5, atol=1e-6)
    some = (half[0].at[4:].set(1.0), half[1])
    assert np.abs(attend(module, x, layer_of(), some)[0] - plain).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "norm", "channels"),
    [
        ("rms_norm", RMSNorm, 8),
        ("rms_norm_across_heads", RMSNorm, 16),
        ("layer_norm", LayerNorm, 8),
    ],
)
def test_q_and_k_have_norms_of_their_own(x, kind, norm, channels):
    module = Attention(16, 2, qk_norm=kind, rngs=nnx.Rngs(0))
    for part, factor in ((module.norm_q, 2.0), (module.norm_k, 3.0)):
        assert isinstance(part, norm)
        part.scale.set_value(jnp.full(channels, factor))
    q, k, v = jax.jit(lambda module, x: module.project(x))(module, x)
    mean = (0, 1) if kind == "rms_norm_across_heads" else (0, 1, 2)
    sizes = [np.sqrt(np.square(part).mean(mean)).mean() for part in (q, k)]
    np.testing.assert_allclose(sizes, [2, 3], rtol=0.05)
    np.testing.assert_array_equal(v, module.to_v(x).reshape(v.shape))


def test_one_matrix_for_q_k_and_v_is_three(x):
    three = Attention(16, 2, rngs=nnx.Rngs(0))
    one = Attention(16, 2, fused=True, rngs=nnx.Rngs(1))
    for part in ("kernel", "bias"):
        parts = [getattr(linear, part)[...] for linear in (three.to_q, three.to_k, three.to_v)]
        getattr(one.to_qkv, part).set_value(jnp.concatenate(parts, -1))
    for got, want in zip(one.project(x), three.project(x), strict=True):
        tolerances.assert_rounding_apart(got, want, 8 + 12, "projected")


def test_text_has_weights_of_its_own(key):
    """With the video's weights in their place, it is one sequence."""
    alone = Attention(16, 2, rngs=nnx.Rngs(0))
    joint = JointAttention(16, 2, rngs=nnx.Rngs(1))
    pairs = {
        "to_q": "add_q_proj",
        "to_k": "add_k_proj",
        "to_v": "add_v_proj",
        "to_out": "to_add_out",
    }
    for name, other in (pairs | {"norm_q": "norm_added_q", "norm_k": "norm_added_k"}).items():
        for target in (name, other):
            nnx.update(getattr(joint, target), nnx.state(getattr(alone, name)))
    grid = VideoGrid(2, 4, 4, text_len=3)
    layer = LayerAttention(Dense(), (), StepContext(grid))
    tokens = jax.random.normal(key, (1, grid.num_tokens, 16))
    video, text, state = jax.jit(lambda m, *streams: m(*streams, layer))(
        joint, tokens[:, :32], tokens[:, 32:]
    )
    want, _ = attend(alone, tokens, layer)
    tolerances.assert_rounding_apart(jnp.concatenate([video, text], 1), want, 60, "streams")
    assert state == ()


def test_combine_joins_the_side_branch_and_learns(x, tmp_path):
    layer = layer_of(WithMean(0.5))
    module = Attention(16, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"WithMean\(.* has a side branch, but .* combine=None"):
        module(x, layer)
    plain, _ = attend(module, x, layer_of(TopK(0.5)))
    module.combine = Gate(16, rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(
        attend(module, x, layer_of(TopK(0.5)))[0], plain
    )  # no side, no gate

    run = jax.jit(lambda module, x: module(x, layer)[0])
    mean = module.project(x)[2].mean(1, keepdims=True)
    gate = module.combine.to_gate(x).reshape(2, 32, 2, 8)
    want = plain + (gate * mean).reshape(x.shape) @ module.to_out.kernel[...]
    tolerances.assert_rounding_apart(run(module, x), want, 60, "both branches")

    names = KeyTable({"combine.to_gate": "to_gate_compress"})  # as VSA's checkpoints call it
    slots, path = checkpoint_slots(module, names), tmp_path / "gated.safetensors"
    assert "to_gate_compress.weight" in slots
    write_file(
        path, {n: s.to_checkpoint(np.asarray(s.parameter[...])) for n, s in slots.items()}, {}
    )
    other = Attention(16, 2, combine=Gate(16, rngs=nnx.Rngs(2)), rngs=nnx.Rngs(3))
    slots, files = checkpoint_slots(other, names), TensorFiles.of_file(path)
    check_fit(path, slots, files.shapes)
    fill(slots, files, cast=True)
    np.testing.assert_array_equal(run(other, x), run(module, x))


@pytest.mark.parametrize(
    ("pattern", "combine"), [(WithMean(0.5), Gate), (WithLinear(0.5), Project)]
)
def test_gradients_reach_what_combine_has_learned_with_and_without_remat(x, pattern, combine):
    module = Attention(16, 2, combine=combine(16, rngs=nnx.Rngs(1)), rngs=nnx.Rngs(0))
    layer = layer_of(pattern)

    def loss(module, call):
        return (call(module, x) ** 2).sum()

    def call(module, x):
        return module(x, layer)[0]

    plain, again = (
        jax.jit(jax.grad(loss), static_argnums=1)(module, f) for f in (call, jax.checkpoint(call))
    )
    (weights,) = jax.tree.leaves(nnx.state(plain.combine))
    assert float(jnp.abs(weights).max()) > 1e-3
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        tolerances.assert_rounding_apart(a, b, 200, "gradient")
    # A step along it does what a derivative says.
    direction = jax.tree.map(lambda g: g / jnp.sqrt((weights**2).sum()), plain.combine)
    step = 1e-3

    def moved(sign):
        other = nnx.clone(module)
        kernel = jax.tree.leaves(nnx.state(module.combine))[0]
        slope = jax.tree.leaves(nnx.state(direction))[0]
        nnx.update(
            other.combine,
            jax.tree.map(lambda _: kernel + sign * step * slope, nnx.state(other.combine)),
        )
        return float(loss(other, call))

    measured = (moved(1) - moved(-1)) / (2 * step)
    assert measured == pytest.approx(float(jnp.sqrt((weights**2).sum())), rel=2e-2)


def test_what_is_no_attention_is_refused():
    with pytest.raises(ValueError, match="dim=16 must be a multiple of num_heads=3"):
        Attention(16, 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="qk_norm='l2' must be None or one of rms_norm, "):
        Attention(16, 2, qk_norm="l2", rngs=nnx.Rngs(0))
