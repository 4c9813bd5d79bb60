"""Reading sentencepiece's model files."""

import struct

import pytest

from models.sentencepiece_model import Piece, PieceKind, read_sentencepiece_model
from tests.models.test_tokenizer import GOLDEN


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, value) -> bytes:
    """One field as protobuf writes it."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def write(path, *, trainer=b"", normalizer=b"", unknown=2):
    pieces = [
        field(1, b"<pad>") + field(3, 3),
        field(1, b"</s>") + field(2, 0.0) + field(3, 3),
        field(1, b"<unk>") + field(3, unknown),
        field(1, "▁the".encode()) + field(2, -2.5),
        field(1, b"x" * 200) + field(2, -11.25) + field(9, 300) + varint(10 << 3 | 1) + bytes(8),
    ]
    message = b"".join(field(1, piece) for piece in pieces)
    path.write_bytes(message + field(2, trainer) + field(3, normalizer) + field(4, b"self test"))
    return path


def test_pieces_scores_kinds_and_character_map(tmp_path):
    model = read_sentencepiece_model(
        write(tmp_path / "m", normalizer=field(1, b"name") + field(2, b"\x00map") + field(3, 1))
    )
    assert model.charsmap == b"\x00map"
    assert model.unknown_id == 2
    assert model.pieces[0] == Piece("<pad>", 0.0, PieceKind.CONTROL)
    assert model.pieces[3] == Piece("▁the", -2.5, PieceKind.NORMAL)
    assert model.pieces[4] == Piece("x" * 200, -11.25, PieceKind.NORMAL)


def test_a_file_that_sentencepiece_wrote():
    model = read_sentencepiece_model(GOLDEN / "spiece.model")
    assert len(model.pieces) == 105
    assert [piece.text for piece in model.pieces[:4]] == ["<pad>", "</s>", "<unk>", "<cut>"]
    assert model.pieces[3].kind is PieceKind.USER_DEFINED
    assert model.pieces[4].score < 0
    assert len(model.charsmap) > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": field(3, 2)}, "model_type=2 and only 1"),
        ({"normalizer": field(3, 0)}, "add_dummy_prefix=0.*tokenizer.json"),
        ({"normalizer": field(4, 0)}, "remove_extra_whitespaces=0"),
        ({"normalizer": field(5, 0)}, "escape_whitespaces=0"),
        ({"unknown": 1}, "is not a sentencepiece model"),
    ],
)
def test_other_models_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_sentencepiece_model(write(tmp_path / "m", **changes))


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 791656\n",
        b"",
        field(1, field(2, -1.0)),
        field(1, b"<unk>")[:-2],
        bytes([0x0A]),
    ],
)
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(ValueError, match=r"spiece\.model is not a sentencepiece model"):
        read_sentencepiece_model(tmp_path / "spiece.model")
