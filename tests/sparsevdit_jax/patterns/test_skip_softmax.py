import math

import numpy as np
import pytest

from sparsevdit_jax import Phase, parallel
from sparsevdit_jax.patterns import SkipSoftmax
from tests.conformance.compensated_suite import cut
from tests.conformance.pattern_suite import BATCH, PatternSuite, make_case
from tests.sparsevdit_jax import oracles

BLOCK_Q, BLOCK_KV = 2, 8


class TestSkipSoftmax(PatternSuite):
    pattern = SkipSoftmax(0.45, BLOCK_Q, BLOCK_KV)

    def keep_tokens(self, case):
        block_q, block = cut(case.grid, BLOCK_Q), cut(case.grid, BLOCK_KV)
        real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
        q, k = (np.asarray(x, np.float64) for x in case.qkv[:2])
        logits = np.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
        logits = np.where(real[:, None, None], logits, -np.inf)
        tiles = np.stack([logits[..., block == n].max(-1) for n in range(block.max() + 1)], -1)
        seen = real[:, None, :, None] & (tiles > -np.inf)
        gaps = np.where(seen, tiles - np.maximum.accumulate(tiles, -1), -np.inf)
        gaps = np.stack([gaps[:, :, block_q == n].max(2) for n in range(block_q.max() + 1)], 2)
        keep = (gaps >= math.log(self.pattern.threshold))[:, :, block_q][..., block]
        return keep & real[:, None, :, None] & real[:, None, None, :]

    def test_counted_density_is_that_of_the_truth(self, case, reuse):
        """A plan lists all blocks, because what is skipped is known no sooner than the logits."""
        keep = self.keep_tokens(case)
        real = oracles.real_tokens(case.grid, case.text_lengths, BATCH).sum(1)
        assert keep.sum() < 0.9 * (real**2).sum() * keep.shape[1]
        np.testing.assert_array_equal(self.pattern.density_on(case.grid, 2), 1)


def test_a_calibrated_threshold_follows_the_tokens():
    pattern = SkipSoftmax(calibration=(100, 5.0), sparsity=0.4)
    assert pattern.threshold_on(4096) == pytest.approx(100 * math.exp(2) / 4096)
    assert pattern.threshold_on(10) == 1.0
    case = make_case("video")
    plan, _ = pattern.plan(*case.qkv[:2], (), case.ctx(Phase.REUSE))
    assert plan.skip_below == pattern.threshold_on(case.grid.num_tokens)


def test_tokens_on_several_devices_are_refused(monkeypatch):
    monkeypatch.setattr("sparsevdit_jax.ops.current", lambda: parallel.mesh.Shards(1, 4))
    case = make_case("video")
    ctx = case.ctx(Phase.REUSE)
    plan, _ = TestSkipSoftmax.pattern.plan(*case.qkv[:2], (), ctx)
    with pytest.raises(ValueError, match=r"skip_below=0.45 needs whole sequences.*axis seq 2 or"):
        plan.attend(*case.qkv, ctx)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("threshold", 0.0, r"must lie in \(0, 1\]"),
        ("sparsity", 1.5, r"must lie in \[0, 1\]"),
        ("block_q", 0, "whole number of at least 1"),
        ("block_kv", 2.5, "whole number of at least 1"),
        ("calibration", (1.0,), "must be"),
        ("calibration", (-1.0, 2.0), "a > 0"),
    ],
)
def test_bad_fields_are_refused(field, value, rule):
    with pytest.raises(ValueError, match=f"{field}=.*{rule}"):
        SkipSoftmax(**{field: value})
