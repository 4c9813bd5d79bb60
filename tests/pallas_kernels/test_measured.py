import dataclasses
import json

import pytest

from pallas_kernels import _hopper, _measured
from pallas_kernels.block_mass import mosaic_gpu as mass
from pallas_kernels.block_sparse_attention import mosaic_gpu as forward
from pallas_kernels.block_sparse_attention import mosaic_gpu_vjp as backward

BLOCKS = 128, 128, 128  # head dim, block_q, block_kv
CHOICES = {  # kernel -> what it would use now
    "block_sparse_attention": forward.configure,
    "block_sparse_attention_dq": lambda *x: backward.configure(*x)[0],
    "block_sparse_attention_dkv": lambda *x: backward.configure(*x)[1],
    "block_mass": mass.configure,
}


@pytest.fixture
def table(monkeypatch, tmp_path):
    """Makes a table the one that is in use."""

    def use(content):
        path = tmp_path / "measured.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        monkeypatch.setenv(_measured.ENVIRONMENT, str(path))
        _measured._read.cache_clear()

    yield use
    _measured._read.cache_clear()


@pytest.mark.parametrize("kernel", CHOICES)
def test_a_measured_entry_comes_before_the_heuristics(table, kernel):
    changes = {"tile" if "_d" in kernel else "tile_kv": 64, "stages": 3}
    if kernel == "block_mass":
        changes["block_kv"] = 64
    usual = {name: choice(*BLOCKS, "bfloat16") for name, choice in CHOICES.items()}
    table({f"{kernel},128,128,128,bfloat16": changes})
    measured = CHOICES[kernel](*BLOCKS, "bfloat16")
    assert measured == dataclasses.replace(usual[kernel], **changes)
    assert measured != usual[kernel]
    assert CHOICES[kernel](*BLOCKS, "float16") == usual[kernel]
    for other, choice in CHOICES.items():
        assert other == kernel or choice(*BLOCKS, "bfloat16") == usual[other]


@pytest.mark.parametrize(
    ("kernel", "fields", "reason"),
    [
        ("block_sparse_attention", {"stages": 4}, "needs 328880 bytes of shared memory"),
        ("block_sparse_attention", {"stages": 1}, "at least 2 stages"),
        ("block_sparse_attention", {"tile_kv": 96}, "do not divide the mask's blocks of 128 x 128"),
        ("block_sparse_attention", {"consumers": 3}, "tiles of 192 x 128"),
        ("block_sparse_attention", {"consumers": 4}, "1, 2 or 3 consumers"),
        ("block_sparse_attention", {"tile_kv": 0}, "tile_kv=0 must be positive"),
        ("block_sparse_attention", {"stages": "3"}, "stages='3' must be of type int"),
        ("block_sparse_attention", {"depth": 3}, "'depth' is no field of Config: tile_kv, stages"),
        ("block_sparse_attention_dq", {"stages": 9}, "bytes of shared memory for head dim 128"),
        ("block_sparse_attention_dq", {"sums": 2}, "must have sums=1"),
        ("block_sparse_attention_dkv", {"tile": 96}, "do not divide blocks of 128 x 128"),
        ("block_mass", {"stages": 9}, "bytes of shared memory for head dim 128"),
        ("block_mass", {"block_q": 32}, "must walk rows as"),
        ("block_mass", {"tile_kv": 64}, "a tile_kv of 1, 2, 4, ... of them"),
        ("block_mass", {"tile_kv": 96, "block_kv": 32}, "a tile_kv of 1, 2, 4, ... of them"),
        ("block_mass", {"block_kv": 96}, "multiple of 32 keys that divides 128"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(table, kernel, fields, reason):
    table({f"{kernel},128,128,128,bfloat16": fields})
    with pytest.raises(ValueError, match=reason) as problem:
        CHOICES[kernel](*BLOCKS, "bfloat16")
    assert f"measured.json, entry '{kernel},128,128,128,bfloat16'" in str(problem.value)
    assert "correct or remove it" in str(problem.value)


@pytest.mark.parametrize("content", ["{", "[]", '{"block_mass,64,64,64,bfloat16": 3}'])
def test_what_is_no_table_is_refused(table, content):
    table(content)
    with pytest.raises(ValueError, match=r"measured\.json"):
        forward.configure(*BLOCKS)


def test_a_named_table_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv(_measured.ENVIRONMENT, str(tmp_path / "absent.json"))
    with pytest.raises(ValueError, match="SPARSEVDIT_MEASURED must name a JSON file, or be unset"):
        forward.configure(*BLOCKS)


def test_a_table_is_read_once(table, monkeypatch):
    table({})
    forward.configure(*BLOCKS)
    read = []
    monkeypatch.setattr(_measured.json, "loads", lambda text: read.append(text) or {})
    forward.configure(*BLOCKS)
    mass.configure(*BLOCKS)
    assert not read


def test_whatever_is_shipped_fits(monkeypatch):
    monkeypatch.delenv(_measured.ENVIRONMENT, raising=False)
    for key in _measured._read(str(_measured.SHIPPED)):
        kernel, *blocks, dtype = key.split(",")
        config = CHOICES[kernel](*map(int, blocks), dtype)
        assert config.smem_bytes(int(blocks[0])) <= _hopper.SMEM_BYTES
