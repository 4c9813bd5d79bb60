"""Names of HunyuanVideo's tensors in a diffusers checkpoint, and in the original."""

from ..keys import KeyTable, Rows

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


def _mlp(theirs: str, converted: str) -> dict[str, str]:
    """Two layers, which were called mlp.0 and mlp.2 first and in_layer and out_layer by others."""
    return {
        f"{theirs}.mlp.0": f"{converted}.linear_1",
        f"{theirs}.mlp.2": f"{converted}.linear_2",
        f"{theirs}.in_layer": f"{converted}.linear_1",
        f"{theirs}.out_layer": f"{converted}.linear_2",
    }


def _stream(name: str, qkv: tuple[str, str, str], out: str, norms: tuple[str, str], suffix: str):
    """One stream's modules in a dual-stream block."""
    converted = {
        "attn_qkv": Rows(tuple(f"transformer_blocks.*.attn.{part}" for part in qkv)),
        "attn_proj": f"attn.{out}",
        "attn_q_norm": f"attn.{norms[0]}",
        "attn_k_norm": f"attn.{norms[1]}",
        "mod.linear": f"norm1{suffix}.linear",
        "mlp.fc1": f"ff{suffix}.net.0.proj",
        "mlp.fc2": f"ff{suffix}.net.2",
    }
    others = {
        "attn.qkv": "attn_qkv",
        "attn.proj": "attn_proj",
        "attn.norm.query_norm": "attn_q_norm",
        "attn.norm.key_norm": "attn_k_norm",
        "mod.lin": "mod.linear",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
    }
    converted |= {other: converted[first] for other, first in others.items()}
    return {
        f"double_blocks.*.{name}_{theirs}": rows
        if isinstance(rows, Rows)
        else f"transformer_blocks.*.{rows}"
        for theirs, rows in converted.items()
    }


_REFINER = "context_embedder.token_refiner.refiner_blocks.*"

ORIGINAL: dict[str, str | Rows] = {
    "img_in.proj": "x_embedder.proj",
    **_mlp("time_in", "time_text_embed.timestep_embedder"),
    **_mlp("guidance_in", "time_text_embed.guidance_embedder"),
    **_mlp("vector_in", "time_text_embed.text_embedder"),
    "txt_in.input_embedder": "context_embedder.proj_in",
    **_mlp("txt_in.t_embedder", "context_embedder.time_text_embed.timestep_embedder"),
    **_mlp("txt_in.c_embedder", "context_embedder.time_text_embed.text_embedder"),
    "txt_in.c_embedder.linear_1": "context_embedder.time_text_embed.text_embedder.linear_1",
    "txt_in.c_embedder.linear_2": "context_embedder.time_text_embed.text_embedder.linear_2",
    **{
        f"txt_in.individual_token_refiner.blocks.*.{theirs}": rows
        for theirs, rows in {
            **dict.fromkeys(
                ("self_attn_qkv", "self_attn.qkv"),
                Rows(tuple(f"{_REFINER}.attn.to_{part}" for part in "qkv")),
            ),
            **dict.fromkeys(("self_attn_proj", "self_attn.proj"), f"{_REFINER}.attn.to_out.0"),
            **dict.fromkeys(("mlp.fc1", "mlp.0"), f"{_REFINER}.ff.net.0.proj"),
            **dict.fromkeys(("mlp.fc2", "mlp.2"), f"{_REFINER}.ff.net.2"),
            "norm1": f"{_REFINER}.norm1",
            "norm2": f"{_REFINER}.norm2",
            "adaLN_modulation.1": f"{_REFINER}.norm_out.linear",
        }.items()
    },
    **_stream("img", ("to_q", "to_k", "to_v"), "to_out.0", ("norm_q", "norm_k"), ""),
    **_stream(
        "txt",
        ("add_q_proj", "add_k_proj", "add_v_proj"),
        "to_add_out",
        ("norm_added_q", "norm_added_k"),
        "_context",
    ),
    **{
        f"single_blocks.*.{theirs}": rows
        for theirs, rows in {
            "linear1": Rows(
                tuple(
                    f"single_transformer_blocks.*.{part}"
                    for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
                )
            ),
            "linear2": "single_transformer_blocks.*.proj_out",
            "modulation.linear": "single_transformer_blocks.*.norm.linear",
            "modulation.lin": "single_transformer_blocks.*.norm.linear",
            "q_norm": "single_transformer_blocks.*.attn.norm_q",
            "k_norm": "single_transformer_blocks.*.attn.norm_k",
            "norm.query_norm": "single_transformer_blocks.*.attn.norm_q",
            "norm.key_norm": "single_transformer_blocks.*.attn.norm_k",
        }.items()
    },
    "final_layer.linear": "proj_out",
    # shift, scale in the original; scale, shift in diffusers
    "final_layer.adaLN_modulation.1": Rows(("norm_out.linear",), order=(1, 0)),
}
"""Modules of the original (Tencent/HunyuanVideo, and ComfyUI's other spelling) and of diffusers' checkpoints, "*" for
the block's index."""
