"""Names of the VAE's tensors in diffusers' checkpoints."""

from ..keys import KeyTable

# The latent's pointwise convolutions are causal ones with a kernel of one frame in the original.
_NORMS = (
    "mid_block.resnets.*.norm1",
    "mid_block.resnets.*.norm2",
    "up_blocks.*.resnets.*.norm1",
    "up_blocks.*.resnets.*.norm2",
    "norm_out",
)
KEYS = KeyTable(
    {
        f"decoder.{norm}.{name}": f"decoder.{norm}.{name}.conv"
        for norm in _NORMS
        for name in ("conv_y", "conv_b")
    }
)
