import jax
import numpy as np
import pytest

from sparsevdit_jax import StepContext, VideoGrid
from sparsevdit_jax.patterns import Draft
from sparsevdit_jax.presets import attention_for
from tests.conformance.pooled_suite import PooledSuite, logits, softmax, tile_blocks


class TestDraft(PooledSuite):
    """Rows without any cell are among those kept: one head keeps one pair in twenty."""

    pattern = Draft((0.05, 0.4), (2, 2))

    def block_of(self, grid):
        return tile_blocks(grid, (1, 2, 2))

    def keep_blocks(self, q, k, block_of, head):
        weights = softmax(logits(q, k, block_of))
        dropped = int((1 - (0.05, 0.4)[head]) * weights.size)
        keep = weights >= np.sort(weights.ravel())[dropped - 1]
        assert keep.sum() == weights.size - dropped + 1
        assert head or not keep.any(1).all()
        return keep


def test_frames_that_are_always_read():
    grid = VideoGrid(3, 4, 4)
    q, k = jax.random.normal(jax.random.key(1), (2, 1, 48, 1, 8))

    def keep(**fields):
        plan, _ = Draft(0.02, (2, 2), **fields).plan(q, k, (), StepContext(grid))
        return np.asarray(plan.mask.to_dense())[0, 0]

    bare, frame = keep(), np.arange(12) // 4
    assert bare.sum() == 144 - int(0.98 * 144) + 1
    np.testing.assert_array_equal(keep(first_frame=True), bare | (frame == 0))
    np.testing.assert_array_equal(keep(own_frame=True), bare | (frame[:, None] == frame))


def test_a_model_without_text_reads_its_frames():
    settings = dict(num_layers=2, num_heads=1)
    (_, wan) = attention_for("draft", VideoGrid(3, 20, 30), model="wan", **settings).patterns
    assert wan == Draft(0.25, (8, 16), True, True)
    tall = attention_for("draft", VideoGrid(3, 30, 20, 7), model="hunyuanvideo", **settings)
    assert tall.patterns == (Draft(0.1, (16, 8)),) * 2


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"density": 0}, r"density=0 must lie in \(0, 1\]"),
        ({"cell": (8,)}, r"cell=\(8,\) must be 2 whole numbers"),
        ({"first_frame": 1}, "first_frame=1 must be True or False"),
        ({"own_frame": None}, "own_frame=None must be True or False"),
    ],
)
def test_bad_fields(fields, match):
    with pytest.raises(ValueError, match=match):
        Draft(**fields)
