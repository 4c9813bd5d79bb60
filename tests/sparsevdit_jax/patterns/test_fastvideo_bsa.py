import jax
import numpy as np
import pytest

from sparsevdit_jax import VideoGrid, metrics, sparse_attention
from sparsevdit_jax.patterns import FastVideoBSA
from tests.conformance.pattern_suite import BATCH, HEADS, PatternSuite
from tests.sparsevdit_jax import oracles


def tiles_of(grid, tile):
    """Lists of the video tokens of each tile, in raster order, tiles in raster order."""
    at = np.stack(np.unravel_index(np.arange(grid.num_video_tokens), grid.shape), -1)
    keys = [tuple(x) for x in at // tile]
    return [np.flatnonzero([k == one for k in keys]) for one in sorted(set(keys))]


def kept_queries(q, tile, share):
    """(kept tokens of a tile in order, the token that serves each) of its queries [n, D]."""
    unit = q / np.linalg.norm(q, axis=-1, keepdims=True)
    alike = unit @ unit[len(q) // 2]
    count = max(1, int(len(q) * share))
    kept = np.sort(np.argsort(alike, kind="stable")[:count])
    near = np.abs(np.arange(len(q))[:, None] - kept[None]).argmin(-1)
    return tile[kept], tile[kept[near]]


class TestFastVideoBSA(PatternSuite):
    pattern = FastVideoBSA((2, 2, 4), query_keep=0.4, cumulative=0.3, min_kv_blocks=2)

    def counted_density(self, case, state):
        return self.planned_density(case, state)

    def chosen(self, case):
        """(token that serves each token [B, H, L], video keys that it reads [B, H, L, Lv])."""
        grid, p, start = case.grid, self.pattern, case.grid.video_start
        tiles = tiles_of(grid, p.tile)
        shape = (BATCH, HEADS, grid.num_tokens)
        serves = np.broadcast_to(np.arange(grid.num_tokens), shape).copy()
        reads = np.ones((*shape, grid.num_video_tokens), bool)
        q, k = (
            np.asarray(x, np.float64)[:, start:][:, : grid.num_video_tokens] for x in case.qkv[:2]
        )
        for b, h in np.ndindex(BATCH, HEADS):
            means = np.stack([k[b, tile, h].mean(0) for tile in tiles])
            for tile in tiles:
                kept, served = kept_queries(q[b, tile, h], tile, p.query_keep)
                serves[b, h, start + tile] = start + served
                logits = means @ q[b, kept, h].mean(0) * q.shape[-1] ** -0.5
                mass = np.exp(logits) / np.exp(logits).sum()
                seen = oracles.top_p(mass, p.cumulative, p.min_kv_blocks)
                keys = np.concatenate([t for t, s in zip(tiles, seen, strict=True) if s])
                reads[b, h, start + tile] = np.isin(np.arange(grid.num_video_tokens), keys)
        return serves, reads

    def queries(self, case):
        return self.chosen(case)[0]

    def keep_tokens(self, case):
        reads, start = self.chosen(case)[1], case.grid.video_start
        keep = np.ones((BATCH, HEADS, case.grid.num_tokens, case.grid.num_tokens), bool)
        keep[..., start : start + case.grid.num_video_tokens] = reads
        real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
        return keep & real[:, None, :, None] & real[:, None, None, :]


def test_all_queries_and_all_mass_are_dense():
    grid = VideoGrid(3, 3, 5)
    qkv = jax.random.normal(jax.random.key(0), (3, 1, 45, 2, 8))
    out = sparse_attention(*qkv, grid=grid, pattern=FastVideoBSA(query_keep=1, cumulative=1))
    keep = np.ones((1, 1, 45, 45), bool)
    np.testing.assert_allclose(out, oracles.masked_attention(*qkv, keep)[0], atol=2e-5)


def test_density_counts_the_queries_that_attend():
    """Each of 8 tiles keeps half of its queries, and 4 tiles at least: a quarter where the mass is even."""
    pattern = FastVideoBSA((2, 2, 2), cumulative=0.01)
    density = metrics.density(pattern, VideoGrid(4, 4, 4), num_heads=2)
    np.testing.assert_allclose(density, 1 / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [("tile", 4), ("query_keep", 0), ("cumulative", 1.5), ("min_kv_blocks", 0)],
)
def test_bad_fields(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        FastVideoBSA(**{field: value})
