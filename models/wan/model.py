"""WanTransformer: Wan 2.1 and 2.2, text-to-video and image-to-video.

Reference: diffusers 0.42.1, `WanTransformer3DModel`; the paper is arXiv 2503.20314. Self-attention runs over the
video alone, so it takes any pattern with a `VideoGrid` without text; the prompt (and an image) enter by
cross-attention, which is dense.

With `dtype=jnp.bfloat16` the following stay float32, as diffusers keeps them: the time embedder, the modulation
tables and the sums with them, all layer norms, RoPE, and softmax. Differs: a video that does not divide into
patches is refused, where diffusers drops the rest; so are prompts of another length than 512 beside an image,
which diffusers would mix with the image.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sparsevdit_jax import SparseAttention, StepContext

from .. import layers
from ..combine import check_branches
from ..config import config_to_json
from ..layers import modulate
from ..patches import check_shape, unpatchify
from ..rope import as_arrays, rope_table
from ..stack import layer_attentions, run_blocks
from ..transformer import Transformer, TransformerOutput
from .blocks import Block, modulation_parts, modulation_table
from .conditioning import ConditionEmbedder
from .config import WanConfig
from .weights import IGNORED, IMAGE_BRANCH, KEYS, ORIGINAL

ROPE_THETA = 10_000.0
_TEXT_TOKENS = 512  # diffusers takes the last 512 tokens for text wherever there is an image


class WanTransformer(Transformer):
    """Predicts the velocity of a noisy latent video from it, the timestep and the prompt.

    Args:
      config: sizes.
      dtype: of weights and compute; see above for what stays float32.
    """

    CLASS_NAME = "WanTransformer3DModel"
    KEYS = KEYS
    IGNORED = IGNORED
    ORIGINAL = ORIGINAL
    IMAGE_BRANCH = IMAGE_BRANCH
    READS_ORIGINAL = True
    config_class = WanConfig

    @staticmethod
    def write_config(config: WanConfig) -> dict[str, Any]:
        """Contents of a config.json, as diffusers has it: `combine` stands in the tensors' names."""
        document = config_to_json(config, WanTransformer.CLASS_NAME)
        del document["combine"]
        return document

    def __init__(self, config: WanConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, jnp.dtype(dtype)
        dtype, dim = self.dtype, config.dim
        self.patch_embedding = layers.PatchEmbed(
            config.in_channels, dim, config.patch_size, dtype=dtype, rngs=rngs
        )
        self.condition_embedder = ConditionEmbedder(config, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(
            [Block(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm_out = layers.LayerNorm(dim, eps=config.eps, affine=False)
        channels = (config.out_channels or config.in_channels) * math.prod(config.patch_size)
        self.proj_out = layers.Linear(dim, channels, dtype=dtype, rngs=rngs)
        self.scale_shift_table = modulation_table(2, dim, rngs)

    def __call__(
        self,
        hidden_states: jax.Array,
        timestep: jax.Array,
        encoder_hidden_states: jax.Array,
        encoder_hidden_states_image: jax.Array | None = None,
        *,
        attention: SparseAttention | None = None,
        states: tuple[Any, ...] = (),
        ctx: StepContext | None = None,
        remat: bool = False,
    ) -> TransformerOutput:
        """Velocity of noisy latents.

        Args:
          hidden_states: latents [B, C, T, H, W]; image-to-video models have the condition's channels in C.
          timestep: [B], 0 to 1000, integer or floating; or [B, tokens], one for each token in raster order (Wan
            2.2 TI2V).
          encoder_hidden_states: UMT5's states of the prompt [B, N, text_dim]. There is no mask: diffusers'
            pipelines pad with zeros to 512 tokens and so attend the padding, as the models were trained. Fewer
            tokens are taken as they are; beside an image there must be 512.
          encoder_hidden_states_image: the image encoder's states [B, M, image_dim], for models with
            `config.image_dim`; with `config.pos_embed_seq_len` first and last frame, [2 B, M, image_dim].
          attention: a pattern for each of `num_attention_layers` layers, with `states` from its `init` and the
            step's `ctx`; None is dense attention.
          remat: recompute each block in the backward pass.

        Returns:
          The velocity [B, out_channels, T, H, W] in the model's dtype, and the layers' new states.

        Raises:
          ValueError: inputs that do not fit the configuration or each other, or `attention` for another grid or
            number of layers.
        """
        config, batch = self.config, hidden_states.shape[0]
        grid = self.grid(hidden_states.shape)
        check_branches(config.combine, attention)
        self._check(grid, batch, timestep, encoder_hidden_states, encoder_hidden_states_image)
        attentions = layer_attentions(
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
        rope = as_arrays(rope_table(grid.shape, config.head_dim, theta=ROPE_THETA))
        x, states = run_blocks(
            self.blocks,
            self.patch_embedding(hidden_states),
            time_proj.reshape(batch, -1, 6, config.dim),
            text,
            image,
            rope,
            layers=attentions,
            remat=remat,
        )
        shift, scale = modulation_parts(
            self.scale_shift_table, time.reshape(batch, -1, 1, config.dim)
        )
        x = modulate(self.norm_out(x.astype(jnp.float32)), shift, scale)
        video = unpatchify(self.proj_out(x.astype(self.dtype)), grid.shape, config.patch_size)
        sample = video.transpose(0, 4, 1, 2, 3)
        return TransformerOutput(sample, () if attention is None else states)

    def _check(self, grid, batch, timestep, text, image):
        config = self.config
        check_shape("timestep", timestep.shape, (batch,), (batch, grid.num_tokens))
        check_shape("encoder_hidden_states", text.shape, (batch, "tokens", config.text_dim))
        if (image is None) != (config.image_dim is None):
            raise ValueError(
                f"image_dim={config.image_dim}, but encoder_hidden_states_image is "
                f"{'absent' if image is None else 'given'}; a model takes an image if and only if it has "
                "image_dim"
            )
        if image is None or config.image_dim is None:
            return
        images, tokens = batch, "tokens"
        if config.pos_embed_seq_len is not None:  # first and last frame
            images, tokens = 2 * batch, config.pos_embed_seq_len // 2
        check_shape("encoder_hidden_states_image", image.shape, (images, tokens, config.image_dim))
        if text.shape[1] != _TEXT_TOKENS:
            raise ValueError(
                f"encoder_hidden_states has {text.shape[1]} tokens; beside an image it must have "
                f"{_TEXT_TOKENS}: pad it with zeros, as diffusers' pipelines do"
            )
