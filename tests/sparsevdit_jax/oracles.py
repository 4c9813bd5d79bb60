"""Independent truths, in float64 numpy at token level: slow, dense and without any code of the
library.
"""

import numpy as np


def masked_attention(q, k, v, keep, scale=None):
    """(out, lse) of q, k, v [B, L, H, D] under keep [B|1, H|1, L, L]; empty rows: 0, -inf."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    logits = np.where(keep, logits, -np.inf)
    top = logits.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    weights = np.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    out = np.einsum("bhqk,bkhd->bqhd", weights / np.where(total > 0, total, 1), v)
    with np.errstate(divide="ignore"):
        return out, (np.log(total) + top)[..., 0]


def probabilities(q, k, real, scale=None):
    """softmax(scale q k^T) over real tokens [B, L]: float64 [B, H, L, L], 0 for padded queries."""
    q, k = (np.asarray(x, np.float64) for x in (q, k))
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    logits = np.where(real[:, None, None, :], logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) * real[:, None, :, None]


def real_tokens(grid, text_lengths, batch):
    """Bool [B, L]: tokens of the raster sequence that are not text padding."""
    real = np.ones((batch, grid.num_tokens), bool)
    if text_lengths is not None:
        for row, length in enumerate(text_lengths):
            real[row, grid.text_start + length : grid.text_start + grid.text_len] = False
    return real


def text_tokens(grid):
    """Bool [L]: text tokens of the raster sequence."""
    is_text = np.zeros(grid.num_tokens, bool)
    is_text[grid.text_start : grid.text_start + grid.text_len] = True
    return is_text


def join_text(video_keep, grid, text_lengths, batch):
    """Video keep [H|1, Lv, Lv] -> [B, H|1, L, L]: text sees and is seen by all real tokens."""
    is_text, real = text_tokens(grid), real_tokens(grid, text_lengths, batch)
    keep = np.zeros((video_keep.shape[0], grid.num_tokens, grid.num_tokens), bool)
    keep[:, is_text] = keep[:, :, is_text] = True
    keep[np.ix_(range(len(keep)), ~is_text, ~is_text)] = video_keep
    return keep[None] & real[:, None, :, None] & real[:, None, None, :]


def frame_major_blocks(grid, block):
    """Block of each video token when tokens are cut in frame-major order."""
    return np.arange(grid.num_video_tokens) // block


def site_major_blocks(grid, block):
    """Block of each video token when the frames of a site are neighbours."""
    sites = grid.height * grid.width
    frame, site = np.divmod(np.arange(grid.num_video_tokens), sites)
    return (site * grid.frames + frame) // block


def band_rows(count, width):
    """For each of `count` blocks the set of `width` around it, shifted inwards at the borders."""
    starts = [min(max(i - width // 2, 0), count - width) for i in range(count)]
    return [set(range(s, s + width)) for s in starts]


def expand(rows, block_of):
    """Key blocks of each query block -> bool [1, Lv, Lv] by the block of each token."""
    count = block_of.max() + 1
    table = np.array([[j in rows[i] for j in range(count)] for i in range(count)])
    return table[block_of][:, block_of][None]


def budget(grid, density, block):
    """Video blocks per row: the integer that brings the whole mask, text included, nearest to
    density.
    """
    count = -(-grid.num_video_tokens // block)
    tokens, video = grid.num_tokens, grid.num_video_tokens
    text_pairs = tokens**2 - video**2
    counted = [(text_pairs + n * video**2 / count) / tokens**2 for n in range(1, count + 1)]
    distance = [round(abs(c - density), 12) for c in counted]
    return count - int(np.argmin(distance[::-1]))


def lloyd(x, centroids, iterations, tolerance=1e-4):
    """(labels, centroids) of k-means on x [L, D] in float64, from given centroids."""
    x, centroids = np.asarray(x, np.float64), np.array(centroids, np.float64)
    labels = np.zeros(len(x), int)
    for _ in range(iterations):
        labels = np.square(x[:, None] - centroids).sum(-1).argmin(-1)
        moved = np.array(
            [
                x[labels == c].mean(0) if (labels == c).any() else old
                for c, old in enumerate(centroids)
            ]
        )
        shift = np.linalg.norm(moved - centroids, axis=-1).max()
        centroids = moved
        if shift < tolerance:
            break
    return labels, centroids


def top_p(weights, share, least=0):
    """Entries of a row, largest first, while the sum before is at most `share`; `least` at least."""
    kept, total = np.zeros(len(weights), bool), 0.0
    for rank, i in enumerate(np.argsort(-weights, kind="stable")):
        if total > share and rank >= max(least, 1):
            break
        kept[i] = True
        total += weights[i]
    return kept
