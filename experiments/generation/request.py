"""All that can be known of a call without compiling: read and checked here, in this order, in a second or two.

1. flags by themselves; 2. the folder's configurations, and flags beside them; 3. what is written: names, encoder,
nothing overwritten; 4. the user's files: image, embeddings, latents; 5. tokenizer and headers of the weights;
6. in `Generation`, which plans the model anyway, the LoRA files and interrupted runs.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import models
from experiments import hosts
from experiments.generation.flags import check_family, check_flags
from experiments.generation.identity import identities, identity
from experiments.generation.image import read_image
from experiments.generation.inputs import blank_text, is_denoised, read_latents
from experiments.generation.jobs import Job, jobs_of
from experiments.generation.settings import Config
from experiments.media import check_output
from models.pipelines import Clip, Conditions, LatentFamily, check_prompts, read_family
from models.text_embeddings import TextEmbeddings, load_embeddings
from pallas_kernels.block_sparse_attention.api import IMPLEMENTATIONS as SPARSE
from pallas_kernels.dense_attention.api import IMPLEMENTATIONS as DENSE

_PEFT = "adapter_config.json"
_TOKENIZER = ("tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json")


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
        return jax.eval_shape(
            lambda arrays, image: family.conditions(
                TextEmbeddings(**arrays), self.clip, config.guidance, image
            ),
            text.arrays(),
            image,
        )


def read_request(given: Config) -> Request:
    """Reads and checks what the flags name; says what has no effect.

    Raises:
      ValueError, OSError, ImportError: with value, rule and remedy.
    """
    unused = check_flags(given)
    given = dataclasses.replace(given, model=given.model.expanduser())
    _check_implementation(given.implementation)
    family = read_family(given.model)
    if given.scheduler is not None:
        family = family.with_scheduler(given.scheduler)
    if given.shift is not None:
        family = family.with_shift(given.shift)
    config = given.filled(family)
    unused += check_family(given, config, family)
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
    request.planned_conditions()
    if text is None:
        negative = [] if config.negative_prompt is None else [config.negative_prompt]
        check_prompts(family, [*config.prompt, *negative])
    read = _read(config, family)
    for line in unused:
        hosts.say(f"warning: {line}")
    return dataclasses.replace(request, read=read)


def _check_names(jobs: list[Job], config: Config) -> None:
    """What is certainly not this call's and would be overwritten; `unfinished` looks at the rest."""
    for job in jobs:
        if len(jobs) == 1 and job.report.exists():
            raise FileExistsError(
                f"{job.report} exists and is not overwritten; choose another --out"
            )
        for dense in {False, config.compare}:
            path = job.video(dense=dense)
            kept = job.report.exists() or job.latents(dense=dense).exists()
            if path.exists() and not kept:
                raise FileExistsError(f"{path} exists and is not overwritten; choose another --out")


def _check_implementation(name: str | None) -> None:
    if name is not None and name not in SPARSE.keys() | DENSE.keys():
        known = sorted(SPARSE.keys() | DENSE.keys())
        raise ValueError(f"implementation={name!r} must be one of {', '.join(known)}, or left out")


def _read(config: Config, family: LatentFamily) -> dict[str, str]:
    """Checks the headers of all weights, and returns the identity of what the run reads."""
    folder = config.model
    parts = ["transformer", "vae", *(["text_encoder"] if config.embeddings is None else [])]
    files: list[Path] = []
    dtypes = {"transformer": config.dtype, "vae": config.vae_dtype, "text_encoder": None}
    for part in parts:
        dtype = dtypes[part]
        files += models.check_weights(folder, part, dtype=dtype, variant=config.variant)
        files.append(folder / part / "config.json")
    files.append(folder / "model_index.json")
    if config.embeddings is None:
        files += [folder / "tokenizer" / name for name in _TOKENIZER]
    found = identities([path for path in files if path.is_file()], folder)
    for flag in ("image", "embeddings", "latents"):
        path = getattr(config, flag)
        if path is not None:
            found[flag] = identity(path)
    for i, (path, scale) in enumerate(config.loras, start=1):
        found[f"lora {i} ({path.name})"] = f"{scale:g} x {_lora(path)}"
    scheduler = family.scheduler
    document = {"class": scheduler.CLASS_NAME, **dataclasses.asdict(scheduler.config)}
    return found | {f"scheduler.{name}": repr(value) for name, value in document.items()}


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
