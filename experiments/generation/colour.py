"""Converts the colours of a picture's ICC profile to sRGB, with Pillow's littlecms; without jax, as `image`."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Kinds of profiles that pictures have -> the mode of the pixels that they are of."""
_GREY = ("1", "L", "LA")


def srgb(image: Image.Image, profile: bytes | None, path: Path) -> Image.Image:
    """`image` in RGB without its transparency, in sRGB.

    A grey picture may have a profile of grey or of RGB, any other has one of its own kind. A profile that moves no
    value by more than one level is sRGB under another name, and changes nothing.

    Args:
      image: with 8 bits a channel.
      profile: in the ICC's format; None is sRGB.
      path: for the warning.

    Warns:
      UserWarning: the profile is damaged or of another kind; the colours are taken for sRGB.
    """
    if image.has_transparency_data and image.mode not in _GREY:
        image = image.convert("RGBA")  # of a palette, too
    plain = image.convert("RGB")
    if not profile:
        return plain
    try:
        found = _converted(image, profile)
    except (ImportError, OSError, ValueError) as problem:
        warnings.warn(
            f"{path}: its colour profile cannot be used ({problem}), so its colours are taken for sRGB; export it as "
            "sRGB where they matter",
            stacklevel=2,
        )
        return plain
    levels = np.abs(np.asarray(found).astype(int) - np.asarray(plain))
    return plain if levels.max() <= 1 else found


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    from PIL import ImageCms  # of a Pillow without littlecms it is an ImportError

    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        kind = given.profile.xcolor_space.strip()
        mode = _MODES.get(kind)
        fits = {"RGB": image.mode != "CMYK", "L": image.mode in _GREY, "CMYK": image.mode == "CMYK"}
        if mode is None or not fits[mode]:
            raise ValueError(f"it is of {kind}, the picture of {image.mode}")
        return ImageCms.profileToProfile(
            image.convert(mode),
            given,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, ImageCms.PyCMSError) as problem:
        raise ValueError(f"it is damaged: {problem}") from problem
