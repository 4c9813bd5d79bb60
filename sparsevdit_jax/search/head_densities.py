"""A budget for each head, from the attention that heads were measured to have.

    mass = metrics.attention_map(q, k, ctx, order=pattern.token_order(grid))   # of a probe
    curves = recall_curves(mass, pattern.token_order(grid))
    pattern = dataclasses.replace(pattern, density=head_densities(curves, 0.2))

Heads with sharp attention need few blocks, diffuse ones many; one density for all gives the first too
many and the second too few. Any pattern whose `density` may be a tuple can use the result.
"""

import numpy as np

from pallas_kernels._values import share
from sparsevdit_jax.token_order import TokenOrder

_HALVINGS = 60  # of the interval [0, 1]: below what float64 tells


def recall_curves(mass, order: TokenOrder | None = None) -> np.ndarray:
    """Share of its attention that a head keeps when every row keeps its best 1, 2, .. N blocks.

    Args:
      mass: block masses [..., H, N, N] (`ops.attention_mass`, `metrics.attention_map`); the mean is
        taken over the leading axes: rows, prompts, steps.
      order: their block order. Text rows are then left out, and text columns kept in every row. None:
        all blocks compete.

    Returns:
      float64 [H, N], N counting the blocks that compete; ascending in each row, up to 1.
    """
    mass = np.asarray(mass, np.float64)
    if mass.ndim < 3 or mass.shape[-1] != mass.shape[-2]:
        raise ValueError(
            f"mass {mass.shape} must be [..., heads, N, N]; give that of every block pair"
        )
    if order is not None and mass.shape[-1] != order.num_blocks:
        raise ValueError(
            f"mass {mass.shape} does not fit {order}, which has {order.num_blocks} blocks; give the "
            "order that it was measured in"
        )
    count = mass.shape[-1] if order is None else order.num_video_blocks
    rows = mass[..., :count, :]
    ranked = -np.sort(-rows[..., :count], axis=-1)
    kept = np.cumsum(ranked.sum(-2), axis=-1) + rows[..., count:].sum((-1, -2))[..., None]
    total = np.maximum(rows.sum((-1, -2)), np.finfo(np.float64).tiny)
    curves = kept / total[..., None]
    return curves.reshape(-1, *curves.shape[-2:]).mean(0)


def head_densities(curves, density: float, aim: str = "equal") -> tuple[float, ...]:
    """The density of each head, with a given mean.

    Between whole numbers of blocks recall is taken to grow evenly, so that the mean is met; every
    head keeps one block a row at least.

    Args:
      curves: [H, N], from `recall_curves`.
      density: the mean, in [1 / N, 1].
      aim: "equal": all heads have one recall, which makes the worst one as good as can be. "mean":
        the mean recall is as good as can be, so that blocks go where the next one adds most.

    Returns:
      Densities in [1 / N, 1], one for each head.

    Raises:
      ValueError: a density outside of that, or another aim.
    """
    curves = np.asarray(curves, np.float64)
    density, count = share("density", density), curves.shape[-1]
    if density * count < 1:
        raise ValueError(
            f"density={density} is less than one of {count} blocks; every row keeps one at least"
        )
    if aim not in _AIMS:
        raise ValueError(f"{aim=} must be one of {tuple(_AIMS)}")
    return tuple(float(d) for d in _AIMS[aim](curves, density))


def _equal(curves, density):
    places = np.arange(1, curves.shape[-1] + 1) / curves.shape[-1]

    def at(recall):
        return np.array([np.interp(recall, curve, places) for curve in curves])

    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).mean() < density else (low, middle)
    below, above = at(low), at(high)  # apart where more blocks add nothing
    gap = (above - below).mean()
    part = min(max((density - below.mean()) / gap, 0.0), 1.0) if gap > 0 else 0.0
    return below + part * (above - below)


def _mean(curves, density):
    gains = np.diff(curves, prepend=0.0, axis=1)  # never rising along a row
    gains[:, 0] = np.inf
    rank = np.argsort(np.argsort(-gains, axis=None, kind="stable")).reshape(gains.shape)
    return np.clip(density * gains.size - rank, 0, 1).mean(1)


_AIMS = {"equal": _equal, "mean": _mean}
