import numpy as np
import pytest

from experiments.moving_digits import HELD_OUT, MovingDigits, digit_images


def test_all_ten_digits_are_there_in_range():
    images, labels = digit_images(24)
    assert images.shape == (1797, 24, 24)
    assert images.min() == 0
    assert images.max() == 1
    assert sorted(set(labels.tolist())) == list(range(10))
    assert sorted(set(labels[-HELD_OUT:].tolist())) == list(range(10))


def test_clips_hold_one_moving_digit_inside_the_canvas():
    stream = MovingDigits(frames=24, height=40, width=48)
    video, label = stream.clips(np.random.default_rng(3), 4)
    assert video.shape == (4, 24, 40, 48, 1)
    assert video.dtype == np.float32
    assert label.shape == (4,)
    assert video.min() >= -1
    assert video.max() <= 1 + 1e-6
    ink = (video[..., 0] + 1).sum((2, 3))
    assert (ink > 20).all()
    np.testing.assert_allclose(
        ink, np.broadcast_to(ink[:, :1], ink.shape), rtol=1e-4
    )  # never cut off
    centre = (np.arange(48) * (video[..., 0] + 1).sum(2)).sum(-1) / ink
    assert (np.abs(np.diff(centre, axis=1)) <= 2.6).all()
    assert (np.ptp(centre, axis=1) > 0.5).any()


def test_clips_come_from_the_generator_alone():
    stream = MovingDigits(frames=4, height=32, width=32)
    first, second, other = (stream.clips(np.random.default_rng(s), 2)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_canvas_smaller_than_the_digit_is_refused():
    with pytest.raises(ValueError, match="height=16 is smaller than digit=24"):
        MovingDigits(frames=2, height=16, width=32)
