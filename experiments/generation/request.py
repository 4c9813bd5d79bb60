"""Reads and checks all that can be known of a call without compiling, in this order, in a second or two.

1. flags by themselves; 2. the folder's configurations, and flags beside them; kernels on this device; 3. what is
written: names, encoder, nothing overwritten; 4. the user's files: image, embeddings, latents; 5. tokenizer and headers
of the weights; 6. in `Generation`, which plans the model anyway, the LoRA files and interrupted runs.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import hosts
from experiments.generation.checkpoint import read_checkpoint
from experiments.generation.flag_rules import check_family, check_flags
from experiments.generation.generate_flags import Config
from experiments.generation.identity import identity
from experiments.generation.image import read_image
from experiments.generation.inputs import (
    blank_text,
    is_denoised,
    planned_conditions,
    read_latents,
)
from experiments.generation.jobs import Job, jobs_of
from experiments.implementation import check_implementation
from experiments.media import check_output
from models.pipelines import Clip, Conditions, LatentFamily, read_family
from models.text_embeddings import TextEmbeddings, load_embeddings

_PEFT = "adapter_config.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What is asked for.

    Attributes:
      config: the flags, with the model's values where nothing was said.
      family: the model's conventions.
      jobs: videos to make.
      text: embeddings of all prompts; None has the folder's encoder make them.
      image: uint8 [height, width, 3], the first frame; None for text to video.
      latents: float32 [1 or prompts, ...] to start from; None draws them.
      read: identity of every file that makes a difference, by name.
    """

    config: Config
    family: LatentFamily
    jobs: list[Job]
    text: TextEmbeddings | None
    image: np.ndarray | None
    latents: np.ndarray | None
    read: Mapping[str, str]

    @property
    def clip(self) -> Clip:
        """The clip of every video."""
        return self.config.clip

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its latents."""
        return self.family.latent_shape(self.clip)

    def planned_conditions(self) -> Conditions:
        """The shapes of what the transformer is called with.

        Raises:
          ValueError: embeddings lack something or are another model's.
        """
        config, family = self.config, self.family
        text = self.text
        if text is None:
            guided = family.guided(config.guidance)
            text = blank_text(family, jnp.dtype(config.text_dtype), guided=guided)
        image = None
        if family.takes_image:
            shape = list(self.shape)
            shape[family.channel_axis] = family.transformer.in_channels - shape[family.channel_axis]
            image = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
        return planned_conditions(family, text, self.clip, config.guidance, image)


def read_request(given: Config) -> Request:
    """Reads and checks what the flags name; says what has no effect.

    Raises:
      ValueError, OSError, ImportError: with value, rule and remedy.
    """
    unused = check_flags(given)
    given = dataclasses.replace(given, model=given.model.expanduser())
    family = read_family(given.model)
    if given.scheduler is not None:
        family = family.with_scheduler(given.scheduler)
    if given.shift is not None:
        family = family.with_shift(given.shift)
    config = given.filled(family)
    unused += check_family(given, config, family)
    family.set_timesteps(config.steps)  # refuses steps and shifts that make no noise levels
    check_implementation(
        config.implementation,
        head_dim=family.transformer.head_dim,
        dtype=config.dtype,
        sparse=config.attention != "dense",
    )
    check_output(config.out, config.fps)

    text, rows = None, len(config.prompt)
    if config.embeddings is not None:
        text = load_embeddings(config.embeddings)
        rows = text.prompt_embeds.shape[0]
        if text.image_embeds is not None and getattr(family.transformer, "image_dim", None) is None:
            unused.append(f"image_embeds in {config.embeddings} have no effect on this model")
    image = latents = None
    if config.image is not None:
        image = read_image(
            config.image, config.clip.height, config.clip.width, fit=config.image_fit
        )
    if config.latents is not None:
        latents = read_latents(config.latents, family.latent_shape(config.clip), rows)
        if is_denoised(config.latents):
            unused.append(
                f"--latents {config.latents} are the end of a run, and are taken for noise"
            )
    request = Request(config, family, jobs_of(config, rows), text, image, latents, {})
    _check_names(request.jobs, config)
    read = _read(config, family)
    # Only now: the configuration's numbers are the weights', so nothing is planned that is absurdly large.
    request.planned_conditions()
    for line in unused:
        hosts.say(f"warning: {line}")
    return dataclasses.replace(request, read=read)


def _check_names(jobs: list[Job], config: Config) -> None:
    """What is certainly not this call's and would be overwritten; `unfinished` looks at the rest."""
    for job in jobs:
        if len(jobs) == 1 and os.path.lexists(job.report):
            raise FileExistsError(
                f"{job.report} exists and is not overwritten; choose another --out"
            )
        for dense in {False, config.compare}:
            path = job.video(dense=dense)
            kept = job.report.exists() or job.latents(dense=dense).exists()
            if os.path.lexists(path) and not kept:
                raise FileExistsError(f"{path} exists and is not overwritten; choose another --out")


def _read(config: Config, family: LatentFamily) -> dict[str, str]:
    """Checks the folder, and returns the identity of what the run reads."""
    dtypes = {"transformer": config.dtype, "vae": config.vae_dtype}
    prompts = None
    if config.embeddings is None:
        dtypes["text_encoder"] = config.text_dtype
        negative = [] if config.negative_prompt is None else [config.negative_prompt]
        prompts = [*config.prompt, *negative]
    found = read_checkpoint(family, dtypes, prompts=prompts, variant=config.variant)
    for flag in ("image", "embeddings", "latents"):
        path = getattr(config, flag)
        if path is not None:
            found[flag] = identity(path)
    for i, (path, scale) in enumerate(config.loras, start=1):
        found[f"lora {i} ({path.name})"] = f"{scale:g} x {_lora(path)}"
    return found


def _lora(path: Path) -> str:
    """Identity of a LoRA: of its file and PEFT's configuration beside it, or of all such files of a folder."""
    if path.is_dir():
        files = sorted([*path.glob("*.safetensors"), *path.glob("*.json")])
    else:
        files = [path, *([path.with_name(_PEFT)] if path.with_name(_PEFT).is_file() else [])]
    return ", ".join(map(identity, files))


def settings_of(request: Request, job: Job, attention: Any) -> dict[str, Any]:
    """What must be the same for an interrupted run to go on; on how many devices may change."""
    config = request.config
    names = [
        "negative_prompt",
        "frames",
        "height",
        "width",
        "steps",
        "guidance",
        "dtype",
        "text_dtype",
    ]
    if config.image is not None:
        names += ["image_fit", "vae_dtype"]
    settings = {name: getattr(config, name) for name in names}
    settings |= {"prompt": job.prompt, "row": job.row if job.prompt is None else None}
    settings["seed"] = job.seed
    settings["attention"] = "dense" if attention is None else attention.to_json()
    return settings | dict(request.read)
