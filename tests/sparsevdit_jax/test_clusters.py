import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import StepContext, VideoGrid, clusters
from sparsevdit_jax.clusters import Clusters, cluster_order, k_means
from tests.sparsevdit_jax import oracles


@pytest.fixture(scope="module")
def tokens():
    centres = jax.random.normal(jax.random.key(0), (2, 1, 2, 5, 4)) * 3
    which = jax.random.randint(jax.random.key(1), (2, 40, 2), 0, 5)
    near = jnp.take_along_axis(centres[:, 0].swapaxes(1, 2), which[..., None], axis=1)
    return near + jax.random.normal(jax.random.key(2), near.shape)


@pytest.mark.parametrize("chunk", [8192, 7])
def test_k_means_is_lloyd_s_algorithm(tokens, chunk, monkeypatch):
    monkeypatch.setattr(clusters, "_CHUNK", chunk)
    start = np.array(tokens[:, :6].swapaxes(1, 2))
    start[:, :, 5] = 100  # no token is near: it stays where it is
    limit = np.array([[1, 2], [50, 50]], np.int32)
    found = jax.jit(k_means)(tokens, start, limit)
    for b, h in np.ndindex(2, 2):
        x = np.asarray(tokens[b, :, h])
        labels, centroids = oracles.lloyd(x, start[b, h], limit[b, h])
        np.testing.assert_array_equal(found.labels[b, h], labels)
        np.testing.assert_allclose(found.centroids[b, h], centroids, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found.sizes[b, h], np.bincount(labels, minlength=6))
        assert found.sizes[b, h, 5] == 0
        np.testing.assert_array_equal(found.centroids[b, h, 5], 100)


def test_a_head_s_clusters_are_its_own(tokens):
    start, limit = tokens[:, :4].swapaxes(1, 2), np.full((2, 2), 50, np.int32)
    run = jax.jit(k_means)
    both, alone = run(tokens, start, limit), run(tokens[:, :, :1], start[:, :1], limit[:, :1])
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:, :1], y), both, alone)


def test_clusters_of_labels(tokens):
    labels = jax.random.randint(jax.random.key(3), (2, 2, 40), 0, 3)
    found = Clusters.of(tokens, labels, 4)
    for b, h, c in np.ndindex(2, 2, 3):
        mine = np.asarray(tokens[b, :, h])[np.asarray(labels[b, h]) == c]
        np.testing.assert_allclose(found.centroids[b, h, c], mine.mean(0), rtol=1e-5, atol=1e-6)
        assert found.sizes[b, h, c] == len(mine)
    assert not np.any(found.centroids[:, :, 3])


@pytest.mark.parametrize("text", [{}, dict(text_len=5), dict(text_len=5, text_first=True)])
def test_no_block_holds_two_clusters(text):
    grid, block, count = VideoGrid(2, 3, 5, **text), 4, 6
    labels = np.random.default_rng(0).integers(0, count, (2, 2, 30)).astype(np.int32)
    labels[0, 0] = 3  # one cluster has all tokens, the others none
    labels[0, 1] = np.arange(30) % count
    lengths = np.array([5, 2], np.int32)[: 2 if text else 0]
    ctx = StepContext(grid, text_lengths=lengths if text else None)
    sizes = np.stack([[np.bincount(x, minlength=count) for x in row] for row in labels])
    given = Clusters(labels, np.zeros((2, 2, count, 1), np.float32), sizes.astype(np.int32))
    order, owner = jax.jit(cluster_order, static_argnums=1)(given, block, ctx)
    video, written = clusters.num_slot_blocks(grid, count, block)
    assert owner.shape == order.lengths.shape == (2, 2, video + written)
    tokens = np.arange(1, grid.num_tokens + 1)
    moved = order.apply(jnp.broadcast_to(tokens[None, None], (2, 2, len(tokens))), axis=2)
    np.testing.assert_array_equal(
        order.undo(moved, axis=2), np.broadcast_to(tokens, (2, 2, len(tokens)))
    )
    moved = np.asarray(moved).reshape(2, 2, -1, block) - 1 - grid.video_start
    for b, h, i in np.ndindex(2, 2, video):
        n = order.lengths[b, h, i]
        mine = moved[b, h, i, :n]
        assert (moved[b, h, i, n:] == -1 - grid.video_start).all()
        assert set(labels[b, h][mine]) <= {int(owner[b, h, i])}
        assert (np.diff(mine) > 0).all()
        assert n or owner[b, h, i] == count + 1
    assert (np.asarray(order.lengths)[:, :, :video].sum(-1) == 30).all()
    if written:
        np.testing.assert_array_equal(order.lengths[:, 0, video:], [[4, 1], [2, 0]])
