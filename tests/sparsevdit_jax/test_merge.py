import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import merge_by_lse
from tests import tolerances

RNG = np.random.default_rng(1)
LOGITS = RNG.standard_normal((1, 2, 4, 9)).astype(np.float32)
LOGITS[0, 0, 1, :4] = -np.inf  # nothing in the first set
LOGITS[0, 0, 2] = -np.inf  # nothing at all
LOGITS[0, 1, 3, 4:] += 60  # a set beside which the others vanish
VALUES = RNG.standard_normal((9, 3)).astype(np.float32)
SETS = (slice(0, 4), slice(4, 6), slice(6, 9))


def attention(logits, values):
    """(out [B, L, H, D], lse [B, H, L]) of a softmax over the columns of logits [B, H, L, K]."""
    lse = jax.nn.logsumexp(logits, -1)
    weights = jnp.exp(logits - jnp.where(jnp.isfinite(lse), lse, 0)[..., None])
    return (weights @ values).swapaxes(1, 2), lse


def parts(logits, values):
    return [attention(logits[..., s], values[s]) for s in SETS]


def test_is_one_softmax_over_the_union():
    merged = merge_by_lse(parts(LOGITS, VALUES))
    for got, want in zip(merged, attention(LOGITS, VALUES), strict=True):
        np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))
        got, want = (np.where(np.isneginf(x), 0, x) for x in (got, want))
        # exp and log of every set and logits up to 3 in both (squared), sums of 9 products that partly cancel,
        # three weights and their sum
        allowed = tolerances.rounding(20 + 2 * 9) * max(np.abs(VALUES).max(), np.abs(want).max())
        tolerances.assert_within(got, want, allowed, "merged")


def test_gradients_are_those_of_one_softmax():
    logits = jnp.asarray(LOGITS[:, 1:])  # every query has a key
    weight = np.random.default_rng(2).standard_normal((1, 4, 1, 3)).astype(np.float32)

    def loss(way, logits, values):
        out, lse = way(logits, values)
        return (out * weight).sum() + (lse * weight[..., 0].swapaxes(1, 2)).sum()

    def merged(logits, values):
        return merge_by_lse(parts(logits, values))

    got, want = (
        jax.jit(jax.grad(loss, (1, 2)), static_argnums=0)(way, logits, VALUES)
        for way in (merged, attention)
    )
    for a, b in zip(got, want, strict=True):
        # A gradient passes everything of the value again, with products by both operands: three times the count.
        tolerances.assert_within(a, b, tolerances.rounding(3 * 38) * np.abs(b).max(), "gradient")


def test_a_query_without_any_key_has_gradients_of_zero():
    grads = jax.grad(lambda x, v: merge_by_lse(parts(x, v))[0].sum(), (0, 1))(LOGITS, VALUES)
    # -inf logits are a constant that stands for no key; what reaches the values is what matters.
    assert np.isfinite(grads[1]).all()


def test_one_part_stays_and_none_is_refused():
    out, lse = attention(LOGITS, VALUES)
    again = merge_by_lse([(out.astype(jnp.bfloat16), lse)])
    assert again[0].dtype == np.float32
    np.testing.assert_array_equal(again[0], out.astype(jnp.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(np.isneginf(again[1]), np.isneginf(lse))
    with pytest.raises(ValueError, match="no attention to merge"):
        merge_by_lse([])
