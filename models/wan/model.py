"""WanTransformer: Wan 2.1 and 2.2, text-to-video and image-to-video.

Reference: diffusers 0.42.1, `WanTransformer3DModel`; the paper is arXiv 2503.20314. Self-attention runs over the
video alone, so it takes any pattern with a `VideoGrid` without text; the prompt (and an image) enter by
cross-attention, which is dense.

With `dtype=jnp.bfloat16` the following stay float32, as diffusers keeps them: the time embedder, the modulation
tables and the sums with them, all layer norms, RoPE, and softmax. Differs: a video that does not divide into
patches is refused, where diffusers drops the rest; so are prompts of another length than 512 beside an image,
which diffusers would mix with the image.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from pallas_kernels import dense_attention
from sparsevdit_jax import AttentionPattern, SparseAttention, StepContext, VideoGrid

from .. import layers
from ..nn import Conv, LayerNorm, Linear, RMSNorm
from ..rope import apply_rope, rope_table
from ..stack import layer_patterns, run_blocks
from .config import WanConfig
from .weights import IGNORED, KEYS

ROPE_THETA = 10_000.0
_TEXT_TOKENS = 512  # diffusers takes the last 512 tokens for text wherever there is an image
_IMAGE_NORM_EPS = 1e-5  # torch's default, whatever the configuration says


def _silu(x):
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


def _gelu(x):
    return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


def _gelu_tanh(x):
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


class MLP(nnx.Module):
    """Linear, activation, linear."""

    def __init__(
        self, dim_in: int, inner: int, dim_out: int, activation: Callable, *, dtype, rngs: nnx.Rngs
    ):
        self.linear_1 = Linear(dim_in, inner, dtype=dtype, rngs=rngs)
        self.linear_2 = Linear(inner, dim_out, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., dim_in] to [..., dim_out]."""
        return self.linear_2(self.activation(self.linear_1(x)))


class ImageEmbedder(nnx.Module):
    """States of an image encoder to the model's width; two images (first and last frame) become one sequence."""

    def __init__(self, config: WanConfig, *, dtype, rngs: nnx.Rngs):
        assert config.image_dim is not None
        width, tokens = config.image_dim, config.pos_embed_seq_len
        self.norm1 = LayerNorm(width, eps=_IMAGE_NORM_EPS)
        self.ff = MLP(width, width, config.dim, _gelu, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(config.dim, eps=_IMAGE_NORM_EPS)
        shape = None if tokens is None else (1, tokens, width)
        self.pos_embed = None if shape is None else nnx.Param(jnp.zeros(shape, dtype))

    def __call__(self, image: jax.Array) -> jax.Array:
        """[B, N, image_dim] to [B, N, dim]; with `pos_embed` [2 B, N, image_dim] to [B, 2 N, dim]."""
        if self.pos_embed is not None:
            position = self.pos_embed[...].astype(image.dtype)
            image = image.reshape(-1, *position.shape[1:]) + position
        return self.norm2(self.ff(self.norm1(image)))


class ConditionEmbedder(nnx.Module):
    """Timestep, prompt and image to what the blocks read."""

    def __init__(self, config: WanConfig, *, dtype, rngs: nnx.Rngs):
        dim = config.dim
        # float32 in diffusers (_keep_in_fp32_modules)
        self.time_embedder = MLP(
            config.freq_dim, dim, dim, _silu, dtype=jnp.dtype(jnp.float32), rngs=rngs
        )
        self.time_proj = Linear(dim, 6 * dim, dtype=dtype, rngs=rngs)
        self.text_embedder = MLP(config.text_dim, dim, dim, _gelu_tanh, dtype=dtype, rngs=rngs)
        has_image = config.image_dim is not None
        self.image_embedder = ImageEmbedder(config, dtype=dtype, rngs=rngs) if has_image else None
        self.freq_dim, self.dtype = config.freq_dim, dtype

    def __call__(self, timestep, text, image):
        """Embeddings.

        Args:
          timestep: [B], or [B, tokens] with one for each token.
          text: [B, N, text_dim].
          image: see `ImageEmbedder`; None without one.

        Returns:
          The time embedding [B, dim], its six projections [B, 6 dim] (both [B, tokens, ...] for one timestep per
          token), text [B, N, dim] and image [B, N, dim] or None.
        """
        wave = layers.sinusoidal_embedding(timestep.reshape(-1), self.freq_dim)
        wave = wave.reshape(*timestep.shape, self.freq_dim)
        time = self.time_embedder(wave).astype(self.dtype)
        if self.image_embedder is not None:
            image = self.image_embedder(image.astype(self.dtype))
        return time, self.time_proj(_silu(time)), self.text_embedder(text), image


class _Attention(nnx.Module):
    """The parameters that self- and cross-attention have in common; q and k are normed over all heads at once."""

    def __init__(self, config: WanConfig, *, dtype, rngs: nnx.Rngs):
        dim = config.dim
        self.to_q = Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.to_k = Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.to_v = Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.to_out = Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.norm_q = RMSNorm(dim, eps=config.eps, dtype=dtype)
        self.norm_k = RMSNorm(dim, eps=config.eps, dtype=dtype)
        self.num_heads = config.num_heads

    def _heads(self, x):
        return x.reshape(*x.shape[:2], self.num_heads, -1)


class SelfAttention(_Attention):
    """Attention among the video's tokens, by a pattern."""

    def __call__(self, x, rope, *, pattern: AttentionPattern, state, ctx: StepContext):
        """x [B, L, dim] in raster order to the same, and the pattern's state."""
        q = apply_rope(self._heads(self.norm_q(self.to_q(x))), rope)
        k = apply_rope(self._heads(self.norm_k(self.to_k(x))), rope)
        out, state = pattern.attend(q, k, self._heads(self.to_v(x)), state, ctx)
        return self.to_out(out.reshape(x.shape)), state


class CrossAttention(_Attention):
    """Attention of the video to the text and, with a softmax of its own, to the image; their outputs add up."""

    def __init__(self, config: WanConfig, *, dtype, rngs: nnx.Rngs):
        super().__init__(config, dtype=dtype, rngs=rngs)
        added = config.added_kv_proj_dim
        self.has_image = added is not None
        if added is not None:
            self.add_k_proj = Linear(added, config.dim, dtype=dtype, rngs=rngs)
            self.add_v_proj = Linear(added, config.dim, dtype=dtype, rngs=rngs)
            self.norm_added_k = RMSNorm(config.dim, eps=config.eps, dtype=dtype)

    def __call__(self, x, text, image, *, implementation: str | None = None):
        """x [B, L, dim], text [B, N, dim], image [B, M, dim] or None, to [B, L, dim]."""
        q = self._heads(self.norm_q(self.to_q(x)))

        def attend(k, v):
            k, v = self._heads(k), self._heads(v)
            return dense_attention(q, k, v, implementation=implementation)[0]

        out = attend(self.norm_k(self.to_k(text)), self.to_v(text))
        if self.has_image:
            out += attend(self.norm_added_k(self.add_k_proj(image)), self.add_v_proj(image))
        return self.to_out(out.reshape(x.shape))


class Block(nnx.Module):
    """Modulated self-attention, cross-attention, modulated feed-forward part."""

    def __init__(self, config: WanConfig, *, dtype, rngs: nnx.Rngs):
        dim, eps = config.dim, config.eps
        self.norm1 = LayerNorm(dim, eps=eps, affine=False)
        self.attn1 = SelfAttention(config, dtype=dtype, rngs=rngs)
        # norm2 and the table are float32 in diffusers (_keep_in_fp32_modules)
        self.norm2 = LayerNorm(dim, eps=eps) if config.cross_attn_norm else None
        self.attn2 = CrossAttention(config, dtype=dtype, rngs=rngs)
        self.norm3 = LayerNorm(dim, eps=eps, affine=False)
        self.ffn = MLP(dim, config.ffn_dim, dim, _gelu_tanh, dtype=dtype, rngs=rngs)
        self.scale_shift_table = _table(6, dim, rngs)

    def __call__(self, x, modulation, text, image, rope, *, pattern, state, ctx: StepContext):
        """One block.

        Args:
          x: [B, L, dim], video tokens in raster order.
          modulation: [B, L or 1, 6, dim], shared by all blocks; this one adds its own table.
          text: [B, N, dim].
          image: [B, M, dim] or None.
          rope: cosines and sines of the tokens (`rope_table`).
          pattern: of self-attention, with its `state` and the step's `ctx`.

        Returns:
          x of the same shape and dtype, and the pattern's new state.
        """
        dtype = x.dtype
        table = self.scale_shift_table[...].astype(jnp.float32)[None]
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = _rows(table, modulation)
        h = self.norm1(x.astype(jnp.float32)) * (1 + scale) + shift
        h, state = self.attn1(h.astype(dtype), rope, pattern=pattern, state=state, ctx=ctx)
        x = (x.astype(jnp.float32) + h.astype(jnp.float32) * gate).astype(dtype)
        h = x if self.norm2 is None else self.norm2(x)
        x = x + self.attn2(h, text, image, implementation=ctx.implementation)
        h = self.norm3(x.astype(jnp.float32)) * (1 + ffn_scale) + ffn_shift
        h = self.ffn(h.astype(dtype))
        return (x.astype(jnp.float32) + h.astype(jnp.float32) * ffn_gate).astype(dtype), state


class WanTransformer(nnx.Module):
    """Predicts the velocity of a noisy latent video from it, the timestep and the prompt.

    Args:
      config: sizes.
      dtype: of weights and compute; see above for what stays float32.
    """

    CLASS_NAME = "WanTransformer3DModel"
    KEYS = KEYS
    IGNORED = IGNORED
    config_class = WanConfig

    def __init__(self, config: WanConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, jnp.dtype(dtype)
        dtype, dim, patch = self.dtype, config.dim, config.patch_size
        self.patch_embedding = Conv(
            config.in_channels, dim, patch, strides=patch, dtype=dtype, rngs=rngs
        )
        self.condition_embedder = ConditionEmbedder(config, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(
            [Block(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm_out = LayerNorm(dim, eps=config.eps, affine=False)
        pixels = patch[0] * patch[1] * patch[2]
        channels = config.out_channels or config.in_channels
        self.proj_out = Linear(dim, channels * pixels, dtype=dtype, rngs=rngs)
        self.scale_shift_table = _table(2, dim, rngs)

    @property
    def num_attention_layers(self) -> int:
        """Layers that take a pattern: every block's self-attention."""
        return self.config.num_layers

    def grid(self, shape: tuple[int, ...]) -> VideoGrid:
        """The token grid of latent videos of a shape [B, C, T, H, W]; it has no text.

        Raises:
          ValueError: not such a shape, other channels, or an axis that does not divide into patches or is too long.
        """
        config = self.config
        if len(shape) != 5 or shape[1] != config.in_channels:
            raise ValueError(
                f"hidden_states has shape {tuple(shape)}; it must be "
                f"[batch, {config.in_channels} channels, frames, rows, columns]"
            )
        size, patch = tuple(shape[2:]), config.patch_size
        if any(n % p for n, p in zip(size, patch, strict=True)):
            raise ValueError(
                f"latent video of {size} does not divide into patches of {patch}; pad or crop it"
            )
        frames, rows, columns = tokens = [n // p for n, p in zip(size, patch, strict=True)]
        if max(tokens) > config.rope_max_seq_len:
            raise ValueError(
                f"latent video of {size} has {tokens} tokens along its axes; none may have more than "
                f"rope_max_seq_len={config.rope_max_seq_len}: make a smaller video"
            )
        return VideoGrid(frames, rows, columns)

    def __call__(
        self,
        hidden_states: jax.Array,
        timestep: jax.Array,
        encoder_hidden_states: jax.Array,
        encoder_hidden_states_image: jax.Array | None = None,
        *,
        attention: SparseAttention | None = None,
        states=(),
        ctx: StepContext | None = None,
        remat: bool = False,
    ):
        """The predicted velocity (diffusers' `sample`).

        Args:
          hidden_states: latents [B, C, T, H, W]; image-to-video models have the condition's channels in C.
          timestep: [B], 0 to 1000, integer or floating; or [B, tokens], one for each token in raster order (Wan
            2.2 TI2V).
          encoder_hidden_states: UMT5's states of the prompt [B, N, text_dim]. There is no mask: diffusers'
            pipelines pad with zeros to 512 tokens and so attend the padding, as the models were trained. Fewer
            tokens are taken as they are; beside an image there must be 512.
          encoder_hidden_states_image: the image encoder's states [B, M, image_dim], for models with
            `config.image_dim`; with `config.pos_embed_seq_len` first and last frame, [2 B, M, image_dim].
          attention: a pattern for each block's self-attention, with `states` from its `init` and the step's `ctx`;
            None is dense.
          remat: recompute blocks in the backward pass, for memory.

        Returns:
          [B, out channels, T, H, W] in the model's dtype; with `attention` also the layers' new states.

        Raises:
          ValueError: inputs that do not fit the configuration or each other.
        """
        config, grid = self.config, self.grid(hidden_states.shape)
        batch = hidden_states.shape[0]
        _check(config, grid, batch, timestep, encoder_hidden_states, encoder_hidden_states_image)
        patterns, states, step = layer_patterns(
            attention,
            states,
            ctx,
            grid=grid,
            num_layers=self.num_attention_layers,
            num_heads=config.num_heads,
        )
        time, time_proj, text, image = self.condition_embedder(
            timestep, encoder_hidden_states, encoder_hidden_states_image
        )
        x = self.patch_embedding(hidden_states.transpose(0, 2, 3, 4, 1))
        table = rope_table(grid.shape, config.head_dim, theta=ROPE_THETA)
        x, new_states = run_blocks(
            self.blocks,
            x.reshape(batch, grid.num_tokens, config.dim),
            time_proj.reshape(batch, -1, 6, config.dim),
            text,
            image,
            tuple(map(jnp.asarray, table)),  # here, so that all blocks share the two constants
            patterns=patterns,
            states=states,
            ctx=step,
            remat=remat,
        )
        table = self.scale_shift_table[...].astype(jnp.float32)[None]
        shift, scale = _rows(table, time.reshape(batch, -1, 1, config.dim))
        x = self.norm_out(x.astype(jnp.float32)) * (1 + scale) + shift
        x = layers.unpatchify(self.proj_out(x.astype(self.dtype)), grid.shape, config.patch_size)
        sample = x.transpose(0, 4, 1, 2, 3)
        return sample if attention is None else (sample, new_states)


def _table(rows, dim, rngs):
    """A modulation table [1, rows, dim], float32 in diffusers (_keep_in_fp32_modules)."""
    return nnx.Param(jax.random.normal(rngs.params(), (1, rows, dim), jnp.float32) * dim**-0.5)


def _rows(table, embedding):
    """Rows [B, L or 1, dim] of a table [1, 1, rows, dim] plus an embedding [B, L or 1, rows or 1, dim], float32."""
    total = table + embedding.astype(jnp.float32)
    return [total[:, :, i] for i in range(total.shape[2])]


def _check(config, grid, batch, timestep, text, image):
    if timestep.shape not in ((batch,), (batch, grid.num_tokens)):
        raise ValueError(
            f"timestep has shape {timestep.shape}; it must be [{batch}], or [{batch}, "
            f"{grid.num_tokens}] with one for each token"
        )
    if text.ndim != 3 or (text.shape[0], text.shape[2]) != (batch, config.text_dim):
        raise ValueError(
            f"encoder_hidden_states has shape {text.shape}; it must be "
            f"[{batch}, tokens, {config.text_dim}]"
        )
    if (image is None) != (config.image_dim is None):
        raise ValueError(
            f"image_dim={config.image_dim}, but encoder_hidden_states_image is "
            f"{'absent' if image is None else 'given'}; a model takes an image if and only if it has "
            "image_dim"
        )
    if image is None:
        return
    images, tokens = batch, image.shape[1] if image.ndim == 3 else None
    if config.pos_embed_seq_len is not None:
        images, tokens = 2 * batch, config.pos_embed_seq_len // 2
    if image.shape != (images, tokens, config.image_dim):
        raise ValueError(
            f"encoder_hidden_states_image has shape {image.shape}; it must be "
            f"[{images}, {tokens or 'tokens'}, {config.image_dim}]"
        )
    if text.shape[1] != _TEXT_TOKENS:
        raise ValueError(
            f"encoder_hidden_states has {text.shape[1]} tokens; beside an image it must have "
            f"{_TEXT_TOKENS}: pad it with zeros, as diffusers' pipelines do"
        )
