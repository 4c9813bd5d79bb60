"""Names of HunyuanVideo's tensors in a diffusers checkpoint."""

from ..keys import KeyTable

# diffusers keeps an output projection and its dropout, and a feed-forward layer's steps, in lists.
KEYS = KeyTable(
    {
        f"{block}.{ours}": f"{block}.{theirs}"
        for block in (
            "context_embedder.token_refiner.refiner_blocks.*",
            "transformer_blocks.*",
            "single_transformer_blocks.*",
        )
        for ours, theirs in {
            "attn.to_out": "attn.to_out.0",
            "ff.linear_1": "ff.net.0.proj",
            "ff.linear_2": "ff.net.2",
            "ff_context.linear_1": "ff_context.net.0.proj",
            "ff_context.linear_2": "ff_context.net.2",
        }.items()
    }
)
