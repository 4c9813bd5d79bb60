"""LoRA files merged into a model."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from models.config import config_from_json
from models.keys import checkpoint_slots
from models.lora import check_loras, merge_lora, merge_loras
from models.lora.files import LoraFile
from models.pretrained import TRANSFORMERS
from tests import tolerances

from .. import parity
from ..cogvideox.tiny_models import roundings as cogvideox_roundings
from ..toy import ToyConfig, ToyTransformer
from ..wan.tiny_models import roundings as wan_roundings

UP = "blocks.0.net.0.proj"  # [12, 6] in the checkpoint


@pytest.fixture
def model():
    return ToyTransformer(ToyConfig(), rngs=nnx.Rngs(0))


def weights(model):
    slots = checkpoint_slots(model, type(model).KEYS)
    return {n: slot.to_checkpoint(np.asarray(slot.parameter[...])) for n, slot in slots.items()}


def factors(rank=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rank, 6)).astype(np.float32), rng.normal(size=(12, rank)).astype(
        np.float32
    )


def write(tmp_path, tensors, **metadata):
    path = tmp_path / "lora.safetensors"
    save_file(tensors, str(path), metadata={k: json.dumps(v) for k, v in metadata.items()})
    return path


@pytest.mark.parametrize(
    ("names", "alpha", "metadata", "factor"),
    [
        ((f"transformer.{UP}.lora_A.weight", f"transformer.{UP}.lora_B.weight"), None, {}, 1.0),
        ((f"{UP}.lora_down.weight", f"{UP}.lora_up.weight"), 4.0, {}, 2.0),
        ((f"{UP}.lora_A.weight", f"{UP}.lora_B.weight"), None, {"transformer.lora_alpha": 6}, 3.0),
        (
            (f"{UP}.lora_A.weight", f"{UP}.lora_B.weight"),
            None,
            {"transformer.lora_alpha": 6, "transformer.alpha_pattern": {UP: 1}},
            0.5,
        ),
        (
            (f"{UP}.lora_A.weight", f"{UP}.lora_B.weight"),
            None,
            {"lora_alpha": 6, "alpha_pattern": {"t.0.proj": 2, r"net\.\d\.proj": 1, UP: 8}},
            0.5,
        ),
        (
            (f"{UP}.lora_A.weight", f"{UP}.lora_B.weight"),
            None,
            {"transformer.lora_alpha": 6, "transformer.use_rslora": True},
            6 / 2**0.5,
        ),
    ],
)
def test_a_merged_weight_is_the_sum(model, tmp_path, names, alpha, metadata, factor):
    down, up = factors()
    tensors = {names[0]: down, names[1]: up}
    if alpha is not None:
        tensors[f"{UP}.alpha"] = np.array(alpha, np.float32)
    path = write(tmp_path, tensors, lora_adapter_metadata=metadata)
    before = weights(model)
    assert merge_lora(model, path, scale=0.5) == [UP]
    after = weights(model)
    want = before.pop(f"{UP}.weight") + 0.5 * factor * (up @ down)
    np.testing.assert_allclose(after.pop(f"{UP}.weight"), want, rtol=1e-6, atol=1e-6)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)


@pytest.mark.parametrize("flat", [False, True])  # kohya's conv layers, or an extraction's matrices
def test_convolutions_and_biases_are_merged_too(model, tmp_path, flat):
    rng = np.random.default_rng(1)
    down = rng.normal(size=(3, 6, 1, 2, 2)).astype(np.float32)
    up = rng.normal(size=(4, 3, 1, 1, 1)).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32)
    a, b = ("lora_down", "lora_up") if flat else ("lora_A", "lora_B")
    names = [f"blocks.1.patch.{end}" for end in (f"{a}.weight", f"{b}.weight", f"{b}.bias")]
    before = weights(model)
    stored = (down.reshape(3, -1), up.reshape(4, 3), bias) if flat else (down, up, bias)
    merge_lora(model, write(tmp_path, dict(zip(names, stored, strict=True))))
    after = weights(model)
    want = before["blocks.1.patch.weight"] + np.einsum("or...,rithw->oithw", up[..., 0, 0, 0], down)
    np.testing.assert_allclose(after["blocks.1.patch.weight"], want, atol=1e-6)
    np.testing.assert_allclose(
        after["blocks.1.patch.bias"], before["blocks.1.patch.bias"] + bias, atol=1e-6
    )


@pytest.mark.parametrize(
    ("tensors", "factor"),
    [
        ({"lora_A": (2, 6), "lora_B": (12, 2)}, 1.0),  # without ".weight"
        (
            {"lora_down.weight": (2, 6, 1, 1), "lora_up.weight": (12, 2, 1, 1)},
            1.0,
        ),  # as 1 x 1 convolutions
        ({"lora.down.weight": (2, 6), "lora.up.weight": (12, 2), "alpha": np.int64(4)}, 2.0),
        ({"lora_linear_layer.down.weight": (2, 6), "lora_linear_layer.up.weight": (12, 2)}, 1.0),
    ],
)
@pytest.mark.parametrize("stem", [UP, "_orig_mod.blocks._orig_mod.0.net.0.proj", f"module.{UP}"])
def test_what_else_tools_write(model, tmp_path, stem, tensors, factor):
    arrays = [*factors(), np.array([4])]
    stored = {
        f"{stem}.{name}": array.reshape(shape if isinstance(shape, tuple) else ())
        for (name, shape), array in zip(tensors.items(), arrays, strict=False)
    }
    want = weights(model)[f"{UP}.weight"] + factor * (arrays[1] @ arrays[0])
    assert merge_lora(model, write(tmp_path, stored)) == [UP]
    np.testing.assert_allclose(weights(model)[f"{UP}.weight"], want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["style"], "style"),
        (["a", "pytorch_lora_weights"], "pytorch_lora_weights"),
        (["adapter_model", "pytorch_lora_weights"], "adapter_model"),
        (["a", "b"], None),
    ],
)
def test_a_folder_stands_for_the_lora_in_it(tmp_path, names, chosen):
    for name in names:
        save_file({name: np.ones(1, np.float32)}, tmp_path / f"{name}.safetensors")
    if chosen is None:
        with pytest.raises(
            ValueError, match=r"a folder with 2 \.safetensors files, not one called"
        ):
            LoraFile.open(tmp_path)
    else:
        assert list(LoraFile.open(tmp_path).shapes) == [chosen]


def test_bfloat16_weights_are_rounded_once(tmp_path):
    model = ToyTransformer(ToyConfig(), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    down, up = factors()
    before = weights(model)[f"{UP}.weight"].astype(np.float32)
    merge_lora(model, write(tmp_path, {f"{UP}.lora_A.weight": down, f"{UP}.lora_B.weight": up}))
    after = weights(model)[f"{UP}.weight"]
    assert after.dtype == jnp.bfloat16
    np.testing.assert_array_equal(after, (before + up @ down).astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{UP}.lora_A.weight": factors()[0]}, "its up projection is missing"),
        (
            {"x.lora_A.weight": factors()[0], "x.lora_B.weight": factors()[1]},
            "2 of its 4 tensors are for modules that it does not have, such as x.lora_A.weight",
        ),
        (
            {f"{UP}.lora_A.weight": factors()[1], f"{UP}.lora_B.weight": factors()[0]},
            r"\(2, 6\) x \(12, 2\) does not give the weight's \(12, 6\)",
        ),
        (
            {f"{UP}.lora_magnitude_vector": np.ones(3, np.float32)},
            "is DoRA .*, which is not merged",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(model, tmp_path, tensors, message):
    before = weights(model)
    down, up = factors(seed=5)
    good = {"blocks.1.net.0.proj.lora_A.weight": down, "blocks.1.net.0.proj.lora_B.weight": up}
    with pytest.raises(ValueError, match=message):
        merge_lora(model, write(tmp_path, good | tensors))
    for name, array in weights(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_missing_and_damaged_files_are_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no LoRA at"):
        merge_lora(model, tmp_path / "nothing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"bad\.safetensors is not a whole safetensors file"):
        merge_lora(model, tmp_path / "bad.safetensors")


def tiny(name):
    document = parity.config(name)
    cls = TRANSFORMERS[document["_class_name"]]
    config = config_from_json(cls.config_class, document)
    model = nnx.eval_shape(lambda: cls(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    model = jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), model)
    parity.load(model, cls.KEYS, name)
    return model


@pytest.mark.parametrize("name", ["wan", "cogvideox_5b_i2v"])
def test_an_adapter_of_diffusers_gives_its_output(name):
    # Wan: save_lora_weights, rank and alpha by pattern (names' ends, a regular expression), a convolution. CogVideoX:
    # save_lora_adapter, rank-stabilised, with biases. As in the models' own tests, the recorded time embedding is
    # put in.
    model, recorded = tiny(name), parity.arrays("lora", name)
    case = parity.arrays(name, "a")
    given = {k: v[:1] if "rotary" not in k else v for k, v in parity.inputs(case).items()}
    if name != "wan":
        parts = given.pop("image_rotary_emb.0"), given.pop("image_rotary_emb.1")
        given["image_rotary_emb"] = parts
        replace = {"time_embedding": jnp.asarray(recorded["tap/time_embedding"])}
    else:
        tap = "condition_embedder"
        parts = [jnp.asarray(recorded[f"tap/{tap}.out{i}"]) for i in range(2)]
        replace = {tap: (*parts, jnp.asarray(case[f"tap/{tap}.out2"][:1]), None)}
    path = parity.FOLDER / f"lora_{name}.safetensors"

    @jax.jit
    def run(model):
        with parity.Recorder(model, model.KEYS, replace).recording():
            return model(**given).sample

    before = weights(model)
    changed = merge_lora(model, path)
    assert len(changed) == sum(".lora_A." in key for key in load_file(path))
    out = run(model)
    assert np.abs(out - case["out"][:1]).max() > 1  # the adapter does something
    n = (wan_roundings if name == "wan" else cogvideox_roundings)(model, given)
    parity.assert_close(out, recorded["out"], n, "output with the adapter")
    merge_lora(model, path, scale=-1.0)
    for key, array in weights(model).items():
        # What is added and taken away again is up to twenty times a weight's size; both are rounded.
        allowed = 20 * tolerances.rounding(2) * float(np.abs(before[key]).max())
        tolerances.assert_within(array, before[key], allowed, key)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("size", "scales", "fits"),
    [
        (1, (1.0,), True),
        (6e4, (1.0,), True),  # bounds do not decide: the sum is made
        (7e4, (1.0,), False),
        (4e4, (1.0, 1.0), False),  # of two files
        (7e4, (1.0, -1.0), True),
    ],
)
def test_sums_too_large_for_float16_are_refused_before_anything_changes(
    tmp_path, size, scales, fits, known
):
    model = ToyTransformer(ToyConfig(), dtype=jnp.float16, rngs=nnx.Rngs(0))
    down, up = np.zeros((2, 6), np.float32), np.zeros((12, 2), np.float32)
    down[0, 0] = up[0, 0] = np.sqrt(size if known else 2 * size)
    other = dict(zip((f"{UP}.lora_A.weight", f"{UP}.lora_B.weight"), factors(), strict=True))
    tensors = {"blocks.1.net.0.proj.lora_A.weight": down, "blocks.1.net.0.proj.lora_B.weight": up}
    path = write(tmp_path, other | tensors)
    files = [(path, scale) for scale in scales]
    planned = model if known else nnx.eval_shape(lambda: model)
    before = weights(model)
    with (
        contextlib.nullcontext()
        if fits
        else pytest.raises(
            ValueError,
            match=r"lora\.safetensors.* too large for float16 in 1 of 2 tensors, such as blocks\.1\.net\.0\.proj",
        )
    ):
        merge_loras(planned, files) if known else check_loras(planned, files)
    if fits and known:
        assert all(np.isfinite(array).all() for array in weights(model).values())
    else:
        for name, array in weights(model).items():
            np.testing.assert_array_equal(array, before[name])
