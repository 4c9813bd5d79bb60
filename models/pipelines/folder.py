"""Which family a checkpoint folder belongs to, from its configurations alone."""

from pathlib import Path

from models.files import read_json
from models.pretrained import TRANSFORMERS, VAES, read_config
from models.schedulers import load_scheduler

from .cogvideox import CogVideoX
from .family import Family
from .hunyuan_video import HunyuanVideo
from .wan import Wan

FAMILIES: tuple[type[Family], ...] = (Wan, HunyuanVideo, CogVideoX)


def read_family(folder: str | Path) -> Family:
    """The conventions of the pipeline in `folder`, in the layout of diffusers; reads no weights.

    Raises:
      FileNotFoundError: no such folder, or a part is missing.
      ValueError: a pipeline that we do not have.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; give a checkpoint in the layout of diffusers")
    index = folder / "model_index.json"
    if index.is_file():
        document = read_json(index)
        _check_pipeline(folder, document)
    _check_one_expert(folder)
    missing = [
        name
        for name in (
            "transformer/config.json",
            "vae/config.json",
            "scheduler/scheduler_config.json",
        )
        if not (folder / name).is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}; give the whole pipeline's folder, as diffusers saves it"
        )
    name, transformer = read_config(folder, "transformer", TRANSFORMERS)
    family = next(f for f in FAMILIES if name == f.TRANSFORMER)
    vae_name, vae = read_config(folder, "vae", VAES)
    if vae_name != family.VAE:
        raise ValueError(
            f"{folder} joins {name} with {vae_name}, but {family.NAME} needs {family.VAE}; take both from "
            "one checkpoint"
        )
    if vae_name == Wan.VAE and vae.patch > 1 and not index.is_file():
        raise ValueError(
            f"{folder} holds the VAE of Wan 2.2 TI2V and no model_index.json, which would say how its timesteps go; "
            "that pipeline is not here yet: take Wan 2.1, HunyuanVideo or CogVideoX"
        )
    return family(folder, transformer, vae, load_scheduler(folder))


def _check_one_expert(folder: Path) -> None:
    """The second transformer tells, where model_index.json is missing or says nothing of it."""
    if (folder / "transformer_2").is_dir():
        raise ValueError(
            f"{folder} has two transformers that take turns (transformer_2/, Wan 2.2 A14B), and one alone makes half "
            "of the way; only pipelines with one are run here"
        )


def _check_pipeline(folder, document) -> None:
    known = [name for family in FAMILIES for name in family.PIPELINES]
    name = document.get("_class_name")
    if name not in known:
        raise ValueError(
            f"{folder / 'model_index.json'} is of {name!r}; we have {', '.join(known)}"
        )
    if document.get("boundary_ratio") is not None:
        raise ValueError(
            f"{folder} has two transformers that take turns (boundary_ratio="
            f"{document['boundary_ratio']}, Wan 2.2 A14B); only pipelines with one are run here"
        )
    second = document.get("transformer_2")
    if second is not None and any(entry is not None for entry in second):
        raise ValueError(
            f"{folder / 'model_index.json'} names a second transformer ({second}, Wan 2.2 A14B); only pipelines with "
            "one are run here"
        )
    if document.get("expand_timesteps"):
        raise ValueError(
            f"{folder} gives every token its own timestep (expand_timesteps, Wan 2.2 TI2V); its transformer "
            "loads and runs by itself, but this pipeline is not here yet"
        )
