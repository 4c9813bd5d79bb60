"""PatternSuite: what every pattern must satisfy. A pattern's test class inherits it and gives the
token-level truth.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import (
    KernelOptions,
    Phase,
    SparseAttention,
    StepContext,
    StepSchedule,
    VideoGrid,
    metrics,
    ops,
)
from tests.attending import attended, jitted
from tests.sparsevdit_jax import oracles

DIVISIBLE = VideoGrid(4, 4, 4)
RAGGED_TEXT_LAST = VideoGrid(3, 5, 4, 9)
RAGGED_TEXT_FIRST = VideoGrid(3, 5, 4, 9, text_first=True)
CASES = {
    "video": (DIVISIBLE, None),
    "text_last": (RAGGED_TEXT_LAST, (4, 9)),
    "text_first": (RAGGED_TEXT_FIRST, (0, 6)),
}
BATCH, HEADS, HEAD_DIM = 2, 2, 8


def density_of_plan(pattern, case, ctx):
    """Kept share of real token pairs of each head, by the plan of the case's own q and k."""

    @jax.jit
    def count(q, k, ctx):
        plan, _ = pattern.plan(q, k, (), ctx)
        mask = ops.with_lengths(plan.mask, plan.q_order, plan.kv_order, ctx)
        return mask.density(per_head=True)

    return count(*case.qkv[:2], ctx)


def density_of_tokens(keep, case):
    """The same of bool [B, H, L, L]."""
    real = oracles.real_tokens(case.grid, case.text_lengths, BATCH).sum(1)
    return keep.sum((0, 2, 3)) / (real**2.0).sum()


@dataclasses.dataclass(frozen=True)
class Case:
    """One grid with q, k, v and the results of a pattern on it."""

    grid: VideoGrid
    text_lengths: np.ndarray | None
    qkv: jax.Array

    def ctx(self, phase, **kwargs):
        # The plain kernel compiles fastest, and kernels have tests of their own; the case with most in it takes the
        # one that users get.
        whole = self.grid == RAGGED_TEXT_LAST
        kernel = KernelOptions(None if whole else "reference")
        more = dict(text_lengths=self.text_lengths, kernel=kernel)
        return StepContext(self.grid, phase, **more | kwargs)


def make_case(name: str) -> Case:
    """Random q, k, v [3, B, L, H, D] on a grid of CASES."""
    grid, lengths = CASES[name]
    shape = (3, BATCH, grid.num_tokens, HEADS, HEAD_DIM)
    lengths = None if lengths is None else np.asarray(lengths, np.int32)
    return Case(grid, lengths, jax.random.normal(jax.random.key(7), shape))


def weights_of(case: Case) -> jax.Array:
    """Of the outputs in the sum that is differentiated."""
    return jax.random.normal(jax.random.key(9), case.qkv.shape[1:])


@functools.partial(jax.jit, static_argnums=0)
def step_and_gradient(pattern, qkv, state, ctx, weights):
    """out, lse and state of a step, and the gradient of sum(out * weights) by qkv: one program for all."""

    def loss(qkv):
        out, *rest = attended(pattern, *qkv, state, ctx)
        return (out * weights).sum(), (out, *rest)

    (_, results), gradient = jax.value_and_grad(loss, has_aux=True)(qkv)
    return *results, gradient


def of_tokens(x, tokens):
    """x [B, L, H, D] of the tokens [B|1, H|1, L]."""
    return jnp.take_along_axis(x, tokens.swapaxes(1, 2)[..., None], axis=1)


class PatternSuite:
    """Inherit, set `pattern`, and define `keep_tokens`; stateful patterns set `searches`."""

    pattern = None
    searches = False
    """Whether a FIRST_SEARCH step must run before REUSE is sparse."""
    moves = False
    """Whether a REUSE step changes the state, too."""
    num_steps = 50
    """Steps of a schedule that fits the pattern."""

    def keep_tokens(self, case: Case) -> np.ndarray:
        """Bool [B, H|1, L, L] in raster order, padding dropped: what a REUSE step must compute."""
        raise NotImplementedError

    def queries(self, case: Case) -> np.ndarray:
        """Int [B|1, H|1, L]: the token whose query gives each token's result, its own by default. The
        keys of that query are those of `keep_tokens` for every token that it serves.
        """
        return np.arange(case.grid.num_tokens)[None, None]

    def counted_density(self, case: Case, state) -> np.ndarray:
        """Density of each head, [H]. A pattern that keeps more or less of other q and k has
        `planned_density`.
        """
        return metrics.density(
            self.pattern, case.grid, num_heads=HEADS, state=state, text_lengths=case.text_lengths
        )

    def planned_density(self, case: Case, state) -> np.ndarray:
        """The same of the plan for the case's q and k."""
        ctx = case.ctx(Phase.REUSE)
        plan, _ = jax.jit(self.pattern.plan)(*case.qkv[:2], state, ctx)
        return ops.density(plan.mask, plan.q_order, plan.kv_order, ctx)

    @pytest.fixture(scope="class")
    @classmethod
    def attend(cls):
        return jitted(cls.pattern)

    @pytest.fixture(scope="class", params=CASES)
    @classmethod
    def case(cls, request):
        return make_case(request.param)

    @classmethod
    def state(cls, case, attend):
        state = cls._fresh(case)
        if cls.searches:
            *_, state = attend(*case.qkv, state, case.ctx(Phase.FIRST_SEARCH))
        return state

    @classmethod
    def step(cls, case, attend, qkv, state):
        """out, lse and state of a REUSE step; with text last from the program that gives its gradient, too."""
        if case.grid is RAGGED_TEXT_LAST:
            return cls.differentiated(case, qkv, state)[:3]
        return attend(*qkv, state, case.ctx(Phase.REUSE))

    @classmethod
    def differentiated(cls, case, qkv, state):
        """`step_and_gradient` of a REUSE step."""
        weights = weights_of(case)
        return step_and_gradient(cls.pattern, qkv, state, case.ctx(Phase.REUSE), weights)

    @pytest.fixture(scope="class")
    @classmethod
    def reuse(cls, case, attend):
        """(state, out, lse) of a REUSE step."""
        state = cls.state(case, attend)
        out, lse, after = cls.step(case, attend, case.qkv, state)
        if not cls.moves:
            jax.tree.map(np.testing.assert_array_equal, after, state)
        return state, out, lse

    def test_equals_masked_softmax(self, case, reuse):
        q = of_tokens(case.qkv[0], self.queries(case))
        out, lse = oracles.masked_attention(q, *case.qkv[1:], self.keep_tokens(case))
        np.testing.assert_allclose(reuse[1], out, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(reuse[2], lse, rtol=2e-5, atol=2e-5)

    def test_text_padding_gives_zero_rows(self, case, reuse):
        real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
        assert not np.any(np.asarray(reuse[1])[~real])

    def test_text_beyond_its_length_never_matters(self, case, attend, reuse):
        if case.text_lengths is None:
            return
        real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
        noise = jax.random.normal(jax.random.key(8), case.qkv.shape) * 1e4
        qkv = jnp.where(real[None, :, :, None, None], case.qkv, noise)
        state, out, lse = reuse
        again, again_lse, _ = self.step(case, attend, qkv, state)
        np.testing.assert_array_equal(again, out)
        np.testing.assert_array_equal(again_lse, lse)
        if self.searches:
            *_, searched = attend(*qkv, self._fresh(case), case.ctx(Phase.FIRST_SEARCH))
            jax.tree.map(np.testing.assert_array_equal, searched.mask, state.mask)

    def test_dense_phase_is_exact(self, attend):
        case = make_case("text_last")
        state = self.state(case, attend)
        out, lse, after = attend(*case.qkv, state, case.ctx(Phase.DENSE))
        everything = np.ones((1, case.grid.num_video_tokens, case.grid.num_video_tokens), bool)
        keep = oracles.join_text(everything, case.grid, case.text_lengths, BATCH)
        expected, expected_lse = oracles.masked_attention(*case.qkv, keep)
        np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(lse, expected_lse, rtol=2e-5, atol=2e-5)
        jax.tree.map(np.testing.assert_array_equal, after, state)

    def test_counted_density_is_that_of_the_truth(self, case, reuse):
        counted = self.counted_density(case, reuse[0])
        keep = self.keep_tokens(case)
        real = oracles.real_tokens(case.grid, case.text_lengths, BATCH).sum(1).astype(float)
        own = self.queries(case) == np.arange(case.grid.num_tokens)
        keep = np.broadcast_to(keep, (BATCH, HEADS, *keep.shape[2:])) & own[..., None]
        expected = keep.sum((0, 2, 3)) / np.square(real).sum()
        np.testing.assert_allclose(counted, expected, rtol=1e-5)

    def test_state_structure_is_constant(self, attend):
        case = make_case("text_first")
        state = self._fresh(case)
        shapes = jax.eval_shape(lambda: state)
        for phase in Phase:
            out, _, after = jax.eval_shape(attend, *case.qkv, state, case.ctx(phase))
            assert after == shapes, phase
            assert (out.shape, out.dtype) == (case.qkv.shape[1:], case.qkv.dtype)

    def test_batch_rows_are_independent(self, attend):
        case = make_case("video")
        state = self.state(case, attend)
        out, lse, _ = attend(*case.qkv, state, case.ctx(Phase.REUSE))
        swapped = case.qkv[:, ::-1]
        state = self.state(dataclasses.replace(case, qkv=swapped), attend)
        again, again_lse, _ = attend(*swapped, state, case.ctx(Phase.REUSE))
        np.testing.assert_array_equal(again[::-1], out)
        np.testing.assert_array_equal(again_lse[::-1], lse)

    def test_same_bits_on_a_rerun(self, attend):
        case = make_case("text_first")
        runs = []
        for _ in range(2):
            state = self.state(case, attend)
            runs.append(attend(*case.qkv, state, case.ctx(Phase.REUSE)))
        jax.tree.map(np.testing.assert_array_equal, *runs)

    def test_gradients_are_those_of_the_masked_softmax(self, attend):
        case = make_case("text_last")
        state, weights = self.state(case, attend), weights_of(case)
        *_, got = self.differentiated(case, case.qkv, state)
        plain = self.plain(case)
        expected = jax.grad(lambda qkv: (plain(qkv) * weights).sum())(case.qkv)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)

    def plain(self, case):
        """out of qkv by the formula, to be differentiated."""
        keep, queries = self.keep_tokens(case), self.queries(case)

        def masked(qkv):
            q, k, v = of_tokens(qkv[0], queries), *qkv[1:]
            logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * HEAD_DIM**-0.5
            logits = jnp.where(keep, logits, -1e30)
            p = jnp.where(keep, jax.nn.softmax(logits), 0.0)
            return jnp.einsum("bhqk,bkhd->bqhd", p, v)

        return masked

    def test_is_a_value(self):
        copy = dataclasses.replace(self.pattern)
        assert copy == self.pattern
        assert hash(copy) == hash(self.pattern)

    def test_json_round_trip(self):
        attention = SparseAttention.uniform(self.pattern, 3, StepSchedule(self.num_steps))
        assert SparseAttention.from_json(attention.to_json()) == attention

    def test_wrong_grid_is_refused(self):
        case = make_case("video")
        ctx = StepContext(VideoGrid(4, 4, 5), Phase.REUSE)
        with pytest.raises(ValueError, match=r"q has 64 tokens, but VideoGrid.* has 80"):
            attended(self.pattern, *case.qkv, self._fresh(case), ctx)

    @classmethod
    def _fresh(cls, case):
        return cls.pattern.init(case.grid, batch=BATCH, num_heads=HEADS, head_dim=HEAD_DIM)
