"""Clips of real handwritten digits that move and bounce on a dark canvas.

The digits are those of scikit-learn's `load_digits` (1,797 scans of 8 x 8 pixels; Alpaydin and
Kaynak, UCI "Optical Recognition of Handwritten Digits", CC BY 4.0), enlarged with a cubic spline.
"""

import dataclasses
import functools

import numpy as np

HELD_OUT = 297  # the last digits of the set never appear in training clips


@functools.cache
def digit_images(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits as float32 [1797, size, size] in [0, 1] and their labels int32 [1797]."""
    from scipy import ndimage
    from sklearn.datasets import load_digits

    data = load_digits()
    large = ndimage.zoom(
        data.images / 16.0, (1, size / 8, size / 8), order=3, grid_mode=True, mode="grid-constant"
    )
    contrast = np.clip((large - 0.25) * 2.0, 0, 1)  # a spline's soft slopes become a pen's edge
    return contrast.astype(np.float32), data.target.astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovingDigits:
    """A stream of clips: one digit, constant velocity, elastic reflection at the borders.

    Attributes:
      frames, height, width: of a clip, in pixels.
      digit: side of the square that holds the digit, in pixels.
      speed: smallest and largest speed, in pixels per frame.
    """

    frames: int
    height: int
    width: int
    digit: int = 24
    speed: tuple[float, float] = (1.0, 2.5)

    def __post_init__(self):
        for name in ("height", "width"):
            if getattr(self, name) < self.digit:
                raise ValueError(
                    f"{name}={getattr(self, name)} is smaller than digit={self.digit}; enlarge the canvas"
                )

    def clips(
        self, rng: np.random.Generator, batch: int, *, held_out: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """`batch` clips float32 [batch, frames, height, width, 1] in [-1, 1], labels int32 [batch].

        With `held_out` the digits are those that training never sees.
        """
        images, labels = digit_images(self.digit)
        cut = len(images) - HELD_OUT
        chosen = rng.integers(cut, len(images), batch) if held_out else rng.integers(0, cut, batch)
        video = np.zeros((batch, self.frames, self.height, self.width, 1), np.float32)
        for row, index in zip(video, chosen, strict=True):
            for frame, (y, x) in zip(row, self._path(rng), strict=True):
                _paint(frame[..., 0], images[index], y, x)
        return video * 2 - 1, labels[chosen]

    def _path(self, rng: np.random.Generator) -> np.ndarray:
        """Positions (y, x) of the digit's upper left corner, float [frames, 2]."""
        room = np.array([self.height - self.digit, self.width - self.digit], float)
        angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*self.speed)
        velocity = speed * np.array([np.sin(angle), np.cos(angle)])
        straight = rng.uniform(0, 1, 2) * room + np.arange(self.frames)[:, None] * velocity
        folded = np.mod(straight, 2 * np.maximum(room, 1e-9))  # reflection is a triangle wave
        return np.where(folded > room, 2 * room - folded, folded)


def _paint(frame: np.ndarray, image: np.ndarray, y: float, x: float) -> None:
    """Adds `image` to `frame` at a fractional position, bilinearly."""
    iy, ix = int(y), int(x)
    fy, fx = y - iy, x - ix
    n = len(image)
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            target = frame[iy + dy : iy + dy + n, ix + dx : ix + dx + n]
            target += np.float32(wy * wx) * image[: target.shape[0], : target.shape[1]]
