"""What pictures are made of: colours, a ramp, labelled panels, files.

Numpy alone, but for labels and files, which need pillow (the extra `demo`). Colours are safe for
colour-blind readers: blue against orange (Okabe and Ito's), and a ramp whose lightness falls
steadily.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np

Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (33, 37, 46)
DROPPED: Colour = (233, 236, 241)
KEPT: Colour = (0, 90, 160)
TEXT_DROPPED: Colour = (250, 234, 205)
TEXT_KEPT: Colour = (230, 159, 0)
QUERY: Colour = (213, 94, 0)
OUTLINE: Colour = (0, 90, 160)

# Lightness, chroma and hue (degrees) of the ramp's anchors in OKLab (Ottosson 2020).
_ANCHORS = (
    (0.985, 0.010, 95),
    (0.880, 0.090, 78),
    (0.740, 0.150, 52),
    (0.580, 0.185, 20),
    (0.410, 0.150, -18),
    (0.200, 0.080, -65),
)


def pillow():
    """The modules PIL.Image, PIL.ImageDraw and PIL.ImageFont; ImportError naming the extra."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as problem:
        raise ImportError(
            "labels and picture files need pillow, which is not installed; "
            'install the extra that has it: pip install "sparsevdit-jax[demo]"'
        ) from problem
    return Image, ImageDraw, ImageFont


def write_png(path, image: np.ndarray) -> None:
    """Writes an image, uint8 [height, width, 3], to `path`, which it replaces."""
    image_module, _, _ = pillow()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
            f"image is {image.dtype} {image.shape}; it must be uint8 [height, width, 3]"
        )
    image_module.fromarray(image).save(path, format="PNG", optimize=True)


@functools.cache
def ramp() -> np.ndarray:
    """The 256 colours for 0..1, pale to dark, equal steps apart in OKLab: uint8 [256, 3]."""
    light, chroma, hue = np.asarray(_ANCHORS).T
    path = np.stack([light, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))], -1)
    at, fine = np.arange(len(path)), np.linspace(0, len(path) - 1, 4096)
    path = np.stack([np.interp(fine, at, axis) for axis in path.T], -1)
    travelled = np.r_[0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=-1))]
    even = np.linspace(0, travelled[-1], 256)
    return _oklab_to_srgb(np.stack([np.interp(even, travelled, axis) for axis in path.T], -1))


def _oklab_to_srgb(lab):
    cone = np.asarray(
        [
            [1, 0.3963377774, 0.2158037573],
            [1, -0.1055613458, -0.0638541728],
            [1, -0.0894841775, -1.2914855480],
        ]
    )
    rgb = np.asarray(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ cone.T) ** 3 @ rgb.T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * srgb).astype(np.uint8)


def mix(low: Colour, high: Colour, share: np.ndarray) -> np.ndarray:
    """The colour `share` of the way from `low` to `high`, float64 [..., 3]; `share` is [..., 1]."""
    return np.asarray(low, np.float64) + share * (np.asarray(high, np.float64) - np.asarray(low))


def blend(image: np.ndarray, index, colour: Colour, strength: float) -> None:
    """Mixes `colour` into ``image[index]`` (float), in place."""
    image[index] += strength * (np.asarray(colour, np.float64) - image[index])


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float colours 0..255 as uint8."""
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def panels(
    images: Sequence[Sequence[np.ndarray | None]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    title: str = "",
    legend: Sequence[tuple[str, Colour]] = (),
    scale: tuple[float, float] | None = None,
    gap: int = 10,
    font_size: int = 13,
) -> np.ndarray:
    """A table of pictures with labels on white paper, uint8 [height, width, 3]. Needs pillow.

    Args:
      images: rows of uint8 [h, w, 3]; None leaves a place empty. They are never resized.
      row_labels: one for each row, on the left.
      column_labels: one for each column, on top.
      captions: a line under each picture.
      title: on top of all.
      legend: (name, colour) of what the colours mean, below all.
      scale: (low, high) ends of the ramp's logarithmic scale, drawn as a bar below all.
      gap: pixels between pictures.
      font_size: of labels, in pixels.
    """
    image_module, draw_module, font_module = pillow()
    columns = max((len(row) for row in images), default=0)
    if not columns:
        raise ValueError("images is empty; give at least one row with one picture")
    for name, labels, count in (
        ("row", row_labels, len(images)),
        ("column", column_labels, columns),
    ):
        if labels and len(labels) != count:
            raise ValueError(
                f"{len(labels)} {name}_labels for {count} {name}s; give one for each, or none"
            )
    font = font_module.load_default(font_size)
    big = font_module.load_default(font_size + 3)

    def text_width(text):
        return math.ceil(font.getlength(text))

    def sized(row, column):
        inside = column < len(images[row]) and images[row][column] is not None
        return images[row][column].shape[:2] if inside else (0, 0)

    def caption(row, column):
        return captions[row][column] if row < len(captions) and column < len(captions[row]) else ""

    rows, line = range(len(images)), font_size + 6
    widths = [
        max(
            text_width(column_labels[c]) if column_labels else 0,
            *(max(sized(r, c)[1], text_width(caption(r, c))) for r in rows),
        )
        for c in range(columns)
    ]
    heights = [max(sized(r, c)[0] for c in range(columns)) + line * bool(captions) for r in rows]
    left = gap + (max(map(text_width, row_labels)) + gap if row_labels else 0)
    keys = [(name, colour, text_width(name) + font_size + 24) for name, colour in legend]
    bar = 160 if scale else 0
    ends = [f"{v:.0e}".replace("e-0", "e-") if v < 0.01 else f"{v:.2g}" for v in scale or ()]
    foot = sum(k[2] for k in keys) + bar + sum(map(text_width, ends)) + 24 * bool(scale)
    width = max(
        left + sum(widths) + gap * columns,
        math.ceil(big.getlength(title)) + 2 * gap,
        left + foot + gap,
    )
    top = gap + (line + 8) * bool(title) + line * bool(column_labels)
    height = top + sum(heights) + gap * len(heights) + (line + gap) * bool(keys or scale)
    sheet = image_module.new("RGB", (width, height), PAPER)
    pen = draw_module.Draw(sheet)
    if title:
        pen.text((gap, gap), title, INK, font=big)
    starts = [left + sum(widths[:c]) + gap * c for c in range(columns)]
    for c, label in enumerate(column_labels):
        pen.text((starts[c] + widths[c] / 2, top - line), label, INK, font=font, anchor="ma")
    y = top
    for r, row in enumerate(images):
        if row_labels:
            middle = y + (heights[r] - line * bool(captions)) / 2
            pen.text((left - gap, middle), row_labels[r], INK, font=font, anchor="rm")
        for c, picture in enumerate(row):
            if picture is None:
                continue
            h, w = picture.shape[:2]
            x = starts[c] + (widths[c] - w) // 2
            sheet.paste(image_module.fromarray(picture), (x, y))
            pen.text((x + w / 2, y + h + 3), caption(r, c), INK, font=font, anchor="ma")
        y += heights[r] + gap
    x = left
    for name, colour, room in keys:
        pen.rectangle((x, y, x + font_size, y + font_size), colour)
        pen.text((x + font_size + 6, y + font_size / 2), name, INK, font=font, anchor="lm")
        x += room
    if scale:
        pen.text((x, y + font_size / 2), ends[0], INK, font=font, anchor="lm")
        x += text_width(ends[0]) + 8
        strip = ramp()[np.linspace(0, 255, bar).astype(int)]
        sheet.paste(image_module.fromarray(np.repeat(strip[None], font_size + 1, 0)), (x, y))
        pen.text((x + bar + 8, y + font_size / 2), ends[1], INK, font=font, anchor="lm")
    return np.asarray(sheet)
