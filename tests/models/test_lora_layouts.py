"""One LoRA, written in every layout that users meet, changes a model's weights in one way."""

import json
import re

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from models.config import config_from_json
from models.keys import checkpoint_slots
from models.lora import check_loras, merge_lora, merge_loras
from models.lora.names import Names
from models.pretrained import TRANSFORMERS

from . import parity
from .random_weights import random_model

RANK = 2


class Case:
    """A tiny model, whose weights are put back after each merge."""

    def __init__(self, name):
        document = parity.config(name)
        cls = TRANSFORMERS[document["_class_name"]]
        config = config_from_json(cls.config_class, document | {"num_layers": 2})
        self.model = random_model(cls, config)
        self.slots = checkpoint_slots(self.model, cls.KEYS)
        self.values = {n: slot.parameter[...] for n, slot in self.slots.items()}
        self.shapes = {n: slot.shape for n, slot in self.slots.items()}
        self.before = self.weights()

    def weights(self):
        return {n: s.to_checkpoint(np.asarray(s.parameter[...])) for n, s in self.slots.items()}

    def merged(self, files, **options):
        """Weights with the LoRAs in them; those without are back in the model."""
        merge_loras(self.model, files, **options)
        after = self.weights()
        for name, slot in self.slots.items():
            slot.parameter.set_value(self.values[name])
        return after

    def pair(self, module, *, like=None):
        """(up, down) for a module's weight; `like` names the module whose down it shares."""
        shape = self.shapes[f"{module}.weight"]
        rng = np.random.default_rng(len(like or module))
        down = rng.standard_normal((RANK, *shape[1:]), np.float32)
        up = np.random.default_rng(list(module.encode())).standard_normal(
            (shape[0], RANK), np.float32
        )
        return up.reshape(*up.shape, *(1,) * (len(shape) - 2)), down

    def want(self, deltas):
        """Weights after adding {tensor: difference}."""
        assert deltas.keys() <= self.before.keys()
        return {n: w + deltas[n] if n in deltas else w for n, w in self.before.items()}


CASES = {}


def case(name):
    return CASES.setdefault(name, None) or CASES.__setitem__(name, Case(name)) or CASES[name]


@pytest.fixture
def wan():
    return case("wan")


@pytest.fixture
def i2v():
    return case("wan_i2v")


def product(up, down):
    return (up.reshape(len(up), -1) @ down.reshape(len(down), -1)).reshape(len(up), *down.shape[1:])


def write(folder, tensors, name="lora.safetensors", metadata=None):
    path = folder / name
    tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    save_file(tensors, str(path), metadata=metadata)
    return path


def same(got, want):
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def close(got, want):
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, atol=1e-6, rtol=1e-6, err_msg=name)


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


def test_old_processor_names(wan, tmp_path):
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
    "head.diff_m": "scale_shift_table",
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
def test_full_differences(i2v, prefix, tmp_path):
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


def plain(case, module, prefix="", dtype=np.float32):
    up, down = case.pair(module)
    return {
        f"{prefix}{module}.lora_A.weight": down.astype(dtype),
        f"{prefix}{module}.lora_B.weight": up.astype(dtype),
    }


Q = "blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    "dtype",
    [
        np.float64,
        np.float16,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
    ],
)
def test_every_float_is_read(wan, dtype, tmp_path):
    up, down = (x.astype(dtype) for x in wan.pair(Q))
    path = raw_file(tmp_path, {f"{Q}.lora_A.weight": down, f"{Q}.lora_B.weight": up})
    delta = product(up.astype(np.float32), down.astype(np.float32))
    same(wan.merged([(path, 1.0)]), wan.want({f"{Q}.weight": delta}))


def raw_file(folder, tensors):
    """A safetensors file with any dtype, float8 too, which older versions of the library do not write."""
    codes = {
        np.dtype(np.float64): "F64",
        np.dtype(np.float16): "F16",
        np.dtype(np.int8): "I8",
        np.dtype(ml_dtypes.bfloat16): "BF16",
        np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3",
        np.dtype(ml_dtypes.float8_e5m2): "F8_E5M2",
    }
    header, data = {}, b""
    for name, array in tensors.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": codes[array.dtype],
            "shape": array.shape,
            "data_offsets": (len(data), end),
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    path = folder / "raw.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"lora_alpha": 6}, 3.0),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / 2**0.5),
        ({"lora_alpha": 6, "alpha_pattern": {"attn1.to_q": 1}}, 0.5),
        ({"r": 8, "rank_pattern": {"to_q": 2}, "lora_alpha": 2}, 1.0),
        ({"r": 2, "lora_alpha": None}, 1.0),
    ],
)
@pytest.mark.parametrize("whole_folder", [False, True])
def test_pefts_configuration_beside_the_file(wan, settings, factor, whole_folder, tmp_path):
    path = write(tmp_path, plain(wan, Q, "base_model.model."), "adapter_model.safetensors")
    document = {"peft_type": "LORA", "r": 2, **settings}
    (tmp_path / "adapter_config.json").write_text(json.dumps(document), encoding="utf-8")
    got = wan.merged([(tmp_path if whole_folder else path, 1.0)])
    close(got, wan.want({f"{Q}.weight": np.float32(factor) * product(*wan.pair(Q))}))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"r": 4}, r"its rank is 2, but .*adapter_config\.json says 4"),
        ({"peft_type": "LOHA"}, "peft_type='LOHA' must be 'LORA'"),
        ({"use_dora": True}, "DoRA is not merged"),
        ({"lora_alpha": "much"}, "lora_alpha holds 'much', which must be a number"),
        ({"alpha_pattern": [1]}, "alpha_pattern holds"),
        ([], "must hold an object, but holds list"),
    ],
)
def test_a_wrong_peft_configuration_is_refused(wan, document, message, tmp_path):
    path = write(tmp_path, plain(wan, Q, "base_model.model."), "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        check_loras(wan.model, [(path, 1.0)])


def test_pefts_configuration_is_not_taken_from_another_file(wan, tmp_path):
    write(tmp_path, plain(wan, Q, "base_model.model."), "adapter_model.safetensors")
    other = write(tmp_path, plain(wan, Q, "transformer."), "other.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 20}', encoding="utf-8")
    same(wan.merged([(other, 1.0)]), wan.want({f"{Q}.weight": product(*wan.pair(Q))}))


def test_files_add_up_each_with_its_scale_and_are_rounded_once(tmp_path):
    model = case("wan")
    a = write(tmp_path, plain(model, Q, "transformer."), "a.safetensors")
    b = write(
        tmp_path,
        {f"{Q}.diff": np.full(model.shapes[f"{Q}.weight"], 1e-3, np.float32)},
        "b.safetensors",
    )
    got = model.merged([(a, 0.5), (b, 2.0), (str(a), -0.25)])
    close(got, model.want({f"{Q}.weight": 0.25 * product(*model.pair(Q)) + np.float32(2e-3)}))
    slot = model.slots[f"{Q}.weight"]
    slot.parameter.set_value(model.values[f"{Q}.weight"].astype(jnp.bfloat16))
    got = model.merged([(a, 1.0), (a, 1.0), (a, -2.0)])  # nothing, but not if rounded in between
    np.testing.assert_array_equal(
        got[f"{Q}.weight"], model.before[f"{Q}.weight"].astype(jnp.bfloat16)
    )


def test_an_image_branch_is_left_out_of_a_text_model(wan, i2v, tmp_path):
    modules = ["blocks.0.attn2.add_k_proj", "condition_embedder.image_embedder.ff.net.0.proj"]
    tensors = plain(wan, Q, "transformer.")
    for module in modules:
        tensors |= plain(i2v, module, "transformer.")
    theirs = {
        "diffusion_model.blocks.0.cross_attn.norm_k_img.diff": np.ones(4, np.float32),
        "diffusion_model.blocks.1.cross_attn.v_img.diff_b": np.ones(4, np.float32),
        "lora_unet_img_emb_proj_4.diff": np.ones(4, np.float32),
    }
    path = write(tmp_path, tensors | theirs)
    (note,) = check_loras(wan.model, [(path, 1.0)])
    assert "7 tensors for the image branch are left out, for this model has none" in note
    said = []
    got = wan.merged([(path, 1.0)], say=said.append)
    assert said == [note]
    same(got, wan.want({f"{Q}.weight": product(*wan.pair(Q))}))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (f"transformer_2.{Q}", "transformer_2"),
        ("text_encoder.encoder.block.0.layer.0.SelfAttention.q", "text_encoder"),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", "text_encoder_2"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te1"),
        ("base_model.model.text_encoder.layers.0.q", "text_encoder"),
    ],
)
def test_other_parts_of_a_pipeline_are_left_out(wan, name, part, tmp_path):
    strange = {f"{name}.lora_A.weight": np.ones((2, 3), np.float32)}
    path = write(tmp_path, plain(wan, Q, "transformer.") | strange)
    assert [f"1 tensors for {part} are left out" in n for n in check_loras(wan.model, [(path, 1)])]
    got = wan.merged([(path, 1.0)], say=lambda note: None)
    same(got, wan.want({f"{Q}.weight": product(*wan.pair(Q))}))
    with pytest.raises(ValueError, match="holds nothing for this model"):
        check_loras(wan.model, [(write(tmp_path, strange, "only.safetensors"), 1.0)])


def test_pefts_names_without_its_configuration_are_said(wan, tmp_path):
    path = write(tmp_path, plain(wan, Q, "base_model.model."))
    (note,) = check_loras(wan.model, [(path, 1.0)])
    assert "no adapter_config.json beside it, so alpha is taken to be the rank" in note


NAN = np.array([[1, np.nan]] * 3, np.float32)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{Q}.dora_scale": NAN}, "is DoRA"),
        ({f"base_model.model.{Q}.lora_magnitude_vector.default.weight": NAN}, "is DoRA"),
        ({"lora_unet_blocks_0_ffn_0.hada_w1_a": NAN}, "is LoHa"),
        ({f"{Q}.lokr_w1": NAN}, "is LoKr"),
        ({"patch_embedding.lora_mid.weight": NAN}, "is LoCon with a Tucker core"),
        ({f"{Q}.oft_blocks": NAN}, "is OFT"),
        ({f"{Q}.weight": NAN}, "1 tensors that are no LoRA of a layer"),
        ({"lora_unet_double_blocks_0_img_attn_qkv.alpha": NAN}, "modules that it does not have"),
        (
            {"diffusion_model.blocks.0.self_attn.qq.lora_A.weight": NAN},
            r"the nearest module is blocks\.0\.self_attn\.q\)",
        ),
        ({"diffusion_model.blocks.7.self_attn.q.lora_A.weight": NAN}, "does not have"),
        ({f"diffusion_model.{Q}.lora_A.weight": NAN}, "which are the same; remove one"),
        ({"blocks.0.self_attn.q.diff_b": np.ones(3, np.float32)}, r"\(3,\) is not the shape of"),
        ({f"{Q}.lora_A.other.weight": NAN}, "holds 2 adapters, .* save one of them alone"),
        ({"blocks.0.attn1.to_v.lora_B.bias": NAN}, "its down and up projection is missing"),
        ({"blocks.0.attn1.to_v.alpha": NAN}, "its down and up projection is missing"),
        ({f"{Q}.alpha": NAN}, r"its alpha has shape \(3, 2\)"),
        ({f"{Q}.alpha": np.array(np.inf, np.float32)}, "its alpha is inf"),
        ({"blocks.0.attn1.norm_q.diff_b": NAN}, "the model's module has no bias"),
    ],
)
def test_what_cannot_be_merged_is_refused(wan, tensors, message, tmp_path):
    path = write(tmp_path, plain(wan, Q) | tensors)
    with pytest.raises(ValueError, match=message) as refusal:
        check_loras(wan.model, [(path, 1.0)])
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tensor", [0, 1])
def test_numbers_that_are_none_are_refused(wan, bad, tensor, tmp_path):
    tensors = plain(wan, Q)
    tensors[sorted(tensors)[tensor]].flat[3] = bad
    with pytest.raises(ValueError, match="NaN, infinite or too large for float32 in 1 of 2"):
        check_loras(wan.model, [(write(tmp_path, tensors), 1.0)])


def test_products_that_overflow_are_refused(wan, tmp_path):
    path = write(tmp_path, {k: np.full_like(v, 1e30) for k, v in plain(wan, Q).items()})
    with pytest.raises(ValueError, match="too large"):
        check_loras(wan.model, [(path, 1.0)])
    with pytest.raises(ValueError, match="too large"):
        check_loras(wan.model, [(raw_file(tmp_path, plain(wan, Q, dtype=np.float64) | {
            f"{Q}.diff_b": np.full(wan.shapes[f"{Q}.bias"], 1e300)}), 1.0)])  # fmt: skip


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_scales_are_finite(wan, scale, tmp_path):
    with pytest.raises(ValueError, match="must be a finite number"):
        merge_lora(wan.model, write(tmp_path, plain(wan, Q)), scale=scale)


@pytest.mark.parametrize(
    "bad",
    [
        {f"{Q}.lora_A.weight": np.ones((2, 3), np.float32), f"{Q}.lora_B.weight": NAN},
        {f"{Q}.diff_b": np.array(np.nan, np.float32)},
        {"unknown.lora_A.weight": NAN},
    ],
)
def test_nothing_changes_unless_all_files_fit(wan, bad, tmp_path):
    files = [(write(tmp_path, plain(wan, Q)), 1.0), (write(tmp_path, bad, "bad.safetensors"), 1.0)]
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        merge_loras(wan.model, files)
    same(wan.weights(), wan.before)


def test_a_check_needs_no_weights(wan, tmp_path):
    cls, config = type(wan.model), wan.model.config
    model = nnx.eval_shape(lambda: cls(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    assert check_loras(model, [(write(tmp_path, plain(wan, Q)), 1.0)]) == []
    assert check_loras(model, []) == []


def test_what_is_no_lora_file_is_named(wan, tmp_path):
    def refusal(path, kind=ValueError):
        with pytest.raises(kind) as problem:
            check_loras(wan.model, [(path, 1.0)])
        assert "\n" not in str(problem.value)
        return str(problem.value)

    for content, words in {
        b"": "is empty; download it again",
        b"PK\x03\x04" + b"\0" * 40: "torch's pickle format",
        b"\x80\x02ctorch\n": "torch's pickle format",
        b"GGUF\x03\0\0\0" + b"\0" * 40: "is a GGUF file",
        b"version https://git-lfs.github.com/spec/v1\n": "is a Git LFS pointer",
        b"<!doctype html>": "is a web page",
        b"\x10\0\0\0\0\0\0\0{": "is not a whole safetensors file",
    }.items():
        path = tmp_path / "file.safetensors"
        path.write_bytes(content)
        assert words in refusal(path)
    (tmp_path / "old.bin").write_bytes(b"anything")
    assert "torch's pickle format" in refusal(tmp_path / "old.bin")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "gone")
    assert "it is a link to" in refusal(tmp_path / "link.safetensors", FileNotFoundError)
    (tmp_path / "folder").mkdir()
    assert "is a folder with 0 .safetensors files" in refusal(tmp_path / "folder")
    assert "holds no tensors" in refusal(write(tmp_path, {}, "none.safetensors"))
    whole = write(tmp_path, {f"{Q}.weight": np.ones((2, 2), np.float32)}, "model.safetensors")
    assert "is a whole checkpoint, not a LoRA" in refusal(whole)
    integers = {name: np.ones((2, 2), np.int8) for name in plain(wan, Q)}
    assert "is I8, which is not read" in refusal(raw_file(tmp_path, integers))
