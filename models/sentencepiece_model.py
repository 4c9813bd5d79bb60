"""Reads a sentencepiece model file (spiece.model): pieces, scores and the normaliser's character map.

A small reader of the protobuf wire format, for the few fields of sentencepiece_model.proto that a tokenizer
needs: the sentencepiece and protobuf packages would be two dependencies for one file.
"""

import dataclasses
import enum
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class PieceKind(enum.IntEnum):
    """`ModelProto.SentencePiece.Type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclasses.dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its place. `score` is a log-probability."""

    text: str
    score: float
    kind: PieceKind


@dataclasses.dataclass(frozen=True)
class SentencePieceModel:
    """A unigram model.

    Args:
      charsmap: sentencepiece's compiled normalisation rules; empty if it changes no characters.
    """

    pieces: tuple[Piece, ...]
    charsmap: bytes

    @property
    def unknown_id(self) -> int:
        """Id of the piece for what no other covers."""
        kinds = [piece.kind for piece in self.pieces]
        return kinds.index(PieceKind.UNKNOWN)


def read_sentencepiece_model(path: str | Path) -> SentencePieceModel:
    """Reads a unigram model as sentencepiece wrote it.

    Raises:
      ValueError: not such a file, another algorithm than unigram, or text that is kept with its runs of
        spaces (T5's models merge them).
    """
    try:
        pieces, trainer, normalizer = [], {}, {}
        for field, value in _fields(Path(path).read_bytes()):
            if field == 1:
                entry = dict(_fields(value))
                (score,) = struct.unpack("<f", entry.get(2, bytes(4)))
                pieces.append(Piece(entry[1].decode(), score, PieceKind(entry.get(3, 1))))
            elif field == 2:
                trainer = dict(_fields(value))
            elif field == 3:
                normalizer = dict(_fields(value))
        model = SentencePieceModel(tuple(pieces), normalizer.get(2, b""))
        model.unknown_id  # noqa: B018
    except (KeyError, ValueError, IndexError, TypeError, struct.error) as problem:
        raise ValueError(
            f"{path} is not a sentencepiece model ({problem!r}); take the checkpoint's spiece.model "
            "itself (a file of about a hundred bytes is a git-lfs pointer to it)"
        ) from problem
    # Defaults of the .proto: model_type UNIGRAM (1); a prefix space is added, extra spaces removed.
    for what, value, wanted in (
        ("model_type", trainer.get(3, 1), 1),
        ("add_dummy_prefix", normalizer.get(3, 1), 1),
        ("remove_extra_whitespaces", normalizer.get(4, 1), 1),
        ("escape_whitespaces", normalizer.get(5, 1), 1),
    ):
        if value != wanted:
            raise ValueError(
                f"{path} has {what}={value} and only {wanted} is implemented, T5's; take a folder with a "
                "tokenizer.json, which transformers' save_pretrained writes"
            )
    return model


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: an int for a varint, bytes for everything else."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            yield number, varint()
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"field {number} has wire type {wire}")
        size = varint() if wire == 2 else {1: 8, 5: 4}[wire]
        if place + size > len(message):
            raise ValueError(f"field {number} ends behind the end")
        yield number, message[place : place + size]
        place += size
