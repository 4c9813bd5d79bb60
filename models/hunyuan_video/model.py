"""HunyuanVideoTransformer: predicts the flow's velocity of a latent video from text."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sparsevdit_jax import SparseAttention, StepContext
from sparsevdit_jax.parallel import join

from .. import layers
from ..patches import check_shape, unpatchify
from ..rope import as_arrays, rope_table
from ..stack import layer_attentions, run_blocks
from ..transformer import Transformer, TransformerOutput
from .blocks import DualStreamBlock, OutputNorm, SingleStreamBlock
from .conditioning import ConditionEmbedding, check_scalars
from .config import HunyuanVideoConfig
from .refiner import TokenRefiner
from .weights import KEYS, ORIGINAL


class HunyuanVideoTransformer(Transformer):
    """HunyuanVideo's transformer (arXiv 2412.03603), as diffusers' HunyuanVideoTransformer3DModel.

    Dual-stream blocks, then single-stream blocks, attend over [video, text] with the text last;
    each of both kinds takes a pattern. Its numbers are diffusers' except in text rows beyond a
    row's length, which nothing reads, and in rotary frequencies, which are float64 here and
    float32 there (angles of a 129-frame 720p clip differ by less than 4e-6).

    Args:
      config: sizes.
      dtype: of weights, matmuls and activations. Always float32: norms, the rotation, softmax,
        and the sinusoids of time and guidance.
    """

    CLASS_NAME = "HunyuanVideoTransformer3DModel"
    KEYS = KEYS
    ORIGINAL = ORIGINAL
    config_class = HunyuanVideoConfig

    def __init__(self, config: HunyuanVideoConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, jnp.dtype(dtype)
        dtype, dim = self.dtype, config.dim
        self.x_embedder = layers.PatchEmbed(
            config.in_channels, dim, config.patch, dtype=dtype, rngs=rngs
        )
        self.context_embedder = TokenRefiner(config, dtype=dtype, rngs=rngs)
        self.time_text_embed = ConditionEmbedding(
            dim,
            config.pooled_projection_dim,
            guidance_embeds=config.guidance_embeds,
            dtype=dtype,
            rngs=rngs,
        )
        self.transformer_blocks = nnx.List(
            [DualStreamBlock(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.single_transformer_blocks = nnx.List(
            [
                SingleStreamBlock(config, dtype=dtype, rngs=rngs)
                for _ in range(config.num_single_layers)
            ]
        )
        self.norm_out = OutputNorm(dim, dtype=dtype, rngs=rngs)
        channels = (config.out_channels or config.in_channels) * math.prod(config.patch)
        self.proj_out = layers.Linear(dim, channels, dtype=dtype, rngs=rngs)

    @property
    def num_attention_layers(self) -> int:
        """Layers that take a pattern: the dual-stream blocks, then the single-stream blocks."""
        return self.config.num_layers + self.config.num_single_layers

    def __call__(
        self,
        hidden_states: jax.Array,
        timestep: jax.Array,
        encoder_hidden_states: jax.Array,
        encoder_attention_mask: jax.Array,
        pooled_projections: jax.Array,
        guidance: jax.Array | None = None,
        *,
        attention: SparseAttention | None = None,
        states: tuple[Any, ...] = (),
        ctx: StepContext | None = None,
        remat: bool = False,
    ) -> TransformerOutput:
        """Velocity of noisy latents.

        Args:
          hidden_states: noisy latents [B, C, T, H, W].
          timestep: [B] in 0 to 1000 (1000 is noise), integers or float32, whatever the model's dtype.
          encoder_hidden_states: text tokens [B, Lt, text_embed_dim], padded at the end.
          encoder_attention_mask: [B, Lt], nonzero where the text is real. As in diffusers the blocks
            read only how many tokens of a row are real and take the first ones; each row's
            1s should therefore come first.
          pooled_projections: one vector for the whole text, [B, pooled_projection_dim].
          guidance: 1000 times the guidance scale [B], float32, with `config.guidance_embeds` and only
            then. diffusers' pipeline rounds it to the model's dtype (6000 to 6016 in bfloat16).
          attention: a pattern for each of `num_attention_layers` layers, with `states` from its
            `init` and the step's `ctx`; None is dense attention.
          remat: recompute each block in the backward pass.

        Returns:
          The velocity [B, out_channels, T, H, W] in the model's dtype, and the layers' new states.

        Raises:
          ValueError: a shape or a dtype does not fit, guidance is absent or not wanted, or
            `attention` is for another grid or number of layers.
        """
        config, batch = self.config, hidden_states.shape[0]
        self._check(
            batch,
            timestep,
            encoder_hidden_states,
            encoder_attention_mask,
            pooled_projections,
            guidance,
        )
        grid = self.grid(hidden_states.shape, encoder_hidden_states.shape[1])
        mask = encoder_attention_mask != 0
        attentions = layer_attentions(
            attention,
            states,
            ctx,
            grid=grid,
            num_layers=self.num_attention_layers,
            num_heads=config.num_heads,
            text_lengths=mask.sum(1, dtype=jnp.int32),
        )
        vector = self.time_text_embed(timestep, pooled_projections.astype(self.dtype), guidance)
        video = self.x_embedder(hidden_states.astype(self.dtype))
        text = self.context_embedder(encoder_hidden_states.astype(self.dtype), timestep, mask)
        table = rope_table(
            grid.shape, config.head_dim, theta=config.rope_theta, axes=config.rope_axes_dim
        )
        rope = as_arrays(table)

        dual = config.num_layers
        streams, dual_states = run_blocks(
            self.transformer_blocks,
            (video, text),
            vector,
            rope,
            layers=attentions[:dual],
            remat=remat,
            name="dual_block",
        )
        joint, single_states = run_blocks(
            self.single_transformer_blocks,
            join(*streams),
            vector,
            rope,
            layers=attentions[dual:],
            remat=remat,
            name="single_block",
        )
        video = self.proj_out(self.norm_out(joint[:, : grid.num_video_tokens], vector))
        video = unpatchify(video, grid.shape, config.patch, channels_first=True)
        sample = video.transpose(0, 4, 1, 2, 3)
        return TransformerOutput(
            sample, () if attention is None else (*dual_states, *single_states)
        )

    def _check(self, batch, timestep, text, mask, pooled, guidance):
        config = self.config
        check_shape("encoder_hidden_states", text.shape, (batch, "tokens", config.text_embed_dim))
        check_shape("encoder_attention_mask", mask.shape, (batch, text.shape[1]))
        check_shape("pooled_projections", pooled.shape, (batch, config.pooled_projection_dim))
        check_scalars("timestep", timestep, batch)
        if config.guidance_embeds != (guidance is not None):
            remedy = (
                "pass 1000 times the guidance scale for each row (diffusers' default: 6000.0)"
                if config.guidance_embeds
                else "leave it out, and guide by running the model with and without the text"
            )
            raise ValueError(
                f"guidance is {'given' if guidance is not None else 'None'}, but config."
                f"guidance_embeds={config.guidance_embeds}; {remedy}"
            )
        if guidance is not None:
            check_scalars("guidance", guidance, batch)
