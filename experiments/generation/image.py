"""Reads the picture that a user gives as a first frame, from a file of any kind.

Neither jax nor a module that imports it is imported here, so that `experiments.make_text_embeddings` reads pictures by
the same rules in an environment of torch.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.generation.colour import srgb

Fit = Literal["crop", "stretch", "pad"]
BACKGROUND = (255, 255, 255)  # behind what is transparent: white, as viewers show it
BARS = (0, 0, 0)

_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def check_image(path: str | Path) -> tuple[int, int]:
    """(height, width) as a viewer shows it; decodes all of it, so that damage is found.

    Raises:
      ValueError, OSError: as `open_image`.
    """
    image = open_image(path)
    return image.height, image.width


def read_image(path: str | Path, height: int, width: int, *, fit: Fit = "crop") -> np.ndarray:
    """uint8 [height, width, 3]: the picture, upright, scaled by Lanczos.

    Args:
      path: of the file.
      height: of the result, as width.
      width: in pixels.
      fit: "crop" covers the size and cuts what stands over, evenly; "stretch" changes the aspect, as diffusers does;
        "pad" shows all of it between black bars.

    Raises:
      ValueError: another `fit`, a size without pixels, and as `open_image`.
      OSError: as `open_image`.
    """
    if fit not in get_args(Fit):
        raise ValueError(f"image fit {fit!r} must be one of {', '.join(get_args(Fit))}")
    if height < 1 or width < 1:
        raise ValueError(f"{height=} and {width=} must be at least 1 pixel")
    image = open_image(path)
    lanczos = Image.Resampling.LANCZOS
    if fit == "crop":
        image = ImageOps.fit(image, (width, height), lanczos)
    elif fit == "stretch":
        image = image.resize((width, height), lanczos)
    else:
        scale = min(width / image.width, height / image.height)
        inside = max(1, round(scale * image.width)), max(1, round(scale * image.height))
        bars = Image.new("RGB", (width, height), BARS)
        corner = (width - inside[0]) // 2, (height - inside[1]) // 2
        bars.paste(image.resize(inside, lanczos), corner)
        image = bars
    return np.asarray(image)


def open_image(path: str | Path) -> Image.Image:
    """The picture in RGB, as a viewer shows it: turned as its metadata say, on white where it is transparent.

    Of several frames or pages it is the first. Sixteen bits of grey become eight. The colours are those of the file's
    ICC profile (phones: Display P3), brought to sRGB as viewers do; diffusers takes them for sRGB.

    Warns:
      UserWarning: the profile cannot be used, so the colours are taken for sRGB.

    Raises:
      FileNotFoundError, IsADirectoryError, PermissionError: there is no file to read.
      ValueError: the file is no picture that Pillow reads, is damaged or cut short, has no pixels, more than Pillow
        deems safe, or values of unknown range.
    """
    path = Path(path)
    with open(path, "rb") as file:
        start = file.read(12)
        file.seek(0)
        # From a file and not from a name: Pillow 13 maps the named file of a plain TIFF and does not turn it.
        with _refusals(path, start), Image.open(file) as image:
            bits = min(16, *getattr(image, "tag_v2", {}).get(258, (16,)))  # 12 in some TIFF
            upright = ImageOps.exif_transpose(image)
    return _rgb(upright, bits, image.info.get("icc_profile"), path)


def _rgb(image: Image.Image, bits: int, profile: bytes | None, path: Path) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() >= 2**bits:
            raise ValueError(
                f"{path} has whole numbers from {grey.min()} to {grey.max()} as pixels, so white is unknown; "
                "save the picture with 8 or 16 bits of grey"
            )
        none = image.info.get("transparency")  # the grey that stands for no pixel
        image = Image.fromarray((grey * 255 // (2**bits - 1)).astype(np.uint8))
        if none is not None:
            image.putalpha(Image.fromarray(np.where(grey == none, 0, 255).astype(np.uint8)))
    if image.mode in ("F", "LAB"):
        raise ValueError(
            f"{path} has pixels of the kind {image.mode}, whose range or colours are not known; save the picture "
            "as PNG with 8 bits"
        )
    colours = srgb(image, profile, path)
    if not image.has_transparency_data:
        return colours
    behind = Image.new("RGB", image.size, BACKGROUND)
    return Image.composite(colours, behind, image.convert("RGBA").getchannel("A"))


@contextlib.contextmanager
def _refusals(path: Path, start: bytes) -> Iterator[None]:
    """What Pillow raises, in one line with a remedy."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, beside good pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as problem:
        raise ValueError(
            f"{path} has more than the {Image.MAX_IMAGE_PIXELS:,} pixels that are safe to decode; "
            "scale it down to the size of the video"
        ) from problem
    except UnidentifiedImageError as problem:
        raise ValueError(f"{path} {_kind(start)}; save the picture as PNG or JPEG") from problem
    except Exception as problem:  # Pillow has an exception of its own for every kind of damage
        said = " ".join(str(problem).split()) or type(problem).__name__
        raise ValueError(
            f"{path} is damaged or cut short ({said}); copy or export it again as PNG or JPEG"
        ) from problem


def _kind(start: bytes) -> str:
    """What a file is that Pillow does not know, from its first twelve bytes."""
    if not start:
        return "is empty"
    if start[4:8] != b"ftyp":
        return "is no picture that Pillow reads, or is damaged at its start"
    if start[8:12] in _HEIC:
        return "is HEIC, which Pillow does not read"
    if start[8:12] in (b"avif", b"avis"):
        return "is AVIF that is damaged or that this Pillow does not read"
    return "is a video, not a picture"
