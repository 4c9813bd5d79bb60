import dataclasses

import numpy as np
import pytest

from sparsevdit_jax import VideoGrid
from sparsevdit_jax.patterns import Radial
from sparsevdit_jax.presets import attention_for
from tests.conformance.pattern_suite import PatternSuite
from tests.sparsevdit_jax import oracles

BLOCK = 8


def code_mask(grid, decay, sink, block, split=128):
    """Bool [N, N]: every frame pair as a whole matrix of tokens, cut into blocks and counted."""
    size, frames = grid.height * grid.width, grid.frames
    count = -(-grid.num_video_tokens // block)
    keep = np.eye(count, dtype=bool)
    if grid.num_video_tokens % block:
        keep[-1] = keep[:, -1] = True
    place, pieces = np.arange(size), -(-size // block)
    for one in range(frames):
        for other in range(frames):
            distance = abs(one - other)
            base = 2.0 ** len(f"{size:b}") / 2.0 ** (len(f"{distance:b}") if distance else 0)
            near = np.ones((size, size), bool)
            if not (sink and other == 0):
                if distance > 1:
                    near = np.abs(place[:, None] - place) <= max(base * decay, block)
                near &= base >= split or distance % int(split / base) == 0
            corner = one * size % block, other * size % block
            padded = np.zeros([c + pieces * block for c in corner])
            padded[corner[0] : corner[0] + size, corner[1] : corner[1] + size] = near
            cut = padded[: pieces * block, : pieces * block]
            seen = cut.reshape(pieces, block, pieces, block).mean(1)
            kept = (seen > 1 / 3).sum(-1) / ((seen > 0).sum(-1) + 1e-9) > 0.6
            row, column = one * size // block, other * size // block
            part = keep[row : row + pieces, column : column + pieces]
            part |= kept[: len(part), : part.shape[1]]
    return keep


def paper_mask(grid, block):
    """Bool [N, N]: the rule of the paper for every token pair, with its sink."""
    size, frames = grid.height * grid.width, grid.frames
    keep = np.zeros((grid.num_video_tokens,) * 2, bool)
    for q in range(len(keep)):
        for k in range(len(keep)):
            (one, i), (other, j) = divmod(q, size), divmod(k, size)
            reach = 2 ** int(np.floor(np.log2(max(abs(one - other), 1))))
            if reach <= size:
                keep[q, k] = abs(i - j) + 1 <= size / reach
            else:
                keep[q, k] = abs(one - other) % int(np.ceil(reach / size)) == 0 and i == j
            keep[q, k] |= other == 0
    blocks = np.arange(len(keep)) // block
    table = np.zeros((blocks[-1] + 1,) * 2, bool)
    np.logical_or.at(table, (blocks[:, None], blocks[None]), keep)
    assert frames * size == len(keep)
    return table


class TestRadial(PatternSuite):
    pattern = Radial(0.3, sink=True, block=BLOCK, split=BLOCK)

    def keep_tokens(self, case):
        blocks = oracles.frame_major_blocks(case.grid, BLOCK)
        keep = code_mask(case.grid, 0.3, True, BLOCK, BLOCK)[blocks][:, blocks][None]
        return oracles.join_text(keep, case.grid, case.text_lengths, 2)


@pytest.mark.parametrize(
    ("shape", "block", "split"),
    [((9, 6, 8), 16, 16), ((12, 5, 6), 8, 128), ((20, 3, 3), 4, 8), ((6, 16, 16), 32, 128)],
)
@pytest.mark.parametrize("sink", [False, True])
def test_blocks_of_the_code(shape, block, split, sink):
    grid = VideoGrid(*shape)
    found = Radial(0.5, sink, block=block, split=split).keep_blocks(grid, 1)[0]
    np.testing.assert_array_equal(found, code_mask(grid, 0.5, sink, block, split))
    assert found.mean() < 1


def test_blocks_of_the_paper():
    for grid, block in ((VideoGrid(9, 2, 3), 3), (VideoGrid(17, 1, 3), 2), (VideoGrid(5, 4, 4), 4)):
        found = Radial(rule="paper", sink=True, block=block).keep_blocks(grid, 1)[0]
        np.testing.assert_array_equal(found, paper_mask(grid, block))
        assert found.mean() < 1


def test_token_pairs_of_the_paper_s_rule():
    for shape, with_sink, without in (
        ((33, 45, 80), 5_520_540_768, 5_211_007_536),
        ((64, 4, 4), 223_008, 208_784),
    ):
        for sink, pairs in ((True, with_sink), (False, without)):
            bands = Radial(rule="paper", sink=sink).bands(VideoGrid(*shape))
            assert bands.pairs() == pairs


def test_neighbours_may_see_half_of_each_other():
    grid = VideoGrid(3, 16, 16)
    half = Radial(half_neighbours=True, block=16).bands(grid).widths
    assert half[0].tolist() == [256, 128, 121]  # 512 / 2**2 * 0.95 from distance 2 on
    assert (np.diag(half) >= 255).all()


def test_settings_of_the_models():
    grid = VideoGrid(21, 45, 80)
    wan = attention_for("radial", grid, num_layers=3, num_heads=2, model="wan")
    assert wan.patterns[1] == Radial(0.2, sink=True, block=128)
    assert wan.patterns[0].is_dense
    assert wan.schedule.dense_steps == 12
    other = attention_for("radial", grid, num_layers=3, num_heads=2, model="hunyuanvideo")
    assert other.patterns == (Radial(0.95, sink=False, block=128),) * 3


def test_small_canvases_get_smaller_blocks():
    (pattern,) = attention_for("radial", VideoGrid(8, 8, 8), num_layers=1, num_heads=1).patterns
    assert (pattern.block, pattern.split) == (32, 32)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(decay=0), r"decay=0 must lie in \(0, 1\]"),
        (dict(block=0), "block=0 must be a whole number of at least 1"),
        (dict(split=0), "split=0 must be a whole number of at least 1"),
        (dict(sink=1), "sink=1 must be True or False"),
        (dict(half_neighbours=None), "half_neighbours=None must be True or False"),
        (dict(rule="formal"), "rule='formal' must be one of"),
        (dict(rule="paper", half_neighbours=True), "belongs to rule='code'"),
    ],
)
def test_bad_fields(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Radial(**kwargs)


def test_is_a_frozen_value():
    assert dataclasses.replace(Radial(), decay=0.5) == Radial(0.5)
