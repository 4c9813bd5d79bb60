"""Which family a checkpoint folder belongs to, from its configurations alone."""

import warnings
from pathlib import Path
from typing import Any

from models.files import checkpoint_folder, contents, is_file, read_json
from models.pretrained import TRANSFORMERS, VAES, read_config
from models.schedulers import load_scheduler

from .cogvideox import CogVideoX
from .hunyuan_video import HunyuanVideo
from .latent_family import LatentFamily
from .wan import Wan

FAMILIES: tuple[type[LatentFamily], ...] = (Wan, HunyuanVideo, CogVideoX)

_INDEX = "model_index.json"
_PARTS = ("transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json")
_COMPONENTS = {"transformer", "vae", "scheduler", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"} | {
    "image_encoder", "image_processor", "feature_extractor",
}  # fmt: skip


def read_family(folder: str | Path) -> LatentFamily:
    """The conventions of the pipeline in `folder`, in the layout of diffusers; reads no weights.

    Raises:
      OSError: no such folder, or a part is missing.
      ValueError: a pipeline that we do not have, or only in part, or parts that do not belong together.
    """
    folder = checkpoint_folder(folder)
    index = read_json(folder / _INDEX) if is_file(folder / _INDEX) else {}
    _check_index(folder, index)
    if missing := [name for name in _PARTS if not is_file(folder / name)]:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}; give the whole pipeline's folder, as diffusers saves it: "
            f"{contents(folder)}"
        )
    name, transformer = read_config(folder, "transformer", TRANSFORMERS)
    kind = next(f for f in FAMILIES if name == f.TRANSFORMER)
    vae_name, vae = read_config(folder, "vae", VAES)
    if vae_name != kind.VAE:
        raise ValueError(
            f"{folder} joins {name} with {vae_name}, but {kind.NAME} needs {kind.VAE}; take both from one checkpoint"
        )
    family = kind(folder, transformer, vae, load_scheduler(folder))
    _check_parts(family)
    family.check_parts(index)
    pipeline = index.get("_class_name")
    fitting = [p for p in kind.PIPELINES if ("ImageToVideo" in p) == family.takes_image]
    if pipeline is not None and pipeline not in fitting:
        what = "image" if family.takes_image else "text"
        raise ValueError(
            f"{folder / _INDEX} is of {pipeline}, but transformer/config.json of a {kind.NAME} for {what} to video; "
            "take both from one checkpoint"
        )
    return family


def _check_parts(family: LatentFamily) -> None:
    """Whether the scheduler is of the family, and the transformer's channels are."""
    folder, scheduler = family.folder, type(family.scheduler)
    if scheduler not in family.SCHEDULERS:
        known = ", ".join(cls.CLASS_NAME for cls in family.SCHEDULERS)
        raise ValueError(
            f"{folder / 'scheduler'} is of {scheduler.CLASS_NAME}, but {family.NAME} was trained for another path of "
            f"noise, that of {known}; take the scheduler of its own checkpoint"
        )
    channels = family.transformer.in_channels
    if channels not in family.channel_kinds.values():
        known = ", ".join(f"{n} ({kind})" for kind, n in family.channel_kinds.items())
        raise ValueError(
            f"{folder / 'transformer'} has in_channels={channels}; we run {family.NAME} with {known}: others (control, "
            "inpainting, reference images) are conditioned in ways that are not here"
        )


def _check_index(folder: Path, index: dict[str, Any]) -> None:
    path, name = folder / _INDEX, index.get("_class_name")
    known = [pipeline for family in FAMILIES for pipeline in family.PIPELINES]
    if index and name not in known:
        raise ValueError(f"{path} is of {name!r}; we have {', '.join(known)}")
    entries = {
        key: value
        for key, value in index.items()
        if not key.startswith("_") and value not in (None, [None, None])
    }
    if (folder / "transformer_2").is_dir() or entries.keys() & {"transformer_2", "boundary_ratio"}:
        raise ValueError(
            f"{folder} has two transformers that take turns (transformer_2, boundary_ratio: Wan 2.2 A14B), and one "
            "alone makes half of the way; only pipelines with one are run here"
        )
    if entries.pop("expand_timesteps", False):
        raise ValueError(
            f"{folder} gives every token its own timestep (expand_timesteps, Wan 2.2 TI2V); its transformer "
            "loads and runs by itself, but this pipeline is not here yet"
        )
    unknown = sorted(entries.keys() - _COMPONENTS)
    if parts := [key for key in unknown if isinstance(entries[key], list)]:
        raise ValueError(
            f"{path} names parts that we do not run: {', '.join(parts)}; only pipelines without them are run here"
        )
    if unknown:
        warnings.warn(
            f"{path} has settings that we do not know and leave out: {', '.join(unknown)}; compare the video with "
            "diffusers' before you trust it",
            stacklevel=3,
        )
