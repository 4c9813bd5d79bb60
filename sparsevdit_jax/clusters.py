"""Clusters of tokens: k-means, orders in which no block straddles a cluster, and masks over clusters.

Video tokens alone are clustered. Text comes last, in blocks of its own. An order has slots for any
outcome, so that shapes are static: every cluster may leave a block almost empty.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from pallas_kernels import BlockMask
from pallas_kernels._pytree import pytree
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.token_permutation import TokenPermutation

TOLERANCE = 1e-4
"""k-means ends when no centroid has moved further."""
_EXACT = jax.lax.Precision.HIGHEST  # sums are not rounded to TF32
_CHUNK = 8192  # tokens whose distances to all centroids are held at a time


@pytree
class Clusters:
    """A partition of the video tokens of every head and row.

    Attributes:
      labels: cluster of each video token, in raster order.
      centroids: mean of each cluster; where it is empty, what it was before.
      sizes: tokens of each cluster.
    """

    labels: Int32[Array, "B H Lv"]
    centroids: Float32[Array, "B H C D"]
    sizes: Int32[Array, "B H C"]

    @classmethod
    def of(cls, x, labels, count: int) -> "Clusters":
        """The clusters that `labels` int32 [B, H, Lv] name, of video tokens x [B, Lv, H, D]; those
        that are empty lie at 0.
        """
        sums, sizes = jax.vmap(jax.vmap(_totals, (1, 0, None)), (0, 0, None))(x, labels, count)
        return cls(labels, _means(sums, sizes, jnp.zeros_like(sums)), sizes)


def k_means(
    x: Float[Array, "B Lv H D"],
    start: Float32[Array, "B H C D"],
    iterations: Int[Array, "B H"],
) -> Clusters:
    """Lloyd's algorithm on the tokens of each head and row, from given centroids.

    Each iteration gives every token to its nearest centroid (Euclidean; the first of equal ones) and
    moves the centroids to the means; an empty cluster keeps its own. It ends after `iterations`, or
    when no centroid of the head has moved by `TOLERANCE`. Heads are done one after the other, and
    distances are held for 8,192 tokens at a time. No gradient flows.

    Args:
      x: tokens; float32, bfloat16 or float16. Sums are float32.
      start: centroids to begin with.
      iterations: the most of each head, one at least.

    Reference: Sparse-VideoGen's batch_kmeans_Euclid. Differs: a head ends by itself, so that it does
    not depend on others, where the authors wait for the last of a layer.
    """
    x, start = jax.lax.stop_gradient((x, start))
    batch, _, heads, _ = x.shape

    def flat(a):
        return a.reshape(batch * heads, *a.shape[2:])

    each = (flat(x.swapaxes(1, 2)), flat(start), flat(iterations))
    labels, centroids, sizes = jax.lax.map(lambda one: _lloyd(*one), each)

    def unflat(a):
        return a.reshape(batch, heads, *a.shape[1:])

    return Clusters(unflat(labels), unflat(centroids), unflat(sizes))


def drawn_tokens(count: int, num_tokens: int, seed: int) -> Array:
    """Tokens that k-means starts from, int32 [count], with replacement, the same in every head."""
    return jax.random.randint(jax.random.key(seed), (count,), 0, num_tokens, np.int32)


def _lloyd(x, centroids, limit):
    """(labels [L], centroids [C, D], sizes [C]) of x [L, D]."""
    length, count = x.shape[0], centroids.shape[0]

    def move(carry):
        step, centroids, *_ = carry
        labels, sums, sizes = _assign(x, centroids)
        means = _means(sums, sizes, centroids)
        shift = jnp.sqrt(jnp.square(means - centroids).sum(-1)).max()
        return step + 1, means, shift, labels, sizes

    def moves(carry):
        return (carry[0] < limit) & ~(carry[2] < TOLERANCE)

    nothing = jnp.zeros(length, np.int32), jnp.zeros(count, np.int32)
    first = jnp.int32(0), centroids, jnp.float32(np.inf), *nothing
    _, centroids, _, labels, sizes = jax.lax.while_loop(moves, move, first)
    return labels, centroids, sizes


def _assign(x, centroids):
    """Nearest centroid of each token [L], and the sums [C, D] and sizes [C] of what each got."""
    length, count = x.shape[0], centroids.shape[0]
    pieces = -(-length // _CHUNK)
    size = -(-length // pieces)
    norms = jnp.square(centroids).sum(-1)
    real = np.arange(pieces * size, dtype=np.int32).reshape(pieces, size) < length

    def piece(totals, tokens):
        x, real = tokens
        distance = norms[None] - 2 * (x.astype(np.float32) @ centroids.T)
        labels = jnp.where(real, jnp.argmin(distance, -1).astype(np.int32), count)
        return jax.tree.map(jnp.add, totals, _totals(x, labels, count)), labels

    tokens = jnp.pad(x, ((0, pieces * size - length), (0, 0))).reshape(pieces, size, -1)
    none = jnp.zeros(centroids.shape, np.float32), jnp.zeros(count, np.int32)
    (sums, sizes), labels = jax.lax.scan(piece, none, (tokens, jnp.asarray(real)))
    return labels.reshape(-1)[:length], sums, sizes


def _totals(x, labels, count):
    """Sums f32 [C, D] and sizes int32 [C] of x [L, D]; a product, whose bits are the same each time."""
    member = labels[:, None] == np.arange(count, dtype=np.int32)[None]
    sums = jnp.einsum(
        "lc,ld->cd",
        member.astype(x.dtype),
        x,
        preferred_element_type=np.float32,
        precision=_EXACT,
    )
    return sums, member.sum(0, dtype=np.int32)


def _means(sums, sizes, old):
    size = sizes[..., None]
    return jnp.where(size > 0, sums / jnp.maximum(size, 1).astype(np.float32), old)


def num_slot_blocks(grid: VideoGrid, clusters: int, block: int) -> tuple[int, int]:
    """(video, text) blocks of `cluster_order`: enough for any sizes of the clusters."""
    video, filled = grid.num_video_tokens, min(clusters, grid.num_video_tokens)
    return (video + (block - 1) * filled) // block, -(-grid.text_len // block)


def cluster_order(
    clusters: Clusters, block: int, ctx: StepContext
) -> tuple[TokenPermutation, Int32[Array, "B H N"]]:
    """(order, cluster of each block): tokens by cluster, each beginning a block, then text.

    Tokens of a cluster stay in raster order. Of a text block the cluster is C, and of a block that is
    not used C + 1; such ones stand between video and text.
    """
    grid, length, count = ctx.grid, ctx.grid.num_tokens, clusters.sizes.shape[-1]
    video, text = num_slot_blocks(grid, count, block)
    sizes, labels = clusters.sizes, clusters.labels
    blocks = -(-sizes // block)
    last_block, last_token = (jnp.cumsum(n, -1, dtype=np.int32) for n in (blocks, sizes))
    first_block, first_token = last_block - blocks, last_token - sizes

    def of_cluster(values, which):  # `which` may name C: nothing there
        values = jnp.pad(values, ((0, 0), (0, 0), (0, 1)))
        return jnp.take_along_axis(values, which, axis=-1)

    number = np.arange(video, dtype=np.int32).reshape(1, 1, -1)
    search = functools.partial(jnp.searchsorted, side="right")
    owner = jax.vmap(jax.vmap(lambda ends: search(ends, number[0, 0])))(last_block).astype(np.int32)
    before = (number - of_cluster(first_block, owner)) * block  # tokens in its earlier blocks
    lengths = jnp.clip(of_cluster(sizes, owner) - before, 0, block)
    place = np.arange(block, dtype=np.int32).reshape(1, 1, 1, -1)
    token = (of_cluster(first_token, owner) + before)[..., None] + place
    ranked = jnp.argsort(labels, axis=-1, stable=True).astype(np.int32)
    token = token.reshape(*token.shape[:2], -1)
    token = jnp.take_along_axis(ranked, token, axis=-1, mode="clip") + grid.video_start
    real = (place < lengths[..., None]).reshape(token.shape)
    rank = jnp.argsort(ranked, axis=-1).astype(np.int32) - of_cluster(first_token, labels)
    slot = of_cluster(first_block, labels) * block + rank

    lead = token.shape[:2]
    written = np.full(text * block, length, np.int32)
    written[: grid.text_len] = grid.text_start + np.arange(grid.text_len)
    written_slot = np.arange(grid.text_len, dtype=np.int32) + video * block
    parts = [slot, jnp.broadcast_to(written_slot[None, None], (*lead, grid.text_len))]
    order = TokenPermutation(
        _join(jnp.where(real, token, length), written),
        jnp.concatenate(parts[::-1] if grid.text_first else parts, -1),
        _join(lengths, _text_lengths(grid, block, ctx.text_lengths)),
    )
    owner = jnp.where(lengths > 0, owner, count + 1)
    return order, _join(owner, np.full(text, count, np.int32))


def cluster_means(
    x: Float[Array, "B S H D"], owner: Int32[Array, "B H N"], clusters: Clusters
) -> Float32[Array, "B C H D"]:
    """Means of the clusters, of x in their `cluster_order`; 0 where there are none. Gradients flow."""
    batch, _, heads, dim = x.shape
    blocks, count = owner.shape[-1], clusters.sizes.shape[-1]
    # Padding is zero, so that sums of blocks are those of their tokens.
    sums = x.reshape(batch, blocks, -1, heads, dim).sum(2, dtype=np.float32)
    member = owner[..., None] == np.arange(count, dtype=np.int32).reshape(1, 1, 1, -1)
    sums, member = sums.swapaxes(1, 2), member.astype(np.float32)
    total = jnp.einsum("bhnc,bhnd->bhcd", member, sums, precision=_EXACT)
    sizes = jnp.maximum(clusters.sizes, 1)[..., None].astype(np.float32)
    return (total / sizes).swapaxes(1, 2)


def cluster_mask(keep, q_owner, k_owner, *, block_q: int, block_kv: int) -> BlockMask:
    """The mask over blocks of two orders whose pairs of clusters `keep` bool [B, H, Cq, Ck] names.

    Text is kept, as rows and as columns.

    Args:
      keep: pairs of clusters.
      q_owner: int32 [B, H, Nq], from `cluster_order`.
      k_owner: int32 [B, H, Nk].
      block_q: tokens in a block of queries.
      block_kv: of keys.
    """
    sides = ((0, 0), (0, 0), (0, 0))
    keep = jnp.pad(keep, (*sides, (0, 1)), constant_values=True)
    keep = jnp.pad(keep, (*sides, (0, 1)))  # a column that is not used
    keep = jnp.pad(keep, (*sides[:2], (0, 1), (0, 0)), constant_values=True)
    keep = jnp.pad(keep, (*sides[:2], (0, 1), (0, 0)))
    rows = jnp.take_along_axis(keep, q_owner[..., None], axis=2)
    return BlockMask.from_dense(
        jnp.take_along_axis(rows, k_owner[..., None, :], axis=3), block_q=block_q, block_kv=block_kv
    )


def _text_lengths(grid, block, text_lengths):
    """Real tokens of each text block, int32 [B|1, 1, Nt]."""
    whole = text_lengths is None or not grid.text_len
    lengths = np.asarray([grid.text_len], np.int32) if whole else jnp.asarray(text_lengths)
    starts = np.arange(0, grid.text_len, block, dtype=np.int32)
    return jnp.clip(lengths[:, None, None] - starts[None, None], 0, block).astype(np.int32)


def _join(video, text):
    """[B, H, n] of the video, and [B|1, H|1, m] or [m] of the text behind it."""
    text = text.reshape((1,) * (3 - text.ndim) + text.shape)
    text = jnp.broadcast_to(text, (*video.shape[:2], text.shape[-1]))
    return jnp.concatenate([video, text], -1)
