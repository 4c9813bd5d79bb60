"""CogVideoXConfig: the sizes of a CogVideoX transformer, and those of the published ones."""

import dataclasses

from sparsevdit_jax import VideoGrid

from ..config import Heads, require, require_positive
from ..patches import check_shape, token_shape

_MOST_TEXT = 2**13
"""Text tokens: the text encoder's attention grows with their square."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CogVideoXConfig(Heads):
    """Fields and defaults of diffusers' CogVideoXTransformer3DModel (0.42.1); the defaults are CogVideoX-2b.

    Attributes:
      num_attention_heads, attention_head_dim: heads of an attention and channels of each.
      in_channels, out_channels: of the latents; image-to-video models take 16 more, the image's.
      flip_sin_to_cos, freq_shift: of the timestep's sinusoid; only cosines first and no shift.
      time_embed_dim: channels of the time embedding.
      ofs_embed_dim: channels of the embedding of `ofs` (1.5 image-to-video), None for none; it is added to the
        time embedding, so it must have its size.
      text_embed_dim: channels of the text encoder's states.
      num_layers: transformer blocks.
      dropout: 0.
      attention_bias: whether to_q, to_k and to_v have a bias.
      sample_width, sample_height: latent pixels of the latent grid trained on, of which positions are fractions.
      sample_frames: its frames before the VAE (49 are 13 latent frames).
      patch_size, patch_size_t: latent pixels and latent frames of a token; None is one frame (1.0).
      temporal_compression_ratio: frames of a latent frame.
      max_text_seq_length: text tokens that the pipeline pads to.
      activation_fn, timestep_activation_fn: "gelu-approximate" and "silu".
      norm_elementwise_affine, norm_eps: of the layer norms over all channels (those of q and k have 1e-6).
      spatial_interpolation_scale, temporal_interpolation_scale: divisors of sin-cos positions.
      use_rotary_positional_embeddings: positions rotate q and k; otherwise sines and cosines are added.
      use_learned_positional_embeddings: a learned table is added as well (1.0 image-to-video).
      patch_bias: whether the patch embedding has a bias; 1.5 has one whatever stands here, as in diffusers.

    Raises:
      ValueError: a value that is not implemented, or sizes that do not fit each other.
    """

    num_attention_heads: int = 30
    attention_head_dim: int = 64
    in_channels: int = 16
    out_channels: int = 16
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    time_embed_dim: int = 512
    ofs_embed_dim: int | None = None
    text_embed_dim: int = 4096
    num_layers: int = 30
    dropout: float = 0.0
    attention_bias: bool = True
    sample_width: int = 90
    sample_height: int = 60
    sample_frames: int = 49
    patch_size: int = 2
    patch_size_t: int | None = None
    temporal_compression_ratio: int = 4
    max_text_seq_length: int = 226
    activation_fn: str = "gelu-approximate"
    timestep_activation_fn: str = "silu"
    norm_elementwise_affine: bool = True
    norm_eps: float = 1e-5
    spatial_interpolation_scale: float = 1.875
    temporal_interpolation_scale: float = 1.0
    use_rotary_positional_embeddings: bool = False
    use_learned_positional_embeddings: bool = False
    patch_bias: bool = True

    def __post_init__(self):
        require(
            self,
            flip_sin_to_cos=(True,),
            freq_shift=(0,),
            dropout=(0.0,),
            activation_fn=("gelu-approximate",),
            timestep_activation_fn=("silu",),
            ofs_embed_dim=(None, self.time_embed_dim),
        )
        require_positive(self, "spatial_interpolation_scale", "temporal_interpolation_scale")
        for name in ("out_channels", "patch_size"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} must be an integer; see config.json"
                )
        if self.max_text_seq_length > _MOST_TEXT:
            raise ValueError(
                f"max_text_seq_length={self.max_text_seq_length} must be at most {_MOST_TEXT}: every prompt is padded "
                "to it; 226 is usual"
            )
        if not self.use_rotary_positional_embeddings:
            # diffusers refuses the first; with the second its table would not have the tokens' length.
            require(self, use_learned_positional_embeddings=(False,), patch_size_t=(None,))
        if self.use_learned_positional_embeddings:
            require(self, patch_size_t=(None,))
        if self.use_rotary_positional_embeddings and self.head_dim % 16:
            raise ValueError(
                f"attention_head_dim={self.head_dim} must be a multiple of 16: rotary positions take 2, 3 "
                "and 3 eighths of it, in pairs"
            )
        if self.adds_positions and self.dim % 16:
            raise ValueError(
                f"num_attention_heads * attention_head_dim = {self.dim} must be a multiple of 16: "
                "sin-cos positions take 2, 3 and 3 eighths of it, in pairs"
            )

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent (frames, height, width) of a token."""
        return self.patch_size_t or 1, self.patch_size, self.patch_size

    def token_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Video tokens (frames, height, width) of latents; ValueError where they do not divide into patches.

        diffusers pads such latents with frames in front, and drops the first ones of the result.
        """
        return token_shape((frames, height, width), self.patch)

    def grid(self, shape: tuple[int, ...], text_len: int | None = None) -> VideoGrid:
        """See `Transformer.grid`: of latents [B, T, C, H, W], text first, `max_text_seq_length` of it by default."""
        check_shape(
            "hidden_states", shape, ("batch", "frames", self.in_channels, "rows", "columns")
        )
        frames, _, height, width = shape[1:]
        text_len = self.max_text_seq_length if text_len is None else text_len
        return VideoGrid(
            *self.token_shape(frames, height, width), text_len=text_len, text_first=True
        )

    @property
    def adds_positions(self) -> bool:
        """Whether a table of positions is added to the tokens."""
        return self.use_learned_positional_embeddings or not self.use_rotary_positional_embeddings

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Video tokens (frames, height, width) of the latent grid trained on, for models whose tokens are one frame."""
        frames = (self.sample_frames - 1) // self.temporal_compression_ratio + 1
        return frames, self.sample_height // self.patch_size, self.sample_width // self.patch_size


_5B = CogVideoXConfig(num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True)
_15_5B = dataclasses.replace(
    _5B, patch_size_t=2, patch_bias=False, sample_width=300, sample_height=300, sample_frames=81
)

PRESETS: dict[str, CogVideoXConfig] = {
    "cogvideox-2b": CogVideoXConfig(),
    "cogvideox-5b": _5B,
    "cogvideox-5b-i2v": dataclasses.replace(
        _5B, in_channels=32, use_learned_positional_embeddings=True
    ),
    "cogvideox1.5-5b": _15_5B,
    "cogvideox1.5-5b-i2v": dataclasses.replace(_15_5B, in_channels=32, ofs_embed_dim=512),
}
