import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.wan_vae.scan import scan_clip


def running_sum(x, cache):
    """The sums of all chunks so far, once for the first chunk and twice for the others."""
    if cache is None:
        return x, x
    return jnp.concatenate([cache + x, cache - x], 2), cache + x


def run(x, **kwargs):
    def chunk(i):
        assert i == 0 if isinstance(i, int) else isinstance(i, jax.core.Tracer)
        return jax.lax.dynamic_slice_in_dim(x, i, 1, 2)

    return scan_clip(running_sum, chunk, x.shape[2], **kwargs)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_is_the_loop_over_chunks(count):
    x = jax.random.normal(jax.random.key(0), (2, 3, count, 4))
    out, cache = running_sum(x[:, :, :1], None)
    parts = [out]
    for i in range(1, count):
        out, cache = running_sum(x[:, :, i : i + 1], cache)
        parts.append(out)
    np.testing.assert_array_equal(run(x), jnp.concatenate(parts, 2))


def test_remat_has_the_same_gradient():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 4))
    plain, again = (
        jax.grad(lambda x, r=r: jnp.sum(run(x, remat=r) ** 2))(x) for r in (False, True)
    )
    np.testing.assert_array_equal(plain, again)


def test_the_program_does_not_grow_with_the_length():
    sizes = {
        count: len(str(jax.make_jaxpr(run)(jnp.zeros((2, 3, count, 4)))).splitlines())
        for count in (10, 99)
    }
    assert sizes[10] == sizes[99]
