"""Configuration of HunyuanVideo's autoencoder."""

import dataclasses

from ..config import require, require_positive
from ..tiling import Tile

_DOWN, _UP = "HunyuanVideoDownBlock3D", "HunyuanVideoUpBlock3D"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HunyuanVideoVAEConfig:
    """Fields and defaults of diffusers' `AutoencoderKLHunyuanVideo`; the defaults are HunyuanVideo's own.

    Attributes:
      in_channels: of the video that is encoded.
      out_channels: of the video that is decoded.
      latent_channels: of a latent.
      down_block_types: one name per level of the encoder; there is one kind.
      up_block_types: one name per level of the decoder; there is one kind.
      block_out_channels: channels of each level, from full resolution down.
      layers_per_block: residual blocks in a level of the encoder; the decoder has one more.
      act_fn: "silu", or "swish", another name for it.
      norm_num_groups: groups of every group norm.
      scaling_factor: latents times this have a standard deviation near 1.
      spatial_compression_ratio: pixels per latent, in height and in width; a power of two.
      temporal_compression_ratio: frames per latent, after the first, which has one of its own; 4.
      mid_block_add_attention: attention in the middle of encoder and decoder.

    Raises:
      ValueError: a value that is not implemented, or values that do not fit each other.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 16
    down_block_types: tuple[str, ...] = (_DOWN,) * 4
    up_block_types: tuple[str, ...] = (_UP,) * 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    act_fn: str = "silu"
    norm_num_groups: int = 32
    scaling_factor: float = 0.476986
    spatial_compression_ratio: int = 8
    temporal_compression_ratio: int = 4
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        require(
            self,
            down_block_types=((_DOWN,) * levels,),
            up_block_types=((_UP,) * levels,),
            act_fn=("silu", "swish"),
            # The original's decoder knows no other; its encoder also has 8.
            temporal_compression_ratio=(4,),
            spatial_compression_ratio=tuple(2**n for n in range(levels + 1)),
        )
        require_positive(self, "scaling_factor")
        if levels < 3:
            raise ValueError(
                f"block_out_channels={self.block_out_channels} has {levels} levels; "
                "temporal_compression_ratio=4 halves the frames in two levels before the last, so "
                "give at least 3"
            )
        uneven = [n for n in self.block_out_channels if n % self.norm_num_groups]
        if uneven:
            raise ValueError(
                f"norm_num_groups={self.norm_num_groups} must divide every entry of "
                f"block_out_channels={self.block_out_channels}; change one or the other"
            )

    @property
    def video_channels(self) -> int:
        """Channels of the video that is encoded."""
        return self.in_channels

    @property
    def compression(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels that a latent covers; the first one covers one frame."""
        return self.temporal_compression_ratio, *(self.spatial_compression_ratio,) * 2

    @property
    def default_tile(self) -> Tile:
        """What diffusers' `enable_tiling()` takes: 16 frames every 12, 256 x 256 pixels every 192."""
        return Tile(frames=16, stride_frames=12)

    @property
    def scale_factors(self) -> tuple[tuple[int, int, int], ...]:
        """(frames, height, width) by which each level shrinks in the encoder, and grows in the decoder."""
        levels = len(self.block_out_channels)
        spatial_levels = self.spatial_compression_ratio.bit_length() - 1
        return tuple(
            (
                2 if levels - 3 <= level < levels - 1 else 1,
                *(2 if level < spatial_levels else 1,) * 2,
            )
            for level in range(levels)
        )


PRESETS: dict[str, HunyuanVideoVAEConfig] = {"hunyuanvideo-vae": HunyuanVideoVAEConfig()}
