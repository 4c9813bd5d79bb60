"""Names of CogVideoX's tensors in a diffusers checkpoint, where they differ from ours, and in the original."""

from ..keys import KeyTable, Rows

KEYS = KeyTable(
    {
        "transformer_blocks.*.attn1.to_out": "transformer_blocks.*.attn1.to_out.0",
        "transformer_blocks.*.ff.linear_1": "transformer_blocks.*.ff.net.0.proj",
        "transformer_blocks.*.ff.linear_2": "transformer_blocks.*.ff.net.2",
    }
)

_BLOCK = "transformer_blocks.*"
ORIGINAL: dict[str, str | Rows] = {
    "layers.*.attention.query_key_value": Rows(
        tuple(f"{_BLOCK}.attn1.to_{part}" for part in "qkv")
    ),
    "layers.*.attention.dense": f"{_BLOCK}.attn1.to_out.0",
    "layers.*.mlp.dense_h_to_4h": f"{_BLOCK}.ff.net.0.proj",
    "layers.*.mlp.dense_4h_to_h": f"{_BLOCK}.ff.net.2",
    "layers.*.input_layernorm": f"{_BLOCK}.norm1.norm",
    "layers.*.post_attention_layernorm": f"{_BLOCK}.norm2.norm",
    "mixins.adaln_layer.query_layernorm_list.*": f"{_BLOCK}.attn1.norm_q",
    "mixins.adaln_layer.key_layernorm_list.*": f"{_BLOCK}.attn1.norm_k",
    # shift, scale and gate of the video's attention and its MLP, then the text's
    "mixins.adaln_layer.adaLN_modulations.*.1": Rows(
        (f"{_BLOCK}.norm1.linear", f"{_BLOCK}.norm2.linear"),
        order=(0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11),
    ),
    "mixins.patch_embed.proj": "patch_embed.proj",
    "mixins.patch_embed.text_proj": "patch_embed.text_proj",
    "mixins.pos_embed.pos_embedding": "patch_embed.pos_embedding",
    "mixins.final_layer.norm_final": "norm_out.norm",
    "mixins.final_layer.adaLN_modulation.1": "norm_out.linear",
    "mixins.final_layer.linear": "proj_out",
    "final_layernorm": "norm_final",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "ofs_embed.0": "ofs_embedding.linear_1",
    "ofs_embed.2": "ofs_embedding.linear_2",
}
"""Modules of the original (zai-org/CogVideo, whose names begin with "model.diffusion_model.", the layers' with
"transformer." then) and of diffusers' checkpoints, "*" for the block's index."""
