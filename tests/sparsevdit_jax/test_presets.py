"""The papers' settings."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import KernelOptions, Phase, StepContext, VideoGrid, metrics
from sparsevdit_jax.patterns import PerHead, SlidingTile
from sparsevdit_jax.presets import (
    METHODS,
    PRESETS,
    adaspa_schedule,
    attention_for,
    sparse_vdit_schedule,
    sta_pattern,
    sta_schedule,
)
from tests.attending import attended


def video_density(pattern, grid):
    """Kept share of video token pairs, counted on real tokens."""
    order = pattern.token_order(grid)
    n = order.num_video_blocks
    keep = pattern.keep_blocks(grid, 1)[0, :n, :n]
    lengths = order.mask_lengths(None)  # None: no block is ragged
    sizes = np.ones(n) if lengths is None else np.asarray(lengths).reshape(-1)[:n].astype(float)
    return float(sizes @ keep @ sizes / sizes.sum() ** 2)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_for_its_model(name):
    preset = PRESETS[name]
    attention = preset.attention()
    assert attention.num_layers == preset.num_layers
    assert name.startswith(preset.model.replace("-t2v", ""))
    assert preset.method in METHODS
    assert f"-{preset.method}-" in name
    states = jax.eval_shape(
        lambda: attention.init(preset.grid, batch=1, num_heads=preset.num_heads, head_dim=128)
    )
    assert len(states) == preset.num_layers


@pytest.mark.parametrize(
    "name", [n for n, p in PRESETS.items() if p.method == "sta" and p.density is not None]
)
def test_sta_has_the_published_density(name):
    preset = PRESETS[name]
    assert abs(video_density(preset.pattern, preset.grid) - preset.density) < 5e-5


@pytest.mark.parametrize("name", [n for n, p in PRESETS.items() if p.method == "sparse-vdit"])
def test_sparse_vdit_heads_have_the_declared_density(name):
    preset = PRESETS[name]
    assert isinstance(preset.pattern, PerHead)
    for pattern, heads in preset.pattern.groups:
        density = float(pattern.block_mask(preset.grid, len(heads)).density())
        assert abs(density - preset.density) < 0.01, pattern


@pytest.mark.parametrize(
    ("clip", "tokens"),
    [("hunyuanvideo-sta-117f", 115_456), ("hunyuanvideo-adaspa-129f", 119_056), ("wan2.1-14b-sta-81f", 75_600),
     ("wan2.1-1.3b-sta-81f", 32_760), ("cogvideox1.5-5b-sparse-vdit-81f", 45_106)],
)  # fmt: skip
def test_grids_have_the_published_token_counts(clip, tokens):
    assert PRESETS[clip].grid.num_tokens == tokens


@pytest.mark.parametrize(("steps", "full"), [(50, 12), (25, 6), (10, 3)])
def test_sta_warms_up_as_published(steps, full):
    assert sta_schedule(steps).dense_steps == full


def test_schedules_of_fifty_steps_are_the_papers():
    assert adaspa_schedule().search_steps == (10, 30)
    assert adaspa_schedule().counts() == {
        Phase.DENSE: 9,
        Phase.FIRST_SEARCH: 1,
        Phase.SEARCH: 1,
        Phase.REUSE: 39,
    }
    assert sparse_vdit_schedule().dense_steps == 10


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 30, 100])
@pytest.mark.parametrize("method", [*METHODS, "dense"])
def test_any_number_of_steps_will_do(method, steps):
    attention = attention_for(
        method, VideoGrid(4, 6, 6), num_layers=2, num_heads=4, num_steps=steps
    )
    assert attention.schedule.num_steps == steps
    assert attention.num_layers == 2


@pytest.mark.parametrize(
    "grid",
    [VideoGrid(30, 48, 80), VideoGrid(33, 45, 80), VideoGrid(21, 45, 80), VideoGrid(21, 30, 52), VideoGrid(1, 40, 64),
     VideoGrid(3, 4, 4), VideoGrid(1, 1, 1), VideoGrid(13, 30, 45)],
)  # fmt: skip
def test_sta_fits_any_canvas_and_leaves_something_out(grid):
    pattern = sta_pattern(grid)
    density = video_density(pattern, grid)
    tiles = [math.ceil(n / t) for n, t in zip(grid.shape, pattern.tile, strict=True)]
    assert all(1 <= w <= n for w, n in zip(pattern.window, tiles, strict=True))
    assert 0 < density <= 1
    if min(tiles[1:]) > 1:
        assert density < 1


def test_the_reference_canvas_gives_the_paper_s_window():
    assert sta_pattern(VideoGrid(30, 48, 80, text_len=256)) == SlidingTile((6, 8, 8), (5, 5, 5))


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="method='stt' must be one of"):
        attention_for("stt", VideoGrid(4, 4, 4), num_layers=1, num_heads=1)


CANVASES = ((1, 1), (1, 7), (2, 3), (5, 4), (9, 13), (16, 16), (30, 52))
FEW = ((1, (1, 1)), (2, (1, 7)), (3, (5, 4)), (5, (9, 13)))
REFERENCE = KernelOptions("reference")  # it compiles fastest
TEXTS = {"wan": {}, "hunyuanvideo": {"text_len": 256}, "cogvideox": {"text_len": 226, "text_first": True}}  # fmt: skip


def is_static(method):
    attention = attention_for(method, VideoGrid(2, 4, 4), num_layers=1, num_heads=4, num_steps=3)
    return all(part.is_static for p in attention.patterns for part in p.members or (p,))


# Tracing takes longer than building a mask: methods that choose online take the models in turn.
PAIRS = [
    (method, model)
    for i, method in enumerate(METHODS)
    for j, model in enumerate(TEXTS)
    if is_static(method) or i % len(TEXTS) == j
]


@pytest.mark.parametrize(("method", "model"), PAIRS)
def test_every_method_has_a_mask_for_every_clip(method, model):
    """Masks are built here, so that a pattern that does not fit is refused. Online patterns are traced,
    on fewer grids.
    """
    settings = dict(num_layers=1, num_heads=4, num_steps=3, model=model)
    static = is_static(method)
    for frames, canvas in itertools.product((1, 2, 3, 4, 7, 21), CANVASES) if static else FEW:
        grid = VideoGrid(frames, *canvas, **TEXTS[model])
        attention = attention_for(method, grid, **settings)
        (pattern,) = attention.patterns
        (state,) = jax.eval_shape(
            lambda a=attention, g=grid: a.init(g, batch=1, num_heads=4, head_dim=8)
        )
        if static:
            density = metrics.density(pattern, grid, num_heads=4)
            assert ((density > 0) & (density <= 1)).all(), grid
            continue
        qkv = jax.ShapeDtypeStruct((1, grid.num_tokens, 4, 8), np.float32)
        for phase in set(attention.schedule.phases()):
            run = functools.partial(attended, pattern)
            out, *_ = jax.eval_shape(run, qkv, qkv, qkv, state, StepContext(grid, phase))
            assert out.shape == qkv.shape


def test_stripes_of_a_short_clip_hold_its_first_frame_and_of_a_longer_one_the_declared_density():
    for frames, stripes in ((1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.3), (21, 0.3)):
        pattern = attention_for("sparse-vdit", VideoGrid(frames, 16, 16), num_layers=1, num_heads=3)
        found = [p.density for p, _ in pattern.patterns[0].groups]
        assert found == pytest.approx([0.3, 0.3, stripes])


@pytest.mark.parametrize("method", METHODS)
def test_every_query_of_one_frame_attends_to_something(method):
    grid = VideoGrid(1, 3, 5, 4, text_first=True)
    attention = attention_for(method, grid, num_layers=1, num_heads=3, num_steps=3)
    (pattern,), (state,) = (
        attention.patterns,
        attention.init(grid, batch=1, num_heads=3, head_dim=4),
    )
    q, k = jax.random.normal(jax.random.key(0), (2, 1, grid.num_tokens, 3, 4))
    for phase in dict.fromkeys(attention.schedule.phases()[-2:]):
        run = jax.jit(lambda q, k, s, ctx: attended(pattern, q, k, jnp.ones_like(q), s, ctx))
        out, _, state = run(q, k, state, StepContext(grid, phase, kernel=REFERENCE))
        np.testing.assert_allclose(out, 1, rtol=1e-6)


@pytest.mark.parametrize("kwargs", [dict(num_layers=0), dict(num_heads=0), dict(num_steps=0)])
@pytest.mark.parametrize("method", [*METHODS, "dense"])
def test_a_model_has_layers_heads_and_steps(method, kwargs):
    (name,) = kwargs
    with pytest.raises(ValueError, match=f"{name}=0 must be a whole number of at least 1"):
        attention_for(method, VideoGrid(4, 4, 4), **dict(num_layers=1, num_heads=1) | kwargs)
