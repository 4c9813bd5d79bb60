import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import StepContext, TokenOrder, VideoGrid
from sparsevdit_jax.coreset import least_alike, likeness, standing_in

ORDER = TokenOrder(VideoGrid(3, 2, 3, 5, text_first=True), 8, (2, 2, 2))


def test_likeness_is_the_cosine_to_the_centre():
    q = jax.random.normal(jax.random.key(0), (2, ORDER.grid.num_tokens, 3, 4))
    found = np.asarray(likeness(q, ORDER, ORDER.video_lengths - 1))
    moved = np.asarray(ORDER.apply(q))
    for tile, count in enumerate(ORDER.video_lengths):
        x = moved[:, tile * 8 : tile * 8 + count]
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
        expected = (x * x[:, -1:]).sum(-1)
        np.testing.assert_allclose(
            found[:, :, tile, :count], np.moveaxis(expected, 2, 1), atol=1e-6
        )
        assert np.isinf(found[:, :, tile, count:]).all()
        order = least_alike(found)[:, :, tile]
        assert (np.asarray(order[..., count - 1]) == count - 1).all()


@pytest.mark.parametrize("by_tile", [False, True])
def test_what_is_left_out_looks_where_one_stands_in(by_tile):
    """Of every tile its last tokens are kept, in reverse; every other token looks at the second of them."""
    counts = np.minimum(ORDER.video_lengths, 3)
    sizes = ORDER.video_lengths
    slots = np.maximum(sizes[:, None] - 1 - np.arange(3), 0)[None, None].astype(np.int32)
    rank = sizes[:, None] - 1 - np.arange(8)
    stand_in = np.where(
        (rank >= 0) & (rank < counts[:, None]), rank, np.minimum(counts, 2)[:, None] - 1
    )
    stand_in = jnp.asarray(stand_in[None, None].astype(np.int32))
    ctx = StepContext(ORDER.grid, text_lengths=np.array([5, 2], np.int32))
    found = standing_in(jnp.asarray(slots), counts, stand_in, ORDER, 3, ctx, by_tile=by_tile)
    x = jnp.arange(1, ORDER.grid.num_tokens + 1)[None, None]
    moved = np.asarray(found.apply(x, axis=2))[0, 0].reshape(-1, 3) - 6  # text is below 0
    texts = [(-5, -4, -3), (-2, -1, -6)]
    held = [
        ORDER.apply(x, axis=2)[0, 0, tile * 8 :][:n][::-1][:3] - 6 for tile, n in enumerate(sizes)
    ]
    if by_tile:
        expected = [np.pad(t, (0, 3 - len(t)), constant_values=-6) for t in held]
    else:
        packed = np.concatenate(held)
        expected = np.pad(packed, (0, -len(packed) % 3), constant_values=-6).reshape(-1, 3)
    np.testing.assert_array_equal(moved, [*expected, *texts])
    back = np.asarray(found.undo(found.apply(x, axis=2), axis=2))[0, 0] - 6
    np.testing.assert_array_equal(back[:5], range(-5, 0))
    for tile in range(ORDER.num_video_blocks):
        tokens = np.asarray(ORDER.apply(x, axis=2)[0, 0, tile * 8 :][: sizes[tile]]) - 6
        out = back[5:][tokens]
        np.testing.assert_array_equal(out[::-1][: counts[tile]], tokens[::-1][: counts[tile]])
        assert (out[: sizes[tile] - counts[tile]] == tokens[::-1][min(counts[tile], 2) - 1]).all()
    video = len(expected)
    filled = counts if by_tile else np.minimum(counts.sum() - 3 * np.arange(video), 3)
    np.testing.assert_array_equal(found.lengths[:, 0, :video], [filled, filled])
    np.testing.assert_array_equal(found.lengths[:, 0, video:], [[3, 2], [2, 0]])
