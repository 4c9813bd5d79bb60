"""Names of a Wan transformer's tensors in diffusers' checkpoints, where they differ from ours."""

from ..keys import KeyTable

KEYS = KeyTable(
    {
        "patch_embedding.proj": "patch_embedding",
        "blocks.*.attn1.to_out": "blocks.*.attn1.to_out.0",
        "blocks.*.attn1.combine": "blocks.*",  # FastWan: to_gate_compress stands beside attn1
        "blocks.*.attn1.combine.proj_l": "blocks.*.attn1.attn_impl.proj_l",  # FastVideo's name
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

ORIGINAL = {
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    **{
        f"blocks.*.{theirs}": f"blocks.*.{converted}"
        for theirs, converted in {
            "modulation": "scale_shift_table",
            "norm3": "norm2",  # the original counts the norms in another order
            "ffn.0": "ffn.net.0.proj",
            "ffn.2": "ffn.net.2",
            "self_attn.attn_op.local_attn.proj_l": "attn1.attn_impl.proj_l",  # TurboWan
            "cross_attn.k_img": "attn2.add_k_proj",
            "cross_attn.v_img": "attn2.add_v_proj",
            "cross_attn.norm_k_img": "attn2.norm_added_k",
        }.items()
    },
    **{
        f"blocks.*.{theirs}_attn.{part}": f"blocks.*.{converted}.{converted_part}"
        for theirs, converted in {"self": "attn1", "cross": "attn2"}.items()
        for part, converted_part in {
            "q": "to_q",
            "k": "to_k",
            "v": "to_v",
            "o": "to_out.0",
            "norm_q": "norm_q",
            "norm_k": "norm_k",
        }.items()
    },
}
"""Modules and tables of the original (Wan-Video/Wan2.1) and of diffusers' checkpoints, "*" for the block's index.
No rows move: shift stands before scale in both, and RoPE turns the same pairs."""

IMAGE_BRANCH = (
    *(
        f"blocks.*.attn2.{name}"
        for name in ("add_k_proj", "add_v_proj", "norm_added_k", "norm_added_q")
    ),
    *(
        f"condition_embedder.image_embedder.{name}"
        for name in ("norm1", "ff.net.0.proj", "ff.net.2", "norm2", "pos_embed")
    ),
)
"""What only image-to-video models have, in diffusers' names."""
