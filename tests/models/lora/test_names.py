"""One LoRA, written in every layout that users meet, changes a model's weights in one way."""

import re

import numpy as np
import pytest

from models.lora.names import Names

from .cases import RANK, case, close, product, same, write

# Written out, not taken from the models' tables: {module of the original: modules of the converted checkpoint}.
WAN = {
    "blocks.1.self_attn.q": ["blocks.1.attn1.to_q"],
    "blocks.0.self_attn.k": ["blocks.0.attn1.to_k"],
    "blocks.0.self_attn.v": ["blocks.0.attn1.to_v"],
    "blocks.0.self_attn.o": ["blocks.0.attn1.to_out.0"],
    "blocks.0.cross_attn.q": ["blocks.0.attn2.to_q"],
    "blocks.0.cross_attn.k": ["blocks.0.attn2.to_k"],
    "blocks.0.cross_attn.v": ["blocks.0.attn2.to_v"],
    "blocks.1.cross_attn.o": ["blocks.1.attn2.to_out.0"],
    "blocks.0.cross_attn.k_img": ["blocks.0.attn2.add_k_proj"],
    "blocks.0.cross_attn.v_img": ["blocks.0.attn2.add_v_proj"],
    "blocks.0.ffn.0": ["blocks.0.ffn.net.0.proj"],
    "blocks.0.ffn.2": ["blocks.0.ffn.net.2"],
    "patch_embedding": ["patch_embedding"],
    "time_embedding.0": ["condition_embedder.time_embedder.linear_1"],
    "time_embedding.2": ["condition_embedder.time_embedder.linear_2"],
    "time_projection.1": ["condition_embedder.time_proj"],
    "text_embedding.0": ["condition_embedder.text_embedder.linear_1"],
    "text_embedding.2": ["condition_embedder.text_embedder.linear_2"],
    "img_emb.proj.1": ["condition_embedder.image_embedder.ff.net.0.proj"],
    "img_emb.proj.3": ["condition_embedder.image_embedder.ff.net.2"],
    "head.head": ["proj_out"],
}
DUAL, SINGLE = "transformer_blocks.0", "single_transformer_blocks.0"
REFINER = "context_embedder.token_refiner.refiner_blocks.0"
HUNYUAN = {
    "double_blocks.0.img_attn_qkv": [f"{DUAL}.attn.to_{part}" for part in "qkv"],
    "double_blocks.0.txt_attn_qkv": [f"{DUAL}.attn.add_{part}_proj" for part in "qkv"],
    "double_blocks.0.img_attn_proj": [f"{DUAL}.attn.to_out.0"],
    "double_blocks.0.txt_attn_proj": [f"{DUAL}.attn.to_add_out"],
    "double_blocks.0.img_mlp.fc1": [f"{DUAL}.ff.net.0.proj"],
    "double_blocks.0.img_mlp.fc2": [f"{DUAL}.ff.net.2"],
    "double_blocks.0.txt_mlp.fc1": [f"{DUAL}.ff_context.net.0.proj"],
    "double_blocks.0.txt_mlp.fc2": [f"{DUAL}.ff_context.net.2"],
    "double_blocks.0.img_mod.linear": [f"{DUAL}.norm1.linear"],
    "double_blocks.0.txt_mod.linear": [f"{DUAL}.norm1_context.linear"],
    "single_blocks.0.linear1": [
        *(f"{SINGLE}.attn.to_{part}" for part in "qkv"),
        f"{SINGLE}.proj_mlp",
    ],
    "single_blocks.0.linear2": [f"{SINGLE}.proj_out"],
    "single_blocks.0.modulation.linear": [f"{SINGLE}.norm.linear"],
    "img_in.proj": ["x_embedder.proj"],
    "time_in.mlp.0": ["time_text_embed.timestep_embedder.linear_1"],
    "time_in.mlp.2": ["time_text_embed.timestep_embedder.linear_2"],
    "guidance_in.mlp.0": ["time_text_embed.guidance_embedder.linear_1"],
    "vector_in.in_layer": ["time_text_embed.text_embedder.linear_1"],
    "vector_in.out_layer": ["time_text_embed.text_embedder.linear_2"],
    "txt_in.input_embedder": ["context_embedder.proj_in"],
    "txt_in.t_embedder.mlp.2": ["context_embedder.time_text_embed.timestep_embedder.linear_2"],
    "txt_in.c_embedder.linear_1": ["context_embedder.time_text_embed.text_embedder.linear_1"],
    "txt_in.individual_token_refiner.blocks.0.self_attn_qkv": [
        f"{REFINER}.attn.to_{part}" for part in "qkv"
    ],
    "txt_in.individual_token_refiner.blocks.0.self_attn_proj": [f"{REFINER}.attn.to_out.0"],
    "txt_in.individual_token_refiner.blocks.0.mlp.fc1": [f"{REFINER}.ff.net.0.proj"],
    "txt_in.individual_token_refiner.blocks.0.mlp.fc2": [f"{REFINER}.ff.net.2"],
    "txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1": [f"{REFINER}.norm_out.linear"],
    "final_layer.linear": ["proj_out"],
}
COG = "transformer_blocks.1"
COGVIDEOX = {
    "transformer.layers.1.attention.query_key_value": [f"{COG}.attn1.to_{part}" for part in "qkv"],
    "transformer.layers.1.attention.dense": [f"{COG}.attn1.to_out.0"],
    "transformer.layers.1.mlp.dense_h_to_4h": [f"{COG}.ff.net.0.proj"],
    "transformer.layers.1.mlp.dense_4h_to_h": [f"{COG}.ff.net.2"],
    "mixins.patch_embed.proj": ["patch_embed.proj"],
    "mixins.patch_embed.text_proj": ["patch_embed.text_proj"],
    "mixins.final_layer.adaLN_modulation.1": ["norm_out.linear"],
    "mixins.final_layer.linear": ["proj_out"],
    "time_embed.0": ["time_embedding.linear_1"],
    "time_embed.2": ["time_embedding.linear_2"],
}
ORIGINALS = {"wan_i2v": WAN, "hunyuan": HUNYUAN, "cogvideox_5b_i2v": COGVIDEOX}
PAIRS = {
    "peft": (".lora_B.weight", ".lora_A.weight", False),
    "kohya": (".lora_up.weight", ".lora_down.weight", True),
    "default": (".lora_B.default.weight", ".lora_A.default.weight", False),
    "default_0": (".lora_B.default_0.weight", ".lora_A.default_0.weight", False),
    "old": (".lora.up.weight", ".lora.down.weight", False),
}
dots, underscores = str, lambda name: name.replace(".", "_")
# who writes it: what stands before the names, whose names, their spelling, the pair's endings
LAYOUTS = {
    "diffusers": ("transformer.", "converted", dots, "peft"),
    "diffusers bare": ("", "converted", dots, "peft"),
    "diffusers under diffusion_model": ("diffusion_model.", "converted", dots, "peft"),
    "diffusers, old": ("transformer.", "converted", dots, "old"),
    "peft": ("base_model.model.", "converted", dots, "peft"),
    "peft, named": ("base_model.model.", "converted", dots, "default_0"),
    "peft of the original": ("base_model.model.diffusion_model.", "original", dots, "peft"),
    "original": ("diffusion_model.", "original", dots, "peft"),
    "original, alpha": ("diffusion_model.", "original", dots, "kohya"),
    "original, transformer": ("transformer.", "original", dots, "peft"),
    "original, whole checkpoint's": ("model.diffusion_model.", "original", dots, "kohya"),
    "DiffSynth": ("", "original", dots, "default"),
    "musubi": ("lora_unet_", "original", underscores, "kohya"),
    "VideoX-Fun": ("lora_unet__", "original", underscores, "kohya"),
    "kohya of diffusers": ("lora_unet_", "converted", underscores, "kohya"),
    "LyCORIS": ("lycoris_", "converted", underscores, "kohya"),
}


def adapter(case, table):
    """{original: (up, down)}, {converted: (up, down)} of one LoRA; a fused module's parts share their down."""
    fused, parts = {}, {}
    for original, modules in table.items():
        pairs = [case.pair(module, like=original) for module in modules]
        parts |= dict(zip(modules, pairs, strict=True))
        fused[original] = np.concatenate([up for up, _ in pairs]), pairs[0][1]
    return fused, parts


@pytest.mark.parametrize("family", ORIGINALS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_one_result(family, layout, tmp_path):
    prefix, whose, spell, endings = LAYOUTS[layout]
    up_ending, down_ending, has_alpha = PAIRS[endings]
    model = case(family)
    fused, parts = adapter(model, ORIGINALS[family])
    tensors = {}
    for name, (up, down) in (fused if whose == "original" else parts).items():
        module = prefix + spell(name)
        tensors |= {module + up_ending: up, module + down_ending: down}
        if has_alpha:
            tensors[f"{module}.alpha"] = np.array(2.0 * RANK, np.float32)
    factor = 2.0 if has_alpha else 1.0
    got = model.merged([(write(tmp_path, tensors), 0.5)])
    want = model.want(
        {f"{name}.weight": 0.5 * factor * product(*pair) for name, pair in parts.items()}
    )
    (close if whose == "original" else same)(got, want)


@pytest.mark.parametrize("family", ORIGINALS)
def test_every_tensor_of_a_checkpoint_has_an_original_name(family):
    model = case(family).model
    table, names = type(model).ORIGINAL, Names(model)
    reached = set()
    for theirs in table:
        for layer in range(3):
            found = names.find(theirs.replace("*", str(layer)))
            reached |= set(found[1].targets) if found else set()
    checkpoint = {re.sub(r"\.(weight|bias)$", "", name) for name in names.shapes}
    assert checkpoint - reached <= {"patch_embedding"}  # which is called so in Wan's original


def test_names_with_underscores_mean_one_module():
    for family in ORIGINALS:
        names = Names(case(family).model)
        flat = {}
        for name, rows in names._rows.items():
            assert flat.setdefault(name.replace(".", "_"), rows) == rows, name


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ("double_blocks.0.img_attn_qkv", "double_blocks.0.img_attn.qkv"),
        ("double_blocks.0.txt_attn_proj", "double_blocks.0.txt_attn.proj"),
        ("double_blocks.0.txt_mlp.fc1", "double_blocks.0.txt_mlp.0"),
        ("double_blocks.0.img_mlp.fc2", "double_blocks.0.img_mlp.2"),
        ("double_blocks.0.img_mod.linear", "double_blocks.0.img_mod.lin"),
        ("single_blocks.0.modulation.linear", "single_blocks.0.modulation.lin"),
        ("time_in.mlp.0", "time_in.in_layer"),
        ("txt_in.c_embedder.linear_1", "txt_in.c_embedder.in_layer"),
    ],
)
def test_hunyuans_two_spellings_mean_the_same(first, other):
    names = Names(case("hunyuan").model)
    assert names.find(f"diffusion_model.{first}")[1] == names.find(f"diffusion_model.{other}")[1]


def test_old_processor_names(tmp_path):
    wan = case("wan")
    modules = {
        f"blocks.0.attn2.{name}": f"blocks.0.attn2.processor.{name.removesuffix('.0')}_lora"
        for name in ("to_q", "to_k", "to_v", "to_out.0")
    }
    tensors, deltas = {}, {}
    for module, theirs in modules.items():
        up, down = wan.pair(module)
        tensors |= {
            f"transformer.{theirs}.up.weight": up,
            f"transformer.{theirs}.down.weight": down,
        }
        deltas[f"{module}.weight"] = product(up, down)
    same(wan.merged([(write(tmp_path, tensors), 1.0)]), wan.want(deltas))
