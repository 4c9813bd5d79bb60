"""Where the names of CogVideoXTransformer's parameters differ from diffusers'."""

from ..keys import KeyTable

KEYS = KeyTable(
    {
        "transformer_blocks.*.attn1.to_out": "transformer_blocks.*.attn1.to_out.0",
        "transformer_blocks.*.ff.linear_1": "transformer_blocks.*.ff.net.0.proj",
        "transformer_blocks.*.ff.linear_2": "transformer_blocks.*.ff.net.2",
    }
)
