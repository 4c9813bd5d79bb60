"""Configuration of a T5 encoder, in the words of transformers' config.json."""

import dataclasses
from typing import Any

from models import config as configs

MODEL_TYPES = {
    "T5EncoderModel": "t5",
    "UMT5EncoderModel": "umt5",
    "T5ForConditionalGeneration": "t5",
    "UMT5ForConditionalGeneration": "umt5",
    "T5Model": "t5",
    "UMT5Model": "umt5",
}
"""transformers' classes, of whose weights the encoder is read, and their `model_type`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """Shape of an encoder: fields and names of transformers' `T5Config` and `UMT5Config`.

    Sizes have no defaults: transformers always writes them, and a forgotten one should not be guessed.

    Args:
      model_type: "t5" has relative positions in the first block and uses them in all; "umt5" has a
        table in every block.
      d_kv: width of a head; num_heads * d_kv need not be d_model.
      feed_forward_proj: only "gated-gelu" (T5 v1.1 and later); the first T5's "relu" is refused.

    Raises:
      ValueError: a value that is not implemented, or not a positive size.
    """

    model_type: str
    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "gated-gelu"

    def __post_init__(self):
        configs.require(self, model_type=("t5", "umt5"), feed_forward_proj=("gated-gelu",))
        for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"T5Config {name}={getattr(self, name)} must be at least 1")
        buckets, distance = (
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        )
        if buckets < 4 or buckets % 4 or distance <= buckets // 4:
            raise ValueError(
                f"T5Config relative_attention_num_buckets={buckets} must be a multiple of 4, and "
                f"relative_attention_max_distance={distance} more than a quarter of it: each direction "
                "has half of the buckets, and half of those are for single distances"
            )


def t5_config_from_json(document: dict[str, Any]) -> T5Config:
    """The encoder's shape from a text_encoder/config.json of a T5 or UMT5, with a decoder or without.

    Such a file also describes a decoder and its training. Entries that the encoder does not use are ignored.
    `model_type` (or `architectures`) tells the files of other models apart.

    Raises:
      ValueError: another model's file, or one without a size; the message names it.
    """
    architectures = document.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    named = [kind for name, kind in MODEL_TYPES.items() if name in names]
    model_type = document.get("model_type") or next(iter(named), None)
    if model_type not in MODEL_TYPES.values():
        raise ValueError(
            f"this config.json is of model_type {model_type!r}, architectures {architectures}; a T5 encoder's "
            "has 't5' or 'umt5', and lies in the folder text_encoder of a Wan or CogVideoX checkpoint"
        )
    known = configs.fields_from_json(T5Config, document | {"model_type": model_type})
    # T5's own default is the ungated "relu", so a file without the entry means that and is refused.
    if model_type == "t5":
        known.setdefault("feed_forward_proj", "relu")
    config = T5Config(**known)
    # transformers derives these from feed_forward_proj, and takes the file's where it has them.
    for name, value in {"dense_act_fn": "gelu_new", "is_gated_act": True}.items():
        if document.get(name, value) != value:
            raise ValueError(
                f"T5Config {name}={document[name]!r} contradicts feed_forward_proj='gated-gelu', which is {value!r}"
            )
    return config


def t5_config_to_json(config: T5Config) -> dict[str, Any]:
    """The contents of a config.json, for `t5_config_from_json` and for transformers."""
    name = "UMT5EncoderModel" if config.model_type == "umt5" else "T5EncoderModel"
    gate = {"dense_act_fn": "gelu_new", "is_gated_act": True}
    return {"architectures": [name], **dataclasses.asdict(config), **gate}


_XXL: dict[str, int] = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
}

PRESETS: dict[str, T5Config] = {
    "umt5-xxl": T5Config(model_type="umt5", vocab_size=256384, **_XXL),  # type: ignore[arg-type]
    "t5-v1.1-xxl": T5Config(model_type="t5", vocab_size=32128, **_XXL),  # type: ignore[arg-type]
}
