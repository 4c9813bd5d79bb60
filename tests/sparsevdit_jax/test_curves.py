import itertools

import numpy as np
import pytest

from sparsevdit_jax.curves import PATHS, gilbert, morton

SHAPES = [(1, 1, 1), (1, 5, 1), (3, 1, 4), (2, 2, 2), (5, 9, 17), (4, 17, 10)]


@pytest.mark.parametrize("path", PATHS)
def test_a_walk_visits_every_token_once(path):
    for shape in SHAPES:
        np.testing.assert_array_equal(np.sort(PATHS[path](shape)), np.arange(np.prod(shape)))


@pytest.mark.parametrize("shape", [(2, 2, 2), (4, 6, 10), (8, 2, 6), (2, 12, 4), (4, 4, 1)])
def test_gilbert_steps_to_a_neighbour(shape):
    places = np.stack(np.unravel_index(gilbert(shape), shape))
    assert (np.abs(np.diff(places, axis=1)).sum(0) == 1).all()


@pytest.mark.parametrize(
    ("shape", "walk"),
    [
        ((1, 3, 3), [0, 1, 4, 3, 6, 7, 8, 5, 2]),
        ((5, 2, 3), [0, 3, 4, 1, 2, 5, 11, 8, 7, 10, 9, 6, 12, 15, 21, 18, 19, 22, 16, 13, 14, 20, 17, 23, 29, 26, 25,
                     28, 27, 24]),
        ((3, 3, 5), [0, 15, 20, 5, 10, 25, 40, 35, 30, 31, 36, 41, 26, 11, 6, 21, 16, 1, 2, 17, 18, 3, 8, 23, 22, 7, 12,
                     27, 13, 28, 43, 42, 37, 38, 32, 33, 34, 39, 44, 29, 14, 9, 24, 19, 4]),
    ],
)  # fmt: skip
def test_gilbert_of_odd_sides_is_jenga_s(shape, walk):
    """Made by gilbert.py of dvlab-research/Jenga (69051503)."""
    assert gilbert(shape).tolist() == walk


def test_gilbert_of_frames_goes_on_where_the_frame_before_ended():
    """Made by sliced_gilbert_mapping of the same file."""
    walk = [0, 4, 5, 1, 2, 6, 7, 3, 11, 15, 14, 10, 9, 13, 12, 8, 16, 20, 21, 17, 18, 22, 23, 19]
    assert PATHS["gilbert-frames"]((3, 2, 4)).tolist() == walk


@pytest.mark.parametrize(("lowest", "order"), [("column", (0, 1, 2)), ("frame", (2, 1, 0))])
def test_morton_interleaves_bits(lowest, order):
    shape, codes = (3, 5, 6), []
    for place in itertools.product(*map(range, shape)):
        bits = "".join("".join(f"{place[a]:03b}"[i] for a in order) for i in range(3))
        codes.append(int(bits, 2))
    np.testing.assert_array_equal(morton(shape, lowest), np.argsort(codes))


def test_cells_and_what_they_leave_over():
    """Frames of 9 x 10: one cell of 8 x 8, a row of 10 and two columns of 8."""
    frame = np.arange(90).reshape(9, 10)
    cell, row, columns = frame[:8, :8].ravel(), frame[8], frame[:8, 8:].ravel()
    rest = [*cell, *row, *columns]
    assert PATHS["rainfusion-frames"]((2, 9, 10)).tolist() == [*range(90), *(90 + i for i in rest)]
    found = PATHS["rainfusion"]((4, 9, 10))
    both = [90 * f + i for part in (cell, row, columns) for f in (1, 2) for i in part]
    assert found.tolist() == [*both, *range(270, 360), *range(90)]
    assert PATHS["rainfusion-frames"]((1, 8, 16))[:9].tolist() == [*range(8), 16]
