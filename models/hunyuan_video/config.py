"""HunyuanVideoConfig: the fields of a HunyuanVideo transformer's config.json, and named presets."""

import dataclasses
from typing import ClassVar

from sparsevdit_jax import VideoGrid

from ..config import Heads, require, require_positive
from ..patches import check_shape, token_shape

TEXT_TOKENS = 256
"""Of a prompt in diffusers' pipeline, padding included."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HunyuanVideoConfig(Heads):
    """Sizes of a `HunyuanVideoTransformer`; names and defaults are those of diffusers.

    Attributes:
      in_channels: of a latent; with "latent_concat" the image's latent and mask are counted too.
      out_channels: of the prediction; 0 or None means `in_channels`.
      num_attention_heads, attention_head_dim: their product is the model's width.
      num_layers: dual-stream blocks, whose video and text tokens have weights of their own.
      num_single_layers: single-stream blocks, which come after them.
      num_refiner_layers: blocks that the text goes through before it meets the video.
      mlp_ratio: width of both kinds of blocks' feed-forward layers, in model widths.
      patch_size, patch_size_t: latent rows and columns, and latent frames, of one token.
      qk_norm: only "rms_norm", over each head's channels.
      guidance_embeds: the model was distilled to take a guidance scale as an input.
      text_embed_dim, pooled_projection_dim: channels of the text's tokens, and of its one vector.
      rope_theta, rope_axes_dim: base of RoPE, and channels of a head that rotate with (frame, row,
        column).
      image_condition_type: None or "latent_concat", for which the model is the same and the caller
        appends channels; "token_replace" is not implemented.
    """

    MAY_BE_ZERO: ClassVar = (
        "out_channels",
        "num_layers",
        "num_single_layers",
        "num_refiner_layers",
    )

    in_channels: int = 16
    out_channels: int | None = 16
    num_attention_heads: int = 24
    attention_head_dim: int = 128
    num_layers: int = 20
    num_single_layers: int = 40
    num_refiner_layers: int = 2
    mlp_ratio: float = 4.0
    patch_size: int = 2
    patch_size_t: int = 1
    qk_norm: str = "rms_norm"
    guidance_embeds: bool = True
    text_embed_dim: int = 4096
    pooled_projection_dim: int = 768
    rope_theta: float = 256.0
    rope_axes_dim: tuple[int, int, int] = (16, 56, 56)
    image_condition_type: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "rope_axes_dim", tuple(self.rope_axes_dim))
        require(self, qk_norm=("rms_norm",), image_condition_type=(None, "latent_concat"))
        require_positive(self, "mlp_ratio", "rope_theta")
        axes = self.rope_axes_dim
        if len(axes) != 3 or sum(axes) != self.attention_head_dim or any(n % 2 for n in axes):
            raise ValueError(
                f"rope_axes_dim={axes} must be three even numbers whose sum is "
                f"attention_head_dim={self.attention_head_dim}; change one of them"
            )

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of one token."""
        return self.patch_size_t, self.patch_size, self.patch_size

    def grid(self, shape: tuple[int, ...], text_len: int | None = None) -> VideoGrid:
        """See `Transformer.grid`: of latents [B, C, T, H, W], text last, `TEXT_TOKENS` of it by default."""
        check_shape(
            "hidden_states", shape, ("batch", self.in_channels, "frames", "rows", "columns")
        )
        text_len = TEXT_TOKENS if text_len is None else text_len
        return VideoGrid(*token_shape(shape[2:], self.patch), text_len=text_len)


PRESETS = {
    # 12.8 B parameters, guidance-distilled: diffusers' defaults, with which its conversion of
    # Tencent's checkpoint builds the class.
    "hunyuanvideo": HunyuanVideoConfig(),
}
