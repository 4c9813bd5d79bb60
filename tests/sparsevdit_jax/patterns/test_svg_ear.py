import functools

import jax
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, VideoGrid, metrics
from sparsevdit_jax.patterns import SVGEAR
from tests.conformance.compensated_suite import CompensatedSuite, compensated
from tests.conformance.pattern_suite import BATCH, CASES, HEADS, make_case
from tests.sparsevdit_jax import oracles
from tests.sparsevdit_jax.clustering import cluster_mass, clustered

PATTERN = SVGEAR(4, 6, 0.6, 0.2, gamma=0.5, block_q=4, block_kv=8)


def routed(pattern, q, k, v, ql, kl, qc, kc):
    """Clusters that are read, bool [Cq, Ck], of the video tokens q, k, v [L, D] of a head."""
    count, scale = len(kc), q.shape[-1] ** -0.5
    sizes = np.bincount(kl, minlength=count)
    worth = np.full((len(qc), count), -np.inf)
    for i, j in np.ndindex(worth.shape):
        if sizes[j] and (ql == i).any():
            mine = kl == j
            exact = np.exp(k[mine] @ qc[i] * scale)[:, None] * v[mine]
            mean = np.exp(kc[j] @ qc[i] * scale) * v[mine].mean(0)
            error = max(np.square(exact - mean).sum(), 1e-8)
            worth[i, j] = np.log(error) - pattern.gamma * np.log((ql == i).sum() * sizes[j])
    keep = np.zeros(worth.shape, bool)
    for i, row in enumerate(cluster_mass(qc, kc, sizes)):
        wanted = oracles.top_p(row, pattern.top_p, max(1, int(2 * pattern.min_kc_ratio * count)))
        left = sizes[wanted].sum()
        sure = np.argsort(-row, kind="stable")[: max(1, int(pattern.min_kc_ratio * count))]
        keep[i, sure] = True
        left -= sizes[sure].sum()
        for j in np.argsort(-worth[i], kind="stable"):
            if not keep[i, j] and left > 0:
                keep[i, j] = True
                left -= sizes[j]
    return keep


@functools.cache
def first_step(name):
    """(clusters of the tokens of q and of k [B, H, L], clusters that meet [B, H, Cq + 1, Ck + 1]); text
    is the last cluster.
    """
    case = make_case(name)
    video = ~oracles.text_tokens(case.grid)
    counts = PATTERN.q_clusters, PATTERN.k_clusters
    labels = [np.full((BATCH, HEADS, case.grid.num_tokens), n) for n in counts]
    keep = np.ones((BATCH, HEADS, *(n + 1 for n in counts)), bool)
    for b, h in np.ndindex(BATCH, HEADS):
        q, k, v = (np.asarray(x, np.float64)[b, video, h] for x in case.qkv)
        ql, qc = clustered(PATTERN, case.qkv[0], b, h, 0, case.grid)
        kl, kc = clustered(PATTERN, case.qkv[1], b, h, 1, case.grid)
        labels[0][b, h, video], labels[1][b, h, video] = ql, kl
        keep[b, h, :-1, :-1] = routed(PATTERN, q, k, v, ql, kl, qc, kc)
    return labels, keep


def of_case(case):
    """Its `first_step`; the suite makes cases whose rows are swapped only where it needs no truth."""
    (name,) = (n for n, (grid, _) in CASES.items() if grid == case.grid)
    return first_step(name)


class TestSVGEAR(CompensatedSuite):
    pattern = PATTERN
    moves = True

    def keep_blocks(self, case):
        return of_case(case)[1]

    def truth(self, case, qkv, keep, xp=np):
        real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
        return compensated(*qkv, keep, of_case(case)[0], real, xp=xp, epsilon=1e-6)

    def keep_tokens(self, case):
        (ql, kl), keep = of_case(case)
        real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
        rows = np.take_along_axis(keep, ql[..., None], 2)
        tokens = np.take_along_axis(rows, kl[:, :, None], 3)
        return tokens & real[:, None, :, None] & real[:, None, None, :]

    def counted_density(self, case, state):
        found = self.pattern.density_of(*case.qkv, state, case.ctx(Phase.REUSE))
        assert (found < 0.9).all()
        return found


def test_density_is_that_of_random_tokens():
    grid = VideoGrid(2, 4, 4)
    found = metrics.density(PATTERN, grid, num_heads=2)
    qkv = jax.random.normal(jax.random.key(0), (3, 1, 32, 2, 8))
    state = PATTERN.init(grid, batch=1, num_heads=2, head_dim=8)
    expected = PATTERN.density_of(*qkv, state, StepContext(grid, Phase.REUSE))
    np.testing.assert_array_equal(found, expected)
    assert ((found > 0.1) & (found < 0.9)).all()


@pytest.mark.parametrize(("field", "value"), [("gamma", None), ("gamma", True), ("q_clusters", 0)])
def test_bad_fields(field, value):
    with pytest.raises(ValueError, match=f"{field}={value} must"):
        SVGEAR(**{field: value})
