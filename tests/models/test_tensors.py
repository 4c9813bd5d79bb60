"""Reading and writing the files of a checkpoint."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from models.tensors import TensorFiles, write_shards

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones((4,), ml_dtypes.bfloat16),
    "c": np.zeros((5, 5), np.float16),
}


def write(folder, **options):
    sizes = {name: a.nbytes for name, a in ARRAYS.items()}
    write_shards(folder, "w", {n: lambda a=a: a for n, a in ARRAYS.items()}, sizes, **options)


@pytest.mark.parametrize("limit", [10**6, 40, 1])
def test_tensors_come_back_from_one_file_or_shards(tmp_path, limit):
    write(tmp_path, max_shard_bytes=limit)
    files = TensorFiles.open(tmp_path, "w")
    assert dict(files.shapes) == {name: a.shape for name, a in ARRAYS.items()}
    assert dict(files.dtypes) == {"a": "float32", "b": "bfloat16", "c": "float16"}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(files.read(name), array)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == {10**6: 1, 40: 2, 1: 3}[limit]
    index = tmp_path / "w.safetensors.index.json"
    assert index.exists() == (len(shards) > 1)
    if index.exists():
        document = json.loads(index.read_text())
        assert document["metadata"]["total_size"] == sum(a.nbytes for a in ARRAYS.values())
        assert document["weight_map"]["a"] == f"w-00001-of-0000{len(shards)}.safetensors"


def test_the_main_dtype_has_most_scalars(tmp_path):
    write(tmp_path, max_shard_bytes=10**6)
    assert TensorFiles.open(tmp_path, "w").main_dtype() == "float16"


def test_a_missing_shard_is_named(tmp_path):
    write(tmp_path, max_shard_bytes=1)
    (tmp_path / "w-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of the 3 shards .*w-00002-of-00003"):
        TensorFiles.open(tmp_path, "w")


def test_an_empty_folder_says_what_it_must_hold(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold w.safetensors, or w.safetensors.index"):
        TensorFiles.open(tmp_path, "w")


def test_torch_files_are_explained(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="save them as safetensors"):
        TensorFiles.open(tmp_path, "w")


@pytest.mark.parametrize("damage", [b"", b"not a file", None])
def test_a_damaged_file_is_named(tmp_path, damage):
    write(tmp_path, max_shard_bytes=10**6)
    path = tmp_path / "w.safetensors"
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    with pytest.raises(ValueError, match=r"w\.safetensors is not a whole safetensors file"):
        TensorFiles.open(tmp_path, "w")


def test_a_damaged_index_is_named(tmp_path):
    (tmp_path / "w.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        TensorFiles.open(tmp_path, "w")


def test_quantised_weights_are_refused(tmp_path):
    save_file({"q": np.zeros(3, np.int8)}, str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match=r"I8.*unquantised checkpoint"):
        TensorFiles.open(tmp_path, "w")


def test_a_name_in_two_shards_is_refused(tmp_path):
    for i in (1, 2):
        save_file({"a": ARRAYS["a"]}, str(tmp_path / f"{i}.safetensors"))
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "w.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"a is in .* and in"):
        TensorFiles.open(tmp_path, "w")
