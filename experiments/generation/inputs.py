"""Reads the files that a user gives beside the model, and checks them before anything is compiled."""

import zipfile
from pathlib import Path

import numpy as np
from safetensors import safe_open

from experiments.generation.store import KEY
from models.pipelines import Clip, Conditions, LatentFamily
from models.text_embeddings import TextEmbeddings

_FLOATS = ("float32", "float16", "bfloat16", "float64")


def read_latents(path: Path, shape: tuple[int, ...], rows: int) -> np.ndarray:
    """Noise to start from, float32 [1 or `rows`, ...].

    Args:
      path: .safetensors (`latents`, or its only tensor), .npz (the same) or .npy.
      shape: of one clip's latents, [1, ...].
      rows: prompts of the call: one start for all, or one each.

    Raises:
      ValueError: no such file, another kind of file, a damaged one, another shape or dtype, values that are not finite.
    """
    array = _array(path)
    if str(array.dtype) not in _FLOATS:
        raise ValueError(f"{path} holds {array.dtype}; latents must be {', '.join(_FLOATS)}")
    if array.shape[1:] != shape[1:] or array.shape[0] not in (1, rows):
        several = f" or {[rows, *shape[1:]]}" if rows > 1 else ""
        raise ValueError(
            f"{path} holds {list(array.shape)}, but the latents of this clip are {list(shape)}{several}; give "
            "latents of this model, --frames, --height and --width"
        )
    with np.errstate(over="ignore"):  # what is too large for float32 is refused as infinite
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        bad = array.size - np.isfinite(array).sum()
        raise ValueError(
            f"{path} holds {bad} values that are NaN or infinite; latents must be finite"
        )
    return array


def is_denoised(path: Path) -> bool:
    """Whether latents are the end of a run, as `--save-latents` keeps it."""
    if path.suffix != ".safetensors":
        return False
    with safe_open(str(path), framework="numpy") as file:
        return KEY in (file.metadata() or {})


def _array(path: Path) -> np.ndarray:
    if path.suffix not in (".safetensors", ".npz", ".npy"):
        raise ValueError(
            f"{path} must end in .safetensors, .npz or .npy to say what kind of file it is"
        )
    try:
        if path.suffix == ".npy":
            with path.open("rb") as raw:
                return np.load(raw, allow_pickle=False)
        if path.suffix == ".npz":
            # numpy leaves a damaged file open that it has opened itself
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return file[_only(file.files)]
        with safe_open(str(path), framework="numpy") as file:
            return file.get_tensor(_only(file.keys()))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as problem:
        raise ValueError(
            f"{path} cannot be read as latents ({problem}); save them again"
        ) from problem
    except Exception as problem:  # safetensors has an exception of its own for every kind of damage
        raise ValueError(
            f"{path} is not a whole safetensors file ({problem}); save it again"
        ) from problem


def _only(names) -> str:
    names = list(names)
    if "latents" in names:
        return "latents"
    if len(names) != 1:
        raise ValueError(f"it holds {sorted(names)[:8]}; name the array of them `latents`")
    return names[0]


def one_prompt(text: TextEmbeddings, row: int) -> TextEmbeddings:
    """The embeddings of one of several prompts."""
    return TextEmbeddings(**{name: a[row : row + 1] for name, a in text.arrays().items()})


def blank_text(family: LatentFamily, dtype, *, guided: bool):
    """Shapes of what the folder's text encoder will say to a prompt."""
    import jax

    blank = jax.ShapeDtypeStruct((1, *family.text_shape), dtype)
    return TextEmbeddings(prompt_embeds=blank, negative_prompt_embeds=blank if guided else None)


def planned_conditions(
    family: LatentFamily, text: TextEmbeddings, clip: Clip, guidance: float, image=None
) -> Conditions:
    """The shapes of what the transformer is called with; raises as `LatentFamily.conditions`."""
    import jax

    return jax.eval_shape(
        lambda arrays, image: family.conditions(TextEmbeddings(**arrays), clip, guidance, image),
        text.arrays(),
        image,
    )
