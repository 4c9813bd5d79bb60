"""Reading and writing the files of a checkpoint."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from models.tensors import TensorFiles, variants, write_shards

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
    assert dict(files.dtypes) == {"a": "F32", "b": "BF16", "c": "F16"}
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


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("w.bin", "torch's pickled files are not read"),
        ("model-Q4_K_M.gguf", "GGUF files are quantised"),
        ("model.onnx", "ONNX files are not read"),
        ("wan2.1_t2v_1.3B.safetensors", "of the original authors or of ComfyUI are not read"),
    ],
)
def test_other_formats_are_named_with_a_remedy(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=rf"holds {name}; .*{says}.*layout of diffusers"):
        TensorFiles.open(tmp_path, "w")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def extend(path):
    path.write_bytes(path.read_bytes() + b"0")


def point(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


WHOLE = r"w\.safetensors is not a whole safetensors file .* it has \d+ bytes\); download it again"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(b""), r"w\.safetensors is empty; download it again"),
        (lambda path: path.write_bytes(b"not a file"), WHOLE),
        (lambda path: path.write_bytes(b"\xff" * 64), WHOLE),
        (cut, WHOLE),
        (extend, WHOLE),
        (point, r"w\.safetensors is a Git LFS pointer.*git lfs pull"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage, says):
    write(tmp_path, max_shard_bytes=10**6)
    damage(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=says):
        TensorFiles.open(tmp_path, "w")


@pytest.mark.parametrize("damage", [cut, extend, point])
def test_a_damaged_shard_is_named(tmp_path, damage):
    write(tmp_path, max_shard_bytes=1)
    damage(tmp_path / "w-00002-of-00003.safetensors")
    with pytest.raises(ValueError, match=r"w-00002-of-00003\.safetensors is"):
        TensorFiles.open(tmp_path, "w")


def test_float64_is_read_as_float32(tmp_path):
    save_file({"p": np.full(3, 1 / 3)}, str(tmp_path / "w.safetensors"))
    files = TensorFiles.open(tmp_path, "w")
    files.check_dtypes()
    assert files.main_dtype() == "float32"
    assert files.read("p").dtype == np.float32
    np.testing.assert_array_equal(files.read("p"), np.full(3, 1 / 3, np.float32))


@pytest.mark.parametrize("index_first", [True, False])
def test_which_of_an_index_and_a_single_file_wins(tmp_path, index_first):
    write(tmp_path, max_shard_bytes=1)
    save_file({"stale": ARRAYS["a"]}, str(tmp_path / "w.safetensors"))
    names = TensorFiles.open(tmp_path, "w", index_first=index_first).files
    assert set(names) == (set(ARRAYS) if index_first else {"stale"})


def rename(folder, pattern, name):
    for path in list(folder.glob(pattern)):
        path.rename(folder / name(path.name))


@pytest.mark.parametrize("limit", [10**6, 1])
def test_a_variant_is_asked_for_by_name(tmp_path, limit):
    write(tmp_path, max_shard_bytes=limit)
    index = tmp_path / "w.safetensors.index.json"
    if limit == 1:
        new = index.read_text().replace(".safetensors", ".fp16.safetensors")
        index.with_name("w.safetensors.index.fp16.json").write_text(new)
        index.unlink()
    rename(tmp_path, "*.safetensors", lambda name: name.replace(".safe", ".fp16.safe"))
    assert variants(tmp_path, "w") == ["fp16"]
    assert set(TensorFiles.open(tmp_path, "w", variant="fp16").files) == set(ARRAYS)
    with pytest.raises(FileNotFoundError, match=r"but of the variant fp16; give --variant fp16"):
        TensorFiles.open(tmp_path, "w")
    with pytest.raises(FileNotFoundError, match=r"variant bf16 .* there are fp16: leave --variant"):
        TensorFiles.open(tmp_path, "w", variant="bf16")


def test_shards_without_their_index_are_said_to_be(tmp_path):
    write(tmp_path, max_shard_bytes=1)
    (tmp_path / "w.safetensors.index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"shards but no w\.safetensors\.index\.json"):
        TensorFiles.open(tmp_path, "w")


def test_shards_and_indexes_are_no_variants(tmp_path):
    write(tmp_path, max_shard_bytes=1)
    assert variants(tmp_path, "w") == []
    (tmp_path / "w.fp16-00001-of-00002.safetensors").touch()
    assert variants(tmp_path, "w") == ["fp16"]


@pytest.mark.parametrize("name", ["w.safetensors", "w.safetensors.index.json"])
def test_links_that_point_nowhere_are_said_to(tmp_path, name):
    (tmp_path / name).symlink_to("../blobs/0123")
    with pytest.raises(FileNotFoundError, match=rf"{name} is a link that points nowhere .*blobs"):
        TensorFiles.open(tmp_path, "w")


def test_shards_that_are_links_that_point_nowhere_are_said_to(tmp_path):
    write(tmp_path, max_shard_bytes=1)
    path = tmp_path / "w-00002-of-00003.safetensors"
    path.unlink()
    path.symlink_to("../blobs/0123")
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of .*w-00002.*links that point nowhere"):
        TensorFiles.open(tmp_path, "w")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "is damaged: its weight_map must give each tensor"),
        ('{"weight_map": []}', "is damaged"),
        ('{"weight_map": {}}', "is damaged"),
        ('{"weight_map": {"a": 1}}', "is damaged"),
        ('{"weight_map": {"a": "../w.safetensors"}}', "is damaged"),
        ('{"weight_map": {"a": "w.bin"}}', "is damaged"),
        ("[]", "must hold an object"),
        ("{", "is not JSON"),
        ('{"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}}', "a occurs more"),
    ],
)
def test_a_damaged_index_is_named(tmp_path, text, says):
    (tmp_path / "w.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=rf"index\.json {says}|index\.json is not JSON \({says}"):
        TensorFiles.open(tmp_path, "w")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, ml_dtypes.float8_e4m3fn])
def test_quantised_weights_are_refused(tmp_path, dtype):
    save_file({"q": np.zeros(3, dtype)}, str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match=r"such as q\); quantised .* unquantised checkpoint"):
        TensorFiles.open(tmp_path, "w").check_dtypes()


@pytest.mark.parametrize(
    "name", ["scaled_fp8", "a.scale_weight", "a.weight_scale", "a.input_scale", "a.weight.absmax"]
)
def test_scales_of_quantised_weights_are_known_by_name(tmp_path, name):
    save_file({"a.weight": ARRAYS["a"], name: ARRAYS["a"]}, str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match=rf"scales of quantised weights \(such as {name}\)"):
        TensorFiles.open(tmp_path, "w").check_dtypes()


def test_ignored_tensors_may_have_any_dtype(tmp_path):
    save_file({"a": ARRAYS["a"], "ids": np.arange(3)}, str(tmp_path / "w.safetensors"))
    files = TensorFiles.open(tmp_path, "w").called({}, ("id*",))
    files.check_dtypes()
    assert set(files.files) == {"a"}


def test_an_index_and_its_shards_must_agree(tmp_path):
    save_file({"a": ARRAYS["a"]}, str(tmp_path / "1.safetensors"))
    index = {"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}
    (tmp_path / "w.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"places 1 tensors in 1.safetensors .* such as b"):
        TensorFiles.open(tmp_path, "w")


def test_a_name_in_two_shards_is_refused(tmp_path):
    for i in (1, 2):
        save_file({"a": ARRAYS["a"], str(i): ARRAYS["b"]}, str(tmp_path / f"{i}.safetensors"))
    index = {"weight_map": {"1": "1.safetensors", "2": "2.safetensors"}}
    (tmp_path / "w.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"a is in .* and in"):
        TensorFiles.open(tmp_path, "w")
