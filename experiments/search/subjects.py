"""What a search runs on: the tiny model, or a transformer from a checkpoint folder."""

import abc
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.demo.runner import SHIFT, VIDEO, WEIGHTS
from experiments.generation.store import load_progress, save_progress
from experiments.search.settings import Config
from models import load_transformer
from models.pipelines import Clip, Denoiser, read_family
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
    """

    prompts: tuple[str, ...]
    num_steps: int
    grid: VideoGrid
    num_layers: int
    num_heads: int
    head_dim: int

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
    """The transformer of a checkpoint folder in the layout of diffusers, in text-to-video runs."""

    def __init__(self, config: Config):
        self.config, family = config, read_family(config.model)
        self.family = family if config.shift is None else family.with_shift(config.shift)
        if self.family.takes_image:
            raise ValueError(
                f"{config.model} holds an image-to-video model; search with the text-to-video one"
            )
        self.prompts = _prompts(config, ())
        default = self.family.defaults
        self.num_steps = config.steps or default.steps
        self.guidance = default.guidance if config.guidance is None else config.guidance
        usual = default.clip
        self.clip = Clip(
            config.frames or usual.frames,
            config.height or usual.height,
            config.width or usual.width,
        )
        self.family.check_clip(self.clip)
        self.dtype = jnp.dtype(config.dtype)
        self.texts = [self._text(i) for i in range(len(self.prompts))]
        gc.collect()  # the text encoder may be larger than the transformer
        self.model = load_transformer(config.model, dtype=self.dtype)
        conditions = self._conditions(0)
        tokens = conditions.inputs["encoder_hidden_states"].shape[1]
        self.grid = self.family.grid(self.family.latent_shape(self.clip), tokens)
        self.num_layers = self.model.num_attention_layers
        self.num_heads = self.family.transformer.num_heads
        self.head_dim = self.family.transformer.head_dim
        self._denoisers: dict[Any, Denoiser] = {}

    def run(self, prompt, attention, store, on_step):
        """See `Subject.run`; goes on from `store`."""
        conditions = self._conditions(prompt)
        denoiser = self._denoiser(attention, conditions)
        key = jax.random.key(self.config.seed + prompt)
        noise = jax.random.normal(key, denoiser.shape, jnp.float32)
        rows = next(iter(conditions.inputs.values())).shape[0]
        settings = dict(attention=f"{attention}", prompt=self.prompts[prompt])
        progress = load_progress(store, denoiser.start(noise, rows), settings)

        def after(phase, now):
            del phase
            on_step(now.step - 1, now.states)
            if now.step % self.config.save_every == 0 and now.step < self.num_steps:
                save_progress(store, now, settings)

        denoiser.run(self.model, conditions, progress, after)
        store.unlink(missing_ok=True)

    def _text(self, prompt) -> TextEmbeddings:
        if self.config.embeddings:
            return load_embeddings(self.config.embeddings[prompt])
        negative = self.config.negative_prompt if self.family.guided(self.guidance) else None
        return self.family.encode_prompts([self.prompts[prompt]], negative, dtype=self.dtype)

    def _conditions(self, prompt):
        return self.family.conditions(self.texts[prompt], self.clip, self.guidance)

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


def _prompts(config: Config, usual: tuple[str, ...]) -> tuple[str, ...]:
    prompts = config.prompts or tuple(path.stem for path in config.embeddings) or usual
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
