import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.hunyuan_video.conditioning import ConditionEmbedding, check_scalars


@pytest.fixture(scope="module")
def embedding():
    return ConditionEmbedding(8, 6, guidance_embeds=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))


def test_time_and_guidance_are_float32_under_bfloat16(embedding, key):
    # 6000 and 6016, 937 and 936 are one number each in bfloat16.
    pooled = jax.random.normal(key, (1, 6)).astype(jnp.bfloat16)
    embed = jax.jit(lambda t, g: embedding(t, pooled, g))
    base = embed(jnp.array([937.0]), jnp.array([6000.0]))
    assert base.dtype == jnp.bfloat16
    assert np.abs(np.float32(base - embed(jnp.array([937.0]), jnp.array([6016.0])))).max() > 0.1
    assert np.abs(np.float32(base - embed(jnp.array([936.0]), jnp.array([6000.0])))).max() > 0.1


def test_integer_times_are_times(embedding, key):
    pooled, guidance = jax.random.normal(key, (1, 6)), jnp.array([6000.0])
    np.testing.assert_array_equal(
        embedding(jnp.array([937]), pooled, guidance),
        embedding(jnp.array([937.0]), pooled, guidance),
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (jnp.array([6000.0], jnp.bfloat16), "guidance is bfloat16, .*6016 .*pass it as float32"),
        (jnp.array([6000.0], jnp.float16), "guidance is float16"),
        (jnp.array(6000.0), r"guidance has shape \(\); it must be \[1\]"),
        (jnp.array([1.0, 2.0]), r"shape \(2,\); it must be \[1\]"),
    ],
)
def test_rounded_values_and_other_shapes_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        check_scalars("guidance", value, 1)
