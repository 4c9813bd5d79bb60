"""Reads what a command needs of a checkpoint folder, checked first, and identified by its content."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import models
from experiments.generation.identity import identities
from models.pipelines import LatentFamily, check_prompts

_TOKENIZER = ("tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json")


def read_checkpoint(
    family: LatentFamily,
    dtypes: Mapping[str, Any],
    *,
    prompts: Sequence[str] | None = None,
    variant: str | None = None,
) -> dict[str, str]:
    """Makes sure that parts of a folder can be loaded and its encoder takes `prompts`; reads no tensor.

    Args:
      family: of the folder.
      dtypes: part, such as "transformer" -> the dtype that it is loaded in, of all parts that will be.
      prompts: what is to be encoded, negative ones too; None where there are embeddings.
      variant: of the weights' files.

    Returns:
      Identity of every file that makes a difference, by its name in the folder, and the scheduler's entries.

    Raises:
      OSError, ValueError, ImportError: as `check_prompts` and `models.check_weights`.
    """
    folder = family.folder
    if prompts is not None:
        check_prompts(family, prompts)
    files: list[Path] = []
    for part, dtype in dtypes.items():
        files += models.check_weights(folder, part, dtype=dtype, variant=variant)
        files.append(folder / part / "config.json")
    files.append(folder / "model_index.json")
    if prompts is not None:
        files += [folder / "tokenizer" / name for name in _TOKENIZER]
    found = identities([path for path in files if path.is_file()], folder)
    scheduler = family.scheduler
    document = {"class": scheduler.CLASS_NAME, **dataclasses.asdict(scheduler.config)}
    return found | {f"scheduler.{name}": repr(value) for name, value in document.items()}
