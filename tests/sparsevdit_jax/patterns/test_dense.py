import numpy as np

from sparsevdit_jax import sparse_attention
from sparsevdit_jax.launch import attend_dense
from sparsevdit_jax.patterns import Dense
from sparsevdit_jax.schedule import StepContext
from tests.conformance.pattern_suite import PatternSuite, make_case
from tests.sparsevdit_jax import oracles


class TestDense(PatternSuite):
    pattern = Dense()

    def keep_tokens(self, case):
        n = case.grid.num_video_tokens
        return oracles.join_text(np.ones((1, n, n), bool), case.grid, case.text_lengths, 2)


def test_is_dense_attention():
    case = make_case("text_first")
    kwargs = {"grid": case.grid, "text_lengths": case.text_lengths}
    out = sparse_attention(*case.qkv, pattern=Dense(), **kwargs)
    expected, _ = attend_dense(*case.qkv, StepContext(**kwargs))
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
