"""Pictures: exact pixels where blocks are sharp, exact areas where they are not."""

import numpy as np
import pytest

from sparsevdit_jax import TokenOrder, VideoGrid
from sparsevdit_jax.masks import canvas, draw
from sparsevdit_jax.patterns import Diagonal, MultiDiagonal, SlidingTile


@pytest.fixture
def checker():
    return np.indices((5, 5)).sum(0) % 2 == 0


def centres(image, count):
    """Colour at the middle of each of count x count equal blocks."""
    at = (np.arange(count) * image.shape[0] + image.shape[0] // 2) // count
    return image[np.ix_(at, at)]


def is_colour(pixels, colour):
    return (pixels == np.asarray(colour, np.uint8)).all(-1)


def test_every_block_of_a_sharp_mask_has_its_colour(checker):
    image = draw.mask_image(checker, size=100)
    assert image.dtype == np.uint8
    assert image.shape == (100, 100, 3)
    middle = centres(image, 5)
    np.testing.assert_array_equal(is_colour(middle, canvas.KEPT), checker)
    np.testing.assert_array_equal(is_colour(middle, canvas.DROPPED), ~checker)


@pytest.mark.parametrize(
    ("blocks", "size", "pixels"), [(300, 640, 600), (300, 300, 300), (7, 640, 637)]
)
def test_blocks_have_a_whole_number_of_pixels(blocks, size, pixels):
    keep = np.random.default_rng(0).random((blocks, blocks)) < 0.2
    image = draw.mask_image(keep, size=size)
    assert image.shape == (pixels, pixels, 3)
    per_block = pixels // blocks
    if per_block < 6:  # no lines between blocks: nothing but the two colours, each block of one
        kept = np.kron(keep, np.ones((per_block, per_block))).astype(bool)
        np.testing.assert_array_equal(is_colour(image, canvas.KEPT), kept)
        np.testing.assert_array_equal(is_colour(image, canvas.DROPPED), ~kept)


def test_more_blocks_than_pixels_are_averaged_by_area():
    keep = np.indices((400, 400)).sum(0) % 2 == 0
    image = draw.mask_image(keep, size=100)
    assert image.shape == (100, 100, 3)
    half = (np.asarray(canvas.KEPT) + np.asarray(canvas.DROPPED)) / 2
    assert np.abs(image - half).max() <= 0.5  # every pixel lies over 8 kept and 8 dropped blocks


@pytest.mark.parametrize("size", [301, 640, 777])
def test_averaging_preserves_the_density(size):
    keep = np.random.default_rng(1).random((1860, 1860)) < 0.15
    image = draw.mask_image(keep, size=size).astype(float)
    lo, hi = np.asarray(canvas.DROPPED, float), np.asarray(canvas.KEPT, float)
    share = ((image - lo) / (hi - lo))[..., 0].mean()
    assert share == pytest.approx(keep.mean(), abs=2e-3)


def test_ragged_blocks_are_as_long_as_their_tokens():
    order = TokenOrder(VideoGrid(4, 10, 4), 64, (4, 4, 4))  # tiles of 4, 4 and 2 rows
    image = draw.mask_image(np.eye(3, dtype=bool), order, size=50)
    assert image.shape == (50, 50, 3)
    for start, stop in ((0, 20), (20, 40), (40, 50)):
        inside = image[start + 1 : stop, start + 1 : stop]
        assert is_colour(inside, canvas.KEPT).all()
    assert is_colour(image[22:40, 1:20], canvas.DROPPED).all()


def test_text_is_orange_behind_a_dark_line():
    order = TokenOrder(VideoGrid(4, 4, 8, text_len=64), 64, (4, 4, 4))
    keep = np.ones((3, 3), bool)
    keep[0, 2] = False
    image = draw.mask_image(keep, order, size=90)
    middle = centres(image, 3)
    assert is_colour(middle[:2, :2], canvas.KEPT).all()
    assert is_colour(middle[0, 2], canvas.TEXT_DROPPED)
    assert is_colour(middle[1, 2], canvas.TEXT_KEPT)
    assert is_colour(middle[2], canvas.TEXT_KEPT).all()
    assert image[45, 60].mean() < 90  # the line
    assert image[60, 45].mean() < 90


def test_short_text_is_still_seen_at_production_size():
    grid = VideoGrid(30, 48, 80, text_len=256)
    pattern = SlidingTile((6, 8, 8), (3, 3, 3))
    keep = pattern.keep_blocks(grid, 1)[0]
    image = draw.mask_image(keep, pattern.token_order(grid))
    assert image.shape == (604, 604, 3)  # 300 blocks of 2 pixels, and 4 for the text
    lines = np.arange(600) % 120 == 0
    lines[0] = False
    assert is_colour(image[:600, -3:][~lines], canvas.TEXT_KEPT).all()
    drawn = is_colour(image, canvas.KEPT)[:600, :600][~lines][:, ~lines]
    kept = np.kron(keep[:300, :300], np.ones((2, 2))).astype(bool)[~lines][:, ~lines]
    np.testing.assert_array_equal(drawn, kept)


def test_text_beyond_its_length_is_not_drawn():
    order = TokenOrder(VideoGrid(4, 4, 8, text_len=128), 64, (4, 4, 4))
    keep = np.ones((4, 4), bool)
    assert draw.mask_image(keep, order, size=80).shape[0] == 80
    without = draw.mask_image(keep, order, size=80, text_lengths=0)
    assert not is_colour(without, canvas.TEXT_KEPT).any()
    many = TokenOrder(VideoGrid(9, 30, 30, text_len=20), 4)
    keep = np.ones((many.num_blocks,) * 2, bool)
    averaged = draw.mask_image(keep, many, size=333, text_lengths=0)
    assert averaged.shape == (333, 333, 3)
    assert not (averaged[..., 0] > averaged[..., 2]).any()  # nothing orange
    assert is_colour(draw.mask_image(keep, many, size=333)[-1, -1], canvas.TEXT_KEPT)


def test_frames_are_parted_by_faint_lines():
    grid = VideoGrid(4, 8, 8)
    keep = np.zeros((16, 16), bool)
    for pattern, line in ((Diagonal(0.5, 16), 4), (MultiDiagonal(0.5, 16), 2)):
        order = pattern.token_order(grid)  # frames begin every 4 blocks, rows of sites every 2
        image = draw.mask_image(keep, order, size=80)
        dark = image[7].sum(-1)
        assert dark[5 * line] < dark[5 * line + 2]
        assert dark[5 * line] == dark[10 * line]


def test_rectangular_masks_keep_their_proportions():
    image = draw.mask_image(np.ones((4, 8), bool), size=80)
    assert image.shape == (40, 80, 3)


def test_attention_is_logarithmic():
    mass = np.asarray([[1e-4, 1e-3], [1e-2, 1.0]])
    image = draw.attention_image(mass, size=8)
    expected = draw.ramp()[[0, 64, 128, 255]].reshape(2, 2, 3)
    np.testing.assert_array_equal(centres(image, 2), expected)
    np.testing.assert_array_equal(draw.attention_image(mass * 0.0, size=8)[0, 0], draw.ramp()[0])


def test_what_a_mask_drops_is_grey_and_the_rest_outlined():
    mass = np.full((4, 4), 0.01)
    keep = np.eye(4, dtype=bool)
    image = draw.attention_image(mass, keep=keep, size=40, low=1e-4, high=1.0)
    middle = centres(image, 4)
    grey = (middle == middle[..., :1]).all(-1)
    np.testing.assert_array_equal(grey, ~keep)
    assert is_colour(middle[0, 0], draw.ramp()[128])
    rim = is_colour(image, canvas.OUTLINE)
    assert rim.sum() == 4 * 36  # a rim one pixel wide in each block of 10 x 10
    small = draw.attention_image(mass, keep=keep, size=16, low=1e-4, high=1.0)
    assert not is_colour(small, canvas.OUTLINE).any()


def test_window_shows_the_tiles_that_a_tile_reads():
    grid = VideoGrid(6, 8, 8)
    pattern = SlidingTile((2, 4, 4), (1, 1, 1))
    keep, order = pattern.keep_blocks(grid, 1)[0], pattern.token_order(grid)
    keep[draw.query_block(order, (2, 5, 1)), 0] = True
    image = draw.window_image(keep, order, (2, 5, 1), size=80)
    tile = 40 * 40
    asks, read = is_colour(image, canvas.QUERY).sum(), is_colour(image, canvas.KEPT).sum()
    swatch = 14 * 14
    assert asks == tile - 40 + swatch  # the lines between tiles
    assert read == tile + swatch


def test_window_of_a_packed_order_has_every_frame():
    grid = VideoGrid(4, 4, 4, text_len=4)
    pattern = Diagonal(0.5, 16)
    keep, order = pattern.keep_blocks(grid, 1)[0], pattern.token_order(grid)
    image = draw.window_image(keep, order, (0, 0, 0), size=40, columns=2, title="Diagonal")
    read = is_colour(image, canvas.KEPT).sum() - 14 * 14
    assert read % 40**2 == 0
    assert read // 40**2 == keep[0, :4].sum() - 1
    assert is_colour(image, canvas.TEXT_KEPT).any()


def test_grid_of_heads_and_layers(checker):
    image = draw.mask_grid([[checker, None], [checker, ~checker]], size=50, title="two layers")
    kept = is_colour(image, canvas.KEPT).sum()
    assert kept > 0
    bare = draw.mask_grid([[checker]], size=50, row_labels=(), column_labels=(), captions=())
    assert image.shape[0] > 2 * 50
    assert bare.shape[0] < image.shape[0]
    np.testing.assert_array_equal(bare[10:60, 10:60], draw.mask_image(checker, size=50))


def test_grid_takes_an_order_for_each_head():
    grid = VideoGrid(4, 8, 8, text_len=8)
    patterns = [[Diagonal(0.5, 16), SlidingTile((4, 4, 4), (1, 1, 1))]]
    keeps = [[p.keep_blocks(grid, 1)[0] for p in row] for row in patterns]
    orders = [[p.token_order(grid) for p in row] for row in patterns]
    assert draw.mask_grid(keeps, orders).ndim == 3


def test_bad_input_is_refused(checker):
    order = TokenOrder(VideoGrid(4, 4, 8), 64)
    with pytest.raises(ValueError, match="of one head"):
        draw.mask_image(checker[None])
    with pytest.raises(ValueError, match="which has 2 blocks"):
        draw.mask_image(checker, order)
    with pytest.raises(ValueError, match="positive number of pixels"):
        draw.mask_image(checker, size=0)
    with pytest.raises(ValueError, match="not negative"):
        draw.attention_image(checker - 1.0)
    with pytest.raises(ValueError, match="low < high"):
        draw.attention_image(checker * 1.0, low=2.0)
    with pytest.raises(ValueError, match="must have one shape"):
        draw.attention_image(checker * 1.0, keep=checker[:2])
    with pytest.raises(ValueError, match="inside the video"):
        draw.window_image(np.ones((2, 2), bool), order, (0, 4, 0))
