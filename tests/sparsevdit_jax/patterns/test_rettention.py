import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Phase, SparseAttention, StepContext, StepSchedule, VideoGrid
from sparsevdit_jax.patterns import Rettention
from sparsevdit_jax.presets import attention_for
from tests.attending import attended, jitted
from tests.conformance.pattern_suite import BATCH, HEADS, make_case
from tests.sparsevdit_jax import oracles

PATTERN = Rettention(window=3, block=4)


def keep_tokens(case):
    """Bool [B, 1, L, L]: blocks of four tokens in site-major order that hold two sites next to each other."""
    blocks = oracles.site_major_blocks(case.grid, 4)
    site = np.arange(case.grid.num_video_tokens) % (case.grid.height * case.grid.width)
    table = np.zeros((blocks.max() + 1,) * 2, bool)
    np.logical_or.at(table, (blocks[:, None], blocks), np.abs(site[:, None] - site) <= 1)
    keep = table[blocks][:, blocks][None]
    return oracles.join_text(keep, case.grid, case.text_lengths, BATCH)


def full(case):
    """(out, lse) of all real keys."""
    real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
    return oracles.masked_attention(*case.qkv, real[:, None, :, None] & real[:, None, None])


@pytest.fixture(scope="module", params=["video", "text_first"])
def case(request):
    return make_case(request.param)


@pytest.fixture(scope="module")
def attend():
    return jitted(PATTERN)


@pytest.fixture(scope="module")
def searched(case, attend):
    """(out, lse, state) of a full step."""
    return attend(*case.qkv, fresh(case), case.ctx(Phase.FIRST_SEARCH))


def fresh(case):
    return PATTERN.init(case.grid, batch=BATCH, num_heads=HEADS, head_dim=case.qkv.shape[-1])


def test_a_full_step_keeps_the_window_s_share_and_what_it_misses(case, searched):
    out, lse, state = searched
    want, want_lse = full(case)
    np.testing.assert_allclose(out, want, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(lse, want_lse, rtol=2e-5, atol=2e-5)
    window, window_lse = oracles.masked_attention(*case.qkv, keep_tokens(case))
    real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)[:, None]
    lses = (np.where(real, x, 0) for x in (window_lse, want_lse))
    ratio = np.where(real, np.exp(np.subtract(*lses)), 0)
    np.testing.assert_allclose(state.ratio, ratio, rtol=2e-5, atol=2e-5)
    residual = want.swapaxes(1, 2) - ratio[..., None] * window.swapaxes(1, 2)
    np.testing.assert_allclose(state.residual, residual, rtol=2e-5, atol=2e-5)
    assert state.ratio.max() <= 1 + 1e-5
    assert state.ratio[np.broadcast_to(real, ratio.shape)].min() < 0.9


def test_the_same_input_gives_the_full_output_again(case, attend, searched):
    out, lse, state = attend(*case.qkv, searched[2], case.ctx(Phase.REUSE))
    np.testing.assert_allclose(out, searched[0], rtol=1e-5, atol=2e-6)
    assert lse is None
    np.testing.assert_allclose(state.ratio, searched[2].ratio + np.float32(0.04), rtol=1e-6)
    np.testing.assert_array_equal(state.residual, searched[2].residual)


def test_steps_between_scale_and_shift_the_window(case, attend, searched):
    other = dataclasses.replace(case, qkv=case.qkv + 0.3 * case.qkv[::-1])
    _, _, state = attend(*other.qkv, searched[2], case.ctx(Phase.REUSE))
    out, *_ = attend(*other.qkv, state, case.ctx(Phase.REUSE))
    window = oracles.masked_attention(*other.qkv, keep_tokens(case))[0]
    ratio = np.asarray(searched[2].ratio, np.float64) + 0.04
    want = ratio.swapaxes(1, 2)[..., None] * window
    want = want + np.asarray(searched[2].residual).swapaxes(1, 2)
    np.testing.assert_allclose(out, want, rtol=2e-5, atol=2e-5)


def test_before_any_search_it_is_the_window(case, attend):
    out, *_ = attend(*case.qkv, fresh(case), case.ctx(Phase.REUSE))
    want = oracles.masked_attention(*case.qkv, keep_tokens(case))[0]
    np.testing.assert_allclose(out, want, rtol=2e-5, atol=2e-5)
    real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
    assert not np.any(np.asarray(out)[~real])


def test_text_beyond_its_length_never_matters(case, attend, searched):
    real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
    noise = jnp.where(real[None, :, :, None, None], case.qkv, 1e4 * case.qkv[::-1])
    again = attend(*noise, fresh(case), case.ctx(Phase.FIRST_SEARCH))
    jax.tree.map(np.testing.assert_array_equal, again, searched)


def test_dense_steps_leave_the_state(case, attend, searched):
    out, _, state = attend(*case.qkv, searched[2], case.ctx(Phase.DENSE))
    np.testing.assert_allclose(out, full(case)[0], rtol=2e-5, atol=2e-5)
    jax.tree.map(np.testing.assert_array_equal, state, searched[2])


def test_options_of_the_state():
    grid = VideoGrid(2, 2, 3)
    qkv = jax.random.normal(jax.random.key(0), (3, 1, 12, 1, 8))
    pattern = Rettention(window=1, block=2, growth=0.9, limit=True, residual_dtype="bfloat16")
    state = pattern.init(grid, batch=1, num_heads=1, head_dim=8)
    shapes = jax.eval_shape(lambda: state)
    for phase in Phase:
        ctx = StepContext(grid, phase)
        _, _, after = jax.eval_shape(lambda s, c=ctx: attended(pattern, *qkv, s, c), state)
        assert after == shapes, phase
    assert state.residual.dtype == jnp.bfloat16
    _, _, after = jitted(pattern)(*qkv, state, StepContext(grid, Phase.REUSE))
    assert after.ratio.max() == 1


def test_a_step_s_density_sets_the_window():
    grid = VideoGrid(3, 5, 6, 2)
    pattern = Rettention(0.2, block=4)

    @jax.jit
    def mask(density):
        return pattern.mask(StepContext(grid, density=density, room=0.7)).to_dense()

    for density in (0.1, 0.45, 0.7):
        known = pattern.with_density(density).mask(StepContext(grid)).to_dense()
        np.testing.assert_array_equal(mask(jnp.float32(density)), known)
    assert Rettention(window=9).with_density(0.5) == Rettention(0.5)
    counted = pattern.with_density(0.5).density_on(VideoGrid(4, 32, 32), 2)
    assert abs(counted[0] - (0.5 - 0.25**2)) < 0.002  # a half, less what the ends cut off


def test_settings_of_the_models():
    grid = VideoGrid(13, 30, 45)
    cog, hunyuan = (
        attention_for("re-ttention", grid, num_layers=1, num_heads=1, model=m)
        for m in ("cogvideox", "hunyuanvideo")
    )
    assert cog.schedule == StepSchedule(50, 15, (15, 20, 25, 30, 35, 40, 45))
    assert hunyuan.schedule.dense_steps == 10
    assert cog.patterns[0] == Rettention()


def test_json_round_trip():
    schedule = StepSchedule(10, 3, (3, 8))
    attention = SparseAttention.uniform(PATTERN, 3, schedule)
    assert SparseAttention.from_json(attention.to_json()) == attention


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(density=0), r"density=0 must lie in \(0, 1\]"),
        (dict(window=-1), "window=-1 must be a whole number of at least 0"),
        (dict(growth=2), r"growth=2 must lie in \[0, 1\]"),
        (dict(limit=1), "limit=1 must be True or False"),
        (dict(residual_dtype="int8"), "residual_dtype='int8' must be one of"),
        (dict(block=0), "block=0 must be a whole number of at least 1"),
    ],
)
def test_bad_fields(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Rettention(**kwargs)
