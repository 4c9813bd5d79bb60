import json
import struct

import pytest

from experiments.encoder_files import check_parts, parts_of, read_object

PARTS = ("tokenizer", "text_encoder", "image_encoder")


def safetensors(size=4):
    """A file of one tensor of four bytes, of which `size` are there."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


@pytest.fixture
def whole(tmp_path):
    """A folder that passes."""
    for part in PARTS:
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "config.json").write_text("{}")
        (tmp_path / part / "model.safetensors").write_bytes(safetensors())
    return tmp_path


def lose(path):
    path.unlink()


def dangle(path):
    path.unlink()
    path.symlink_to("../../blobs/0123")


def write(data):
    return lambda path: path.write_bytes(data)


def rename(name):
    return lambda path: path.rename(path.with_name(name))


@pytest.mark.parametrize(
    ("file", "harm", "words"),
    [
        ("tokenizer", rename("t"), "has no tokenizer/"),
        ("text_encoder/config.json", lose, "no file"),
        ("text_encoder/config.json", dangle, "is a link to nowhere"),
        ("text_encoder/config.json", write(b"null"), "must hold an object"),
        ("text_encoder/config.json", write(b"{"), "is no JSON"),
        ("text_encoder/config.json", write(b"\xff\xfe"), "is no JSON"),
        ("text_encoder/model.safetensors", lose, "has no model.safetensors or pytorch_model.bin"),
        ("text_encoder/model.safetensors", dangle, "is a link to nowhere"),
        ("text_encoder/model.safetensors", write(safetensors(3)), "bytes where its header says"),
        ("text_encoder/model.safetensors", write(safetensors(5)), "bytes where its header says"),
        ("text_encoder/model.safetensors", write(b"version https://git-lfs"), "only a pointer"),
        ("text_encoder/model.safetensors", write(b""), "no safetensors file"),
        ("text_encoder/model.safetensors", write(b"\2" + bytes(7) + b"[]"), "no safetensors file"),
        (
            "text_encoder/model.safetensors",
            rename("model.fp16.safetensors"),
            "but config.json, model.fp16.safetensors",
        ),
        (
            "text_encoder/model.safetensors.index.json",
            write(b'{"weight_map": {"a": "model-1.safetensors"}}'),
            "no file",
        ),
        ("text_encoder/model.safetensors.index.json", write(b"{}"), "weight_map"),
        ("text_encoder/model.safetensors.index.json", write(b'{"weight_map": []}'), "weight_map"),
        ("image_encoder/model.safetensors", lose, "image_encoder has no model.safetensors"),
    ],
)
def test_encoders_that_are_not_whole_are_refused(whole, file, harm, words):
    check_parts(whole, PARTS)
    harm(whole / file)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        check_parts(whole, PARTS)
    assert words in str(caught.value)
    assert file.split("/")[0] in str(caught.value)


def test_weights_in_parts_and_of_torch_are_taken(whole):
    encoder = whole / "text_encoder"
    (encoder / "model.safetensors").rename(encoder / "model-1.safetensors")
    weights = {"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"}}
    (encoder / "model.safetensors.index.json").write_text(json.dumps(weights))
    (whole / "image_encoder/model.safetensors").rename(whole / "image_encoder/pytorch_model.bin")
    check_parts(whole, PARTS)
    (encoder / "model-1.safetensors").write_bytes(safetensors(2))
    with pytest.raises(ValueError, match="model-1"):
        check_parts(whole, PARTS)


def test_a_byte_order_mark_is_passed_over_and_empty_parts_are_none(tmp_path):
    index = {
        "_class_name": "P",
        "vae": ["d", "V"],
        "image_encoder": [None, None],
        "tokenizer": ["t", "T"],
    }
    (tmp_path / "index.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(index).encode())
    assert read_object(tmp_path / "index.json") == index
    assert parts_of(index, without=("vae",)) == ["tokenizer"]
