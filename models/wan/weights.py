"""Names of a Wan transformer's tensors in diffusers' checkpoints, where they differ from ours."""

from ..keys import KeyTable

KEYS = KeyTable(
    {
        "patch_embedding.proj": "patch_embedding",
        "blocks.*.attn1.to_out": "blocks.*.attn1.to_out.0",
        "blocks.*.attn2.to_out": "blocks.*.attn2.to_out.0",
        "blocks.*.ffn.linear_1": "blocks.*.ffn.net.0.proj",
        "blocks.*.ffn.linear_2": "blocks.*.ffn.net.2",
        "condition_embedder.image_embedder.ff.linear_1": "condition_embedder.image_embedder.ff.net.0.proj",
        "condition_embedder.image_embedder.ff.linear_2": "condition_embedder.image_embedder.ff.net.2",
    }
)

IGNORED = tuple(f"blocks.{i}.attn2.norm_added_q.weight" for i in range(40))
"""Tensors that I2V checkpoints may hold and nobody reads: diffusers passes over `norm_added_q` too. Published
models have at most 40 blocks."""
