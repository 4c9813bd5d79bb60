"""Text embeddings in a file: the arrays that text encoders hand to a video model.

Names in the file, a .safetensors or an .npz, and of the fields of `TextEmbeddings`. B prompts; L text tokens;
embeddings float32, float16 or bfloat16 (that one only in .safetensors); masks 0 or 1 in any integer type or bool:

| name | shape | what |
| --- | --- | --- |
| `prompt_embeds` | [B, L, D] | a model's `encoder_hidden_states` |
| `prompt_attention_mask` | [B, L] | 1 for a prompt's tokens, 0 for the padding after them |
| `pooled_projections` | [B, P] | one vector a prompt (HunyuanVideo: CLIP's) |
| `image_embeds` | [B, N, E] | first frame's states (Wan image to video: CLIP's last layer but one) |
| `negative_prompt_embeds` | [B, L, D] | what guidance leads away from |
| `negative_prompt_attention_mask` | [B, L] | its mask |
| `negative_pooled_projections` | [B, P] | its vector |

Only `prompt_embeds` is always there. What each model's padding holds is said in `models.t5.prompts`;
`python -m experiments.make_text_embeddings` makes such files with torch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from .files import check_content, is_file

_FLOATS = ("float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEmbeddings:
    """The arrays of the table above; masks are int32, absent ones None."""

    prompt_embeds: jax.Array
    prompt_attention_mask: jax.Array | None = None
    pooled_projections: jax.Array | None = None
    image_embeds: jax.Array | None = None
    negative_prompt_embeds: jax.Array | None = None
    negative_prompt_attention_mask: jax.Array | None = None
    negative_pooled_projections: jax.Array | None = None

    def arrays(self) -> dict[str, jax.Array]:
        """Those that are there, by name."""
        fields = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in fields if getattr(self, name) is not None}


_NAMES = tuple(field.name for field in dataclasses.fields(TextEmbeddings))


def save_embeddings(path: str | Path, embeddings: TextEmbeddings) -> None:
    """Writes `embeddings` to a .safetensors or .npz file; dtypes stay as they are.

    Raises:
      FileExistsError: `path` exists.
      ValueError: an array of a wrong shape or dtype, bfloat16 for .npz, another kind of file.
    """
    path = Path(path)
    arrays = {name: np.asarray(value) for name, value in embeddings.arrays().items()}
    _check(arrays, str(path))
    is_npz = _is_npz(path)
    if path.exists():
        raise FileExistsError(
            f"{path} exists and is not overwritten; remove it or choose another name"
        )
    if not is_npz:
        save_file(arrays, str(path))
        return
    for name, array in arrays.items():
        if array.dtype == jnp.bfloat16:
            raise ValueError(
                f"{name} is bfloat16, which .npz cannot hold; use .safetensors or convert to float32"
            )
    np.savez(path, allow_pickle=False, **arrays)


def load_embeddings(path: str | Path, *, require: Sequence[str] = ()) -> TextEmbeddings:
    """Reads a file of the names above; see there for shapes and dtypes.

    Args:
      require: names that the model in question needs beside `prompt_embeds`.

    Raises:
      FileNotFoundError: there is no such file, or a link that points nowhere.
      ValueError: the file is damaged or a Git LFS pointer, a name is missing or unknown, a shape or dtype is wrong, a
        value is not finite, two arrays disagree.
    """
    path = Path(path).expanduser()
    is_npz = _is_npz(path)
    if not is_file(path):
        raise FileNotFoundError(
            f"no text embeddings at {path}; make them with python -m experiments.make_text_embeddings"
        )
    check_content(path)
    arrays: dict[str, np.ndarray] = {}
    try:
        if is_npz:
            # numpy leaves a damaged file open that it has opened itself
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        else:
            with safe_open(str(path), framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (
        Exception
    ) as problem:  # both libraries have exceptions of their own for every kind of damage
        kind = "whole .npz file" if is_npz else "whole safetensors file"
        raise ValueError(f"{path} is not a {kind} ({problem}); make or copy it again") from problem
    missing = [name for name in ("prompt_embeds", *require) if name not in arrays]
    if missing:
        raise ValueError(
            f"{path} lacks {missing} and has {sorted(arrays)}; this model needs them: make the file "
            "with python -m experiments.make_text_embeddings for its checkpoint"
        )
    _check(arrays, str(path))
    return TextEmbeddings(
        **{
            name: jnp.asarray(array.astype(np.int32) if name.endswith("_mask") else array)
            for name, array in arrays.items()
        }
    )


def _is_npz(path: Path) -> bool:
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{path} must end in .safetensors or .npz to say what kind of file it is")
    return path.suffix == ".npz"


def _check(arrays: Mapping[str, Any], where: str) -> None:
    """Every array by its own rules, then those that belong together."""
    unknown = sorted(set(arrays) - set(_NAMES))
    if unknown:
        raise ValueError(f"{where} has arrays {unknown}; the names are {', '.join(_NAMES)}")
    for name, array in arrays.items():
        if name.endswith("_mask"):
            _check_mask(name, array, where)
            continue
        rank = 2 if name.endswith("pooled_projections") else 3
        if array.ndim != rank or 0 in array.shape:
            axes = "[prompts, width]" if rank == 2 else "[prompts, tokens, width]"
            raise ValueError(f"{name} in {where} has shape {list(array.shape)}; it must be {axes}")
        if str(array.dtype) not in _FLOATS:
            also = ", and .npz keeps no bfloat16" if array.dtype.kind == "V" else ""
            raise ValueError(
                f"{name} in {where} is {array.dtype}; it must be {', '.join(_FLOATS)}{also}"
            )
        finite = np.isfinite(array)
        if not finite.all():
            rows = np.flatnonzero(~finite.reshape(len(array), -1).all(1)).tolist()
            raise ValueError(
                f"{name} in {where} has {int((~finite).sum())} values that are NaN or infinite, in rows {rows[:8]}; "
                "make the file again, in float32 or bfloat16 where float16 has overflowed"
            )
    batch = arrays["prompt_embeds"].shape[0]
    for name, array in arrays.items():
        if array.shape[0] != batch:
            raise ValueError(
                f"{name} in {where} has {array.shape[0]} rows for {batch} rows of prompt_embeds; "
                "they must belong to the same prompts"
            )
    for sign in ("", "negative_"):
        mask, embeds = f"{sign}prompt_attention_mask", f"{sign}prompt_embeds"
        if mask in arrays and embeds not in arrays:
            raise ValueError(f"{where} has {mask} but no {embeds}")
        if mask in arrays and arrays[mask].shape != arrays[embeds].shape[:2]:
            raise ValueError(
                f"{mask} in {where} has shape {list(arrays[mask].shape)}; it must be that of {embeds} "
                f"without its last axis, {list(arrays[embeds].shape[:2])}"
            )
        if "pooled_projections" in arrays and mask in arrays and not arrays[mask].any(1).all():
            rows = np.flatnonzero(~arrays[mask].any(1)).tolist()
            raise ValueError(
                f"{mask} in {where} has rows {rows[:8]} without a 1, and HunyuanVideo takes the mean over what a mask "
                "shows; a tokenizer makes one token at least of the empty prompt, too"
            )
    for name in ("prompt_embeds", "pooled_projections"):
        negative = f"negative_{name}"
        if negative not in arrays:
            continue
        width = arrays[name].shape[-1] if name in arrays else None
        if arrays[negative].shape[-1] != width:
            raise ValueError(
                f"{negative} in {where} is {arrays[negative].shape[-1]} wide and {name} "
                f"{width or 'absent'}; both come from one encoder"
            )


def _check_mask(name: str, mask: np.ndarray, where: str) -> None:
    if mask.ndim != 2 or mask.dtype.kind not in "biu":
        raise ValueError(
            f"{name} in {where} is {mask.dtype}{list(mask.shape)}; it must be integers or bools "
            "[prompts, tokens]"
        )
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(f"{name} in {where} has values other than 0 and 1")
    if (np.diff(mask.astype(np.int8), axis=1) > 0).any():
        raise ValueError(
            f"{name} in {where} has a 1 after a 0; padding must follow the prompt, because the models "
            "count its tokens from the first (a tokenizer with padding_side left: set it to right)"
        )
