import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax.patterns import Coreset
from sparsevdit_jax.patterns.vorta import router_experts, router_scores
from tests.conformance.pattern_suite import BATCH, HEADS, PatternSuite
from tests.sparsevdit_jax import oracles


class TestCoreset(PatternSuite):
    pattern = Coreset((2, 2, 3), rate=0.4, block=16)

    def queries(self, case):
        """The centre's for what is left out. A bucket that sticks out has the middle of what is there."""
        grid = case.grid
        serves = np.zeros((BATCH, HEADS, grid.num_tokens), int) + np.arange(grid.num_tokens)
        q = np.asarray(case.qkv[0], np.float64)
        corners = [range(0, n, b) for n, b in zip(grid.shape, self.pattern.bucket, strict=True)]
        for corner in np.stack(np.meshgrid(*corners, indexing="ij"), -1).reshape(-1, 3):
            size = np.minimum(np.asarray(grid.shape) - corner, self.pattern.bucket)
            tokens = [grid.token(*(corner + at)) for at in np.ndindex(*size)]
            middle = grid.token(*(corner + size // 2))
            others = np.array([t for t in tokens if t != middle], int)
            count = max(0, int(len(tokens) * (1 - self.pattern.rate)) - 1)
            for b, h in np.ndindex(BATCH, HEADS):
                centre, x = q[b, middle, h], q[b, others, h]
                alike = x @ centre / np.linalg.norm(x, axis=-1) / np.linalg.norm(centre)
                serves[b, h, others[np.argsort(alike, kind="stable")[count:]]] = middle
        return serves

    def keep_tokens(self, case):
        stays = self.queries(case) == np.arange(case.grid.num_tokens)
        real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
        keep = np.broadcast_to(stays[:, :, None], (*stays.shape, stays.shape[-1]))
        return keep & real[:, None, :, None] & real[:, None, None, :]


def test_a_router_s_best_expert_counts_where_it_is_sure():
    scores = router_scores(jnp.ones((2, 1)), jnp.zeros((6, 1)), jnp.log(jnp.arange(1.0, 7)))
    np.testing.assert_allclose(scores[0], [[1 / 6, 2 / 6, 3 / 6], [4 / 15, 5 / 15, 6 / 15]], 1e-6)
    np.testing.assert_array_equal(router_experts(scores, 0.3), [2, 2])
    np.testing.assert_array_equal(router_experts(scores, 0.45), [2, 0])
    silu = router_scores(jnp.array([[2.0]]), jnp.array([[1.0], [0], [0]]), jnp.zeros(3))
    grown = np.exp(2 / (1 + np.exp(-2)))
    np.testing.assert_allclose(silu[0, 0, 0], grown / (grown + 2), rtol=1e-6)


@pytest.mark.parametrize(("field", "value"), [("bucket", (2, 0, 2)), ("rate", -1), ("block", 0)])
def test_bad_fields(field, value):
    with pytest.raises(ValueError, match=rf"(?:{field}|tile)=.* must"):
        Coreset(**{field: value})
