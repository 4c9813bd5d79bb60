"""PooledSuite: PatternSuite for patterns that choose blocks by pooled q and k in every step."""

import jax
import numpy as np

from sparsevdit_jax import Phase
from tests.conformance.pattern_suite import PatternSuite, make_case
from tests.sparsevdit_jax import oracles


def block_means(x, block_of):
    """Means of the tokens of each block: x [L, D] -> [N, D] in float64."""
    x = np.asarray(x, np.float64)
    return np.stack([x[block_of == b].mean(0) for b in range(block_of.max() + 1)])


def tile_blocks(grid, tile):
    """Block of each video token where boxes of a size are blocks, in raster order."""
    index = 0
    for x, n, t in zip(grid.coordinates().T, grid.shape, tile, strict=True):
        index = index * -(-n // t) + x // t
    return index


def logits(q, k, block_of):
    """Scaled products of the means of q and k [L, D] over blocks: [N, N]."""
    return block_means(q, block_of) @ block_means(k, block_of).T * q.shape[-1] ** -0.5


def softmax(scores):
    exps = np.exp(scores - scores.max(-1, keepdims=True))
    return exps / exps.sum(-1, keepdims=True)


def best(scores, count):
    """Bool: the `count` highest of each row, ties by index."""
    keep = np.zeros(scores.shape, bool)
    np.put_along_axis(keep, np.argsort(-scores, -1, kind="stable")[..., :count], True, -1)
    return keep


class PooledSuite(PatternSuite):
    """Define `block_of` and `keep_blocks`; the density is counted from a plan of the case's q and k."""

    def block_of(self, grid) -> np.ndarray:
        """Block of each video token, int [Lv]."""
        raise NotImplementedError

    def keep_blocks(self, q, k, block_of, head) -> np.ndarray:
        """Bool [Nv, Nv] of one row and head, from its video tokens' q and k [Lv, D]."""
        raise NotImplementedError

    def keep_tokens(self, case):
        grid, block_of = case.grid, self.block_of(case.grid)
        video = np.asarray(case.qkv)[:2, :, grid.video_start :][:, :, : grid.num_video_tokens]
        rows = []
        for row in range(video.shape[1]):
            heads = [
                self.keep_blocks(*video[:, row, :, head], block_of, head)[block_of][:, block_of]
                for head in range(video.shape[3])
            ]
            lengths = None if case.text_lengths is None else case.text_lengths[row : row + 1]
            rows.append(oracles.join_text(np.stack(heads), grid, lengths, 1))
        return np.concatenate(rows)

    def test_counted_density_is_that_of_the_truth(self):
        """Of a plan, with the lengths of its blocks."""
        case = make_case("text_last")
        plan = jax.jit(lambda q, k, ctx: self.pattern.plan(q, k, (), ctx)[0])
        made = plan(*case.qkv[:2], case.ctx(Phase.REUSE))
        lengths = made.q_order.lengths(case.text_lengths)
        keep = np.asarray(made.mask.to_dense()) * lengths[..., None] * lengths[..., None, :]
        np.testing.assert_array_equal(keep.sum((0, 2, 3)), self.keep_tokens(case).sum((0, 2, 3)))
