"""What patterns between clusters do in their first step, in float64 NumPy."""

import numpy as np

from sparsevdit_jax.clusters import drawn_tokens
from tests.sparsevdit_jax import oracles


def clustered(pattern, x, row, head, place, grid):
    """(labels, centroids) of the queries (place 0) or keys (1) of a head in the first step."""
    video = np.asarray(x)[row, ~oracles.text_tokens(grid), head]
    count = (pattern.q_clusters, pattern.k_clusters)[place]
    drawn = drawn_tokens(min(count, len(video)), len(video), 2 * pattern.seed + place)
    return oracles.lloyd(video, video[np.asarray(drawn)], pattern.first_iterations)


def cluster_mass(q, k, sizes):
    """Mass of each pair of clusters of centroids q, k [C, D]; rows sum to 1."""
    logits = q @ k.T * q.shape[-1] ** -0.5
    mass = np.exp(logits - logits.max(-1, keepdims=True)) * sizes
    return mass / mass.sum(-1, keepdims=True)
