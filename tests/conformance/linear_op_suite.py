"""What every implementation of linear attention must satisfy; subclass yours."""

import numpy as np
import pytest

from pallas_kernels import linear_attention
from tests import tolerances

BLOCKS = dict(block_q=16, block_kv=8)
CASES = {
    "all": dict(),
    "pairs": dict(pairs=True),
    "ragged": dict(lq=41, lk=37, pairs=True, lengths=True),
    "all_ragged": dict(lq=41, lk=37, lengths=True),
}


def exact(q, k, v, keep, phi, eps):
    """The definition in float64, over the token pairs of `keep` [B, H, Lq, Lk]."""
    q, k, v = (np.asarray(x, np.float64).swapaxes(1, 2) for x in (q, k, v))
    real = keep.any(2)[..., None]
    weights = np.where(
        keep,
        phi(np.where(keep.any(3)[..., None], q, 0)) @ phi(np.where(real, k, 0)).swapaxes(-1, -2),
        0,
    )
    total = weights.sum(-1, keepdims=True) + eps
    return (weights @ np.where(real, v, 0) / np.where(total == 0, 1, total)).swapaxes(1, 2)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


PHI = {"softmax": softmax, "elu": lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))}


def make(lq=48, lk=40, pairs=False, lengths=False):
    """q, k, v, the operation's arguments, and the token pairs [B, H, Lq, Lk] that count."""
    rng = np.random.default_rng(lq)
    q, k, v = (rng.standard_normal((2, n, 3, 8)).astype(np.float32) for n in (lq, lk, lk))
    keep, kwargs = np.ones((2, 3, lq, lk), bool), {}
    if pairs:
        chosen = rng.random((2, 3, -(-lq // 16), -(-lk // 8))) < 0.5
        chosen[0, 0, 1] = False  # a query block without pairs
        kwargs["pairs"] = chosen
        keep &= chosen.repeat(16, 2).repeat(8, 3)[:, :, :lq, :lk]
    if lengths:
        kwargs["kv_lengths"] = np.array([8, 3, 0, 8, 5], np.int32)[None, None]
        real = (np.arange(8) < kwargs["kv_lengths"][..., None]).reshape(-1)[:lk]
        keep &= real
        k[:, ~real] = v[:, ~real] = np.nan
        kwargs["q_lengths"] = np.array([16, 7, 9], np.int32)[None, None]
        real = (np.arange(16) < kwargs["q_lengths"][..., None]).reshape(-1)[:lq]
        keep &= real[:, None]
        q[:, ~real] = np.nan
    return q, k, v, kwargs, keep


class LinearAttentionSuite:
    """Inherit and set `implementation`."""

    implementation: str

    @pytest.mark.parametrize("phi", PHI)
    @pytest.mark.parametrize("case", CASES)
    def test_matches_float64(self, case, phi):
        q, k, v, kwargs, keep = make(**CASES[case])
        kwargs |= dict(feature_map=phi, implementation=self.implementation)
        out = linear_attention(q, k, v, **BLOCKS, **kwargs)
        expected = exact(q, k, v, keep, PHI[phi], 1e-5)
        # Features of D channels, products over D, a sum over the keys twice, a quotient.
        roundings = 12 + q.shape[-1] + 2 * k.shape[1] / 3
        tolerances.assert_rounding_apart(out, expected, roundings, case)
        if kwargs.get("pairs") is not None:
            assert not np.any(np.asarray(out)[0, 16:32, 0])
