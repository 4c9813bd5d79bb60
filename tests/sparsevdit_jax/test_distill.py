"""Recorded attention outputs and the distillation loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.stack import layer_attentions, run_blocks
from sparsevdit_jax import KernelOptions, Phase, SparseAttention, StepContext, VideoGrid
from sparsevdit_jax.distill import (
    LossWeights,
    Prediction,
    Recorded,
    distillation_loss,
    layer_outputs,
    record,
)
from sparsevdit_jax.patterns import AdaSpa, Dense, SlidingTile
from tests import tolerances
from tests.attending import attended
from tests.models.cogvideox import tiny_models as cogvideox
from tests.models.hunyuan_video.tiny_models import build as build_hunyuan
from tests.models.parity import arrays, inputs
from tests.models.test_stack import Block
from tests.models.wan import tiny_models as wan

GRID = VideoGrid(2, 2, 2, text_len=3)
TEXT_FIRST = VideoGrid(2, 2, 2, text_len=3, text_first=True)
WINDOW = SlidingTile((2, 2, 2), (1, 1, 1))


def qkv(key, grid, batch=2, heads=2):
    return jax.random.normal(key, (3, batch, grid.num_tokens, heads, 4))


def prediction(key, layers=2, grid=GRID):
    keys = jax.random.split(key, layers + 1)
    shape = (2, grid.num_tokens, 2, 4)
    return Prediction(
        jax.random.normal(keys[0], (2, 5)),
        tuple(jax.random.normal(k, shape) for k in keys[1:]),
    )


def test_recording_changes_neither_output_nor_inner_state(key):
    pattern, (q, k, v) = AdaSpa(0.5, 4), qkv(key, GRID).astype(jnp.bfloat16)
    sizes = dict(batch=2, num_heads=2, head_dim=4)
    plain, recorded = pattern.init(GRID, **sizes), Recorded(pattern).init(GRID, **sizes)
    ctx = StepContext(GRID, Phase.FIRST_SEARCH, kernel=KernelOptions("reference"))

    @jax.jit
    def both(q, k, v):
        return [
            attended(p, q, k, v, state, ctx)[::2]
            for p, state in ((pattern, plain), (Recorded(pattern), recorded))
        ]

    (out, state), (got, new) = both(q, k, v)
    np.testing.assert_array_equal(got, out)
    np.testing.assert_array_equal(new.output, out.astype(jnp.float32).swapaxes(1, 2))
    jax.tree.map(np.testing.assert_array_equal, new.inner, state)
    assert (state.mask.kv_counts < state.mask.num_kv_blocks).any()
    spec = [(x.shape, x.dtype) for x in jax.tree.leaves(recorded)]
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(new)] == spec
    assert jax.tree.structure(new) == jax.tree.structure(recorded)


def test_a_dense_step_records_exact_attention_in_the_same_structure(key):
    q, k, v = qkv(key, GRID)
    state = Recorded(WINDOW).init(GRID, batch=2, num_heads=2, head_dim=4)
    ctx = StepContext(GRID, Phase.DENSE, kernel=KernelOptions("reference"))
    out, _, new = attended(Recorded(WINDOW), q, k, v, state, ctx)
    np.testing.assert_array_equal(out, attended(Dense(), q, k, v, (), ctx)[0])
    np.testing.assert_array_equal(new.output, out.swapaxes(1, 2))
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_every_layer_is_wrapped_and_the_rest_stays():
    attention = SparseAttention((Dense(), WINDOW), grid=GRID, num_heads=2)
    recorded = record(attention)
    assert recorded.patterns == (Recorded(Dense()), Recorded(WINDOW))
    assert (recorded.schedule, recorded.grid, recorded.num_heads) == (
        attention.schedule,
        GRID,
        2,
    )


def test_the_loss_has_the_paper_s_weights_on_values_by_hand():
    grid = VideoGrid(1, 1, 2)
    layers = tuple(jnp.full((1, 2, 1, 1), x) for x in (1.0, 3.0))
    zero = jnp.zeros((1, 2, 1, 1))
    student = Prediction(jnp.array([[1.0, 2.0]]), layers)
    teacher = Prediction(jnp.array([[1.0, 0.0]]), (zero, zero))
    loss, terms = distillation_loss(student, teacher, jnp.array([[4.0, 2.0]]), grid=grid)
    assert {k: float(v) for k, v in terms.items()} == {"data": 4.5, "final": 2.0, "attention": 5.0}
    assert float(loss) == 4.5 + 0.5 * 2 + 0.5 * 5
    weights = LossWeights(data=0.0, final=2.0, attention=0.0)
    other, _ = distillation_loss(student, teacher, teacher.output, grid=grid, weights=weights)
    assert float(other) == 4.0


def test_a_student_that_is_the_teacher_has_the_data_loss_alone(key):
    same = prediction(key)
    loss, terms = distillation_loss(same, same, jnp.zeros((2, 5)), grid=GRID)
    assert float(terms["final"]) == float(terms["attention"]) == 0
    assert float(loss) == float(terms["data"]) > 0


@pytest.mark.parametrize("grid", [GRID, TEXT_FIRST])
def test_rows_of_padding_do_not_count(key, grid):
    student, teacher = (prediction(k, 1, grid) for k in jax.random.split(key))
    lengths = np.array([3, 1], np.int32)
    real = np.ones((2, grid.num_tokens), bool)
    real[1, grid.text_start + 1 : grid.text_start + 3] = False
    difference = np.array(student.layers[0] - teacher.layers[0])
    difference[~real] = np.nan  # whatever stands there
    student = Prediction(student.output, (teacher.layers[0] + difference,))

    def loss(student):
        return distillation_loss(student, teacher, teacher.output, grid=grid, text_lengths=lengths)[
            1
        ]["attention"]

    value, grads = jax.value_and_grad(loss)(student)
    want, n = (difference[real] ** 2).mean(), 3 + difference[real].size / 3
    tolerances.assert_rounding_apart(value, want, n, "loss")
    assert bool((grads.layers[0][1, ~real[1]] == 0).all())
    assert bool(jnp.isfinite(grads.layers[0]).all())


def test_no_gradient_reaches_the_teacher(key):
    student, teacher = (prediction(k) for k in jax.random.split(key))
    grads = jax.grad(
        lambda teacher: distillation_loss(student, teacher, jnp.zeros((2, 5)), grid=GRID)[0]
    )(teacher)
    assert all(bool((leaf == 0).all()) for leaf in jax.tree.leaves(grads))


def test_gradients_through_states_are_those_of_a_loss_by_hand_with_and_without_remat(key):
    """Two layers of attention; by hand the layers' outputs are returned as values, not as states."""
    blocks = nnx.List([Block(nnx.Rngs(i)) for i in range(2)])
    x = jax.random.normal(key, (2, GRID.num_tokens, 8))
    attention = record(SparseAttention.uniform(WINDOW, 2))
    states = attention.init(GRID, batch=2, num_heads=2, head_dim=4)
    ctx = StepContext(GRID, kernel=KernelOptions("reference"))
    teacher = prediction(jax.random.key(1))
    teacher = Prediction(jax.random.normal(key, x.shape), teacher.layers)
    target = jnp.zeros(x.shape)
    graph, params = nnx.split(blocks)

    def loss(params, remat):
        blocks = nnx.merge(graph, params)
        layers = layer_attentions(attention, states, ctx, grid=GRID, num_layers=2, num_heads=2)
        out, new = run_blocks(blocks, x, 0.5, layers=layers, remat=remat)
        student = Prediction(out, layer_outputs(new))
        return distillation_loss(student, teacher, target, grid=GRID)[0]

    def by_hand(params):
        h, total = x, 0.0
        for block, wanted in zip(nnx.merge(graph, params), teacher.layers, strict=True):
            q = block.linear(h).reshape(2, GRID.num_tokens, 2, 4)
            y, *_ = attended(WINDOW, q, q, q, (), ctx)
            h = h + 0.5 * y.reshape(x.shape)
            total += 0.5 * ((y - wanted) ** 2).mean() / 2
        return total + (h**2).mean() + 0.5 * ((h - teacher.output) ** 2).mean()

    want, wanted = jax.jit(jax.value_and_grad(by_hand))(params)
    for remat in (False, True):
        got, grads = jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, remat)
        n = x.size / 3 + 2 * (20 + 8 + GRID.num_tokens)  # a mean, and two layers 8 wide
        tolerances.assert_rounding_apart(got, want, n, "loss")
        # Some gradients are what remains of larger ones that cancel, so all may err as the largest.
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
        allowed = 5 * tolerances.rounding(3 * n) * largest
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
            tolerances.assert_within(a, b, allowed, "gradient")


def test_what_does_not_fit_together_is_refused(key):
    both = prediction(key)
    one = Prediction(both.output, both.layers[:1])
    with pytest.raises(ValueError, match="recorded 2 layers and the teacher 1"):
        distillation_loss(both, one, both.output, grid=GRID)
    with pytest.raises(ValueError, match="must have one shape"):
        distillation_loss(both, both, both.output[:1], grid=GRID)
    with pytest.raises(ValueError, match=r"layer 0 has .* has 12 tokens"):
        distillation_loss(both, both, both.output, grid=VideoGrid(1, 3, 4))
    with pytest.raises(ValueError, match="data=-1 must be finite and at least 0"):
        LossWeights(data=-1)


def wan_case():
    model = wan.build(wan.SMALL)
    return model, wan.small_inputs((2, 4, 4))


def hunyuan_case():
    return build_hunyuan("hunyuan_noguid"), inputs(arrays("hunyuan_noguid", "a"))


def cogvideox_case():
    given = cogvideox.inputs(arrays("cogvideox_2b", "a"))
    return cogvideox.load("cogvideox_2b"), given


@pytest.mark.parametrize("case", [wan_case, hunyuan_case, cogvideox_case])
def test_every_real_model_hands_out_its_layers_outputs(case):
    model, given = case()
    layers = model.num_attention_layers
    shape, batch = given["hidden_states"].shape, given["hidden_states"].shape[0]
    text = given["encoder_hidden_states"].shape[1]
    grid = model.grid(shape, text)
    attention = record(SparseAttention.uniform(Dense(), layers))
    states = attention.init(
        grid, batch=batch, num_heads=model.config.num_heads, head_dim=model.config.head_dim
    )
    ctx = StepContext(grid, kernel=KernelOptions("reference"))
    run = jax.jit(lambda m, g, s, c: m(**g, attention=attention, states=s, ctx=c))
    out = run(model, given, states, ctx)
    outputs = layer_outputs(out.states)
    assert len(outputs) == layers
    assert min(float(jnp.abs(layer).max()) for layer in outputs) > 0
    student = Prediction(out.sample, outputs)
    _, terms = distillation_loss(student, student, out.sample, grid=grid)
    assert [float(term) for term in terms.values()] == [0, 0, 0]
