"""Masks as numpy arrays: chosen from block masses, and scored by them."""

import jax
import jax.numpy as jnp
import numpy as np

from sparsevdit_jax import StepContext, TokenOrder
from sparsevdit_jax.patterns import AdaSpa


def adaspa_masks(mass: np.ndarray, order: TokenOrder, pattern: AdaSpa) -> np.ndarray:
    """What AdaSpa keeps given block masses f32 [B, H, N, N]: bool of that shape."""
    chosen = jax.jit(pattern.choose)(jnp.asarray(mass), StepContext(order.grid))
    return np.asarray(chosen.to_dense())


def largest_blocks(mass: np.ndarray, order: TokenOrder, density: float) -> np.ndarray:
    """The blocks [.., N, N] with the most mass per token pair that cover `density` of all pairs."""
    pairs = _pairs(order)
    flat = (mass / pairs).reshape(*mass.shape[:-2], -1)
    best = np.argsort(-flat, axis=-1, kind="stable")
    covered = np.cumsum(pairs.reshape(-1)[best], axis=-1)
    within = covered <= density * pairs.sum() + 0.5
    keep = np.zeros(flat.shape, bool)
    np.put_along_axis(keep, best, within, axis=-1)
    return keep.reshape(mass.shape)


def largest_in_rows(mass: np.ndarray, count: int) -> np.ndarray:
    """The `count` blocks of the most mass in each row of [.., N, N]: the exact row-wise optimum."""
    best = np.argsort(-mass, axis=-1, kind="stable")[..., :count]
    keep = np.zeros(mass.shape, bool)
    np.put_along_axis(keep, best, True, axis=-1)
    return keep


def recall(keep: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Kept / all mass of [.., N, N]."""
    return np.where(keep, mass, 0).sum((-1, -2)) / mass.sum((-1, -2))


def density(keep: np.ndarray, order: TokenOrder) -> np.ndarray:
    """Kept / all token pairs of [.., N, N]."""
    pairs = _pairs(order)
    return np.where(keep, pairs, 0).sum((-1, -2)) / pairs.sum()


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of masks [.., N, N]."""
    return (a & b).sum((-1, -2)) / np.maximum((a | b).sum((-1, -2)), 1)


def element_recall(probabilities: np.ndarray, densities: list[float]) -> list[float]:
    """Recall of the largest single entries of [L, L] at each density: no mask of any form keeps more."""
    ordered = np.sort(probabilities, axis=None)[::-1]
    total = ordered.sum(dtype=np.float64)
    counts = [max(1, round(d * ordered.size)) for d in densities]
    return [float(ordered[:n].sum(dtype=np.float64) / total) for n in counts]


def _pairs(order):
    sizes = np.asarray(order.lengths(), np.float64)[0, 0]
    return sizes[:, None] * sizes[None, :]
