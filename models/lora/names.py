"""The names in a LoRA file: which module a tensor belongs to and which part it is, in every usual spelling."""

import dataclasses
import difflib
import itertools
import re
from typing import Any

from ..keys import Rows, checkpoint_slots

_ADAPTER = r"(?:\.(?!(?:weight|bias)(?:\.|$))(?P<adapter>[^.]+))?"
_PARTS = [
    # PEFT's and diffusers', with or without the adapter's name; kohya's; diffusers' of old
    (rf"\.lora_(?:A|down){_ADAPTER}(?:\.weight)?", "down"),
    (rf"\.lora_(?:B|up){_ADAPTER}(?:\.weight)?", "up"),
    (rf"\.lora_(?:B|up){_ADAPTER}\.bias", "bias"),
    (r"(?:\.lora|_lora|\.lora_linear_layer)\.down\.weight", "down"),
    (r"(?:\.lora|_lora|\.lora_linear_layer)\.up\.weight", "up"),
    (r"(?:\.lora|_lora|\.lora_linear_layer)?\.alpha", "alpha"),
    # full differences: of a weight (or a table), of a bias, of a modulation table
    (r"\.(?:diff|w_norm)", "diff"),
    (r"\.(?:diff_b|b_norm)", "diff_b"),
    (r"\.diff_m", "diff_m"),
]
_ENDINGS = [(re.compile(rf"(?P<module>.+?){ending}"), part) for ending, part in _PARTS]
_KINDS = {
    r"\.(dora_scale|lora_magnitude_vector|magnitude)\b": "DoRA",
    r"\.hada_[wt]\d": "LoHa",
    r"\.lokr_[wt]\d": "LoKr",
    r"\.lora_mid\b": "LoCon with a Tucker core",
    r"\.(oft|boft)_": "OFT",
    r"\.[ab][12]\.weight": "GLoRA",
    r"\.(ia3_|on_input\b|vera_lambda|lora_embedding_|set_weight\b|reshape_weight\b|scale_weight\b)": (
        "a kind of adapter"
    ),
}
_REFUSED = {re.compile(pattern): kind for pattern, kind in _KINDS.items()}
_OTHER_PARTS = re.compile(
    r"(?:base_model\.model\.)?"
    r"(transformer_2|text_encoders?(?:_\d)?|lora_te\d*|text_model|cond_stage_model|image_encoder|vae)[._]"
)
# What stands before a module's name. "_": kohya's names have underscores for dots.
_PREFIX = re.compile(
    r"(base_model[._]model|transformer|model|diffusion_model|unet|pipe|dit|module"
    r"|lora_unet|lora_transformer|lycoris)[._]+"
)
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|processor)\.")


@dataclasses.dataclass(frozen=True)
class Piece:
    """A tensor's name taken apart.

    Attributes:
      name: of the tensor.
      module: as it is spelled, with prefixes.
      part: "down", "up", "bias" (of up), "alpha", "diff", "diff_b" or "diff_m".
      adapter: PEFT's name of it, where it stands in the name.
    """

    name: str
    module: str
    part: str
    adapter: str | None


def take_apart(name: str) -> Piece | None:
    """The parts of a tensor's name; None if it is not part of a LoRA."""
    plain = _WRAPPERS.sub("", name)
    for ending, part in _ENDINGS:
        if match := ending.fullmatch(plain):
            return Piece(name, match["module"], part, match.groupdict().get("adapter"))
    return None


def refused_kind(name: str) -> str | None:
    """What kind of adapter a tensor belongs to that is not merged."""
    return next((kind for pattern, kind in _REFUSED.items() if pattern.search(name)), None)


def other_part(name: str) -> str | None:
    """The part of a pipeline that a tensor belongs to, unless it is the transformer."""
    match = _OTHER_PARTS.match(name)
    return match[1] if match else None


class Names:
    """All spellings of a model's modules: the converted checkpoint's, the original's, and both with underscores.

    Args:
      model: a transformer of ours. Its class may have `ORIGINAL`, {module of the original: module of the
        checkpoint, or `Rows` of several}, and `IMAGE_BRANCH`, modules that only image-to-video models have.
    """

    def __init__(self, model: Any):
        cls = type(model)
        self.shapes = {n: slot.shape for n, slot in checkpoint_slots(model, cls.KEYS).items()}
        own = {name.removesuffix(".weight").removesuffix(".bias") for name in self.shapes}
        original = {
            theirs: Rows((ours,)) if isinstance(ours, str) else ours
            for theirs, ours in getattr(cls, "ORIGINAL", {}).items()
        }
        self._rows = {name: Rows((name,)) for name in own}
        # diffusers' old names have no ".0" after an output projection
        self._rows |= {n.removesuffix(".0"): Rows((n,)) for n in own if n.endswith(".to_out.0")}
        for theirs, rows in original.items():
            for layer in itertools.count() if "*" in theirs else (0,):
                targets = tuple(t.replace("*", str(layer)) for t in rows.targets)
                if not own.issuperset(targets):
                    break
                self._rows[theirs.replace("*", str(layer))] = Rows(targets, rows.order)
        self._rows = {n.replace(".", "_"): rows for n, rows in self._rows.items()} | self._rows
        image = set(getattr(cls, "IMAGE_BRANCH", ()))
        image |= {theirs for theirs, rows in original.items() if image.issuperset(rows.targets)}
        self._image = [
            re.compile(re.escape(n).replace(r"\.", "[._]").replace(r"\*", r"\d+")) for n in image
        ]

    def find(self, module: str) -> tuple[str, Rows] | None:
        """A module without what stands before its name, and what it is in the checkpoint."""
        for name in _without_prefixes(module):
            if name in self._rows:
                return name, self._rows[name]
        return None

    def is_image_branch(self, module: str) -> bool:
        """Whether it belongs to a part that only image-to-video models have."""
        names = list(_without_prefixes(module))
        return any(pattern.fullmatch(name) for pattern in self._image for name in names)

    def nearest(self, module: str) -> str | None:
        """The spelling that is most like an unknown one."""
        *_, name = _without_prefixes(module)
        return next(iter(difflib.get_close_matches(name, self._rows, n=1, cutoff=0.5)), None)


def _without_prefixes(module: str):
    """The name as it stands, then with one prefix after the other taken off."""
    yield module
    while match := _PREFIX.match(module):
        module = module[match.end() :]
        yield module
