"""CompensatedSuite: PatternSuite for patterns whose dropped blocks enter the softmax by their means."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.conformance.pattern_suite import BATCH, PatternSuite
from tests.sparsevdit_jax import oracles


def compensated(q, k, v, keep, block_of, real, *, xp=np, epsilon=0.0):
    """(out, lse) of one softmax over the keys of kept blocks and the centroids of all others.

    Args:
      q, k, v: [B, L, H, D], in any order of tokens.
      keep: bool [B|1, H|1, M, N], blocks of queries by blocks of keys.
      block_of: ([L], [L]) or [B, H, L] each: the block of every query and of every key.
      real: bool [B, L].
      xp: numpy for float64, jax.numpy for gradients.
      epsilon: added to sizes under the logarithm.
    """
    heads = q.shape[2]
    shape = len(q), heads, q.shape[1]
    of_q, of_k = (np.broadcast_to(b, shape) for b in block_of)
    keep = np.broadcast_to(keep, (*shape[:2], *keep.shape[2:]))
    member = np.eye(keep.shape[-1])[of_k] * real[:, None, :, None]  # [B, H, L, N]
    sizes = member.sum(2)
    mean = member / np.maximum(sizes, 1)[:, :, None]
    scale = q.shape[-1] ** -0.5
    dtype = np.float64 if xp is np else np.float32
    mean, q, k, v = (xp.asarray(x, dtype) for x in (mean, q, k, v))
    row = np.take_along_axis(keep, of_q[..., None], 2)  # [B, H, L, N]: blocks that a query keeps
    seen = np.take_along_axis(row, of_k[:, :, None], 3) & real[:, None, None]
    far = ~row & (sizes > 0)[:, :, None]
    logits = xp.einsum("bqhd,bkhd->bhqk", q, k) * scale
    means = xp.einsum("bqhd,bkhd,bhkn->bhqn", q, k, mean) * scale
    means = means + xp.asarray(np.log(np.maximum(sizes, 1) + epsilon), dtype)[:, :, None]
    logits = xp.where(np.concatenate([seen, far], -1), xp.concatenate([logits, means], -1), -np.inf)
    top = xp.where(np.isfinite(logits.max(-1)), logits.max(-1), 0) if xp is np else 0.0
    weights = xp.exp(logits - (top[..., None] if xp is np else top))
    weights = weights * np.asarray(real[:, None, :, None], dtype)
    total = weights.sum(-1)
    values = xp.concatenate(
        [v.swapaxes(1, 2), xp.einsum("bkhd,bhkn->bhnd", v, mean)], 2
    )  # [B, H, L + N, D]
    some = total > 0
    out = xp.einsum("bhqk,bhkd->bqhd", weights / xp.where(some, total, 1)[..., None], values)
    return out, xp.where(some, xp.log(xp.where(some, total, 1)) + top, -np.inf)


def cut(grid, block):
    """Block of each token of the raster sequence, [L]: packed video, then text."""
    block_of = np.zeros(grid.num_tokens, int)
    is_text = oracles.text_tokens(grid)
    block_of[~is_text] = oracles.frame_major_blocks(grid, block)
    video = -(-grid.num_video_tokens // block)
    block_of[is_text] = video + np.arange(grid.text_len) // block
    return block_of


class CompensatedSuite(PatternSuite):
    """Define `keep_blocks` and `block_of`, both [.., N] with text blocks last."""

    def keep_blocks(self, case):
        """Bool [B|1, H|1, N, N]."""
        raise NotImplementedError

    def block_of(self, grid):
        """Block of each token of the raster sequence, [L]."""
        raise NotImplementedError

    def keep_tokens(self, case):
        keep, block = self.keep_blocks(case), self.block_of(case.grid)
        real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
        keep = keep[:, :, block][..., block]
        return keep & real[:, None, :, None] & real[:, None, None, :]

    def truth(self, case, qkv, keep, xp=np):
        block = self.block_of(case.grid)
        real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
        return compensated(*qkv, keep, (block, block), real, xp=xp)

    def test_equals_masked_softmax(self, case, reuse):
        out, lse = self.truth(case, case.qkv, self.keep_blocks(case))
        np.testing.assert_allclose(reuse[1], out, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(reuse[2], lse, rtol=2e-5, atol=2e-5)

    def plain(self, case):
        keep = self.keep_blocks(case)
        return jax.jit(lambda qkv: self.truth(case, qkv, keep, jnp)[0])
