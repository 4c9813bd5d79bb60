import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from pallas_kernels import _tiles
from tests.tolerances import assert_at_most

EPS = np.finfo(np.float32).eps


def test_exp2_is_accurate_and_ends_in_zero():
    x = np.linspace(-126, 64, 400_001).astype(np.float32)
    exact = np.exp2(x.astype(np.float64))
    error = np.abs(np.asarray(jax.jit(_tiles.exp2)(x)) / exact - 1).max()
    # Horner: the last step rounds product and sum once each, those before it add less and less.
    assert_at_most(error, 4 * EPS, "exp2")
    np.testing.assert_array_equal(_tiles.exp2(jnp.array([-127.0, -1e30, -np.inf])), 0)
    np.testing.assert_array_equal(_tiles.exp2(jnp.array([0.0, -3.0, 10.0])), [1, 0.125, 1024])
    assert np.isnan(_tiles.exp2(jnp.array([np.nan]))).all()


@hypothesis.given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8)
)
def test_narrow_rounds_to_nearest(values):
    x = np.array(values, np.float32)
    low = np.asarray(_tiles.narrow(jnp.asarray(x), jnp.bfloat16), np.float64)
    finite = np.isfinite(low)
    tiny = 2.0**-133  # half the smallest bfloat16
    half = "to the nearest means up to half a unit, which is what is allowed"
    for a, b in zip(low[finite], x[finite].astype(np.float64), strict=True):
        assert_at_most(abs(a - b), abs(b) * 2.0**-8 + tiny, "narrow", half)
    assert _tiles.narrow(jnp.asarray(x), jnp.float32).dtype == jnp.float32


def test_longest_is_the_largest_norm():
    x = jnp.array([[[3.0, 4.0], [1.0, 1.0]]])
    np.testing.assert_allclose(_tiles.longest(x), [5.0])


def test_untame_rows_are_those_whose_bound_is_large():
    q = jnp.array([[[1.0, 0.0], [90.0, 0.0], [np.nan, 0.0]]])
    one = jnp.ones((1, 1))
    np.testing.assert_array_equal(_tiles.untame(q, one, one, 1.0), [[False, True, True]])
    assert _tiles.untame(q, one, one * 1e30, 1.0).all()
    assert _tiles.untame(q, one * np.inf, one, -1.0).all()


def test_a_tile_and_its_gradient_match_autodiff(key):
    q, k, v, d_out = jax.random.normal(key, (4, 2, 3, 4))
    bias = jnp.where(jnp.array([[True, False, True], [True, True, True]]), 0.0, -jnp.inf)
    zero = jnp.zeros((2, 3))

    def attend(q, k, v):
        total, acc = _tiles.attend(q, k, v, zero, bias, 0.5)
        return _tiles.normalise(total, acc)[0]

    def plain(q, k, v):
        logits = 0.5 * jnp.einsum("gmd,gnd->gmn", q, k) + bias[:, None]
        return jax.nn.softmax(logits) @ v

    np.testing.assert_allclose(attend(q, k, v), plain(q, k, v), atol=1e-6)
    log_total = _tiles.normalise(*_tiles.attend(q, k, v, zero, bias, 0.5))[1]
    delta = (d_out * plain(q, k, v)).sum(-1)
    dq, dk, dv = _tiles.attend_vjp(q, k, v, d_out, zero, log_total, delta, bias, 0.5)
    expected = jax.vjp(plain, q, k, v)[1](d_out)
    got = dq * 0.5, dk.swapaxes(-1, -2) * 0.5, dv.swapaxes(-1, -2)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_rows_without_keys():
    out, log_total = _tiles.normalise(jnp.zeros((1, 2)), jnp.zeros((1, 2, 3)))
    np.testing.assert_array_equal(out, 0)
    np.testing.assert_array_equal(_tiles.log_sum_exp(jnp.zeros((1, 2)), log_total), -np.inf)
    np.testing.assert_allclose(_tiles.log_sum_exp(jnp.array(1.0), jnp.array(2.0)), 3 * np.log(2))
