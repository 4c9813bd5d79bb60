import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import StepContext, VideoGrid
from sparsevdit_jax.patterns import SubBlock
from tests.conformance.pooled_suite import PooledSuite, best, block_means
from tests.sparsevdit_jax import oracles


class TestSubBlock(PooledSuite):
    pattern = SubBlock(0.3, 8, query_parts=2, key_parts=4, multiple=2, rounded=False)

    def block_of(self, grid):
        return oracles.frame_major_blocks(grid, 8)

    def keep_blocks(self, q, k, block_of, head):
        count = block_of.max() + 1
        a, b = (block_means(x, np.arange(len(x)) // size) for x, size in ((q, 4), (k, 2)))
        pairs = np.zeros((2 * count, 4 * count))
        pairs[: len(a), : len(b)] = np.exp(a @ b.T * q.shape[-1] ** -0.5)
        scores = np.log(pairs.reshape(count, 2, count, 4).sum((1, 3)))
        return best(scores, 4)  # 0.3 * 8 = 2.4: up to 3, then to a multiple of 2


def test_the_count_of_the_authors_kernel():
    """A multiple of 8, and all where there are fewer."""
    for frames, blocks, count in ((1, 4, 4), (5, 20, 8), (12, 48, 16)):
        grid = VideoGrid(frames, 16, 16)
        q, k = jax.random.normal(jax.random.key(0), (2, 1, grid.num_tokens, 1, 4))
        plan, _ = SubBlock().plan(q, k, (), StepContext(grid))
        assert plan.mask.num_kv_blocks == blocks
        assert (np.asarray(plan.mask.kv_counts) == count).all()


def test_means_are_rounded_as_the_authors_store_them():
    """Two key blocks whose means differ by less than bfloat16 tells: the lower index wins."""
    q = jnp.ones((1, 24, 1, 4))
    k = jnp.concatenate([jnp.full((1, 8, 1, 4), x) for x in (0.5, 1.0, 1.0001)], 1)
    ctx = StepContext(VideoGrid(1, 3, 8))
    for rounded, kept in ((True, 1), (False, 2)):
        plan, _ = SubBlock(0.2, 8, multiple=1, rounded=rounded).plan(q, k, (), ctx)
        assert np.asarray(plan.mask.kv_indices)[0, 0].tolist() == [[kept]] * 3


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"density": 0}, r"density=0 must lie in \(0, 1\]"),
        ({"block": 0}, "block=0 must be a whole number"),
        ({"query_parts": 3}, "query_parts=3 must divide block=64"),
        ({"key_parts": 5}, "key_parts=5 must divide block=64"),
        ({"multiple": 0}, "multiple=0 must be"),
        ({"rounded": 1}, "rounded=1 must be True or False"),
    ],
)
def test_bad_fields(fields, match):
    with pytest.raises(ValueError, match=match):
        SubBlock(**fields)
