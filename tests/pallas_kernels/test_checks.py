import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _checks

Q = jnp.zeros((2, 6, 3, 4))


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        (Q[0], Q, Q, r"q has shape \(6, 3, 4\); it must be \[B, L, H, D\]"),
        (Q, Q[:, :0], Q, "every axis must hold at least one entry"),
        (Q.astype(int), Q, Q, "q has dtype int32; cast it to one of float32, bfloat16, float16"),
        (Q, Q.astype(jnp.bfloat16), Q, "k has dtype bfloat16 and q has float32; cast them to one"),
        (Q, Q[:1], Q[:1], r"k has shape \(1, 6, 3, 4\) and q .* batch, heads and head dim must"),
        (Q, Q, Q[:, :, :2], r"v has shape \(2, 6, 2, 4\) and q .* heads and head dim must agree"),
        (Q, Q[:, :5], Q, "keys and values must have one length"),
    ],
)
def test_attention_inputs(q, k, v, message):
    with pytest.raises(ValueError, match=message):
        _checks.check_same_attention_inputs(q, k=k, v=v)


def test_scale():
    assert _checks.resolve_scale(None, 16) == 0.25
    assert _checks.resolve_scale(2, 16) == 2.0
    with pytest.raises(
        ValueError, match=r"scale is traced, .* multiply q by a traced scale instead"
    ):
        jax.jit(lambda s: _checks.resolve_scale(s, 16))(1.0)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_scales_that_are_no_number(scale):
    with pytest.raises(ValueError, match=f"scale={scale} must be finite"):
        _checks.resolve_scale(scale, 16)


def test_blocks():
    _checks.check_blocks("query", 9, 4, 3)
    with pytest.raises(ValueError, match="has 3 query blocks of 4 tokens, but 13 tokens make 4"):
        _checks.check_blocks("query", 13, 4, 3)


def test_leading_axes():
    _checks.check_leading_axes("mask", (1, 3), Q)
    with pytest.raises(
        ValueError, match=r"mask is for \(batch, heads\) = \(2, 2\), but q has \(2, 3\)"
    ):
        _checks.check_leading_axes("mask", (2, 2), Q)


def test_lengths():
    _checks.check_lengths("q_lengths", None, (2,), 6)
    _checks.check_lengths("q_lengths", np.array([0, 6], np.int32), (2,), 6)
    with pytest.raises(
        ValueError, match=r"q_lengths is int32 \(3,\); it must be int32 of shape \(2,\)"
    ):
        _checks.check_lengths("q_lengths", np.zeros(3, np.int32), (2,), 6)
    with pytest.raises(ValueError, match=r"float32 \(1, 1, 2\); it must be .*\(any, any, 2\)"):
        _checks.check_lengths("q_lengths", jnp.zeros((1, 1, 2)), (0, 0, 2), 6)
    with pytest.raises(ValueError, match=r"q_lengths spans 0\.\.7; it must stay within 0\.\.6"):
        _checks.check_lengths("q_lengths", np.array([0, 7], np.int32), (2,), 6)
    with pytest.raises(ValueError, match=r"q_lengths spans -1\.\.6; it must stay within 0\.\.6"):
        _checks.check_lengths("q_lengths", np.array([-1, 6], np.int32), (2,), 6)
