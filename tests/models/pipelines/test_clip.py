"""Clips that are possible, and their frames as bytes."""

import numpy as np
import pytest

from models.pipelines import Clip
from models.pipelines.clip import as_bytes, check_clip


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (Clip(80, 480, 832), r"frames=80: Wan makes 1 \+ 4 k frames; ask for 77 or 81"),
        (Clip(0, 480, 832), "frames=0: .* ask for 1 or 5"),
        (Clip(-3, 480, 832), "frames=-3: .* ask for 1 or 5"),
        (Clip(81, 0, 832), "height=0 must be a multiple of 16 .* ask for 16 or 32"),
        (Clip(81, 480, 840), "width=840 must be a multiple of 32 .* ask for 832 or 864"),
    ],
)
def test_impossible_clips_are_refused_with_their_neighbours(clip, message):
    check_clip(Clip(1, 16, 32), "Wan", (4, 16, 32))
    with pytest.raises(ValueError, match=message):
        check_clip(clip, "Wan", (4, 16, 32))


def test_values_from_minus_one_to_one_become_bytes():
    chunk = np.array([-2, -1, 0, 0.5, 1, 2], np.float32).reshape(1, 1, 1, 1, 6)
    (frames,) = as_bytes([np.repeat(chunk, 3, axis=1)], 1)
    assert (frames.dtype, frames.shape) == (np.uint8, (1, 1, 6, 3))
    np.testing.assert_array_equal(frames[0, 0, :, 1], [0, 0, 128, 191, 255, 255])


def test_frames_beyond_the_clip_are_dropped():
    # CogVideoX's VAE makes 88 frames of the 22 latents of 85.
    chunks = [np.full((1, 3, 8, 1, 1), i / 11, np.float32) for i in range(11)]
    video = np.concatenate([*as_bytes(chunks, 85)])
    assert len(video) == 85
    np.testing.assert_array_equal(video, np.concatenate([*as_bytes(chunks, 88)])[:85])
    assert max(len(part) for part in as_bytes([np.zeros((1, 3, 40, 1, 1))], 40)) == 16


def test_frames_that_are_not_finite_are_refused():
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        list(as_bytes([np.full((1, 3, 1, 1, 1), np.inf, np.float32)], 1))
