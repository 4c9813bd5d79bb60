import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, VideoGrid
from sparsevdit_jax.patterns import LVSA
from sparsevdit_jax.presets import attention_for
from tests.conformance.pattern_suite import PatternSuite
from tests.sparsevdit_jax import oracles


def frames_kept(frames, window, first, interval, step):
    """Set of key frames for each query frame, one frame at a time."""
    anchors = {f for f in range(frames) if f < first}
    place = step % interval
    for _ in range(-(-frames // interval)):
        anchors.add(place % frames)
        place += interval
    kept = []
    for frame in range(frames):
        low = min(max(frame - window, 0), max(frames - 2 * window - 1, 0))
        high = min(low + 2 * window, frames - 1)
        inside = set(range(low, high + 1))
        wanted = min(2 * window + 1, frames - len(anchors))
        while True:
            if len(inside - anchors) >= wanted:
                break
            inside |= {max(min(inside) - 1, 0)}
            if len(inside - anchors) >= wanted:
                break
            inside |= {min(max(inside) + 1, frames - 1)}
        kept.append((inside if window else set()) | anchors)
    return kept


def expected(case, pattern, interval, step):
    grid = case.grid
    kept = frames_kept(grid.frames, pattern.window, pattern.first, interval, step)
    frame = np.arange(grid.num_video_tokens) // (grid.height * grid.width)
    seen = np.array([[other in kept[one] for other in frame] for one in frame])
    blocks = oracles.frame_major_blocks(grid, pattern.block)
    table = np.zeros((blocks.max() + 1,) * 2, bool)
    np.logical_or.at(table, (blocks[:, None], blocks), seen)
    return oracles.join_text(table[blocks][:, blocks][None], grid, case.text_lengths, 2)


class TestLVSA(PatternSuite):
    pattern = LVSA(window=0, first=1, interval=3, block=4)

    def keep_tokens(self, case):
        return expected(case, self.pattern, 3, 0)

    @pytest.mark.parametrize("step", [1, 2, 4])
    def test_anchors_move_with_a_traced_step(self, case, attend, step):
        out, lse, _ = attend(*case.qkv, (), case.ctx(Phase.REUSE, step=step))
        keep = expected(case, self.pattern, 3, step)
        want, want_lse = oracles.masked_attention(*case.qkv, keep)
        np.testing.assert_allclose(out, want, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(lse, want_lse, rtol=2e-5, atol=2e-5)

    def test_all_steps_share_one_program(self, case, attend):
        attend(*case.qkv, (), case.ctx(Phase.REUSE, step=0))
        before = attend._cache_size()
        attend(*case.qkv, (), case.ctx(Phase.REUSE, step=5))
        assert attend._cache_size() == before


@pytest.mark.parametrize("frames", [1, 2, 5, 13, 40])
@pytest.mark.parametrize(("window", "first", "interval"), [(0, 1, 3), (2, 1, 4), (3, 2, 7)])
def test_frames_of_every_step(frames, window, first, interval):
    pattern = LVSA(window, first, interval=interval)
    for step in range(interval + 2):
        kept = frames_kept(frames, window, first, interval, step)
        found = [set(np.flatnonzero(row)) for row in pattern.keep_frames(frames, step)]
        assert found == kept, step


def test_windows_without_growth_are_shifted_inwards_at_the_ends():
    keep = LVSA(2, 0, interval=12, expand=False).keep_frames(12, 6)  # frame 6 is the anchor
    assert np.flatnonzero(keep[0]).tolist() == [0, 1, 2, 3, 4, 6]
    assert np.flatnonzero(keep[11]).tolist() == [6, 7, 8, 9, 10, 11]
    assert np.flatnonzero(keep[6]).tolist() == [4, 5, 6, 7, 8]


def test_clips_as_long_as_the_model_s_own_are_dense():
    pattern = LVSA()
    assert [pattern.interval_on(n) for n in (1, 20, 21, 22, 41, 81)] == [1, 1, 1, 2, 3, 6]
    assert pattern.keep_frames(21, 3).all()
    assert LVSA(reference=33).interval_on(33) == 1
    assert LVSA(scale=0.5).interval_on(21) == 10  # 0, 10, 20: 10 less the window of 7


def test_settings_of_the_models():
    grid = VideoGrid(41, 45, 80)
    wan, hunyuan = (
        attention_for("lvsa", grid, num_layers=1, num_heads=1, model=m).patterns[0]
        for m in ("wan", "hunyuanvideo")
    )
    assert (wan.reference, hunyuan.reference, wan.block) == (21, 33, 128)


def test_density_is_that_of_the_step():
    pattern, grid = LVSA(0, 0, interval=4, block=6), VideoGrid(6, 2, 3)
    # Two anchors of six frames in steps 0 to 3; with the first frame kept, too, three but in step 0.
    assert [pattern.density_on(grid, 1, step=n)[0] for n in (0, 1)] == pytest.approx([1 / 3] * 2)
    more = LVSA(0, 1, interval=4, block=6)
    assert [more.density_on(grid, 1, step=n)[0] for n in (0, 1)] == pytest.approx([1 / 3, 1 / 2])


def test_traced_and_known_steps_give_one_mask():
    pattern, grid = LVSA(1, 1, interval=4, block=8), VideoGrid(9, 2, 3, 5)
    plan = jax.jit(lambda step: pattern.plan(None, None, (), StepContext(grid, step=step))[0].mask)
    for step in (0, 3, 6):
        known = pattern.plan(None, None, (), StepContext(grid, step=step))[0].mask
        traced = plan(jnp.int32(step))
        np.testing.assert_array_equal(traced.to_dense(), known.to_dense())
        assert traced.capacity == known.capacity


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(window=-1), "window=-1 must be a whole number of at least 0"),
        (dict(first=1.5), "first=1.5 must be a whole number"),
        (dict(reference=0), "reference=0 must be a whole number of at least 1"),
        (dict(interval=0), "interval=0 must be a whole number of at least 1"),
        (dict(scale=0), "scale=0 must be a number above 0"),
        (dict(expand=2), "expand=2 must be True or False"),
        (dict(block=0), "block=0 must be a whole number of at least 1"),
    ],
)
def test_bad_fields(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LVSA(**kwargs)
