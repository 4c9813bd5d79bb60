import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import StepContext, VideoGrid
from sparsevdit_jax.patterns import SVG2
from sparsevdit_jax.presets import attention_for
from tests.attending import jitted
from tests.conformance.pattern_suite import PatternSuite
from tests.sparsevdit_jax import oracles
from tests.sparsevdit_jax.clustering import cluster_mass, clustered

PATTERN = SVG2(4, 6, top_p=0.5, min_kc_ratio=0.2, block_q=4, block_kv=8)


def kept_clusters(pattern, q, k, sizes):
    """Pairs of clusters of centroids q, k."""
    least = int(pattern.min_kc_ratio * len(sizes))
    return np.stack([oracles.top_p(row, pattern.top_p, least) for row in cluster_mass(q, k, sizes)])


class TestSVG2(PatternSuite):
    pattern = PATTERN
    moves = True

    def keep_tokens(self, case):
        q, k, _ = case.qkv
        batch, _, heads, _ = q.shape
        keeps = []
        for b, h in np.ndindex(batch, heads):
            ql, qc = clustered(self.pattern, q, b, h, 0, case.grid)
            kl, kc = clustered(self.pattern, k, b, h, 1, case.grid)
            kept = kept_clusters(self.pattern, qc, kc, np.bincount(kl, minlength=len(kc)))
            keeps.append(kept[ql][:, kl])
        joined = oracles.join_text(np.stack(keeps), case.grid, case.text_lengths, batch)
        rows = np.arange(batch)[:, None]  # every row has its own video part
        return joined[rows, rows * heads + np.arange(heads)]

    def counted_density(self, case, state):
        return self.planned_density(case, state)


def test_fewer_tokens_than_clusters_in_bfloat16():
    grid = VideoGrid(1, 1, 1, 2)
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, 8), jnp.bfloat16)
    pattern = SVG2()
    state = pattern.init(grid, batch=1, num_heads=2, head_dim=8)
    out, _, after = jitted(pattern)(x, x, x, state, StepContext(grid))
    assert out.dtype == jnp.bfloat16
    assert after.k.shape == (1, 2, 1, 8)
    assert np.isfinite(np.asarray(out, np.float32)).all()


def test_settings_of_the_models():
    for model, clusters, dense, warm in (
        ("wan", 300, 10, False),
        ("hunyuanvideo", 400, 5, True),
    ):
        attention = attention_for(
            "svg2", VideoGrid(21, 45, 80), num_layers=40, num_heads=4, model=model
        )
        pattern = attention.patterns[-1]
        assert (pattern.q_clusters, pattern.k_clusters, pattern.zero_step_init) == (
            clusters,
            1000,
            warm,
        )
        assert attention.schedule.dense_steps == dense
        assert [p.is_dense for p in attention.patterns] == [True] + [False] * 39


@pytest.mark.parametrize(
    ("field", "value"),
    [("q_clusters", 0), ("top_p", 0), ("min_kc_ratio", 2), ("iterations", 0), ("zero_step_init", 1), ("block_kv", 0)],
)  # fmt: skip
def test_bad_fields(field, value):
    with pytest.raises(ValueError, match=f"{field}={value} must"):
        SVG2(**{field: value})
