import numpy as np

from sparsevdit_jax import sparse_attention
from sparsevdit_jax.patterns import Skip
from tests.conformance.pattern_suite import PatternSuite, make_case


class TestSkip(PatternSuite):
    pattern = Skip()

    def keep_tokens(self, case):
        return np.zeros((2, 1, case.grid.num_tokens, case.grid.num_tokens), bool)


def test_output_is_zero_and_lse_minus_infinity():
    case = make_case("text_last")
    out, lse = sparse_attention(*case.qkv, grid=case.grid, pattern=Skip(), return_lse=True)
    assert not np.any(out)
    assert np.all(np.asarray(lse) == -np.inf)
