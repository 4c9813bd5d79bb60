import jax.numpy as jnp
import numpy as np

from pallas_kernels import _padding

LENGTHS = np.array([[[4, 1, 0]], [[4, 4, 2]]], np.int32)  # of blocks of 4, of which 10 tokens exist
REAL = np.array([[[1, 1, 1, 1, 1, 0, 0, 0, 0, 0]], [[1] * 10]], bool)


def test_real_tokens_stand_at_the_start_of_blocks():
    np.testing.assert_array_equal(_padding.real_tokens(LENGTHS, 4, 10), REAL)
    np.testing.assert_array_equal(_padding.real_tokens(jnp.asarray(LENGTHS), 4, 10), REAL)


def test_real_tokens_stand_at_the_start_of_rows():
    real = _padding.real_of_rows(np.array([5, 10], np.int32), 10)
    np.testing.assert_array_equal(real, REAL)


def test_without_lengths_nothing_is_computed():
    x = jnp.ones((2, 10, 1, 3))
    assert _padding.real_tokens(None, 4, 10) is None
    assert _padding.real_of_rows(None, 10) is None
    assert _padding.zero(x, None) is x
    assert _padding.lengthen(x, 10) is x


def test_padding_becomes_zero_even_where_it_is_nan():
    x = jnp.where(REAL.swapaxes(1, 2)[..., None], jnp.ones((2, 10, 1, 3), jnp.bfloat16), jnp.nan)
    got = _padding.zero(x, REAL)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got[..., 0, 0].astype(bool), REAL[:, 0])


def test_bias_takes_padding_out_of_a_softmax():
    np.testing.assert_array_equal(np.exp(_padding.bias(REAL, 10))[..., 0], REAL[:, 0])
    np.testing.assert_array_equal(_padding.bias(None, 10), np.zeros((1, 10, 1), np.float32))


def test_lengthened_arrays_end_in_the_fill():
    x = jnp.ones((2, 1, 3))
    assert _padding.lengthen(x, 5).tolist() == jnp.pad(x, ((0, 0), (0, 4), (0, 0))).tolist()
    last = _padding.lengthen(x, 4, np.inf, axis=2)
    assert last.shape == (2, 1, 4)
    assert np.isinf(last[..., 3]).all()
