"""WanConfig, and the configurations of the published models by the names people use."""

import dataclasses

from sparsevdit_jax import VideoGrid

from ..combine import COMBINE
from ..config import Heads, require
from ..patches import check_shape, token_shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class WanConfig(Heads):
    """Fields and defaults of diffusers' `WanTransformer3DModel` (config.json).

    Attributes:
      patch_size: frames, rows, columns of latent pixels in a token.
      num_attention_heads: heads; the model is `num_attention_heads * attention_head_dim` wide.
      attention_head_dim: channels of a head, even.
      in_channels: channels of `hidden_states`; image-to-video models get noise, mask and first frame.
      out_channels: channels of the output; None is `in_channels`.
      text_dim: channels of the text encoder's states.
      freq_dim: channels of the sinusoid of the timestep, even.
      ffn_dim: inner width of the feed-forward part.
      num_layers: blocks.
      cross_attn_norm: whether cross-attention has a norm of its own before it.
      qk_norm: "rms_norm_across_heads" only; diffusers reads no other either.
      eps: of the norms in blocks and at the end.
      image_dim: channels of the image encoder's states; None: no image conditioning.
      added_kv_proj_dim: None, or the model's width where `image_dim` is given.
      rope_max_seq_len: most tokens along an axis.
      pos_embed_seq_len: image tokens of first and last frame together; None: there is one image.
      combine: what joins the branches of trained sparse attention, a name of `models.combine.COMBINE`; None: the
        model was trained dense. No entry of config.json: the names of the tensors say it.

    Raises:
      ValueError: a value that is not implemented, or fields that do not fit each other.
    """

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int | None = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    cross_attn_norm: bool = True
    qk_norm: str | None = "rms_norm_across_heads"
    eps: float = 1e-6
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    rope_max_seq_len: int = 1024
    pos_embed_seq_len: int | None = None
    combine: str | None = None

    def __post_init__(self):
        require(self, qk_norm=("rms_norm_across_heads",), combine=(None, *COMBINE))
        object.__setattr__(self, "patch_size", tuple(self.patch_size))  # JSON has lists only
        if len(self.patch_size) != 3:
            raise ValueError(f"patch_size={self.patch_size} must be (frames, rows, columns)")
        for name in ("attention_head_dim", "freq_dim"):
            if getattr(self, name) % 2:
                raise ValueError(f"{name}={getattr(self, name)} must be even: it is used in pairs")
        added = None if self.image_dim is None else self.dim
        if self.added_kv_proj_dim != added:
            raise ValueError(
                f"added_kv_proj_dim={self.added_kv_proj_dim} must be {added} where "
                f"image_dim={self.image_dim} and the model is {self.dim} wide: image states are "
                "projected to that width before cross-attention, or are absent"
            )

    def grid(self, shape: tuple[int, ...], text_len: int | None = None) -> VideoGrid:
        """See `Transformer.grid`: of latents [B, C, T, H, W]; the text is not in the sequence."""
        del text_len
        check_shape(
            "hidden_states", shape, ("batch", self.in_channels, "frames", "rows", "columns")
        )
        tokens = token_shape(shape[2:], self.patch_size)
        if max(tokens) > self.rope_max_seq_len:
            raise ValueError(
                f"video of {tuple(shape[2:])} pixels has {tokens} tokens along its axes; none may have more than "
                f"rope_max_seq_len={self.rope_max_seq_len}: make a smaller video"
            )
        return VideoGrid(*tokens)


_T2V_1_3B = WanConfig(num_attention_heads=12, ffn_dim=8960, num_layers=30)
_T2V_14B = WanConfig()
_I2V_14B = WanConfig(in_channels=36, image_dim=1280, added_kv_proj_dim=5120)

PRESETS: dict[str, WanConfig] = {
    "wan2.1-t2v-1.3b": _T2V_1_3B,
    "wan2.1-t2v-14b": _T2V_14B,
    # 480p and 720p are two checkpoints of one architecture.
    "wan2.1-i2v-14b-480p": _I2V_14B,
    "wan2.1-i2v-14b-720p": _I2V_14B,
    "wan2.1-flf2v-14b-720p": dataclasses.replace(_I2V_14B, pos_embed_seq_len=2 * 257),
    # A14B: this is each of the two, `transformer` (much noise) and `transformer_2` (little).
    "wan2.2-t2v-a14b": _T2V_14B,
    "wan2.2-i2v-a14b": dataclasses.replace(_T2V_14B, in_channels=36),
    "wan2.2-ti2v-5b": WanConfig(
        num_attention_heads=24, ffn_dim=14336, num_layers=30, in_channels=48, out_channels=48
    ),
}
"""Transformers of the published models, as diffusers' conversion script builds them."""
