"""Folders in the layout of diffusers: loaded lazily, refused clearly, written back bit for bit."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from models import pretrained
from models.keys import checkpoint_slots

from . import parity
from .folders import FILE, parity_folder, part_of, rewrite
from .toy import ToyConfig, ToyTransformer


@pytest.fixture
def folder(toy_folder):
    return toy_folder


def same_files(a, b):
    names = sorted(path.name for path in a.iterdir())
    assert names == sorted(path.name for path in b.iterdir())
    for name in names:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16", "mixed"])
@pytest.mark.parametrize("limit", [10**9, 500])
def test_what_was_loaded_is_written_back_bit_for_bit(folder, tmp_path, stored, limit):
    def cast(tensors):
        for name in tensors:
            if stored != "mixed" or "norm" not in name:
                dtype = jnp.dtype("bfloat16" if stored == "mixed" else stored)
                tensors[name] = tensors[name].astype(dtype)

    rewrite(folder, cast)
    model = pretrained.load_transformer(folder)
    first, second = tmp_path / "first", tmp_path / "second"
    pretrained.save_transformer(model, first, max_shard_bytes=limit)
    pretrained.save_transformer(pretrained.load_transformer(first), second, max_shard_bytes=limit)
    same_files(first, second)
    if limit == 10**9:
        same_files(folder / "transformer", first)
    assert (len(list(first.glob("*.safetensors"))) > 1) == (limit == 500)


PARITY = sorted(p.name.removesuffix("_config.json") for p in parity.FOLDER.glob("*_config.json"))


def test_what_diffusers_wrote_has_the_bytes_that_are_compared_below(tmp_path):
    # parity_folder writes anew, because some of the files lack the metadata that save_pretrained gives them.
    for name in ("wan", "hunyuan", "cogvideox_5b", "vae_wan", "vae_hunyuan", "vae_cogvideox"):
        parity_folder(tmp_path / name, name)
        stored = (parity.FOLDER / f"{name}.safetensors").read_bytes()
        assert (tmp_path / name / FILE).read_bytes() == stored, name


@pytest.mark.parametrize("name", PARITY)
def test_a_tiny_model_is_written_back_as_it_was(name, tmp_path):
    # Dropped from config.json: `_diffusers_version`, `transformers_version`, and of an encoder everything about a
    # decoder and training. Added: what it left to the defaults.
    document = parity_folder(tmp_path / "read", name)
    part, stem = part_of(document)
    model = getattr(pretrained, f"load_{part}")(tmp_path / "read")
    getattr(pretrained, f"save_{part}")(model, tmp_path / "written")
    file = f"{stem}.safetensors"
    assert (tmp_path / "written" / file).read_bytes() == (tmp_path / "read" / file).read_bytes()
    written = json.loads((tmp_path / "written" / "config.json").read_text())
    dropped = {"transformers"} if part == "text_encoder" else {"_diffusers_version"}
    added = {"umt5": {"model_type"}, "t5v11": {"model_type"}, "hunyuan_variant": {"qk_norm"}}
    assert document.keys() - written.keys() == dropped
    assert written.keys() - document.keys() == added.get(name, set())
    assert {k: written[k] for k in document.keys() - dropped} == {
        k: v for k, v in document.items() if k not in dropped
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tiny_model_in_shards_is_written_back_as_it_was(dtype, tmp_path):
    parity_folder(tmp_path / "read", "cogvideox_5b_i2v", dtype)
    model = pretrained.load_transformer(tmp_path / "read")
    pretrained.save_transformer(model, tmp_path / "shards", max_shard_bytes=20_000)
    index = json.loads((tmp_path / "shards" / f"{FILE}.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == sum(
        array.nbytes for array in load_file(tmp_path / "read" / FILE).values()
    )
    model = pretrained.load_transformer(tmp_path / "shards")
    pretrained.save_transformer(model, tmp_path / "written")
    assert (tmp_path / "written" / FILE).read_bytes() == (tmp_path / "read" / FILE).read_bytes()
    pretrained.save_transformer(model, tmp_path / "again", max_shard_bytes=20_000)
    same_files(tmp_path / "shards", tmp_path / "again")


def test_the_part_s_own_folder_will_do(folder):
    whole = pretrained.load_transformer(folder)
    part = pretrained.load_transformer(str(folder / "transformer"))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(whole), nnx.state(part))


def test_a_dtype_casts_all_but_what_stays_float32(folder):
    model = pretrained.load_transformer(folder, dtype=jnp.bfloat16)
    assert model.blocks[0].up.kernel[...].dtype == model.blocks[0].up.dtype == jnp.bfloat16
    assert model.blocks[0].norm.scale[...].dtype == jnp.float32
    stored = load_file(folder / "transformer" / FILE)["blocks.0.net.0.proj.weight"]
    np.testing.assert_array_equal(model.blocks[0].up.kernel[...], stored.T.astype(jnp.bfloat16))


def test_without_a_dtype_compute_follows_the_file(folder):
    rewrite(folder, lambda t: t.update({n: a.astype(jnp.bfloat16) for n, a in t.items()}))
    model = pretrained.load_transformer(folder)
    assert model.blocks[0].up.dtype == jnp.bfloat16
    assert (
        model.blocks[0].norm.scale[...].dtype == jnp.bfloat16
    )  # held as stored, computed in float32


def test_weights_go_where_the_sharding_says(folder):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    asked = []

    def sharding(name, shape):
        asked.append((name, shape))
        return device

    model = pretrained.load_transformer(folder, sharding=sharding)
    assert ("blocks.1.net.0.proj.weight", (6, 12)) in asked
    assert len(asked) == len(checkpoint_slots(model, ToyTransformer.KEYS))
    assert (
        pretrained.load_transformer(folder, sharding=device).blocks[0].up.kernel[...].sharding
        == device
    )


def test_every_name_that_does_not_fit_is_listed(folder):
    def spoil(tensors):
        tensors["extra"] = tensors.pop("blocks.0.norm.bias")
        tensors["blocks.1.norm.bias"] = np.zeros(7, np.float32)

    rewrite(folder, spoil)
    with pytest.raises(ValueError, match="do not fit its configuration") as caught:
        pretrained.load_transformer(folder)
    said, _, listed = str(caught.value).partition("; take both from one checkpoint: ")
    assert said.endswith("do not fit its configuration")
    assert listed.split("; ") == [
        "missing: blocks.0.norm.bias",
        "unexpected: extra",
        "blocks.1.norm.bias: the file has (7,), the model needs (6,)",
    ]


def test_wrong_folders_are_told_apart(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        pretrained.load_transformer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no vae/config.json .* holds transformer; give"):
        pretrained.load_vae(folder)
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(
        ValueError, match=r"is of UNet2DConditionModel; as transformer we have .*ToyTr"
    ):
        pretrained.load_transformer(folder)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        pretrained.load_transformer(folder)


def test_odd_dtypes_are_refused(folder):
    with pytest.raises(ValueError, match="must be bfloat16, float16 or float32"):
        pretrained.load_transformer(folder, dtype=jnp.int8)


def test_nothing_is_overwritten(folder):
    model = pretrained.load_transformer(folder)
    with pytest.raises(
        FileExistsError, match=r"config\.json, diffusion_pytorch_model\.safetensors"
    ):
        pretrained.save_transformer(model, folder / "transformer")


def test_only_models_of_the_kind_are_saved(tmp_path):
    with pytest.raises(ValueError, match="dict cannot be saved here"):
        pretrained.save_transformer({}, tmp_path)
    assert not list(tmp_path.iterdir())


PEAK = """
import sys, threading, time
from pathlib import Path
from models import pretrained
from tests.models.toy import ToyTransformer
pretrained.TRANSFORMERS[ToyTransformer.CLASS_NAME] = ToyTransformer
import jax.numpy as jnp
jnp.zeros(1).block_until_ready()
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
status = lambda key: next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key))
before = status("VmRSS")
model = pretrained.load_transformer(sys.argv[1])
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_is_the_weights_and_a_tensor(tmp_path, monkeypatch):
    monkeypatch.setitem(pretrained.TRANSFORMERS, ToyTransformer.CLASS_NAME, ToyTransformer)
    size, layers = 1024, 16
    model = ToyTransformer(ToyConfig(size=size, layers=layers), rngs=nnx.Rngs(0))
    pretrained.save_transformer(model, tmp_path, max_shard_bytes=10**8)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    tensor = 4 * 2 * size * size  # bytes of the largest
    weights = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    # The mapped file, its copy and the device's copy of one tensor, and 24 MiB for what imports and allocators take.
    assert int(done.stdout) * 1024 < weights + 3 * tensor + 24 * 2**20
