import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, TokenOrder, sparse_attention
from sparsevdit_jax.ops import attend_dense
from sparsevdit_jax.patterns import Dense
from tests import tolerances
from tests.attending import jitted
from tests.conformance.pattern_suite import DIVISIBLE, PatternSuite, make_case
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


@pytest.mark.parametrize(
    "order",
    [TokenOrder(DIVISIBLE, 8, (2, 2, 2)), TokenOrder(DIVISIBLE, 8, axes=(1, 2, 0))],
    ids=str,
)
def test_permuted_tokens_give_the_permuted_result(order):
    case = make_case("video")
    attend = jitted(Dense())
    plain = attend(*case.qkv, (), case.ctx(Phase.REUSE))[:2]
    out, lse, _ = attend(*(order.apply(x) for x in case.qkv), (), case.ctx(Phase.REUSE))
    exact = oracles.masked_attention(*case.qkv, True)
    got = order.undo(out), order.undo(lse, axis=2)
    for name, *values in zip(("out", "lse"), got, exact, plain, strict=True):
        tolerances.assert_within_budget(*values, jnp.float32, name)
