"""Configuration of CogVideoX's VAE, and the three that were published."""

import dataclasses

from ..config import require, require_positive
from ..tiling import Tile


@dataclasses.dataclass(frozen=True, kw_only=True)
class CogVideoXVAEConfig:
    """The config.json of diffusers' AutoencoderKLCogVideoX; what is not implemented is refused.

    Raises:
      ValueError: a field has a value that is not implemented (diffusers' own quant convolutions cannot run:
        they are made for twice `out_channels`, not twice `latent_channels`), or sizes do not fit together.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("CogVideoXDownBlock3D",) * 4
    up_block_types: tuple[str, ...] = ("CogVideoXUpBlock3D",) * 4
    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    latent_channels: int = 16
    layers_per_block: int = 3
    act_fn: str = "silu"
    norm_eps: float = 1e-6
    norm_num_groups: int = 32
    temporal_compression_ratio: float = 4
    sample_height: int = 480
    sample_width: int = 720
    scaling_factor: float = 1.15258426
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True  # read by nobody, in diffusers neither
    use_quant_conv: bool = False
    use_post_quant_conv: bool = False
    invert_scale_latents: bool = False

    def __post_init__(self):
        blocks = len(self.block_out_channels)
        if blocks < 3:
            raise ValueError(
                f"block_out_channels={self.block_out_channels} has {blocks} entries; it needs 3 or more, "
                "for time is halved between the first three"
            )
        require(
            self,
            down_block_types=(("CogVideoXDownBlock3D",) * blocks,),
            up_block_types=(("CogVideoXUpBlock3D",) * blocks,),
            act_fn=("silu", "swish"),
            temporal_compression_ratio=(4,),
            shift_factor=(None,),
            latents_mean=(None,),
            latents_std=(None,),
            use_quant_conv=(False,),
            use_post_quant_conv=(False,),
        )
        require_positive(self, "scaling_factor")
        wrong = [c for c in self.block_out_channels if c % self.norm_num_groups]
        if wrong:
            raise ValueError(
                f"block_out_channels has {wrong}, not multiples of {self.norm_num_groups=}; "
                "change one of them"
            )

    @property
    def video_channels(self) -> int:
        """Channels of the video that is encoded."""
        return self.in_channels

    @property
    def compression(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels that a latent covers; the first one may cover one frame."""
        side = 2 ** (len(self.block_out_channels) - 1)
        return int(self.temporal_compression_ratio), side, side

    @property
    def default_tile(self) -> Tile:
        """What diffusers' `enable_tiling()` takes: half of the sample size, overlapping by 1/6 and 1/5."""
        return Tile.overlapping(self.sample_height // 2, self.sample_width // 2, 1 / 6, 1 / 5)


PRESETS = {
    "cogvideox-vae": CogVideoXVAEConfig(),  # CogVideoX-2b
    "cogvideox-5b-vae": CogVideoXVAEConfig(scaling_factor=0.7),
    # Version 1.5 was trained on images whose latents were divided by the factor, not multiplied.
    "cogvideox1.5-5b-vae": CogVideoXVAEConfig(scaling_factor=0.7, invert_scale_latents=True),
}
