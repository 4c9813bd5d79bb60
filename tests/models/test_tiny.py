import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.keys import checkpoint_slots
from models.tensors import write_file
from models.tiny import TinyConfig, TinyVideoDiT, border_features, load_tiny, save_tiny
from sparsevdit_jax import Phase, SparseAttention, StepContext, StepSchedule, VideoGrid
from sparsevdit_jax.patterns import (
    AdaSpa,
    Dense,
    Diagonal,
    MultiDiagonal,
    PerHead,
    Skip,
    SlidingTile,
    Table,
)

SMALL = TinyConfig(dim=32, num_layers=2, num_heads=2, condition_tokens=3, patch=(1, 2, 2))
SHAPE = (2, 4, 8, 8, 1)  # 4 x 4 x 4 tokens


def make_model(config=SMALL):
    """A model whose zero-initialised gates and head are filled, so that every part reaches the output."""
    model = TinyVideoDiT(config, rngs=nnx.Rngs(0))
    for i, leaf in enumerate(
        jax.tree.leaves(nnx.state(model), is_leaf=lambda x: isinstance(x, nnx.Variable))
    ):
        noise = np.random.default_rng(i).standard_normal(leaf.shape, np.float32)
        leaf[...] = jnp.asarray(np.asarray(leaf[...]) + 0.1 * noise)  # in NumPy: nothing to compile
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def inputs():
    x = jax.random.normal(jax.random.key(1), SHAPE)
    return x, jnp.array([0.3, 0.9]), jnp.array([1, 10])


@jax.jit(static_argnames="attention")
def run(model, inputs, states, ctx, *, attention):
    out = model(*inputs, attention=attention, states=states, ctx=ctx)
    return out.sample, out.states


def run_pattern(model, inputs, *patterns, phase=Phase.REUSE, step=0):
    attention = SparseAttention(patterns, StepSchedule(num_steps=2))
    grid = model.grid(SHAPE)
    states = attention.init(grid, batch=2, num_heads=2, head_dim=16)
    return run(model, inputs, states, StepContext(grid, phase, step=step), attention=attention)


def test_grid_counts_tokens_and_condition(model):
    assert model.grid(SHAPE) == VideoGrid(4, 4, 4, text_len=3)
    with pytest.raises(
        ValueError, match=r"\(4, 7, 8\) pixels does not divide into patches of \(1, 2, 2\)"
    ):
        model.grid((1, 4, 7, 8, 1))


def test_full_masks_equal_no_pattern(model, inputs):
    expected = model(*inputs).sample
    assert expected.shape == SHAPE
    for pattern in (Dense(), SlidingTile(tile=(2, 2, 2), window=(2, 2, 2))):
        out, _ = run_pattern(model, inputs, pattern, pattern)
        np.testing.assert_allclose(out, expected, atol=2e-5)


def test_a_pattern_changes_only_what_it_should(model, inputs):
    expected = model(*inputs).sample
    sparse, _ = run_pattern(model, inputs, *[SlidingTile(tile=(2, 2, 2), window=(1, 1, 1))] * 2)
    warm, _ = run_pattern(
        model, inputs, *[SlidingTile(tile=(2, 2, 2), window=(1, 1, 1))] * 2, phase=Phase.DENSE
    )
    assert float(jnp.abs(sparse - expected).max()) > 1e-3
    np.testing.assert_allclose(warm, expected, atol=2e-5)


def test_the_same_block_takes_per_head_table_and_adaspa(model, inputs):
    band, stripes = Diagonal(density=0.5, block=8), MultiDiagonal(density=0.5, block=8)
    mixed = PerHead(((band, (1,)), (stripes, (0,))))
    table = Table((band, stripes, Skip()), ((1, 0), (2, 1)))
    alone, _ = run_pattern(model, inputs, mixed, mixed)
    by_table, _ = run_pattern(model, inputs, table, table, step=0)
    np.testing.assert_allclose(by_table, alone, atol=2e-5)
    later, _ = run_pattern(model, inputs, table, table, step=1)
    assert float(jnp.abs(later - alone).max()) > 1e-3
    out, states = run_pattern(model, inputs, AdaSpa(block=8), mixed, phase=Phase.FIRST_SEARCH)
    assert bool(jnp.isfinite(out).all())
    assert len(states) == 2


def test_calling_changes_no_parameter(inputs):
    model = make_model()
    before = jax.tree.map(jnp.copy, nnx.state(model))
    model(*inputs)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))


def test_output_depends_on_time_label_and_border(model, inputs):
    x, t, label = inputs
    base = model(x, t, label).sample
    for other in ((x, t * 0.5, label), (x, t, label - 1), (jnp.roll(x, 1, 2), t, label)):
        assert float(jnp.abs(model(*other).sample - base).max()) > 1e-4


def test_every_parameter_has_a_gradient(model, inputs):
    graph, params = nnx.split(model)
    grads = jax.grad(lambda p: (nnx.merge(graph, p)(*inputs).sample ** 2).sum())(params)
    flat = jax.tree.leaves(jax.tree.map(lambda g: float(jnp.abs(g).max()), grads))
    assert all(np.isfinite(flat))
    assert min(flat) > 0


def test_remat_recomputes_blocks(model, inputs):
    graph, params = nnx.split(model)

    def traced(remat):
        def loss(params):
            return nnx.merge(graph, params)(*inputs, remat=remat).sample.sum()

        return str(jax.make_jaxpr(jax.grad(loss))(params))

    assert ("remat" in traced(True), "remat" in traced(False)) == (True, False)


def test_border_features_tell_the_borders():
    features = border_features((2, 3, 4)).reshape(2, 3, 4, 6)
    assert features.dtype == np.float32
    assert features[0, 0, 0].tolist() == pytest.approx(
        [1, np.exp(-0.5), 1, np.exp(-1), 1, np.exp(-1.5)]
    )
    np.testing.assert_allclose(features[..., ::2], features[::-1, ::-1, ::-1, 1::2])


def test_bad_sizes_are_refused():
    with pytest.raises(
        ValueError, match=r"self.dim=30 must be self.num_heads=4 times an even head size"
    ):
        TinyConfig(dim=30)


def test_a_file_brings_back_the_model(inputs, tmp_path):
    model, path = make_model(), tmp_path / "tiny.safetensors"
    save_tiny(path, model)
    loaded = load_tiny(path)
    assert loaded.config == SMALL
    np.testing.assert_array_equal(loaded(*inputs).sample, model(*inputs).sample)
    with pytest.raises(FileExistsError, match="exists and is not overwritten"):
        save_tiny(path, model)


def test_the_committed_file_is_written_back_byte_for_byte(tmp_path):
    path = Path(__file__).parents[2] / "experiments/checkpoints/tiny_digits.safetensors"
    model = load_tiny(path, dtype=jnp.bfloat16)
    assert {slot.parameter.dtype for slot in checkpoint_slots(model, None).values()} == {
        np.dtype("float32")
    }
    assert model.num_parameters == 5_444_128
    save_tiny(tmp_path / "again.safetensors", model, dtype=jnp.bfloat16)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_files_of_something_else_are_refused(tmp_path):
    def written(name, arrays, **metadata):
        path = tmp_path / f"{name}.safetensors"
        write_file(path, arrays, metadata)
        return path

    ones = {"patch_in.kernel": np.ones((5, 32), np.float32)}
    config = dataclasses.asdict(SMALL)
    with pytest.raises(ValueError, match=r"another model: it sets \['experts'\]"):
        load_tiny(written("other", ones, config=json.dumps({"dim": 32, "experts": 8})))
    with pytest.raises(ValueError, match="has no configuration in its metadata; give a file"):
        load_tiny(written("bare", ones))
    with pytest.raises(FileNotFoundError, match="no weights at none"):
        load_tiny("none")
    path = written("few", {**ones, "extra": np.ones(2, np.float32)}, config=json.dumps(config))
    with pytest.raises(
        ValueError, match=r"few\.safetensors do not fit its configuration"
    ) as caught:
        load_tiny(path)
    message = str(caught.value)
    assert "missing: blocks.1.qkv.bias" in message
    assert "unexpected: extra" in message
    assert "patch_in.kernel: the file has (5, 32), the model needs (4, 32)" in message


def test_a_schedule_belongs_to_attention():
    assert SparseAttention((Dense(),)).schedule == StepSchedule()
