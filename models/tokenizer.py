"""Prompts to token ids with a checkpoint's own tokenizer files, as diffusers' pipelines call it.

Needs the `tokenizers` library (the extra `text`), which is imported when a tokenizer is made.
"""

import dataclasses
import html
import importlib
import importlib.util
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .files import check_content, is_file, read_json
from .sentencepiece_model import PieceKind, SentencePieceModel, read_sentencepiece_model

_CONFIG = "tokenizer_config.json"
_SPACE = "▁"  # how sentencepiece writes a space


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Prompts to ids of one length. Made by `load_tokenizer`.

    Args:
      backend: a `tokenizers.Tokenizer` that neither pads nor truncates.
      pad_id: fills rows behind their prompt.
    """

    backend: Any
    pad_id: int

    @property
    def vocabulary(self) -> int:
        """Rows that a text encoder's embedding needs: one more than the largest id."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    def __call__(
        self, prompts: Sequence[str], max_length: int = 512
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, both int32 [B, max_length]; mask 1 for tokens, the closing EOS with them, else 0.

        What is too long is cut before the special tokens, with a UserWarning that quotes what was cut.

        Raises:
          TypeError: `prompts` is a string or holds something else than strings.
          ValueError: no prompts, or no room for a token.
        """
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
            raise TypeError(f"prompts={prompts!r} must be a list of strings, one a row")
        room = max_length - self.backend.num_special_tokens_to_add(False)
        if not prompts or room < 1:
            raise ValueError(
                f"{len(prompts)} prompts at {max_length=}; give at least one, and at least "
                f"{max_length - room + 1} tokens"
            )
        ids = np.full((len(prompts), max_length), self.pad_id, np.int32)
        mask = np.zeros((len(prompts), max_length), np.int32)
        for row, prompt in enumerate(prompts):
            encoding = self.backend.encode(prompt, add_special_tokens=False)
            if len(encoding.ids) > room:
                start = encoding.offsets[room][0]
                warnings.warn(
                    f"prompt {row} has {len(encoding.ids)} tokens and keeps {room}; cut was: "
                    f"{prompt[start:].strip()!r}",
                    stacklevel=2,
                )
                encoding.truncate(room)
            tokens = self.backend.post_process(encoding).ids
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return ids, mask


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer in a checkpoint's folder `tokenizer`: tokenizer.json, or else spiece.model.

    Special tokens are read from tokenizer_config.json and special_tokens_map.json. A T5 tokenizer closes
    every prompt with EOS, whether or not its tokenizer.json says so.

    Raises:
      ImportError: `tokenizers` is not installed.
      FileNotFoundError: neither file is there, or a link that points nowhere.
      ValueError: a damaged file or a Git LFS pointer, no padding token, padding or cutting on the left, or files that
        contradict each other.
    """
    tokenizers = _import_tokenizers()
    folder = Path(folder).expanduser()
    settings = _settings(folder)
    for name in ("padding_side", "truncation_side"):
        if (side := settings.get(name, "right")) != "right":
            raise ValueError(
                f"{folder / _CONFIG} has {name} {side!r}; the video models count text from the first token, so it "
                "must be 'right'"
            )
    is_t5 = "T5" in settings.get("tokenizer_class", "")
    path, pieces = folder / "tokenizer.json", folder / "spiece.model"
    if is_file(path):
        check_content(path)
        try:
            backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8-sig"))
        except Exception as problem:  # tokenizers has none but this
            raise ValueError(
                f"{path} is not a tokenizer ({problem}); download it again"
            ) from problem
        backend.no_padding()  # pipelines say how long a row is, not files
        backend.no_truncation()
    elif is_file(pieces):
        check_content(pieces)
        backend = _unigram(read_sentencepiece_model(pieces), settings)
        is_t5 = True
    else:
        raise FileNotFoundError(
            f"{folder} has neither tokenizer.json nor spiece.model; give a checkpoint's folder "
            "tokenizer, or precompute embeddings with python -m experiments.make_text_embeddings"
        )
    pad = settings.get("pad_token", "<pad>" if is_t5 else None)
    pad_id = None if pad is None else backend.token_to_id(pad)
    if pad_id is None:
        raise ValueError(
            f"{folder} names pad_token {pad!r}, which its vocabulary does not have; set pad_token in "
            "tokenizer_config.json to the token that fills rows"
        )
    if is_t5:
        _close_with(backend, settings.get("eos_token", "</s>"), folder)
    return Tokenizer(backend, pad_id)


def clean_prompt(prompt: str) -> str:
    """A prompt as Wan's pipeline cleans it: mended by ftfy, HTML escapes undone, runs of white space to one space.

    ftfy makes typographic quotes straight, full-width punctuation narrow, and undoes wrong decoding ("â€™" to "'"),
    all of which change tokens. Without it, prompts that it would leave alone are cleaned all the same.

    Raises:
      ImportError: `ftfy` is not installed, and the prompt has characters that it may change.
    """
    if importlib.util.find_spec("ftfy"):
        ftfy = importlib.import_module("ftfy")
        return _undo_html(ftfy.fix_text(prompt))
    cleaned = _undo_html(prompt)
    strange = _NOT_PLAIN.search(prompt) or _NOT_PLAIN.search(cleaned) or _ESCAPE.search(cleaned)
    if strange or html.unescape(cleaned) != cleaned:
        what = repr(strange.group()) if strange else "escapes of HTML within others"
        raise ImportError(
            f"ftfy is not installed, and the prompt {prompt!r} has {what}, which it may change before Wan reads it; "
            "install the extra: pip install 'sparsevdit-jax[text]', or write plain ASCII"
        )
    return cleaned


# What ftfy may change: anything but printable ASCII, and HTML's escapes within escapes.
_NOT_PLAIN = re.compile(r"[^\t\n\r\f -~]")
_ESCAPE = re.compile(r"&#?[0-9A-Za-z]{1,24};")


def _undo_html(prompt: str) -> str:
    return " ".join(html.unescape(html.unescape(prompt)).split())


def train_tokenizer(folder: str | Path, sentences: Iterable[str], *, vocab_size: int = 320) -> None:
    """Writes a small tokenizer trained on `sentences`, as a checkpoint's folder: for tests and demos.

    Byte-level BPE, so that any prompt can be written, with T5's special tokens: <pad> 0, </s> 1, <unk> 2.
    """
    tokenizers = _import_tokenizers()
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    backend.decoder = tokenizers.decoders.ByteLevel()
    special = ["<pad>", "</s>", "<unk>"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(special) + len(alphabet):
        raise ValueError(
            f"{vocab_size=} must be at least {len(special) + len(alphabet)}: the bytes and {special}"
        )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(sentences, trainer)
    folder = Path(folder)
    _close_with(backend, "</s>", folder)
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "padding_side": "right",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _import_tokenizers():
    try:
        import tokenizers
    except ImportError as problem:
        raise ImportError(
            "tokenizers is not installed, and prompts need it; install the extra: pip install "
            "'sparsevdit-jax[text]', or use embeddings from a file (models.text_embeddings)"
        ) from problem
    return tokenizers


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json, tokens as plain strings."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", _CONFIG):
        if not is_file(folder / name):
            continue
        for key, value in read_json(folder / name).items():
            if value is None:
                continue
            if key.endswith("_token") and isinstance(value, Mapping):
                value = value.get("content")
            if (rule := _RULES.get(key)) and not rule[0](value):
                raise ValueError(f"{folder / name} has {key}={value!r}; it must be {rule[1]}")
            settings[key] = value
    return settings


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "extra_ids": (lambda n: type(n) is int and n >= 0, "a whole number from 0 up"),
    **dict.fromkeys(
        ("padding_side", "truncation_side", "tokenizer_class"), (_is_text, "a text in quotes")
    ),
    **dict.fromkeys(
        ("pad_token", "eos_token", "unk_token"),
        (_is_text, "a token: a text in quotes, or an object with one as its content"),
    ),
}
"""Test and rule of each entry that is read; null is as if it were not there."""


def _unigram(model: SentencePieceModel, settings: Mapping[str, Any]):
    """T5's tokenizer from its sentencepiece model, as transformers' T5Tokenizer builds it.

    No fallback to bytes, because T5Tokenizer has none: what is not in the vocabulary is <unk>.
    """
    tokenizers = _import_tokenizers()
    vocabulary = [(piece.text, piece.score) for piece in model.pieces]
    pieces = {text for text, _ in vocabulary}
    extra = [f"<extra_id_{index}>" for index in reversed(range(settings.get("extra_ids", 100)))]
    vocabulary += [(text, 0.0) for text in extra if text not in pieces]
    backend = tokenizers.Tokenizer(
        tokenizers.models.Unigram(vocabulary, unk_id=model.unknown_id, byte_fallback=False)
    )
    if model.charsmap:
        backend.normalizer = tokenizers.normalizers.Precompiled(model.charsmap)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.WhitespaceSplit(),
            tokenizers.pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always"),
        ]
    )
    backend.decoder = tokenizers.decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    special = [
        piece.text for piece in model.pieces if piece.kind in (PieceKind.CONTROL, PieceKind.UNKNOWN)
    ]
    named = [settings[name] for name in ("pad_token", "eos_token", "unk_token") if name in settings]
    backend.add_special_tokens(
        [
            tokenizers.AddedToken(text, normalized=False, special=True)
            for text in dict.fromkeys([*special, *extra, *named])
        ]
    )
    backend.add_tokens(
        [
            tokenizers.AddedToken(piece.text, normalized=False)
            for piece in model.pieces
            if piece.kind is PieceKind.USER_DEFINED
        ]
    )
    return backend


def _close_with(backend, eos: str, folder: Path) -> None:
    """Makes `backend` end every prompt with `eos`, if it does not yet."""
    tokenizers = _import_tokenizers()
    eos_id = backend.token_to_id(eos)
    if eos_id is None:
        raise ValueError(f"{folder} names eos_token {eos!r}, which its vocabulary does not have")
    if backend.encode("").ids[-1:] != [eos_id]:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=["$A", eos], pair=None, special_tokens=[(eos, eos_id)]
        )
