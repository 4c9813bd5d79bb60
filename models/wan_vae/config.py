"""WanVAEConfig: the fields of AutoencoderKLWan's config.json, and the published models."""

import dataclasses

from .. import config as configs
from ..tiling import Tile

# Statistics of the latents of each model over its training clips, channel by channel.
_MEAN_21 = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_STD_21 = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
_MEAN_22 = (
    *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557),
    *(-0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825),
    *(-0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
    *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230),
    *(-0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748),
    *(0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
)
_STD_22 = (
    *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013),
    *(0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978),
    *(0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
    *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093),
    *(0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887),
    *(0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WanVAEConfig:
    """Fields and defaults of diffusers' AutoencoderKLWan (the defaults are Wan 2.1's).

    `temperal_downsample` is spelled as in config.json. Left out: attention inside the encoder's levels
    (`attn_scales`, which diffusers itself cannot run frame by frame) and dropout.

    Raises:
      ValueError: a field has a value that is not implemented, or two of them contradict each other.
    """

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    dropout: float = 0.0
    latents_mean: tuple[float, ...] = _MEAN_21
    latents_std: tuple[float, ...] = _STD_21
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None
    scale_factor_temporal: int | None = 4
    scale_factor_spatial: int | None = 8

    def __post_init__(self):
        configs.require(self, attn_scales=((),), dropout=(0.0,))
        configs.require_positive(self, "latents_std")
        levels = len(self.dim_mult)
        if len(self.temperal_downsample) != levels - 1:
            raise ValueError(
                f"{self.temperal_downsample=} must have one entry less than {self.dim_mult=}: one for "
                "each halving between two levels"
            )
        for name, value, actual in (
            ("scale_factor_temporal", self.scale_factor_temporal, self.compression[0]),
            ("scale_factor_spatial", self.scale_factor_spatial, self.compression[1]),
        ):
            if value != actual:
                raise ValueError(
                    f"{name}={value}, but {self.dim_mult=}, {self.temperal_downsample=} and "
                    f"{self.patch_size=} make it {actual}; change one of them"
                )
        for name in ("in_channels", "out_channels"):
            if (value := getattr(self, name)) % self.patch**2:
                raise ValueError(
                    f"{name}={value} must be a multiple of patch_size**2 = {self.patch**2}: patches "
                    "of the picture are folded into channels"
                )
        for name in ("latents_mean", "latents_std"):
            if len(value := getattr(self, name)) != self.z_dim:
                raise ValueError(
                    f"{name} has {len(value)} entries and must have {self.z_dim=}, one a channel"
                )

    @property
    def patch(self) -> int:
        """Side of the pixel patches that the network sees as channels, 1 if none."""
        return self.patch_size or 1

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.z_dim

    @property
    def video_channels(self) -> int:
        """Channels of the video that is encoded."""
        return self.in_channels // self.patch**2

    @property
    def compression(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels that a latent covers; the first one covers one frame."""
        side = 2 ** (len(self.dim_mult) - 1) * self.patch
        return 2 ** sum(self.temperal_downsample), side, side

    @property
    def default_tile(self) -> Tile:
        """What diffusers' `enable_tiling()` takes: 256 x 256 pixels every 192."""
        return Tile()

    @property
    def decoder_dim(self) -> int:
        """Channels of the decoder's finest level."""
        return self.decoder_base_dim or self.base_dim


PRESETS = {
    "wan2.1-vae": WanVAEConfig(),  # also of Wan 2.2's 14B models
    "wan2.2-vae": WanVAEConfig(  # of Wan 2.2's TI2V-5B
        base_dim=160,
        decoder_base_dim=256,
        z_dim=48,
        latents_mean=_MEAN_22,
        latents_std=_STD_22,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    ),
}
