import jax
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, VideoGrid
from sparsevdit_jax.patterns import SolAttn
from sparsevdit_jax.presets import attention_for
from tests.conformance.compensated_suite import CompensatedSuite, cut
from tests.conformance.pattern_suite import density_of_plan, density_of_tokens
from tests.sparsevdit_jax import oracles

BLOCK = 8


def blocks_on(grid, pattern):
    """Block of each video token; by a Morton code whose lowest bit is the frame's."""
    if pattern.path is None:
        return oracles.frame_major_blocks(grid, pattern.block)
    code = sum(((grid.coordinates() >> bit) & 1) @ [1, 2, 4] << 3 * bit for bit in range(5))
    block_of = np.zeros(grid.num_video_tokens, int)
    block_of[np.argsort(code, kind="stable")] = np.arange(len(code)) // pattern.block
    return block_of


def sol_keep(q, k, pattern, grid):
    """Video blocks that the rule keeps, bool [B, H, Nv, Nv], in float64."""
    video = ~oracles.text_tokens(grid)
    block_of = blocks_on(grid, pattern)
    member = np.eye(block_of.max() + 1)[block_of]
    q, k = (
        np.einsum("blhd,ln->bhnd", np.asarray(x, np.float64)[:, video], member / member.sum(0))
        for x in (q, k)
    )
    scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5 / np.log(2)
    if pattern.variance == "exact":
        spread = scores.var(-1)
    else:
        factor = (q.shape[-1] ** -0.5 / np.log(2)) ** 2
        spread = (q**2 * k.var(2, keepdims=True)).sum(-1) * factor
    threshold = scores.mean(-1) + pattern.tau * np.sqrt(spread + 1e-6)
    keep = scores > threshold[..., None]
    index = np.arange(keep.shape[-1])
    keep |= np.abs(index[:, None] - index) <= pattern.neighbours
    if pattern.sink_tokens:
        start = max(grid.num_video_tokens - pattern.sink_tokens, 0)
        start = start if pattern.sink_start is None else pattern.sink_start
        sunk = np.arange(start, min(start + pattern.sink_tokens, grid.num_video_tokens))
        keep[..., np.unique(sunk // pattern.block)] = True
    return keep


class TestSolAttn(CompensatedSuite):
    pattern = SolAttn(tau=0.3, block=BLOCK, sink_tokens=5, sink_start=14)

    def keep_blocks(self, case):
        q, k, _ = case.qkv
        keep = sol_keep(q, k, self.pattern, case.grid)
        text = -(-case.grid.text_len // BLOCK)
        return np.pad(keep, ((0, 0), (0, 0), (0, text), (0, text)), constant_values=True)

    def block_of(self, grid):
        block_of = cut(grid, BLOCK)
        block_of[~oracles.text_tokens(grid)] = blocks_on(grid, self.pattern)
        return block_of

    def test_counted_density_is_that_of_the_truth(self, case):
        """The rule follows q and k, so what the settings say is an example, of random ones."""
        found = density_of_plan(self.pattern, case, case.ctx(Phase.REUSE))
        want = density_of_tokens(self.keep_tokens(case), case)
        np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.parametrize(
    "pattern",
    [
        SolAttn(1.5, "exact", BLOCK, neighbours=0, path=None),
        SolAttn(-0.2, block=16, sink_tokens=3),
        SolAttn(8.0, block=BLOCK, neighbours=0, sink_tokens=500),
    ],
    ids=["exact variance", "sink at the end", "sink is everything"],
)
def test_the_choice_is_the_rule_s(pattern):
    grid = VideoGrid(3, 5, 7)
    q, k = jax.random.normal(jax.random.key(1), (2, 1, grid.num_tokens, 2, 8))
    plan, _ = pattern.plan(q, k, (), StepContext(grid))
    np.testing.assert_array_equal(plan.mask.to_dense(), sol_keep(q, k, pattern, grid))


def test_a_lower_threshold_keeps_more_and_none_is_dense_attention():
    grid = VideoGrid(2, 8, 8)
    q, k = jax.random.normal(jax.random.key(2), (2, 1, grid.num_tokens, 2, 8))
    ctx, pattern = StepContext(grid), SolAttn(block=BLOCK, neighbours=0)
    for density in (0.1, 0.3, 0.6):
        fitted = pattern.fitted(q, k, ctx, density)
        kept = float(fitted.plan(q, k, (), ctx)[0].mask.density())
        assert abs(kept - density) <= 1 / (2 * 16 * 16), (fitted, kept)
    everything = SolAttn(-50.0, block=BLOCK).plan(q, k, (), ctx)[0].mask
    assert np.asarray(everything.to_dense()).all()


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("tau", np.nan, "must be a finite number"),
        ("tau", True, "must be a finite number"),
        ("variance", "full", "must be one of"),
        ("block", 0, "must be a whole number of at least 1"),
        ("neighbours", -1, "must be a whole number of at least 0"),
        ("sink_tokens", 1.5, "must be a whole number of at least 0"),
        ("sink_start", -1, "None puts the sink at the end"),
        ("path", "hilbert", "must be None or one of"),
    ],
)
def test_bad_fields_are_refused(field, value, rule):
    with pytest.raises(ValueError, match=f"{field}=.*{rule}"):
        SolAttn(**{field: value})


def test_the_first_two_layers_and_a_fifth_of_the_steps_are_dense():
    found = attention_for("sol-attn", VideoGrid(4, 8, 8), num_layers=4, num_heads=2)
    assert [p.is_dense for p in found.patterns] == [True, True, False, False]
    assert found.patterns[2] == SolAttn(1.0, "diag", 64)
    assert list(found.schedule.phases()).count(Phase.DENSE) == 10
