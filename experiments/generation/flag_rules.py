"""Checks the flags of `experiments.generate`, by themselves and against a model's configurations."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from experiments.generation.generate_flags import Config
from experiments.prompts import check_text

if TYPE_CHECKING:  # a wrong flag is told before jax is imported
    from models.pipelines import LatentFamily


def check_flags(config: Config) -> list[str]:
    """Refuses numbers that cannot be and flags that contradict each other.

    Returns:
      A line for each flag that has no effect and does no harm.

    Raises:
      ValueError, FileNotFoundError: with the flag, the rule and a remedy.
    """
    check_numbers(config, config.seed)
    if len(set(config.seed)) < len(config.seed):
        raise ValueError(f"seed={config.seed} names one twice; give each seed once")
    check_text([*config.prompt, config.negative_prompt or ""])
    _check_pairs(config)
    _check_files(config)
    loras = config.loras
    unused = []
    if not loras and config.lora_scale != 1:
        unused.append(f"--lora-scale {config.lora_scale:g} has no effect without --lora")
    unused += [f"--lora {path} has no effect: its scale is 0" for path, scale in loras if not scale]
    if config.image is None and config.image_fit != "crop":
        unused.append(f"--image-fit {config.image_fit} has no effect without --image")
    if config.embeddings is not None and config.text_dtype is not None:
        unused.append(
            f"--text-dtype {config.text_dtype} has no effect: --embeddings {config.embeddings} are taken as they are"
        )
    return unused


def check_numbers(config: Any, seeds: Iterable[int]) -> None:
    """Refuses numbers that cannot be, of those flags that a command has.

    Args:
      config: flags by the names that all commands give them; None is the model's own value.
      seeds: of the noise.

    Raises:
      ValueError: with flag, rule and remedy.
    """
    for name, least in _LEAST.items():
        value = getattr(config, name, None)
        if value is not None and value < least:
            raise ValueError(f"{name}={value} must be at least {least}{_USUAL.get(name, '')}")
    for name in ("shift", "memory_gib"):
        value = getattr(config, name, None)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} must be a finite number above 0, or left out")
    if config.guidance is not None and not (
        math.isfinite(config.guidance) and config.guidance >= 0
    ):
        raise ValueError(
            f"guidance={config.guidance} must be a finite number from 0 on; 5 or 6 is usual, and 1 or less turns "
            "classifier-free guidance off"
        )
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise ValueError(
                f"seed={seed} must lie in 0..{2**32 - 1}: beyond, two seeds have the same noise"
            )


_LEAST = dict.fromkeys(("frames", "height", "width", "steps", "cfg", "seq"), 1) | dict.fromkeys(
    ("save_every", "dense_steps", "dense_last_steps"), 0
)
_USUAL = {
    "steps": "; 20 to 50 are usual",
    "cfg": ", a number of devices",
    "seq": ", a number of devices",
    "save_every": " steps; 0 saves the end of the run alone",
}


def _check_files(config: Config) -> None:
    """What is not there needs no library to be told."""
    model = config.model.expanduser()
    if not model.exists() and not model.is_symlink():
        raise FileNotFoundError(
            f"no folder {config.model}; give a checkpoint in the layout of diffusers"
        )
    for flag in ("image", "embeddings", "latents"):
        path = getattr(config, flag)
        if path is not None and not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "is not there"
            raise FileNotFoundError(f"--{flag} {path} {what}; give the path of a file")


def _check_pairs(config: Config) -> None:
    """Flags of which one would silently win."""
    if config.embeddings is not None and config.prompt:
        raise ValueError(
            f"--prompt {config.prompt[0]!r} and --embeddings {config.embeddings} contradict each other: embeddings are "
            "of prompts already; leave one of them out"
        )
    if config.embeddings is not None and config.negative_prompt is not None:
        raise ValueError(
            f"--negative-prompt {config.negative_prompt!r} cannot join --embeddings {config.embeddings}, which bring "
            "their own: leave it out, or make the file again with python -m experiments.make_text_embeddings "
            "--negative-prompt"
        )
    if config.embeddings is None and not config.prompt:
        raise ValueError('there is no --prompt and no --embeddings; give one ("" is a prompt, too)')
    if config.attention == "dense":
        _check_dense(config)
    if config.shard_weights and config.cfg * config.seq == 1:
        raise ValueError(
            "shard_weights=True shards weights over several devices; give --cfg or --seq, or leave it out"
        )
    inputs = [config.image, config.embeddings, config.latents]
    if any(path is not None and path.resolve() == config.out.resolve() for path in inputs):
        raise ValueError(f"out={config.out} is one of the files that are read; choose another name")


def check_family(given: Config, config: Config, family: "LatentFamily") -> list[str]:
    """Refuses what this model cannot do; the lines are as those of `check_flags`.

    Args:
      given: the flags.
      config: the same, `filled` by the family.
      family: of the model.
    """
    family.check_clip(config.clip)
    if config.attention == "dense":
        _check_dense(config)
    trained = getattr(family.transformer, "combine", None)
    if trained is not None and (config.attention == "dense" or config.compare):
        raise ValueError(
            f"{config.model} was trained with {trained}, and dense attention would leave out a branch that its weights "
            f"expect; take --attention {trained}, or leave --attention and --compare out"
        )
    if family.takes_image and config.image is None:
        raise ValueError(
            f"{config.model} holds an image-to-video model; give its first frame, --image"
        )
    if config.image is not None and not family.takes_image:
        raise ValueError(f"{config.model} holds a text-to-video model; leave --image out")
    rows = 2 if family.guided(config.guidance) else 1
    if rows % config.cfg:
        raise ValueError(
            f"cfg={config.cfg} must divide the rows of the transformer's batch, here {rows} (two with "
            "classifier-free guidance, one without); leave --cfg out"
        )
    unused = []
    if given.negative_prompt is not None and config.negative_prompt is None:
        unused.append(
            f"--negative-prompt {given.negative_prompt!r} has no effect: guidance {config.guidance:g} is off "
            "(1 or less)"
        )
    if config.latents is not None and given.seed and not family.scheduler.draws_noise:
        if len(given.seed) > 1:
            raise ValueError(
                f"--seed {' '.join(map(str, given.seed))} would make one video {len(given.seed)} times: the noise is "
                f"that of --latents {config.latents}; leave one of them out"
            )
        unused.append(f"--seed {given.seed[0]} has no effect: the noise is that of --latents")
    if given.fps is not None and config.out.suffix == "":
        unused.append(f"--fps {given.fps} has no effect on a folder of pictures, {config.out}")
    return unused


def _check_dense(config: Config) -> None:
    """ValueError for flags that have no meaning beside dense attention."""
    if config.compare:
        raise ValueError(
            "--compare compares with dense attention, which --attention is already; choose another one, or leave "
            "--compare out"
        )
    given = [name for name, value in config.dense_part.items() if value not in (None, ())]
    if given:
        flag = given[0].replace("_", "-")
        raise ValueError(
            f"--{flag} says what stays dense of a sparse attention, and --attention is dense as a whole; choose "
            f"another --attention, or leave --{flag} out"
        )
