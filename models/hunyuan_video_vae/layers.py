"""Parts of the encoder and of the decoder; arrays are channels last, [B, T, h, w, C].

Everything that mixes frames looks back only, except the group norms, whose statistics are those of all
frames at once: so decoding a part of the frames is not the same as taking a part of the decoded ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pallas_kernels import BlockMask, block_sparse_attention

from ..layers import Conv, GroupNorm, Linear

EPS = 1e-6
_MAX_BLOCK = 512  # tokens; a list of blocks stays short, and a pair's logits small (1 MiB)


class CausalConv(nnx.Module):
    """Convolution whose output sees its own frame and those before; edges are repeated, not zero.

    Repeating the first frame is what lets a single image be encoded as a clip of one frame.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        strides: tuple[int, int, int] = (1, 1, 1),
        dtype,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            channels_in, channels_out, (kernel,) * 3, strides=strides, dtype=dtype, rngs=rngs
        )
        self.kernel = kernel

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, h, w, channels_in] to [B, T', h', w', channels_out], each axis divided by its stride, up."""
        side = self.kernel // 2
        pad = (0, 0), (self.kernel - 1, 0), (side, side), (side, side), (0, 0)
        return self.conv(jnp.pad(x, pad, mode="edge"))


class ResnetBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1x1 convolution of x where channels change."""

    def __init__(self, channels_in: int, channels_out: int, *, groups: int, dtype, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs}
        self.norm1 = GroupNorm(groups, channels_in, eps=EPS, dtype=dtype)
        self.conv1 = CausalConv(channels_in, channels_out, 3, **options)
        self.norm2 = GroupNorm(groups, channels_out, eps=EPS, dtype=dtype)
        self.conv2 = CausalConv(channels_out, channels_out, 3, **options)
        same = channels_in == channels_out
        self.conv_shortcut = None if same else CausalConv(channels_in, channels_out, 1, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, h, w, channels_in] to [B, T, h, w, channels_out]."""
        y = self.conv1(norm_silu(self.norm1, x))
        y = self.conv2(norm_silu(self.norm2, y))
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class FrameCausalAttention(nnx.Module):
    """One head over all tokens, in which a token reads its own frame and those before, and adds the result.

    The block-sparse kernels take it as a mask of frames, so no array of L x L is made. The head is as
    wide as the level (512 in HunyuanVideo), which only the kernel in plain JAX takes.
    """

    def __init__(self, channels: int, *, groups: int, dtype, rngs: nnx.Rngs):
        self.group_norm = GroupNorm(groups, channels, eps=EPS, dtype=dtype)
        self.to_q, self.to_k, self.to_v, out = (
            Linear(channels, channels, dtype=dtype, rngs=rngs) for _ in range(4)
        )
        self.to_out = nnx.List([out])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, h, w, C] to the same."""
        b, frames, height, width, channels = x.shape
        tokens = height * width
        mask = frame_causal_mask(frames, tokens)
        padded = mask.num_q_blocks // frames * mask.block_q
        y = self.group_norm(x).reshape(b, frames, tokens, channels)

        def rows(linear):
            blocks = jnp.pad(linear(y), ((0, 0), (0, 0), (0, padded - tokens), (0, 0)))
            return blocks.reshape(b, frames * padded, 1, channels)

        q, k, v = rows(self.to_q), rows(self.to_k), rows(self.to_v)
        out, _ = block_sparse_attention(q, k, v, mask)
        out = out.reshape(b, frames, padded, channels)[:, :, :tokens]
        return x + self.to_out[0](out).reshape(x.shape)


class MidBlock(nnx.Module):
    """Residual block, attention if asked for, residual block."""

    def __init__(self, channels: int, *, attention: bool, groups: int, dtype, rngs: nnx.Rngs):
        options = {"groups": groups, "dtype": dtype, "rngs": rngs}
        self.resnets = nnx.List([ResnetBlock(channels, channels, **options) for _ in range(2)])
        self.attentions = nnx.List(
            FrameCausalAttention(channels, **options) for _ in range(attention)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, h, w, C] to the same."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Upsample(nnx.Module):
    """Repeats pixels and frames, then convolves; the first frame is not repeated: 1 + n to 1 + factor * n."""

    def __init__(self, channels: int, *, factors: tuple[int, int, int], dtype, rngs: nnx.Rngs):
        self.factors = factors
        self.conv = CausalConv(channels, channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, 1 + n, h, w, C] to [B, 1 + n * frames, h * height, w * width, C] of `factors`."""
        for axis, factor in enumerate(self.factors, 1):
            if factor > 1:
                x = jnp.repeat(x, factor, axis)
        return self.conv(x[:, self.factors[0] - 1 :])


def norm_silu(norm: GroupNorm, x: jax.Array) -> jax.Array:
    """silu(norm(x)) in the dtype of x, each rounded to it once, as torch does."""
    y = norm(x)
    return jax.nn.silu(y.astype(jnp.float32)).astype(y.dtype)


def frame_causal_mask(frames: int, tokens: int) -> BlockMask:
    """Every block of a frame reads all blocks of its frame and of those before; no block has two frames.

    Args:
      frames: T.
      tokens: of a frame, h * w; each frame is padded at its end to whole blocks.
    """
    per_frame = -(-tokens // _MAX_BLOCK)
    block = -(-tokens // per_frame)
    frame = np.repeat(np.arange(frames), per_frame)
    lengths = None
    if per_frame * block != tokens:
        real = np.clip(tokens - block * np.arange(per_frame), 0, block).astype(np.int32)
        lengths = np.tile(real, frames)
    return BlockMask.from_dense(
        frame[:, None] >= frame[None],
        block_q=block,
        block_kv=block,
        q_lengths=lengths,
        kv_lengths=lengths,
    )
