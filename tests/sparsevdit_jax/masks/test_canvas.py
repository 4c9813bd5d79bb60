"""Colours, labels and files."""

import builtins

import numpy as np
import pytest

from sparsevdit_jax.masks import draw


@pytest.fixture
def checker():
    return np.indices((5, 5)).sum(0) % 2 == 0


def is_colour(pixels, colour):
    return (pixels == np.asarray(colour, np.uint8)).all(-1)


def test_ramp_darkens_in_equal_steps():
    light = draw.ramp().astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) < 0.5).all()
    assert light[0] > 245
    assert light[-1] < 35
    assert len(np.unique(draw.ramp(), axis=0)) > 250
    at_quarters = light[[0, 64, 128, 192, 255]]
    assert np.diff(at_quarters).max() < -25  # no flat stretch


def test_labels_of_a_scale_and_wrong_counts():
    image = np.zeros((20, 20, 3), np.uint8)
    with_scale = draw.panels([[image]], scale=(1e-4, 1.0), captions=[["a"]], row_labels=["r"])
    strip = draw.ramp()[[0, 255]]
    assert all(is_colour(with_scale, c).any() for c in strip)
    with pytest.raises(ValueError, match="2 column_labels for 1 columns; give one for each"):
        draw.panels([[image]], column_labels=["a", "b"])
    with pytest.raises(ValueError, match="images is empty"):
        draw.panels([])


def test_png_round_trip(tmp_path, checker):
    from PIL import Image

    image = draw.mask_image(checker, size=40)
    draw.write_png(tmp_path / "mask.png", image)
    with Image.open(tmp_path / "mask.png") as stored:
        np.testing.assert_array_equal(np.asarray(stored), image)
    with pytest.raises(ValueError, match="must be uint8"):
        draw.write_png(tmp_path / "mask.png", image.astype(float))


def test_without_pillow_the_error_names_the_extra(monkeypatch, checker):
    real = builtins.__import__

    def fail(name, *rest, **kwargs):
        if name == "PIL":
            raise ImportError("No module named 'PIL'")
        return real(name, *rest, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    draw.mask_image(checker)
    with pytest.raises(ImportError, match=r"sparsevdit-jax\[demo\]"):
        draw.mask_grid([[checker]])
