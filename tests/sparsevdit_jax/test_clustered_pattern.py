import dataclasses

import jax
import numpy as np
import pytest

from sparsevdit_jax import Phase
from sparsevdit_jax.patterns import SVG2
from tests.attending import jitted
from tests.conformance.pattern_suite import make_case
from tests.sparsevdit_jax import oracles
from tests.sparsevdit_jax.clustering import clustered

PATTERN = SVG2(4, 6, top_p=0.5, min_kc_ratio=0.2, block_q=4, block_kv=8)


@pytest.fixture(scope="module")
def attend():
    return jitted(PATTERN)


def test_later_steps_begin_where_the_last_one_ended(attend):
    """Two iterations from the centroids of the first step, on other tokens."""
    case = make_case("video")
    q, k, v = case.qkv
    state = PATTERN.init(case.grid, batch=2, num_heads=2, head_dim=8)
    *_, state = attend(q, k, v, state, case.ctx(Phase.REUSE))
    *_, later = attend(k, q, v, state, case.ctx(Phase.REUSE))
    for place, (x, y) in enumerate(((q, k), (k, q))):
        for b, h in np.ndindex(2, 2):
            _, centroids = clustered(PATTERN, x, b, h, place, case.grid)
            _, moved = oracles.lloyd(np.asarray(y)[b, :, h], centroids, PATTERN.iterations)
            found = (later.q, later.k)[place][b, h]
            np.testing.assert_allclose(found, moved, rtol=1e-5, atol=1e-5)
    assert np.asarray(later.warm).all()


def test_dense_steps_can_warm_the_centroids(attend):
    case = make_case("text_first")
    warming = dataclasses.replace(PATTERN, zero_step_init=True)
    state = PATTERN.init(case.grid, batch=2, num_heads=2, head_dim=8)
    out, lse, warm = jitted(warming)(*case.qkv, state, case.ctx(Phase.DENSE))
    *_, expected = attend(*case.qkv, state, case.ctx(Phase.REUSE))
    jax.tree.map(np.testing.assert_array_equal, warm, expected)
    dense, dense_lse, cold = attend(*case.qkv, state, case.ctx(Phase.DENSE))
    np.testing.assert_array_equal(out, dense)
    np.testing.assert_array_equal(lse, dense_lse)
    assert not np.asarray(cold.warm).any()
