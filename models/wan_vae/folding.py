"""Pixels folded into channels and back, without weights: patches, and the shortcuts of Wan 2.2's blocks."""

import jax
import jax.numpy as jnp


def patchify(x: jax.Array, patch: int) -> jax.Array:
    """[B, T, H, W, C] to [B, T, H / patch, W / patch, C patch^2].

    In the channels the column of a patch comes before its row, as in diffusers.
    """
    b, t, h, w, c = x.shape
    x = x.reshape(b, t, h // patch, patch, w // patch, patch, c).transpose(0, 1, 2, 4, 6, 5, 3)
    return x.reshape(b, t, h // patch, w // patch, c * patch * patch)


def unpatchify(x: jax.Array, patch: int) -> jax.Array:
    """Inverse of `patchify`."""
    b, t, h, w, c = x.shape
    x = x.reshape(b, t, h, w, c // patch**2, patch, patch).transpose(0, 1, 2, 6, 3, 5, 4)
    return x.reshape(b, t, h * patch, w * patch, c // patch**2)


def average_down(x: jax.Array, channels: int, factor_t: int, factor: int) -> jax.Array:
    """[B, T, H, W, C] to [B, T / factor_t, H / factor, W / factor, channels]; diffusers' AvgDown3D.

    Pixels are folded into channels, and neighbouring channels averaged down to `channels`. A clip's
    first frame alone counts as a pair with a frame of zeros before it, so it comes out darker: the
    checkpoints were trained so.
    """
    x = jnp.pad(x, ((0, 0), (-x.shape[1] % factor_t, 0), (0, 0), (0, 0), (0, 0)))
    b, t, h, w, c = x.shape
    t, h, w = t // factor_t, h // factor, w // factor
    x = x.reshape(b, t, factor_t, h, factor, w, factor, c).transpose(0, 1, 3, 5, 7, 2, 4, 6)
    x = x.reshape(b, t, h, w, channels, -1)
    return x.mean(-1, dtype=jnp.float32).astype(x.dtype)  # torch's mean sums 16-bit in float32


def duplicate_up(x: jax.Array, channels: int, factor_t: int, factor: int, *, first: bool):
    """[B, T, H, W, C] to [B, T factor_t, H factor, W factor, channels]; diffusers' DupUp3D.

    Channels are repeated and unfolded into pixels and frames; of a clip's `first` frame only the last
    of its copies is kept.
    """
    b, t, h, w, c = x.shape
    x = jnp.repeat(x, channels * factor_t * factor * factor // c, -1)
    x = x.reshape(b, t, h, w, channels, factor_t, factor, factor).transpose(0, 1, 5, 2, 6, 3, 7, 4)
    x = x.reshape(b, t * factor_t, h * factor, w * factor, channels)
    return x[:, factor_t - 1 :] if first else x
