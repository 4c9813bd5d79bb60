"""Schedulers from and to diffusers' scheduler_config.json."""

import json
from pathlib import Path

from models.config import config_from_json, config_to_json
from models.files import checkpoint_folder, is_file, read_json
from models.schedulers.cogvideox_ddim import CogVideoXDDIMScheduler
from models.schedulers.cogvideox_dpm import CogVideoXDPMScheduler
from models.schedulers.flow_euler import FlowMatchEulerDiscreteScheduler
from models.schedulers.scheduler import Scheduler
from models.schedulers.unipc import UniPCMultistepScheduler

NAME = "scheduler_config.json"
REGISTRY: dict[str, type[Scheduler]] = {
    cls.CLASS_NAME: cls
    for cls in (
        FlowMatchEulerDiscreteScheduler,
        UniPCMultistepScheduler,
        CogVideoXDDIMScheduler,
        CogVideoXDPMScheduler,
    )
}


def scheduler_from_json(document: dict) -> Scheduler:
    """The scheduler that the contents of a scheduler_config.json describe.

    Raises:
      ValueError: an unknown `_class_name`, or a value that is not implemented.
    """
    name = document.get("_class_name")
    if not isinstance(name, str) or name not in REGISTRY:
        raise ValueError(
            f"_class_name={name!r} must be one of {', '.join(REGISTRY)}; "
            "choose one of them that fits the model and write its configuration"
        )
    cls = REGISTRY[name]
    return cls(config_from_json(cls.config_class, document))  # type: ignore[call-arg]


def load_scheduler(folder: str | Path) -> Scheduler:
    """The scheduler of a pipeline's folder (its `scheduler` subfolder), or of a scheduler's own folder.

    Raises:
      FileNotFoundError: neither has a scheduler_config.json.
      ValueError: it describes something that is not implemented.
    """
    folder = checkpoint_folder(folder)
    paths = [folder / "scheduler" / NAME, folder / NAME]
    for path in paths:
        if is_file(path):
            document = read_json(path)
            try:
                return scheduler_from_json(document)
            except ValueError as problem:
                raise ValueError(f"{path}: {problem}") from problem
    raise FileNotFoundError(
        f"no {NAME} at {paths[0]} or {paths[1]}; give a pipeline's folder or its scheduler's"
    )


def save_scheduler(scheduler: Scheduler, folder: str | Path) -> None:
    """Writes `folder`/scheduler_config.json, for `load_scheduler` and for diffusers.

    Raises:
      FileExistsError: there is one, and it is not overwritten.
    """
    path = Path(folder).expanduser() / NAME
    if path.exists():
        raise FileExistsError(
            f"{path} exists and is not overwritten; remove it or choose another folder"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    document = config_to_json(scheduler.config, scheduler.CLASS_NAME)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
