"""Shapes of videos and their patches."""

from collections.abc import Sequence

import jax


def check_shape(name: str, shape: Sequence[int], *allowed: Sequence[int | str]) -> None:
    """ValueError unless `shape` is one of those allowed; a name in these stands for any size."""
    for expected in allowed:
        if len(shape) == len(expected) and all(
            isinstance(want, str) or n == want for n, want in zip(shape, expected, strict=True)
        ):
            return
    listed = " or ".join(f"[{', '.join(map(str, expected))}]" for expected in allowed)
    raise ValueError(f"{name} has shape {tuple(shape)}; it must be {listed}")


def token_shape(size: Sequence[int], patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """Tokens (frames, rows, columns) of a video of `size` pixels in patches; ValueError if it does not divide."""
    if any(n < 1 or n % p for n, p in zip(size, patch, strict=True)):
        raise ValueError(
            f"video of {tuple(size)} pixels does not divide into patches of {patch}; pad or crop it"
        )
    frames, rows, columns = (n // p for n, p in zip(size, patch, strict=True))
    return frames, rows, columns


def patchify(
    video: jax.Array, patch: tuple[int, int, int], *, channels_first: bool = False
) -> jax.Array:
    """[B, F, Y, X, C] to tokens [B, L, pt*ph*pw*C] in raster order; every axis must divide.

    `channels_first`: a token's channels are [C, pt, ph, pw] and not [pt, ph, pw, C].
    """
    b, *size, c = video.shape
    (f, y, x), (pt, ph, pw) = token_shape(size, patch), patch
    video = video.reshape(b, f, pt, y, ph, x, pw, c)
    order = (0, 1, 3, 5, 7, 2, 4, 6) if channels_first else (0, 1, 3, 5, 2, 4, 6, 7)
    return video.transpose(order).reshape(b, f * y * x, pt * ph * pw * c)


def unpatchify(
    tokens: jax.Array,
    shape: tuple[int, int, int],
    patch: tuple[int, int, int],
    *,
    channels_first: bool = False,
) -> jax.Array:
    """Inverse of `patchify`; `shape` is the token grid (frames, height, width)."""
    (f, y, x), (pt, ph, pw) = shape, patch
    b, _, channels = tokens.shape
    c = channels // (pt * ph * pw)
    if channels_first:
        tokens = tokens.reshape(b, f, y, x, c, pt, ph, pw).transpose(0, 1, 5, 2, 6, 3, 7, 4)
    else:
        tokens = tokens.reshape(b, f, y, x, pt, ph, pw, c).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return tokens.reshape(b, f * pt, y * ph, x * pw, c)
