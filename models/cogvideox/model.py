"""CogVideoXTransformer: a stack of joint attention over [text, video] tokens (arXiv 2408.06072)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sparsevdit_jax import SparseAttention, StepContext, VideoGrid

from .. import layers
from ..layers import silu, sinusoidal_embedding
from ..patches import check_shape, unpatchify
from ..rope import Rope
from ..stack import layer_attentions, run_blocks
from ..transformer import Transformer, TransformerOutput
from .blocks import Block, OutputNorm
from .config import CogVideoXConfig
from .embeddings import PatchEmbed
from .positions import rotary_embedding
from .weights import KEYS, ORIGINAL


class CogVideoXTransformer(Transformer):
    """Predicts the velocity of CogVideoX's diffusion (diffusers' CogVideoXTransformer3DModel).

    Args:
      config: sizes; `PRESETS` has those of the published checkpoints.
      dtype: of weights and activations. As in diffusers under bfloat16, only the timestep's sinusoid, the inside
        of norms, rotations and the softmax stay float32.
    """

    CLASS_NAME = "CogVideoXTransformer3DModel"
    KEYS = KEYS
    ORIGINAL = ORIGINAL
    config_class = CogVideoXConfig

    def __init__(self, config: CogVideoXConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, jnp.dtype(dtype)
        dtype, dim, time_dim = self.dtype, config.dim, config.time_embed_dim
        self.patch_embed = PatchEmbed(config, dtype=dtype, rngs=rngs)
        self.time_embedding = layers.MLP(dim, time_dim, time_dim, silu, dtype=dtype, rngs=rngs)
        self.ofs_embedding = (
            layers.MLP(time_dim, time_dim, time_dim, silu, dtype=dtype, rngs=rngs)
            if config.ofs_embed_dim
            else None
        )
        self.transformer_blocks = nnx.List(
            [Block(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm_final = layers.LayerNorm(
            dim, eps=config.norm_eps, affine=config.norm_elementwise_affine, dtype=dtype
        )
        self.norm_out = OutputNorm(config, dtype=dtype, rngs=rngs)
        channels = config.out_channels * math.prod(config.patch)
        self.proj_out = layers.Linear(dim, channels, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        hidden_states: jax.Array,
        encoder_hidden_states: jax.Array,
        timestep: jax.Array,
        timestep_cond: None = None,
        ofs: jax.Array | None = None,
        image_rotary_emb: tuple[jax.Array, jax.Array] | None = None,
        *,
        attention: SparseAttention | None = None,
        states: tuple[Any, ...] = (),
        ctx: StepContext | None = None,
        remat: bool = False,
    ) -> TransformerOutput:
        """Velocity of noisy latents.

        Text is not masked: the pipeline pads it and the model attends to all of it. Text lengths in `ctx` mask it,
        which is another function than the original's.

        Args:
          hidden_states: [B, T, C, H, W] of any float dtype; image-to-video models take the image's latents as
            further channels.
          encoder_hidden_states: [B, text, text_embed_dim], the text encoder's states.
          timestep: [B], int or float32, 0 to 1000.
          timestep_cond: must be None, as no CogVideoX has weights for it.
          ofs: [1] or [B], for models with `ofs_embed_dim`; the pipeline passes 2.0.
          image_rotary_emb: cosines and sines [video tokens, head_dim] for models with rotary positions
            (`rotary_embedding` of the latent grid). diffusers runs without rotation where it is absent; here it is
            an error.
          attention: a pattern for each of `num_attention_layers` layers, with `states` from its `init` and the
            step's `ctx`; None is dense attention.
          remat: recompute each block in the backward pass.

        Returns:
          The velocity [B, T, out_channels, H, W] in the model's dtype, and the layers' new states.

        Raises:
          ValueError: shapes that do not fit the config or each other, an argument that this model must or cannot
            have, or `attention` for another grid or number of layers.
        """
        config, batch = self.config, hidden_states.shape[0]
        self._check(batch, timestep, encoder_hidden_states, timestep_cond, ofs)
        text_len = encoder_hidden_states.shape[1]
        grid = self.grid(hidden_states.shape, text_len)
        rope = self._rope(image_rotary_emb, grid)
        attentions = layer_attentions(
            attention,
            states,
            ctx,
            grid=grid,
            num_layers=self.num_attention_layers,
            num_heads=config.num_heads,
            text_lengths=None if ctx is None else ctx.text_lengths,
        )
        vector = self.time_embedding(sinusoidal_embedding(timestep, config.dim))
        if self.ofs_embedding is not None and ofs is not None:
            vector += self.ofs_embedding(sinusoidal_embedding(ofs, config.time_embed_dim))
        x, states = run_blocks(
            self.transformer_blocks,
            self.patch_embed(encoder_hidden_states, hidden_states),
            vector,
            rope,
            layers=attentions,
            remat=remat,
        )
        x = self.proj_out(self.norm_out(self.norm_final(x[:, text_len:]), vector))
        video = unpatchify(x, grid.shape, config.patch, channels_first=True)
        sample = video.transpose(0, 1, 4, 2, 3)
        return TransformerOutput(sample, () if attention is None else states)

    def _check(self, batch, timestep, text, timestep_cond, ofs):
        config = self.config
        check_shape("timestep", timestep.shape, (batch,))
        check_shape("encoder_hidden_states", text.shape, (batch, "tokens", config.text_embed_dim))
        if timestep_cond is not None:
            raise ValueError(
                "timestep_cond must be None: no CogVideoX has weights for it; leave it out"
            )
        if (ofs is None) == (self.ofs_embedding is not None):
            remedy = "pass jnp.full((1,), 2.0)" if ofs is None else "leave it out"
            given = None if ofs is None else f"an array {ofs.shape}"
            raise ValueError(
                f"ofs is {given}, but this model has ofs_embed_dim={config.ofs_embed_dim}; {remedy}"
            )
        if ofs is not None:
            check_shape("ofs", ofs.shape, (1,), (batch,))

    def _rope(self, image_rotary_emb, grid: VideoGrid) -> Rope | None:
        """Cosines and sines [tokens, head_dim / 2] of all tokens, float32; those of text rotate by nothing."""
        config = self.config
        if (image_rotary_emb is not None) != config.use_rotary_positional_embeddings:
            given = "absent" if image_rotary_emb is None else "given"
            remedy = (
                f"pass models.cogvideox.{rotary_embedding.__name__}(config, height, width, frames)"
                if image_rotary_emb is None
                else "leave it out"
            )
            raise ValueError(
                f"image_rotary_emb is {given}, but this model has use_rotary_positional_embeddings="
                f"{config.use_rotary_positional_embeddings}; {remedy}"
            )
        if image_rotary_emb is None:
            return None
        expected = (grid.num_video_tokens, config.head_dim)
        shapes = [part.shape for part in image_rotary_emb]
        if shapes != [expected, expected]:
            raise ValueError(
                f"image_rotary_emb has shapes {shapes}; it must be two arrays {expected} for {grid.shape} video "
                "tokens; make it for this latent grid"
            )
        cos, sin = (jnp.asarray(part, jnp.float32)[:, ::2] for part in image_rotary_emb)
        text = ((grid.text_len, 0), (0, 0))
        return jnp.pad(cos, text, constant_values=1), jnp.pad(sin, text)
