"""The float64 oracle agrees with `reference`, and what is wrong does not pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.gpu_check.oracle import Rows, check_close, kept_keys, key_gradients
from pallas_kernels import BlockMask, block_sparse_attention
from tests import tolerances


@pytest.fixture
def problem(key):
    """A ragged mask with an empty and a full row, inputs, and what `reference` makes of them."""
    rng = np.random.default_rng(3)
    keep = rng.random((1, 2, 4, 5)) < 0.5
    keep[:, :, 0], keep[:, :, 1] = False, True
    mask = BlockMask.from_dense(
        keep,
        block_q=8,
        block_kv=8,
        q_lengths=np.asarray([8, 5, 8, 3]),
        kv_lengths=np.asarray([8, 2, 8, 0, 7]),
    )
    q, d_out = jax.random.normal(key, (2, 1, 32, 2, 4))
    k, v = jax.random.normal(jax.random.key(1), (2, 1, 40, 2, 4))
    d_lse = jax.random.normal(jax.random.key(2), (1, 2, 32))

    def attend(q, k, v):
        return block_sparse_attention(q, k, v, mask, scale=0.5, implementation="reference")

    (out, lse), vjp = jax.vjp(attend, q, k, v)
    return mask, (q, k, v), (d_out, d_lse), (out, lse, *vjp((d_out, d_lse)))


def test_rows_and_their_gradients(problem):
    mask, (q, k, v), (d_out, d_lse), (out, lse, d_q, _, _) = problem
    queries = np.arange(32)
    rows = Rows(q, k, v, mask, (0, 1), queries, 0.5)
    n, empty = tolerances.attention_roundings(k), np.isneginf(lse[0, 1])
    tolerances.assert_rounding_apart(rows.out, out[0, :, 1], n, "out")
    np.testing.assert_array_equal(np.isneginf(rows.lse), empty)
    got, want = (np.where(empty, 0, x) for x in (rows.lse, lse[0, 1]))
    tolerances.assert_rounding_apart(got, want, n, "lse")
    tolerances.assert_rounding_apart(rows.d_query(d_out, d_lse), d_q[0, :, 1], 3 * n, "d_q")


def test_gradients_of_keys(problem):
    mask, (q, k, v), cotangents, (out, lse, _, d_k, d_v) = problem
    keys = np.asarray([0, 9, 11, 30, 39])
    got = key_gradients(q, k, v, mask, (0, 0), keys, 0.5, out, lse, *cotangents)
    for mine, exact in zip(got, (d_k, d_v), strict=True):
        n = 3 * tolerances.attention_roundings(k)
        tolerances.assert_rounding_apart(mine, exact[0, keys, 0], n, "gradient")


def test_kept_keys_know_lists_and_padding(problem):
    mask = problem[0]
    keep = kept_keys(mask, (0, 0), np.arange(32), 40)
    assert not keep[:8].any()  # the empty row
    assert keep[8:13].sum() == 5 * (8 + 2 + 8 + 0 + 7)  # the full one, five real queries
    assert not keep[13:16].any()


def test_what_is_wrong_does_not_pass():
    exact = np.random.default_rng(0).standard_normal((64, 8))
    rounded = np.asarray(jnp.asarray(exact, jnp.bfloat16), np.float64)
    assert check_close("out", rounded, exact, "bfloat16") < 2**-8
    one_off = rounded.copy()
    one_off[3, 3] += 0.5
    unwritten = rounded.copy()
    unwritten[5] = np.nan
    shifted = rounded * 1.02
    for wrong in (one_off, unwritten, shifted, np.roll(rounded, 1, 0), 0 * rounded):
        with pytest.raises(ArithmeticError):
            check_close("out", wrong, exact, "bfloat16")
    with pytest.raises(ArithmeticError, match="shape"):
        check_close("out", rounded[1:], exact, "bfloat16")


def test_lse_has_a_budget_of_float32_whatever_the_inputs():
    exact = np.asarray([1.0, -np.inf, 3.0])
    check_close("lse", exact.astype(np.float32), exact, "bfloat16")
    for wrong in (exact * (1 + 1e-3), np.where(np.isinf(exact), -1e30, exact)):
        with pytest.raises(ArithmeticError, match="lse"):
            check_close("lse", wrong, exact, "bfloat16")
