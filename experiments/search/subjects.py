"""What a search runs on: the tiny model, or a transformer from a checkpoint folder."""

import abc
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.demo.runner import VIDEO, WEIGHTS
from experiments.generation.store import load_progress, save_progress
from experiments.search.settings import Config
from experiments.tiny_runs import SHIFT
from models import load_transformer
from models.pipelines import Clip, Conditions, Denoiser, Family, Tiny, read_family
from models.text_embeddings import TextEmbeddings, load_embeddings
from models.tiny import load_tiny
from models.transformer import Transformer
from sparsevdit_jax import SparseAttention

OnStep = Callable[[int, tuple[Any, ...]], None]


class Subject(abc.ABC):
    """A model, its prompts, and what it denoises.

    Args:
      config: of the search; some of its flags have another default for each subject, which they take here.
      family, model: that are searched for.
      shape: of what is denoised.
      prompts: names of the prompts.
      num_steps: denoising steps.
      text_len: tokens of text in the joint sequence; None: the family's own.

    Attributes:
      grid, num_layers, num_heads, head_dim: of the attention.
    """

    def __init__(
        self,
        config: Config,
        family: Family,
        model: Transformer,
        shape: tuple[int, ...],
        *,
        prompts: tuple[str, ...],
        num_steps: int,
        text_len: int | None = None,
    ):
        self.config, self.family, self.model, self.shape = config, family, model, shape
        self.prompts, self.num_steps, self.text_len = prompts, num_steps, text_len
        self.grid, self.num_layers = family.grid(shape, text_len), model.num_attention_layers
        self.num_heads = family.transformer.num_heads
        self.head_dim = family.transformer.head_dim
        self._denoisers: dict[SparseAttention, Denoiser] = {}

    @abc.abstractmethod
    def conditions(self, prompt: int) -> Conditions:
        """What the model is called with for a prompt."""

    def run(self, prompt: int, attention: SparseAttention, store: Path, on_step: OnStep) -> None:
        """Denoises one prompt, going on from `store`; `on_step(step, states)` after each step."""
        conditions, denoiser = self.conditions(prompt), self._denoiser(attention)
        key = jax.random.key(self.config.seed + prompt)
        noise = jax.random.normal(key, self.shape, jnp.float32)
        settings = dict(attention=f"{attention}", prompt=self.prompts[prompt])
        progress = load_progress(store, denoiser.start(noise, conditions), settings)

        def after(phase, now):
            del phase
            on_step(now.step - 1, now.states)
            if now.step % self.config.save_every == 0 and now.step < self.num_steps:
                save_progress(store, now, settings)

        denoiser.run(self.model, conditions, progress, after)
        store.unlink(missing_ok=True)

    def _denoiser(self, attention: SparseAttention) -> Denoiser:
        """One for each attention, so that prompts share compiled steps."""
        if attention not in self._denoisers:
            setting = dict(num_steps=self.num_steps, text_len=self.text_len, attention=attention)
            self._denoisers[attention] = Denoiser(self.family, self.shape, **setting)
        return self._denoisers[attention]


class TinySubject(Subject):
    """The committed TinyVideoDiT; its prompts are digits."""

    def __init__(self, config: Config):
        model = load_tiny(WEIGHTS, dtype=config.dtype)
        prompts = _prompts(config, ("2", "3", "5", "7"))
        if bad := [p for p in prompts if p not in "0123456789" or len(p) != 1]:
            raise ValueError(f"prompts {bad} must be digits, 0 to 9, for the tiny model")
        asked = (config.frames, config.height, config.width)
        size = [n if given is None else given for given, n in zip(asked, VIDEO, strict=True)]
        shape = (1, *size, model.config.channels)
        family = Tiny(model.config, SHIFT if config.shift is None else config.shift)
        steps = config.steps or 15
        super().__init__(config, family, model, shape, prompts=prompts, num_steps=steps)
        self.guidance = 2.0 if config.guidance is None else config.guidance

    def conditions(self, prompt):
        """See `Subject.conditions`."""
        return self.family.conditions([int(self.prompts[prompt])], self.guidance)


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
        super().__init__(
            config,
            self.family,
            load_transformer(config.model, dtype=self.dtype),
            self.family.latent_shape(self.clip),
            prompts=self.prompts,
            num_steps=config.steps or default.steps,
            text_len=self.conditions(0).inputs["encoder_hidden_states"].shape[1],
        )

    def conditions(self, prompt):
        """See `Subject.conditions`."""
        return self.family.conditions(self.texts[prompt], self.clip, self.guidance)

    def _text(self, prompt) -> TextEmbeddings:
        if self.config.embeddings:
            return load_embeddings(self.config.embeddings[prompt])
        negative = self.config.negative_prompt if self.family.guided(self.guidance) else None
        return self.family.encode_prompts([self.prompts[prompt]], negative, dtype=self.dtype)


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
