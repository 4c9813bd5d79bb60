"""Where names in AutoencoderKLWan's checkpoints differ from ours: a Sequential's index before a convolution."""

from ..keys import KeyTable

KEYS = KeyTable(
    {
        "encoder.down_blocks.*.resample": "encoder.down_blocks.*.resample.1",
        "encoder.down_blocks.*.downsampler.resample": "encoder.down_blocks.*.downsampler.resample.1",
        "decoder.up_blocks.*.upsamplers.*.resample": "decoder.up_blocks.*.upsamplers.*.resample.1",
        "decoder.up_blocks.*.upsampler.resample": "decoder.up_blocks.*.upsampler.resample.1",
    }
)
