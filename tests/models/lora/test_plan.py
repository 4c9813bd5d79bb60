"""Which rows of which tensor a file's tensors add to: fused, permuted and full differences."""

import numpy as np
import pytest

from .cases import case, close, product, same, write

DUAL, SINGLE = "transformer_blocks.0", "single_transformer_blocks.0"


def test_hunyuans_last_modulation_swaps_shift_and_scale(tmp_path):
    model = case("hunyuan")
    rng = np.random.default_rng(0)
    up, down = model.pair("norm_out.linear")
    weight = rng.standard_normal(model.shapes["norm_out.linear.weight"], np.float32)
    bias = rng.standard_normal(model.shapes["norm_out.linear.bias"], np.float32)
    stem = "diffusion_model.final_layer.adaLN_modulation.1"
    tensors = {
        f"{stem}.lora_up.weight": up,
        f"{stem}.lora_down.weight": down,
        f"{stem}.diff": weight,
        f"{stem}.diff_b": bias,
    }

    def swapped(x):
        shift, scale = np.split(x, 2)
        return np.concatenate([scale, shift])

    want = model.want(
        {
            "norm_out.linear.weight": swapped(product(up, down) + weight),
            "norm_out.linear.bias": swapped(bias),
        }
    )
    close(model.merged([(write(tmp_path, tensors), 1.0)]), want)


def test_cogvideox_modulations_are_taken_apart(tmp_path):
    # Twelve parts: shift, scale, gate of the video's attention and MLP, then of the text's; diffusers has the
    # attention's six in norm1 and the MLP's in norm2.
    model = case("cogvideox_5b_i2v")
    size = model.shapes["transformer_blocks.0.norm1.linear.bias"][0] // 6
    bias = np.arange(12 * size, dtype=np.float32)
    stem = "model.diffusion_model.mixins.adaln_layer.adaLN_modulations.0.1"
    parts = np.split(bias, 12)
    want = model.want(
        {
            f"transformer_blocks.0.norm{i}.linear.bias": np.concatenate([parts[n] for n in order])
            for i, order in {1: (0, 1, 2, 6, 7, 8), 2: (3, 4, 5, 9, 10, 11)}.items()
        }
    )
    same(model.merged([(write(tmp_path, {f"{stem}.diff_b": bias}), 1.0)]), want)


WAN_DIFFERENCES = {  # LightX2V and CausVid: full differences of anything
    "blocks.0.self_attn.q.diff": "blocks.0.attn1.to_q.weight",
    "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
    "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
    "blocks.1.cross_attn.norm_k.diff": "blocks.1.attn2.norm_k.weight",
    "blocks.0.cross_attn.norm_k_img.diff": "blocks.0.attn2.norm_added_k.weight",
    "blocks.0.norm3.diff": "blocks.0.norm2.weight",
    "blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
    "blocks.0.diff_m": "blocks.0.scale_shift_table",
    "blocks.1.modulation.diff": "blocks.1.scale_shift_table",
    "head.modulation.diff_m": "scale_shift_table",
    "head.head.diff": "proj_out.weight",
    "head.head.diff_b": "proj_out.bias",
    "patch_embedding.diff": "patch_embedding.weight",
    "patch_embedding.diff_b": "patch_embedding.bias",
    "time_projection.1.diff_b": "condition_embedder.time_proj.bias",
    "img_emb.proj.0.w_norm": "condition_embedder.image_embedder.norm1.weight",
    "img_emb.proj.0.b_norm": "condition_embedder.image_embedder.norm1.bias",
    "img_emb.proj.4.diff": "condition_embedder.image_embedder.norm2.weight",
}


@pytest.mark.parametrize("prefix", ["diffusion_model.", "lora_unet_"])
def test_full_differences(prefix, tmp_path):
    i2v = case("wan_i2v")
    rng = np.random.default_rng(0)
    tensors, deltas = {}, {}
    for theirs, name in WAN_DIFFERENCES.items():
        delta = rng.standard_normal(i2v.shapes[name], np.float32)
        stem, _, part = theirs.rpartition(".")
        stem = stem.replace(".", "_") if prefix.endswith("_") else stem
        tensors[f"{prefix}{stem}.{part}"] = delta
        deltas[name] = np.float32(0.5) * delta
    same(i2v.merged([(write(tmp_path, tensors), 0.5)]), i2v.want(deltas))


def test_fused_differences_are_cut_like_fused_weights(tmp_path):
    model = case("hunyuan")
    names = [f"{SINGLE}.attn.to_{part}" for part in "qkv"] + [f"{SINGLE}.proj_mlp"]
    rng = np.random.default_rng(0)
    deltas = {
        f"{name}.{kind}": rng.standard_normal(model.shapes[f"{name}.{kind}"], np.float32)
        for name in names
        for kind in ("weight", "bias")
    }
    tensors = {
        f"diffusion_model.single_blocks.0.linear1.{part}": np.concatenate(
            [deltas[f"{name}.{kind}"] for name in names]
        )
        for part, kind in {"diff": "weight", "diff_b": "bias"}.items()
    }
    same(model.merged([(write(tmp_path, tensors), 1.0)]), model.want(deltas))


def test_a_part_that_comes_twice_is_refused(tmp_path):
    model = case("hunyuan")
    rows, columns = model.shapes[f"{DUAL}.attn.to_k.weight"]
    tensors = {
        "diffusion_model.double_blocks.0.img_attn_qkv.diff": np.ones(
            (3 * rows, columns), np.float32
        ),
        f"transformer.{DUAL}.attn.to_k.diff": np.ones((rows, columns), np.float32),
    }
    with pytest.raises(ValueError, match=rf"{DUAL}\.attn\.to_k\.weight is in it under two names"):
        model.merged([(write(tmp_path, tensors), 1.0)])
