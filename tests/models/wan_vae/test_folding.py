import jax.numpy as jnp
import numpy as np

from models.wan_vae.folding import average_down, duplicate_up, patchify, unpatchify
from tests.models.wan_vae.tiny import wave


def test_patches_put_columns_before_rows_and_come_back():
    x = wave((2, 3, 4, 6, 5), 0.3)
    folded = patchify(x, 2)
    assert folded.shape == (2, 3, 2, 3, 20)
    # channel c, column j and row i of a patch are entry 4 c + 2 j + i
    np.testing.assert_array_equal(folded[0, 1, 1, 2, 4 * 3 + 2 * 1 + 0], x[0, 1, 2, 5, 3])
    np.testing.assert_array_equal(folded[0, 1, 1, 2, 4 * 3 + 2 * 0 + 1], x[0, 1, 3, 4, 3])
    np.testing.assert_array_equal(unpatchify(folded, 2), x)
    np.testing.assert_array_equal(patchify(x, 1), x)


def test_average_down_folds_pixels_and_frames_and_averages_groups():
    x = wave((1, 4, 2, 4, 3), 0.7)
    out = average_down(x, 12, 2, 2)  # 3 channels of 8 pixels each, in groups of 2
    assert out.shape == (1, 2, 1, 2, 12)
    # Channel 1 has groups 4 to 7: two frames x two rows; a group holds both columns.
    np.testing.assert_allclose(out[0, 1, 0, 1, 4 + 3], x[0, 3, 1, 2:, 1].mean(), rtol=1e-6)
    np.testing.assert_allclose(out[0, 1, 0, 1, 4 + 1], x[0, 2, 1, 2:, 1].mean(), rtol=1e-6)


def test_average_down_pairs_a_lone_first_frame_with_zeros_before_it():
    x = wave((1, 1, 2, 2, 2), 0.7)
    padded = jnp.concatenate([jnp.zeros_like(x), x], 1)
    np.testing.assert_array_equal(average_down(x, 4, 2, 2), average_down(padded, 4, 2, 2))
    assert average_down(x.astype(jnp.bfloat16), 4, 2, 2).dtype == jnp.bfloat16


def test_duplicate_up_repeats_channels_into_pixels():
    x = wave((1, 2, 1, 2, 4), 0.7)
    out = duplicate_up(x, 2, 2, 2, first=False)  # 4 channels x 4 copies = 2 x 2 frames x 4 pixels
    assert out.shape == (1, 4, 2, 4, 2)
    for frame in range(4):
        for channel in range(2):
            # The copies of an input channel are the four pixels of one frame.
            source = x[0, frame // 2, 0, 1, 2 * channel + frame % 2]
            np.testing.assert_array_equal(out[0, frame, :, 2:, channel], jnp.full((2, 2), source))
    first = duplicate_up(x[:, :1], 2, 2, 2, first=True)
    np.testing.assert_array_equal(first, out[:, 1:2])
