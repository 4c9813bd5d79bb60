"""Density, recall and output error of patterns; PSNR and SSIM of videos. Pure functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._values import whole
from sparsevdit_jax import parallel
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.engine import attend
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.ops import attend_dense, attention_mass
from sparsevdit_jax.pattern import Attended, AttentionPattern
from sparsevdit_jax.patterns.dense import Dense
from sparsevdit_jax.token_order import TokenOrder


def density(
    pattern: AttentionPattern,
    grid: VideoGrid,
    *,
    num_heads: int,
    state=None,
    step: int = 0,
    text_lengths=None,
) -> np.ndarray:
    """Kept / all pairs of real tokens, text included, batch mean: float32 [num_heads].

    Args:
      pattern: any that chooses blocks, or mixes patterns that do.
      grid: shape of the sequence.
      num_heads: heads of the layer.
      state: the pattern's state. None: the density that its settings give, after a search.
      step: the row of a Table.
      text_lengths: real text tokens of each row, int32 [B]; None: all of the room.

    Raises:
      ValueError: `pattern` chooses no blocks.
    """
    return pattern.density_on(grid, num_heads, state=state, step=step, text_lengths=text_lengths)


def device_imbalance(
    pattern: AttentionPattern,
    grid: VideoGrid,
    *,
    num_heads: int,
    devices: int,
    state=None,
    step: int = 0,
) -> tuple[float, float]:
    """Work of the busiest device / mean work: with heads assigned by work, and in the order of their numbers.

    1 is perfect. Work counts the pairs of `density`, which has the same arguments. `devices` is the size of
    the mesh's axis `seq`.
    """
    work = density(pattern, grid, num_heads=num_heads, state=state, step=step)
    assigned = parallel.imbalance(work, devices, parallel.assign_heads(work, devices))
    return assigned, parallel.imbalance(work, devices)


def recall(lse: jax.Array, dense_lse: jax.Array) -> jax.Array:
    """Attention mass that a pattern keeps: mean of exp(lse - dense_lse) over queries: f32 [B, H].

    exp(lse) sums the kept exponentials of a query and exp(dense_lse) all of them, so their ratio is
    the softmax probability that was kept, and no L x L array is needed. (AdaSpa, arXiv 2502.21079,
    defines recall so.)

    Args:
      lse: float32 [B, H, L] of the sparse attention; -inf where nothing is kept.
      dense_lse: float32 [B, H, L] of dense attention of the same q and k; -inf marks padding.
    """
    real = dense_lse > -jnp.inf
    kept = jnp.where(real, jnp.exp(lse - jnp.where(real, dense_lse, 0.0)), 0.0)
    return kept.sum(-1) / jnp.maximum(real.sum(-1).astype(np.float32), 1.0)


def mask_recall(mass: jax.Array, mask: BlockMask) -> jax.Array:
    """Kept / all attention mass: block masses f32 [B, H, N, N] and a mask -> f32 [B, H].

    The masses may come from a cached lse: then a row does not sum to its number of tokens.
    """
    kept = jnp.where(jnp.asarray(mask.to_dense()), mass, 0.0).sum((-1, -2))
    return kept / jnp.maximum(mass.sum((-1, -2)), np.finfo(np.float32).tiny)


def output_error(out: jax.Array, exact: jax.Array) -> jax.Array:
    """||out - exact|| / ||exact|| of each head's output [B, L, H, D]: float32 [B, H]."""
    out, exact = out.astype(np.float32), exact.astype(np.float32)
    norm = jnp.sqrt(jnp.square(exact).sum((1, 3)))
    return jnp.sqrt(jnp.square(out - exact).sum((1, 3))) / jnp.maximum(
        norm, np.finfo(np.float32).tiny
    )


def measure(q, k, v, state, ctx: StepContext, *, pattern: AttentionPattern) -> dict[str, jax.Array]:
    """Recall and output error, f32 [B, H] each, of one step of `pattern` against dense attention.

    Args:
      q: [B, L, H, D], raster order.
      k: as q.
      v: as q.
      state: the pattern's state.
      ctx: the step; in Phase.DENSE the result is 1 and 0.
      pattern: what to measure; static under jit.
    """
    found = attend(pattern, q, k, v, state, ctx)
    exact = attend(Dense(), q, k, v, (), ctx)
    if found.lse is None or exact.lse is None:
        raise ValueError(f"{pattern} is no softmax, so it has no recall; compare its output alone")
    return {"recall": recall(found.lse, exact.lse), "error": output_error(found.out, exact.out)}


def attention_map(q, k, ctx: StepContext, *, order: TokenOrder) -> jax.Array:
    """Measured attention by blocks: mean mass from a query of block i to block j: f32 [B, H, N, N].

    Rows sum to 1 where the query block has real tokens. Blocks are those of `order`, so the map
    compares with the mask of a pattern in the same order.

    Args:
      q: [B, L, H, D], raster order.
      k: as q.
      ctx: the step's grid, text lengths and scale.
      order: block order, e.g. ``TokenOrder(grid, 64)`` or ``pattern.token_order(grid)``.
    """
    pattern = _Mass(order)
    state = pattern.init(ctx.grid, batch=q.shape[0], num_heads=q.shape[2], head_dim=q.shape[3])
    mass = attend(pattern, q, k, k, state, ctx).state
    return mass / jnp.maximum(mass.sum(-1, keepdims=True), np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class _Mass(AttentionPattern):
    """Dense attention whose state is the mass of every block pair."""

    order: TokenOrder

    in_ring = True
    sees_dense_steps = True

    def init(self, grid, *, batch, num_heads, head_dim):
        del grid, head_dim
        return jnp.zeros((batch, num_heads, *(self.order.num_blocks,) * 2), np.float32)

    def compute(self, q, k, v, state, ctx):
        del state
        out, lse = attend_dense(q, k, v, ctx)
        return Attended(out, lse, attention_mass(q, k, lse, self.order, ctx))


def psnr(video: jax.Array, reference: jax.Array, *, data_range: float = 1.0) -> jax.Array:
    """Peak signal-to-noise ratio in dB over all entries, float32 scalar; inf for equal videos."""
    _check_pair(video, reference, data_range)
    error = jnp.square(video.astype(np.float32) - reference.astype(np.float32)).mean()
    return 10.0 * jnp.log10(np.float32(data_range) ** 2 / error)


def ssim(
    video: jax.Array,
    reference: jax.Array,
    *,
    data_range: float = 1.0,
    window: int = 11,
    sigma: float = 1.5,
) -> jax.Array:
    """Mean structural similarity of frames [..., Y, X, C], float32 scalar; each channel by itself.

    Gaussian windows that lie wholly inside the frame, K1 = 0.01, K2 = 0.03, population variances
    (Wang et al. 2004).

    Args:
      video: frames with values in a range of `data_range`.
      reference: as video.
      data_range: largest minus smallest possible value.
      window: pixels along a side of the window, odd.
      sigma: standard deviation of the window in pixels.
    """
    _check_pair(video, reference, data_range)
    window = whole("window", window, 1, remedy="it counts pixels")
    if not 0 < sigma < np.inf:
        raise ValueError(f"{sigma=} must be a positive number of pixels")
    if video.ndim < 3 or window % 2 == 0 or window > min(video.shape[-3:-1]):
        raise ValueError(
            f"frames {video.shape} with {window=}: frames must be [..., Y, X, C] and the window "
            "odd and "
            "no larger than a frame; choose a smaller window"
        )
    x = (np.arange(window) - window // 2) / sigma
    weights = np.exp(-0.5 * x**2)
    weights = (weights / weights.sum()).astype(np.float32)

    def blur(image):
        image = jnp.moveaxis(image, -1, -3).reshape(-1, 1, *image.shape[-3:-1])
        for shape in ((1, 1, window, 1), (1, 1, 1, window)):
            image = jax.lax.conv(image, weights.reshape(shape), (1, 1), "VALID")
        return image

    a, b = video.astype(np.float32), reference.astype(np.float32)
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * (2 * covariance + c2) / (var_a + var_b + c2)).mean()


def _check_pair(video, reference, data_range):
    if not 0 < data_range < np.inf:
        raise ValueError(
            f"{data_range=} must be positive and finite: largest minus smallest possible value"
        )
    if video.shape != reference.shape:
        raise ValueError(
            f"video {video.shape} and reference {reference.shape} must have one shape; compare "
            "equal clips"
        )
