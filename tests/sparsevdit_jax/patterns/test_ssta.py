import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import StepContext, VideoGrid
from sparsevdit_jax.patterns import SSTA
from sparsevdit_jax.presets import attention_for
from tests.conformance.pooled_suite import PooledSuite, best, block_means, tile_blocks

TILE = (1, 2, 4)


def window_tiles(tiles, window):
    """Bool [N, N]: tiles at most half a window from the centre, which stays inside the canvas."""
    at = np.stack(np.unravel_index(np.arange(np.prod(tiles)), tiles), -1)
    half, last = np.array(window) // 2, np.array(tiles) - 1
    centre = np.minimum(np.maximum(at, half), last - half)
    return (np.abs(centre[:, None] - at[None]) <= half).all(-1)


def scores(q, k, pattern):
    """[N, N] of the means of tiles q and k [N, D]."""
    if pattern.sampling == "similarity":
        return q @ k.T
    q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    like = (q @ k.T + 1) / 2
    among = (k @ k.T + 1) / 2
    others = [np.delete(among[:, j], j).mean() for j in range(len(k))]
    return pattern.weight * like - (1 - pattern.weight) * np.array(others)


class TestSSTA(PooledSuite):
    pattern = SSTA(TILE, (1, 1, 1), topk=3)

    def block_of(self, grid):
        return tile_blocks(grid, TILE)

    def keep_blocks(self, q, k, block_of, head):
        q, k = (block_means(x, block_of) for x in (q, k))
        return best(scores(q, k, self.pattern), 3) | np.eye(len(k), dtype=bool)


@pytest.mark.parametrize(
    ("pattern", "shared"),
    [
        (SSTA(TILE, (3, 1, 1), 2, "similarity"), False),
        (SSTA(TILE, (1, 3, 1), 3, weight=0.5, share_heads=True), True),
        (SSTA(TILE, (1, 1, 1), 500), False),
        (SSTA(TILE, (3, 3, 1), 0), False),
    ],
    ids=["similarity", "shared by heads", "more than there are", "window alone"],
)
def test_the_choice_is_the_rule_s(pattern, shared):
    grid = VideoGrid(3, 5, 9)  # tiles at two borders are ragged
    q, k = jax.random.normal(jax.random.key(0), (2, 1, grid.num_tokens, 2, 8))
    plan, _ = jax.jit(lambda q, k: pattern.plan(q, k, (), StepContext(grid)))(q, k)
    kept = np.asarray(plan.mask.to_dense())[0]
    block_of, tiles = tile_blocks(grid, TILE), (3, 3, 3)
    share = np.bincount(block_of)[:, None] / np.prod(TILE)  # the authors divide by all places
    means = np.array(
        [[block_means(x[0, :, h], block_of) * share for h in range(2)] for x in (q, k)]
    )
    if shared:
        means = means.mean(1, keepdims=True)
    assert kept.shape[0] == means.shape[1]
    for head, found in enumerate(kept):
        want = best(scores(*means[:, head], pattern), min(pattern.topk, 27))
        np.testing.assert_array_equal(found, want | window_tiles(tiles, pattern.window))


def test_no_gradient_flows_through_the_choice():
    grid, pattern = VideoGrid(2, 4, 4), SSTA(TILE, (1, 1, 1), 1)
    q = jax.random.normal(jax.random.key(0), (1, grid.num_tokens, 1, 8))

    def chosen(q):
        plan, _ = pattern.plan(q, q, (), StepContext(grid))
        return plan.mask.kv_counts.astype(jnp.float32).sum()

    assert not np.any(jax.grad(chosen)(q))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("tile", (0, 1, 1), "whole numbers of at least 1"),
        ("window", (3, 3), "give frames, rows and columns in tiles"),
        ("topk", -1, "whole number of at least 0"),
        ("sampling", "random", "must be one of"),
        ("weight", 1.5, r"must lie in \[0, 1\]"),
        ("share_heads", 1, "must be True or False"),
    ],
)
def test_bad_fields_are_refused(field, value, rule):
    with pytest.raises(ValueError, match=f"{field}=.*{rule}"):
        SSTA(**{field: value})


def test_every_tenth_layer_and_the_last_are_dense_and_short_clips_halve_the_count():
    found = attention_for("ssta", VideoGrid(31, 8, 8), num_layers=22, num_heads=2)
    assert [i for i, p in enumerate(found.patterns) if p.is_dense] == [9, 19, 21]
    assert found.patterns[0].topk == 32
    found = attention_for("ssta", VideoGrid(33, 8, 8), num_layers=1, num_heads=2)
    assert found.patterns[0].topk == 64
