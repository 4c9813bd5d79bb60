import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, VideoGrid
from sparsevdit_jax.masks.blocks import band_width
from sparsevdit_jax.patterns import SVG, Compensated
from sparsevdit_jax.presets import attention_for
from tests.attending import jitted
from tests.conformance.pattern_suite import BATCH, HEADS, PatternSuite
from tests.sparsevdit_jax import oracles

UNIT = 4
PATTERN = SVG(width=0.7, dialect="hunyuanvideo", rows=12, block=UNIT, unit=UNIT)


def kinds_of(case, pattern, state):
    """The state after a step, by the errors of whole softmaxes over the sampled rows."""
    q, k, v = (np.asarray(x, np.float64) for x in case.qkv)
    grid = case.grid
    real = oracles.real_tokens(grid, case.text_lengths, BATCH)
    rows = np.asarray(pattern.sampled_rows(case.ctx(Phase.REUSE)))
    text = oracles.text_tokens(grid)
    found = np.zeros((BATCH, HEADS), int)
    exact = oracles.masked_attention(q, k, v, real[:, None, None])[0][:, rows]
    errors = []
    for block_of in (oracles.frame_major_blocks, oracles.site_major_blocks):
        blocks = block_of(grid, UNIT)
        near = np.abs(blocks[:, None] - blocks) < int(1.5 * grid.height * grid.width / UNIT)
        keep = np.ones((grid.num_tokens,) * 2, bool)
        keep[np.ix_(~text, ~text)] = near
        outs = oracles.masked_attention(q, k, v, keep & real[:, None, None])[0][:, rows]
        errors.append(((outs - exact) ** 2).mean((1, 3)))
    found = np.argmin(errors, axis=0)
    assert np.abs(errors[0] - errors[1]).min() > 1e-6  # no ties
    return found


class TestSVG(PatternSuite):
    pattern = PATTERN

    @classmethod
    def state(cls, case, attend):
        return attend(*case.qkv, cls._fresh(case), case.ctx(Phase.REUSE))[2]

    def keep_tokens(self, case):
        grid = case.grid
        size = grid.height * grid.width
        reach = max(int(0.7 * size) // UNIT, 1) * UNIT  # |q - k| < reach
        masks = []
        for block_of in (oracles.frame_major_blocks, oracles.site_major_blocks):
            place = block_of(grid, 1)
            near = np.abs(place[:, None] - place) < reach
            blocks = block_of(grid, UNIT)
            table = np.zeros((blocks.max() + 1,) * 2, bool)
            np.logical_or.at(table, (blocks[:, None], blocks), near)
            masks.append(table[blocks][:, blocks])
        kinds = kinds_of(case, self.pattern, None)
        joined = oracles.join_text(np.stack(masks), grid, case.text_lengths, BATCH)
        return np.take_along_axis(joined, kinds[..., None, None], axis=1)

    def test_kinds_are_those_of_the_smaller_error(self, case, reuse):
        np.testing.assert_array_equal(reuse[0], kinds_of(case, self.pattern, None))


def planted(grid, key):
    """q, k, v [3, 1, L, 2, D] of a head that looks at its own frame and one that looks at its own site."""
    size = grid.height * grid.width
    frame, site = np.divmod(np.arange(grid.num_tokens), size)
    features = [jax.nn.one_hot(x, max(size, grid.frames)) for x in (frame, site)]
    qk = 12 * jnp.stack(features, 1)[None]
    return qk, qk, jax.random.normal(key, qk.shape)


@pytest.mark.parametrize("dialect", ["wan", "hunyuanvideo", "cogvideox"])
def test_planted_heads_are_recognised(dialect):
    grid = VideoGrid(8, 4, 4)
    pattern = SVG(dialect=dialect, block=4, unit=4, rows_below=None)
    ctx = StepContext(grid, Phase.REUSE)
    kinds = jax.jit(lambda *qkv: pattern.choose(*qkv, ctx))(*planted(grid, jax.random.key(0)))
    assert kinds.tolist() == [[0, 1]]


def test_a_wrapper_chooses_kinds_too():
    grid = VideoGrid(8, 4, 4)
    pattern = SVG(dialect="hunyuanvideo", block=4, unit=4)
    state = pattern.init(grid, batch=1, num_heads=2, head_dim=16)
    found = jitted(Compensated(pattern))(
        *planted(grid, jax.random.key(0)), state, StepContext(grid)
    )
    assert found[2].tolist() == [[0, 1]]


def test_all_rows_give_the_same_kinds_as_given_rows_do():
    grid = VideoGrid(4, 3, 4)
    qkv = jax.random.normal(jax.random.key(1), (3, 1, grid.num_tokens, 3, 8))
    pattern = SVG(rows=tuple(range(grid.num_tokens)), block=4, unit=4)
    ctx = StepContext(grid, Phase.REUSE)
    errors = pattern.errors(*qkv, ctx)
    shuffled = dataclasses.replace(pattern, rows=tuple(reversed(range(grid.num_tokens))))
    np.testing.assert_allclose(shuffled.errors(*qkv, ctx), errors, rtol=1e-5)


def test_rows_follow_the_seed_and_the_step():
    grid = VideoGrid(6, 5, 5, 7, text_first=True)

    def rows(seed, step, **kwargs):
        pattern = SVG(seed=seed, **kwargs)
        return np.asarray(pattern.sampled_rows(StepContext(grid, step=step))).tolist()

    assert rows(0, 3) == rows(0, 3)
    assert len({tuple(rows(seed, step)) for seed in (0, 1) for step in (0, 1)}) == 4
    assert len(rows(0, 0)) == 64
    assert min(rows(0, 0, rows=500)) == 7  # video alone
    assert max(rows(0, 0, rows=500)) == 7 + 149
    assert max(rows(0, 0, rows=500, rows_below=20)) == 7 + 19
    assert rows(0, 0, rows=(3, 9)) == [3, 9]


def test_the_band_has_the_density_asked_for():
    for grid in (VideoGrid(21, 45, 80), VideoGrid(33, 45, 80, 256)):
        dialect = "hunyuanvideo" if grid.text_len else "wan"
        for density in (0.25, 0.4):
            pattern = SVG(density, dialect, sink=False)
            counted = pattern.density_on(grid, 2)
            assert counted.shape == (2,)
            assert abs(counted[0] - density) < 0.02
    assert band_width(VideoGrid(21, 45, 80), 0.3) == pytest.approx(3.430, abs=5e-4)


def test_bands_of_single_tokens_end_where_the_authors_do():
    grid, apart = VideoGrid(5, 3, 4), np.abs(np.arange(60)[:, None] - np.arange(60))
    for width, dialect, reach in (
        (1.0, "hunyuanvideo", 11),  # 12 rounded down to 12, and below it
        (1.3, "cogvideox", 11),
        (1.0, "wan", 12),
        (1.3, "wan", 16),
    ):
        pattern = SVG(width=width, dialect=dialect, sink=False, block=1, unit=4)
        np.testing.assert_array_equal(pattern.keep_blocks(grid, width), apart <= reach)


def test_the_first_frame_is_a_sink_for_wan():
    grid = VideoGrid(9, 4, 4)
    wan = SVG(width=1.0, block=4, unit=4).keep_blocks(grid, 1.0)
    assert wan[:, :4].all()
    assert not wan[:, 4:].all()
    assert (
        not SVG(width=1.0, dialect="cogvideox", block=4, unit=4).keep_blocks(grid, 1.0)[8:, 0].any()
    )


def test_a_step_s_density_sets_the_width():
    grid = VideoGrid(8, 4, 6, 3)
    pattern = SVG(0.3, block=4, unit=4, dialect="hunyuanvideo")

    @jax.jit
    def band(density):
        return pattern.band(StepContext(grid, density=density, room=0.8)).to_dense()

    for density in (0.2, 0.5, 0.8):
        other = pattern.with_density(density)
        known = other.band(StepContext(grid)).to_dense()
        np.testing.assert_array_equal(band(jnp.float32(density)), known)
        concrete = pattern.band(StepContext(grid, density=density)).to_dense()
        np.testing.assert_array_equal(concrete, known)
    assert SVG(width=2.0).with_density(0.5) == SVG(0.5)


def test_settings_of_the_models():
    grid = VideoGrid(21, 45, 80)
    wan, hunyuan, cog = (
        attention_for("svg", grid, num_layers=n, num_heads=1, model=m)
        for m, n in (("wan", 40), ("hunyuanvideo", 60), ("cogvideox", 42))
    )
    assert wan.patterns[1] == SVG(0.3, "wan")
    assert hunyuan.patterns[1] == SVG(0.25, "hunyuanvideo")
    assert cog.patterns[2] == SVG(0.25, "cogvideox", rows=32, rows_below=None)
    assert [a.schedule.dense_steps for a in (wan, hunyuan, cog)] == [10, 5, 10]
    assert [sum(p.is_dense for p in a.patterns) for a in (wan, hunyuan, cog)] == [1, 1, 2]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(density=0), r"density=0 must lie in \(0, 1\]"),
        (dict(dialect="mochi"), "dialect='mochi' must be one of"),
        (dict(width=0), "width=0 must be a number of frames above 0"),
        (dict(sink=1), "sink=1 must be True or False"),
        (dict(rows=0), "rows=0 must be a whole number of at least 1"),
        (dict(rows=()), r"rows=\(\) has no row"),
        (dict(rows=(1, -2)), "must be whole numbers of at least 0"),
        (dict(rows_below=0), "rows_below=0 must be a whole number of at least 1"),
        (dict(seed=-1), "seed=-1 must be a whole number of at least 0"),
        (dict(block=0), "block=0 must be a whole number of at least 1"),
        (dict(unit=0), "unit=0 must be a whole number of at least 1"),
    ],
)
def test_bad_fields(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SVG(**kwargs)


def test_rows_beyond_the_sequence_are_refused():
    with pytest.raises(ValueError, match="must lie below 16"):
        SVG(rows=(3, 16)).init(VideoGrid(1, 4, 4), batch=1, num_heads=1, head_dim=8)
