import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, VideoGrid
from sparsevdit_jax.curves import PATHS
from sparsevdit_jax.patterns import RainFusion
from tests.attending import jitted
from tests.conformance.pattern_suite import make_case
from tests.conformance.pooled_suite import PooledSuite, block_means
from tests.sparsevdit_jax import oracles


def reaching(scores, count):
    """Those not below the `count`-th highest of their row."""
    return scores >= np.sort(scores, -1)[:, ::-1][:, count - 1 : count]


class TestRainFusion(PooledSuite):
    """LightX2V's: blocks are cut over video and text together, and text is in them."""

    pattern = RainFusion((0.3, 0.6), 8)

    def keep_tokens(self, case):
        grid = case.grid
        walk = PATHS["rainfusion"](grid.shape) + grid.video_start
        walk = np.r_[walk, grid.text_start + np.arange(grid.text_len)]
        block_of = np.empty(len(walk), int)
        block_of[walk] = np.arange(len(walk)) // 8
        full = (
            np.arange(block_of.max() + 1) >= (grid.num_video_tokens - grid.height * grid.width) // 8
        )
        real = oracles.real_tokens(grid, case.text_lengths, case.qkv.shape[1])
        rows = []
        for row, (q, k) in enumerate(np.asarray(case.qkv[:2]).swapaxes(0, 1)):
            used = np.bincount(block_of, real[row], len(full)) > 0
            heads = []
            for head, share in enumerate(self.pattern.density):
                scores = np.full((len(full),) * 2, -np.inf)
                means = (block_means_of(x[real[row], head], block_of[real[row]]) for x in (q, k))
                a, b = means
                scores[np.ix_(used, used)] = a @ b.T
                keep = reaching(scores, int(np.ceil(share * len(full)))) | full | full[:, None]
                keep = keep[block_of][:, block_of]
                heads.append(keep & real[row] & real[row][:, None])
            rows.append(heads)
        return np.array(rows)


def block_means_of(x, block_of):
    """Means of the blocks that have tokens, in order."""
    return block_means(x, np.unique(block_of, return_inverse=True)[1])


class SGLang(PooledSuite):
    pattern = RainFusion(0.3, 8, "sglang")

    def block_of(self, grid):
        block_of = np.empty(grid.num_video_tokens, int)
        block_of[PATHS["rainfusion-frames"](grid.shape)] = np.arange(grid.num_video_tokens) // 8
        return block_of

    def keep_blocks(self, q, k, block_of, head):
        scores = block_means(q, block_of) @ block_means(k, block_of).T
        full = np.arange(len(scores)) < 3  # 20 tokens of the first frame
        return reaching(scores, int(np.ceil(0.3 * len(scores)))) | full | full[:, None]


def test_sglang_s_dialect():
    case, pattern = make_case("text_first"), SGLang.pattern
    out, lse, _ = jitted(pattern)(*case.qkv, (), case.ctx(Phase.REUSE))
    truth = oracles.masked_attention(*case.qkv, SGLang().keep_tokens(case))
    np.testing.assert_allclose(out, truth[0], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(lse, truth[1], rtol=2e-5, atol=2e-5)


def test_ties_add_blocks():
    grid = VideoGrid(2, 4, 8)
    q = np.ones((1, 64, 1, 4), np.float32)
    plan, _ = RainFusion(0.1, 8).plan(q, q, (), StepContext(grid))
    assert np.asarray(plan.mask.to_dense()).all()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"density": 0}, r"density=0 must lie in \(0, 1\]"),
        ({"block": 0}, "block=0 must be a whole number"),
        ({"dialect": "mindie"}, r"dialect='mindie' must be one of \('lightx2v', 'sglang'\)"),
    ],
)
def test_bad_fields(fields, match):
    with pytest.raises(ValueError, match=match):
        RainFusion(**fields)
