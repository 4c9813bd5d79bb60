"""What a search runs on: the tiny model, or a transformer from a checkpoint folder."""

import abc
import dataclasses
import functools
import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from models.nn import planned

from experiments.demo.runner import SHIFT, VIDEO, WEIGHTS
from experiments.generation.checkpoint import read_checkpoint
from experiments.generation.identity import identity
from experiments.generation.inputs import blank_text, one_prompt, planned_conditions
from experiments.generation.store import load_progress, save_progress
from experiments.search.settings import Config
from models import load_transformer
from models.pipelines import Clip, Denoiser, read_family
from models.pretrained import TRANSFORMERS
from models.sampling import generate
from models.text_embeddings import TextEmbeddings, load_embeddings
from models.tiny import load_tiny
from sparsevdit_jax import SparseAttention, VideoGrid

OnStep = Callable[[int, tuple[Any, ...]], None]


class Subject(abc.ABC):
    """A model, its prompts, and the canvas.

    Attributes:
      prompts: names of the prompts.
      num_steps: denoising steps.
      grid, num_layers, num_heads, head_dim: of the attention.
      read: identity of every file that makes a difference, by name.
    """

    prompts: tuple[str, ...]
    num_steps: int
    grid: VideoGrid
    num_layers: int
    num_heads: int
    head_dim: int
    read: Mapping[str, str]

    @abc.abstractmethod
    def run(self, prompt: int, attention: SparseAttention, store: Path, on_step: OnStep) -> None:
        """Denoises one prompt; `on_step(step, states)` after each step. `store` may keep the run."""


class TinySubject(Subject):
    """The committed TinyVideoDiT; its prompts are digits. A run of it takes a minute and is not stored."""

    def __init__(self, config: Config):
        self.model = load_tiny(WEIGHTS, dtype=config.dtype)
        self.prompts = _prompts(config, ("2", "3", "5", "7"))
        if bad := [p for p in self.prompts if p not in "0123456789" or len(p) != 1]:
            raise ValueError(f"prompts {bad} must be digits, 0 to 9, for the tiny model")
        self.num_steps = config.steps or 15
        self.guidance = 2.0 if config.guidance is None else config.guidance
        self.shift = SHIFT if config.shift is None else config.shift
        self.seed = config.seed
        asked = (config.frames, config.height, config.width)
        size = [n if given is None else given for given, n in zip(asked, VIDEO, strict=True)]
        self.shape = (1, *size, self.model.config.channels)
        sizes = self.model.config
        self.grid = self.model.grid(self.shape)
        self.num_layers, self.num_heads = sizes.num_layers, sizes.num_heads
        self.head_dim = sizes.head_dim
        self.read = {WEIGHTS.name: identity(WEIGHTS)}

    def run(self, prompt, attention, store, on_step):
        """See `Subject.run`."""
        del store
        generate(
            self.model,
            jax.random.normal(jax.random.key(self.seed + prompt), self.shape),
            [int(self.prompts[prompt])],
            num_steps=self.num_steps,
            attention=attention,
            guidance=self.guidance,
            unconditional=self.model.config.num_classes,
            shift=self.shift,
            on_step=lambda step, phase, x, states: on_step(step, states),
        )


class FolderSubject(Subject):
    """The transformer of a checkpoint folder in the layout of diffusers, in text-to-video runs.

    All is checked here as `experiments.generate` checks it; nothing is loaded before the first `run`.
    """

    def __init__(self, config: Config):
        config = dataclasses.replace(config, model=config.model.expanduser())
        self.config, family = config, read_family(config.model)
        self.family = family if config.shift is None else family.with_shift(config.shift)
        if self.family.takes_image:
            raise ValueError(
                f"{config.model} holds an image-to-video model; search with the text-to-video one"
            )
        default = self.family.defaults
        self.num_steps = config.steps or default.steps
        self.family.set_timesteps(self.num_steps)  # refuses those that make no noise levels
        self.guidance = default.guidance if config.guidance is None else config.guidance
        self.guided = self.family.guided(self.guidance)
        if config.negative_prompt and not self.guided:
            raise ValueError(
                f"--negative-prompt {config.negative_prompt!r} has no effect: guidance {self.guidance:g} is off (1 or "
                "less); leave it out"
            )
        usual = default.clip
        self.clip = Clip(
            config.frames or usual.frames,
            config.height or usual.height,
            config.width or usual.width,
        )
        self.family.check_clip(self.clip)
        self.dtype = jnp.dtype(config.dtype)
        self._given = [
            (name, text) for path in config.embeddings for name, text in _read_embeddings(path)
        ]
        self.prompts = _prompts(config, tuple(name for name, _ in self._given))
        dtypes, encoded = {"transformer": config.dtype}, None
        if not self._given:
            dtypes["text_encoder"] = config.dtype
            encoded = [*self.prompts, *([config.negative_prompt] if self.guided else [])]
        self.read = read_checkpoint(self.family, dtypes, prompts=encoded, variant=config.variant)
        for path in config.embeddings:
            self.read[f"embeddings {path.name}"] = identity(path)
        model = planned(TRANSFORMERS[self.family.TRANSFORMER], self.family.transformer, self.dtype)
        self.grid = self._grid()
        self.num_layers = model.num_attention_layers
        self.num_heads = self.family.transformer.num_heads
        self.head_dim = self.family.transformer.head_dim
        self._denoisers: dict[Any, Denoiser] = {}

    def run(self, prompt, attention, store, on_step):
        """See `Subject.run`; goes on from `store`."""
        text = self._texts[prompt]
        conditions = self.family.conditions(text, self.clip, self.guidance)
        denoiser = self._denoiser(attention, conditions)
        key = jax.random.key(self.config.seed + prompt)
        noise = jax.random.normal(key, denoiser.shape, jnp.float32)
        rows = next(iter(conditions.inputs.values())).shape[0]
        settings = dict(attention=f"{attention}", prompt=self.prompts[prompt]) | self.read
        progress = load_progress(store, denoiser.start(noise, rows), settings)

        def after(phase, now):
            del phase
            on_step(now.step - 1, now.states)
            if now.step % self.config.save_every == 0 and now.step < self.num_steps:
                save_progress(store, now, settings)

        denoiser.run(self._model, conditions, progress, after)
        store.unlink(missing_ok=True)

    def _grid(self) -> VideoGrid:
        """The canvas, which all prompts share."""
        texts = [text for _, text in self._given] or [
            blank_text(self.family, self.dtype, guided=self.guided)
        ]
        shape, grids = self.family.latent_shape(self.clip), {}
        for text, name in zip(texts, self.prompts, strict=False):
            conditions = planned_conditions(self.family, text, self.clip, self.guidance)
            tokens = conditions.inputs["encoder_hidden_states"].shape[1]
            grids.setdefault(self.family.grid(shape, tokens), name)
        if len(grids) > 1:
            listed = ", ".join(f"{grid.text_len} in {name}" for grid, name in grids.items())
            raise ValueError(
                f"the embeddings hold different numbers of text tokens ({listed}), and one attention is for one "
                "number; make them in one call of python -m experiments.make_text_embeddings"
            )
        return next(iter(grids))

    @functools.cached_property
    def _texts(self) -> list[TextEmbeddings]:
        if self._given:
            return [text for _, text in self._given]
        text = self.family.encode_prompts(
            self.prompts,
            self.config.negative_prompt if self.guided else None,
            dtype=self.dtype,
            variant=self.config.variant,
        )
        gc.collect()  # the text encoder may be larger than the transformer
        return [one_prompt(text, i) for i in range(len(self.prompts))]

    @functools.cached_property
    def _model(self) -> Any:
        config = self.config
        return load_transformer(config.model, dtype=self.dtype, variant=config.variant)

    def _denoiser(self, attention, conditions) -> Denoiser:
        """One for each attention and shape of text, so that prompts share compiled steps."""
        key = attention, str(jax.tree.map(jnp.shape, conditions.inputs))
        if key not in self._denoisers:
            self._denoisers[key] = Denoiser(
                self.family,
                self.family.latent_shape(self.clip),
                num_steps=self.num_steps,
                grid=self.grid,
                num_heads=self.num_heads,
                head_dim=self.head_dim,
                attention=attention,
            )
        return self._denoisers[key]


def _read_embeddings(path: Path) -> list[tuple[str, TextEmbeddings]]:
    """Name and embeddings of every prompt in a file: NAME, or NAME-0001 and so on of several."""
    text = load_embeddings(path)
    rows = text.prompt_embeds.shape[0]
    names = [path.stem] if rows == 1 else [f"{path.stem}-{i:04d}" for i in range(1, rows + 1)]
    return [(name, one_prompt(text, i)) for i, name in enumerate(names)]


def _prompts(config: Config, usual: tuple[str, ...]) -> tuple[str, ...]:
    prompts = config.prompts or usual
    if not prompts:
        raise ValueError("nothing to calibrate on; give --prompts or --embeddings")
    if config.held_out >= len(prompts):
        raise ValueError(
            f"held_out={config.held_out} leaves none of {len(prompts)} prompts to calibrate on; "
            "give more prompts or hold out fewer"
        )
    return prompts


def make_subject(config: Config) -> Subject:
    """The model that the flags name."""
    return TinySubject(config) if config.model is None else FolderSubject(config)
