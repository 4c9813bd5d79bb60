"""LoRA files: their numbers and settings are read, what does not fit is refused, and nothing changes then."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from models.lora import check_loras, merge_lora, merge_loras
from models.lora.files import LoraFile

from .cases import case, close, plain, product, raw_file, same, write

Q = "blocks.0.attn1.to_q"


@pytest.fixture
def wan():
    return case("wan")


@pytest.fixture
def i2v():
    return case("wan_i2v")


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


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        (np.float64, -np.inf),
        (np.float16, np.inf),
        (ml_dtypes.bfloat16, np.nan),
        (ml_dtypes.float8_e4m3fn, -np.nan),
        (ml_dtypes.float8_e5m2, -np.inf),
    ],
)
def test_every_float_that_is_no_number_is_found(wan, dtype, bad, tmp_path):
    tensors = plain(wan, Q, dtype=dtype)
    path = raw_file(tmp_path, tensors)
    largest = [float(np.abs(x.astype(np.float64)).max()) for x in tensors.values()]
    file = LoraFile.open(path)
    assert [file.largest(name) for name in tensors] == largest
    next(iter(tensors.values())).flat[5] = bad
    with pytest.raises(ValueError, match="NaN, infinite or too large"):
        check_loras(wan.model, [(raw_file(tmp_path, tensors), 1.0)])


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
    text = "\ufeff" + json.dumps(document)  # Windows' editors put a mark before it
    (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
    got = wan.merged([(tmp_path if whole_folder else path, 1.0)])
    close(got, wan.want({f"{Q}.weight": np.float32(factor) * product(*wan.pair(Q))}))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"r": 4}, r"its rank is 2, but .*adapter_config\.json says 4"),
        ({"r": 8, "rank_pattern": {"to_q": 1}}, r"its rank is 2, but .* says 1"),
        ({"peft_type": "LOHA"}, "peft_type='LOHA' must be 'LORA'"),
        ({"use_dora": True}, "DoRA is not merged"),
        ({"lora_alpha": "much"}, "lora_alpha='much' must be a finite number"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan must be a finite number"),
        ({"alpha_pattern": [1]}, r"alpha_pattern=\[1\] must be an object of numbers"),
        ({"alpha_pattern": {"to_q": None}}, r"alpha_pattern\['to_q'\]=None must be a finite"),
        ({"rank_pattern": {"(to_q": 2}}, "'\\(to_q', which must be a regular expression"),
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
    assert "7 tensors are left out, for an image branch that this model does not have" in note
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
