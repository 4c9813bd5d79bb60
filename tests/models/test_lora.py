"""LoRA files merged into a model."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from models.keys import checkpoint_slots
from models.lora import merge_lora

from .toy import ToyConfig, ToyTransformer

UP = "blocks.0.net.0.proj"  # [12, 6] in the checkpoint


@pytest.fixture
def model():
    return ToyTransformer(ToyConfig(), rngs=nnx.Rngs(0))


def weights(model):
    slots = checkpoint_slots(model, ToyTransformer.KEYS)
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


def test_convolutions_and_biases_are_merged_too(model, tmp_path):
    rng = np.random.default_rng(1)
    down = rng.normal(size=(3, 6, 1, 2, 2)).astype(np.float32)
    up = rng.normal(size=(4, 3, 1, 1, 1)).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32)
    names = [f"blocks.1.patch.{end}" for end in ("lora_A.weight", "lora_B.weight", "lora_B.bias")]
    before = weights(model)
    merge_lora(model, write(tmp_path, dict(zip(names, (down, up, bias), strict=True))))
    after = weights(model)
    want = before["blocks.1.patch.weight"] + np.einsum("or...,rithw->oithw", up[..., 0, 0, 0], down)
    np.testing.assert_allclose(after["blocks.1.patch.weight"], want, atol=1e-6)
    np.testing.assert_allclose(
        after["blocks.1.patch.bias"], before["blocks.1.patch.bias"] + bias, atol=1e-6
    )


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
            "x: the model has no such module",
        ),
        (
            {f"{UP}.lora_A.weight": factors()[1], f"{UP}.lora_B.weight": factors()[0]},
            r"\(2, 6\) x \(12, 2\) does not give the weight's \(12, 6\)",
        ),
        ({f"{UP}.lora_magnitude_vector": np.ones(3, np.float32)}, "1 tensors that are no LoRA"),
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
