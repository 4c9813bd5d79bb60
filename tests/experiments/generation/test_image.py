import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.generation.image import check_image, open_image, read_image

# What is stored at [row, column] for each orientation of the Exif standard, given the upright picture u of 6 x 4.
STORED = {
    1: lambda u: u,
    2: lambda u: u[:, ::-1],
    3: lambda u: u[::-1, ::-1],
    4: lambda u: u[::-1],
    5: lambda u: u.swapaxes(0, 1),
    6: lambda u: u[:, ::-1].swapaxes(
        0, 1
    ),  # the first row is the right side, the first column the top
    7: lambda u: u[::-1, ::-1].swapaxes(0, 1),
    8: lambda u: u[::-1].swapaxes(
        0, 1
    ),  # the first row is the left side, the first column the bottom
}
WITHOUT_LOSS = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}


def upright():
    """uint8 [48, 32, 3]: six by four fields of 8 x 8, each of its own colour."""
    fields = np.random.default_rng(0).integers(0, 256, (6, 4, 3))
    return np.repeat(np.repeat(fields, 8, 0), 8, 1).astype(np.uint8)


def ramp(low=0, high=255):
    """[4, 64] from `low` to `high`."""
    return np.tile(np.linspace(low, high, 64).round(), (4, 1)).astype(np.int64)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_is_read_as_its_metadata_turn_it(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright())))
    stored.save(tmp_path / "a", kind, exif=exif, **WITHOUT_LOSS.get(kind, {}))
    assert check_image(tmp_path / "a") == (48, 32)
    got = read_image(tmp_path / "a", 48, 32).astype(int)
    assert got.shape == (48, 32, 3)
    assert np.abs(got - upright()).max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_a_tiff_that_pillow_would_map_is_turned_once(tmp_path, mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(upright()).convert(mode)
    stored = picture.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "a", "TIFF", exif=exif)
    got = np.asarray(open_image(tmp_path / "a")).astype(int)
    assert np.abs(got - np.asarray(picture.convert("RGB"))).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_keep_their_range_and_are_turned(tmp_path, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.ascontiguousarray(STORED[6](ramp(0, 65535).astype(np.uint16)))
    Image.fromarray(stored).save(tmp_path / "a", kind, exif=exif)
    got = np.asarray(open_image(tmp_path / "a"))
    assert got.shape == (4, 64, 3)
    assert np.abs(got - ramp()[..., None]).max() <= 1


def test_a_grey_map_of_sixteen_bits_and_one_of_twelve_and_a_bitmap(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 64 4 65535\n" + ramp(0, 65535).astype(">u2").tobytes())
    assert np.abs(np.asarray(open_image(tmp_path / "a.pgm")) - ramp()[..., None]).max() <= 1
    (tmp_path / "b.pgm").write_bytes(b"P5 64 4 4095\n" + ramp(0, 4095).astype(">u2").tobytes())
    assert np.abs(np.asarray(open_image(tmp_path / "b.pgm")) - ramp()[..., None]).max() <= 1
    Image.fromarray(ramp() > 100).save(tmp_path / "c.png")
    assert (np.asarray(open_image(tmp_path / "c.png")) == 255 * (ramp() > 100)[..., None]).all()


def transparent(mode):
    """A red picture whose right half is transparent, with black under the transparency."""
    image = Image.new("RGBA", (16, 8), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 8, 8))
    if mode == "P":
        return image.quantize(4)
    return image.convert(mode)


@pytest.mark.parametrize(("mode", "kind"), [
    ("RGBA", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "GIF"), ("RGBA", "WEBP"), ("RGBA", "TIFF"),
])  # fmt: skip
def test_what_is_transparent_shows_white(tmp_path, mode, kind):
    transparent(mode).save(tmp_path / "a", kind, **WITHOUT_LOSS.get(kind, {}))
    got = np.asarray(open_image(tmp_path / "a"))
    assert (got[:, 8:] == 255).all()
    red = [200, 0, 0] if mode != "LA" else [60, 60, 60]
    assert np.abs(got[:, :8].astype(int) - red).max() <= 1


def test_half_transparent_is_half_white_and_a_colour_may_stand_for_none(tmp_path):
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert np.abs(np.asarray(open_image(tmp_path / "a.png")).astype(int) - 127).max() <= 1
    Image.new("RGB", (2, 2), (9, 8, 7)).save(tmp_path / "b.png", transparency=(9, 8, 7))
    assert (np.asarray(open_image(tmp_path / "b.png")) == 255).all()
    grey = np.array([[0, 30000], [40000, 50000]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "c.png", transparency=30000)
    got = np.asarray(open_image(tmp_path / "c.png"))[..., 0].astype(int)
    assert np.abs(got - [[0, 255], [155, 194]]).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_become_colours(tmp_path, kind):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(
        tmp_path / "a", kind
    )  # magenta and yellow: red
    got = np.asarray(open_image(tmp_path / "a")).astype(int)
    assert np.abs(got - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_many_frames_the_first_is_read(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    more = {"save_all": True, "append_images": frames[1:]} | WITHOUT_LOSS.get(kind, {})
    frames[0].save(tmp_path / "a", kind, **more)
    assert (np.asarray(open_image(tmp_path / "a")) == [255, 0, 0]).all()


def test_the_three_fits(tmp_path):
    columns = np.repeat(np.repeat([[0, 255, 0]], 40, 0), 40, 1).astype(
        np.uint8
    )  # thirds of 40 x 120
    Image.fromarray(columns).save(tmp_path / "a.png")
    crop, stretch, pad = (
        read_image(tmp_path / "a.png", 40, 40, fit=fit)[:, :, 0]
        for fit in ("crop", "stretch", "pad")
    )
    assert (read_image(tmp_path / "a.png", 40, 40)[..., 0] == crop).all()
    assert (crop[:, 2:-2] == 255).all()  # the middle third
    row = stretch.astype(int)[20]
    assert row[:11].max() < 20
    assert row[15:25].min() > 235
    assert row[-11:].max() < 20
    assert (stretch == stretch[:1]).all()
    assert not pad[:13].any()
    assert not pad[-13:].any()
    np.testing.assert_allclose(pad[20].astype(int), row, atol=2)


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (1, 1)])
@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_narrow_pictures_have_pixels_in_every_fit(tmp_path, size, fit):
    Image.new("L", size, 200).save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png", 16, 24, fit=fit)
    assert got.shape == (16, 24, 3)
    assert (got == 200).any()


def refused(path, *words):
    with pytest.raises(
        ValueError, match=r"damaged or cut short|save the picture|scale it down"
    ) as caught:
        check_image(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.9])
def test_a_file_cut_short_is_refused(tmp_path, kind, share):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "a", kind)
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[: int(share * len(whole))])
    refused(tmp_path / "a", *(["empty"] if share == 0 else []))


def test_a_damaged_picture_is_refused(tmp_path):
    Image.fromarray(upright()).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    refused(tmp_path / "a.png", "damaged")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"a cat on a skateboard", "no picture"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"\0\0\0\x18ftypmif1" + bytes(40), "HEIC"),
        (b"\0\0\0\x20ftypisom" + bytes(40), "video"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture"),
        (b"GIF89a" + bytes(20), ""),  # zero by zero
        (b"P6 0 4 255\n", ""),
    ],
)
def test_what_is_no_picture_is_refused_by_name(tmp_path, data, word):
    (tmp_path / "a.png").write_bytes(data)
    refused(tmp_path / "a.png", word)


@pytest.mark.parametrize("pixels", [2000, 3000])  # Pillow warns of the first and refuses the second
def test_too_many_pixels_are_refused(tmp_path, monkeypatch, pixels):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1400)
    Image.new("1", (pixels, 1)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "1,400 pixels")


def test_values_of_unknown_range_are_refused(tmp_path):
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(tmp_path / "a.tiff")
    refused(tmp_path / "a.tiff", "range")
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(tmp_path / "b.tiff")
    refused(tmp_path / "b.tiff", "70000")


def test_bad_settings_and_missing_files_are_refused(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="'cover' must be one of crop, stretch, pad"):
        read_image(tmp_path / "a.png", 4, 4, fit="cover")
    with pytest.raises(ValueError, match="height=0 and width=4"):
        read_image(tmp_path / "a.png", 0, 4)
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        check_image(tmp_path / "b.png")
    with pytest.raises(IsADirectoryError):
        check_image(tmp_path)


def test_the_module_needs_no_jax():
    program = (
        "import sys, experiments.generation.image, experiments.media;"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert not {"jax", "models", "sparsevdit_jax", "torch"} & set(loaded.stdout.decode().split())
