import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.rope import apply_rope, as_arrays, axis_dims, rope_table


@pytest.mark.parametrize(
    ("head_dim", "split"), [(128, (44, 42, 42)), (64, (24, 20, 20)), (32, (12, 10, 10))]
)
def test_axis_split_is_wans(head_dim, split):
    assert axis_dims(head_dim) == split


def test_logits_depend_on_distances_only(key):
    shape = (3, 4, 5)
    q, k = jax.random.normal(key, (2, 32))
    table = rope_table(shape, 32)
    q, k = (apply_rope(jnp.broadcast_to(a, (1, 60, 1, 32)), table)[0, :, 0] for a in (q, k))
    logits = np.asarray(q @ k.T).reshape(*shape, *shape)
    np.testing.assert_allclose(logits[:-1, :, :, :-1], logits[1:, :, :, 1:], atol=2e-5)
    np.testing.assert_allclose(logits[:, :-1, :, :, :-1], logits[:, 1:, :, :, 1:], atol=2e-5)
    np.testing.assert_allclose(logits[..., :-1, :, :, :-1], logits[..., 1:, :, :, 1:], atol=2e-5)
    assert np.ptp(logits) > 0.1  # and they do depend on those


def test_text_after_the_video_is_not_rotated_and_lengths_stay(key):
    x = jax.random.normal(key, (2, 2 * 3 * 4 + 5, 2, 16))
    y = apply_rope(x, rope_table((2, 3, 4), 16))
    np.testing.assert_array_equal(y[:, 24:], x[:, 24:])
    np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(y[:, 0], x[:, 0])  # position (0, 0, 0)
    assert not np.allclose(y[:, 23], x[:, 23])


def test_odd_head_dim_is_refused():
    with pytest.raises(ValueError, match="head_dim=15 must be even"):
        rope_table((1, 1, 1), 15)


def test_axes_may_be_given():
    shape = (2, 3, 4)
    default = rope_table(shape, 32)
    for part, same in zip(default, rope_table(shape, 32, axes=axis_dims(32)), strict=True):
        np.testing.assert_array_equal(part, same)
    cos, _ = rope_table(shape, 32, theta=256.0, axes=(8, 12, 12))  # HunyuanVideo's shares
    frames = cos.reshape(*shape, 16)[1, 0, 0]
    np.testing.assert_allclose(frames[:4], np.cos(256.0 ** -(np.arange(4) / 4)), atol=1e-7)
    np.testing.assert_array_equal(frames[4:], 1.0)


@pytest.mark.parametrize("axes", [(8, 12, 8), (7, 13, 12)])
def test_axes_that_do_not_fill_the_head_are_refused(axes):
    with pytest.raises(ValueError, match="must be even numbers whose sum is head_dim=32"):
        rope_table((1, 1, 1), 32, axes=axes)


def test_shared_tables_rotate_alike():
    rng, table = np.random.default_rng(0), rope_table((2, 3, 4), 32)
    y = jnp.asarray(rng.standard_normal((1, 24, 2, 32)), jnp.float32)
    np.testing.assert_array_equal(apply_rope(y, as_arrays(table)), apply_rope(y, table))
    plain, shared = (
        jax.grad(lambda y, t=t: (apply_rope(y, t) ** 2).sum())(y) for t in (table, as_arrays(table))
    )
    np.testing.assert_array_equal(plain, shared)
    # The barrier is what keeps XLA from folding the tables into every use; its memory is too noisy to test.
    lowered = jax.jit(lambda y: apply_rope(y, as_arrays(table))).lower(y).as_text()
    assert "optimization_barrier" in lowered
