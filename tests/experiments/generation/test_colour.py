"""Pictures with colour profiles, as phones and cameras make them, are read in sRGB."""

import numpy as np
import pytest
from PIL import Image

from experiments.generation.image import open_image

from . import profiles

LEVELS = np.array(
    [[(0, 0, 0), (255, 255, 255), (128, 128, 128)], [(200, 100, 50), (90, 180, 60), (40, 70, 160)]],
    np.uint8,
)


def read(tmp_path, image, profile, kind="PNG"):
    image.save(tmp_path / "a", kind, icc_profile=profile)
    return np.asarray(open_image(tmp_path / "a")).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("colorants", "gamma"), [(profiles.DISPLAY_P3, None), (profiles.ADOBE_RGB, 563 / 256)]
)
def test_wide_colours_come_to_srgb(tmp_path, colorants, gamma, kind):
    got = read(tmp_path, Image.fromarray(LEVELS), profiles.rgb(colorants, gamma), kind)
    assert np.abs(got - profiles.in_srgb(LEVELS, colorants, gamma)).max() <= 1.5
    assert np.abs(got - LEVELS).max() > 10


def test_a_profile_that_is_srgb_changes_nothing(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    got = read(tmp_path, Image.fromarray(levels), profiles.rgb(profiles.SRGB))
    np.testing.assert_array_equal(got, levels)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "L", "1", "I;16"])
def test_every_kind_of_pixel_has_its_profile(tmp_path, mode):
    """Grey under a profile of grey or of RGB, palettes, transparency that shows white, and sixteen bits."""
    alpha = np.array([[255, 255, 255], [255, 255, 0]], np.uint8)
    picture = Image.fromarray(LEVELS)
    if mode == "I;16":
        stored = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif mode in ("RGBA", "LA"):
        stored = picture.convert(mode[:-1])
        stored.putalpha(Image.fromarray(alpha))
    else:
        stored = picture.quantize(6) if mode == "P" else picture.convert(mode)
    plain = np.asarray(stored.convert("RGB")).astype(int)
    if mode == "I;16":
        plain = np.asarray(picture.convert("L").convert("RGB")).astype(int)
    shown = (alpha > 0)[..., None] | (mode not in ("RGBA", "LA"))
    got = read(tmp_path, stored, profiles.rgb(profiles.DISPLAY_P3, 1.8))
    wanted = np.where(shown, profiles.in_srgb(plain, profiles.DISPLAY_P3, 1.8), 255)
    assert np.abs(got - wanted).max() <= 1.5
    if mode in ("L", "LA", "1", "I;16"):
        got = read(tmp_path, stored, profiles.grey(1.8))
        wanted = np.where(shown, profiles.encoded((plain / 255) ** (461 / 256)), 255)
        assert np.abs(got - wanted).max() <= 1.5


def test_inks_are_those_of_their_profile(tmp_path):
    inks = np.zeros((2, 2, 4), np.uint8)
    inks[0, 1] = 255, 0, 0, 0
    inks[1, 1] = 0, 0, 0, 128
    got = read(tmp_path, Image.fromarray(inks, "CMYK"), profiles.inks(), "TIFF")
    light = {2 / 3: got[0, 1], 1 - 128 / 255: got[1, 1]}
    for share, found in light.items():  # L is a cube root of light
        wanted = profiles.encoded(((100 * share + 16) / 116) ** 3)
        assert np.abs(found - wanted).max() <= 2.5
    assert got[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("profile", "mode", "why"),
    [
        (b"no profile", "RGB", "it is damaged"),
        (profiles.rgb(profiles.DISPLAY_P3)[:200], "RGB", "it is damaged"),
        (profiles.inks(), "RGB", "it is of CMYK, the picture of RGB"),
        (profiles.grey(1.8), "RGB", "it is of GRAY, the picture of RGB"),
        (profiles.rgb(profiles.DISPLAY_P3), "CMYK", "it is of RGB, the picture of CMYK"),
    ],
)
def test_a_profile_that_cannot_be_used_is_said_and_left_out(tmp_path, profile, mode, why):
    picture = Image.fromarray(LEVELS).convert(mode)
    with pytest.warns(UserWarning, match=rf"a: its colour profile cannot be used \({why}.*sRGB"):
        got = read(tmp_path, picture, profile, "TIFF")
    np.testing.assert_array_equal(got, np.asarray(picture.convert("RGB")))
