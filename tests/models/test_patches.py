import jax.numpy as jnp
import numpy as np
import pytest

from models import patches


def test_patches_are_in_raster_order_and_come_back():
    video = jnp.arange(2 * 4 * 4 * 6 * 2, dtype=jnp.float32).reshape(2, 4, 4, 6, 2)
    tokens = patches.patchify(video, (2, 2, 3))
    assert tokens.shape == (2, 2 * 2 * 2, 2 * 2 * 3 * 2)
    np.testing.assert_array_equal(tokens[1, 1].reshape(2, 2, 3, 2), video[1, :2, :2, 3:])
    np.testing.assert_array_equal(patches.unpatchify(tokens, (2, 2, 2), (2, 2, 3)), video)


def test_channels_can_come_first_in_a_patch():
    video = jnp.arange(2 * 4 * 4 * 6 * 2, dtype=jnp.float32).reshape(2, 4, 4, 6, 2)
    tokens = patches.patchify(video, (2, 2, 3), channels_first=True)
    patch = tokens[1, 1].reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(patch, video[1, :2, :2, 3:].transpose(3, 0, 1, 2))
    back = patches.unpatchify(tokens, (2, 2, 2), (2, 2, 3), channels_first=True)
    np.testing.assert_array_equal(back, video)


def test_shapes_are_numbers_and_names():
    patches.check_shape("x", (2, 7), (1,), (2, "tokens"))
    message = r"x has shape \(2, 7\); it must be \[1\] or \[tokens, 8\]"
    with pytest.raises(ValueError, match=message):
        patches.check_shape("x", (2, 7), (1,), ("tokens", 8))


def test_a_video_that_does_not_divide_is_refused():
    with pytest.raises(
        ValueError, match=r"\(3, 4, 4\) pixels does not divide into patches of \(2, 2, 2\)"
    ):
        patches.patchify(jnp.zeros((1, 3, 4, 4, 1)), (2, 2, 2))
