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

from experiments.demo.clip_runner import VIDEO, WEIGHTS
from experiments.generation.checkpoint import read_checkpoint
from experiments.generation.identity import identity
from experiments.generation.inputs import blank_text, one_prompt, planned_conditions
from experiments.generation.store import load_progress, save_progress
from experiments.search.search_flags import Config
from experiments.tiny_runs import SHIFT
from models import load_transformer
from models.abstract import planned
from models.pipelines import Clip, Conditions, Denoiser, Family, Tiny, read_family
from models.pretrained import TRANSFORMERS
from models.text_embeddings import TextEmbeddings, load_embeddings
from models.tiny import load_tiny
from models.transformer import Transformer
from sparsevdit_jax import SparseAttention

OnStep = Callable[[int, tuple[Any, ...]], None]


class Subject(abc.ABC):
    """A model, its prompts, and what it denoises.

    Args:
      config: of the search; some of its flags have another default for each subject, which they take here.
      family: of the model that is searched for.
      shape: of what is denoised.
      prompts: names of the prompts.
      num_steps: denoising steps.
      num_layers: layers that take a pattern.
      read: identity of every file that makes a difference, by name.
      text_len: tokens of text in the joint sequence; None: the family's own.

    Attributes:
      grid, num_layers, num_heads, head_dim: of the attention.
    """

    def __init__(
        self,
        config: Config,
        family: Family,
        shape: tuple[int, ...],
        *,
        prompts: tuple[str, ...],
        num_steps: int,
        num_layers: int,
        read: Mapping[str, str],
        text_len: int | None = None,
    ):
        self.config, self.family, self.shape, self.read = config, family, shape, read
        self.prompts, self.num_steps, self.text_len = prompts, num_steps, text_len
        self.grid, self.num_layers = family.grid(shape, text_len), num_layers
        self.num_heads = family.transformer.num_heads
        self.head_dim = family.transformer.head_dim
        self._denoisers: dict[SparseAttention, Denoiser] = {}

    @property
    @abc.abstractmethod
    def model(self) -> Transformer:
        """The transformer; read when it is first asked for."""

    @abc.abstractmethod
    def conditions(self, prompt: int) -> Conditions:
        """What the model is called with for a prompt."""

    def run(self, prompt: int, attention: SparseAttention, store: Path, on_step: OnStep) -> None:
        """Denoises one prompt, going on from `store`; `on_step(step, states)` after each step."""
        conditions, denoiser = self.conditions(prompt), self._denoiser(attention)
        key = jax.random.key(self.config.seed + prompt)
        noise = jax.random.normal(key, self.shape, jnp.float32)
        settings = dict(attention=f"{attention}", prompt=self.prompts[prompt]) | dict(self.read)
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
        self._model = load_tiny(WEIGHTS, dtype=config.dtype)
        prompts = _prompts(config, ("2", "3", "5", "7"))
        if bad := [p for p in prompts if p not in "0123456789" or len(p) != 1]:
            raise ValueError(f"prompts {bad} must be digits, 0 to 9, for the tiny model")
        asked = (config.frames, config.height, config.width)
        size = [n if given is None else given for given, n in zip(asked, VIDEO, strict=True)]
        sizes = self._model.config
        super().__init__(
            config,
            Tiny(sizes, SHIFT if config.shift is None else config.shift),
            (1, *size, sizes.channels),
            prompts=prompts,
            num_steps=config.steps or 15,
            num_layers=self._model.num_attention_layers,
            read={WEIGHTS.name: identity(WEIGHTS)},
        )
        self.guidance = 2.0 if config.guidance is None else config.guidance

    @property
    def model(self):
        """See `Subject.model`."""
        return self._model

    def conditions(self, prompt):
        """See `Subject.conditions`."""
        return self.family.conditions([int(self.prompts[prompt])], self.guidance)


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
        num_steps = config.steps or default.steps
        self.family.set_timesteps(num_steps)  # refuses those that make no noise levels
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
        prompts = _prompts(config, tuple(name for name, _ in self._given))
        dtypes, encoded = {"transformer": config.dtype}, None
        if not self._given:
            dtypes["text_encoder"] = config.dtype
            encoded = [*prompts, *([config.negative_prompt] if self.guided else [])]
        read = read_checkpoint(self.family, dtypes, prompts=encoded, variant=config.variant)
        for path in config.embeddings:
            read[f"embeddings {path.name}"] = identity(path)
        kind = TRANSFORMERS[self.family.TRANSFORMER]
        model = planned(kind, self.family.transformer, self.dtype)
        super().__init__(
            config,
            self.family,
            self.family.latent_shape(self.clip),
            prompts=prompts,
            num_steps=num_steps,
            num_layers=model.num_attention_layers,
            read=read,
            text_len=self._text_len(prompts),
        )

    def conditions(self, prompt):
        """See `Subject.conditions`."""
        return self.family.conditions(self._texts[prompt], self.clip, self.guidance)

    def _text_len(self, prompts) -> int:
        """Tokens of text, which all prompts share."""
        texts = [text for _, text in self._given] or [
            blank_text(self.family, self.dtype, guided=self.guided)
        ]
        lengths = {}
        for text, name in zip(texts, prompts, strict=False):
            conditions = planned_conditions(self.family, text, self.clip, self.guidance)
            lengths.setdefault(conditions.inputs["encoder_hidden_states"].shape[1], name)
        if len(lengths) > 1:
            listed = ", ".join(f"{tokens} in {name}" for tokens, name in lengths.items())
            raise ValueError(
                f"the embeddings hold different numbers of text tokens ({listed}), and one attention is for one "
                "number; make them in one call of python -m experiments.make_text_embeddings"
            )
        return next(iter(lengths))

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
    def model(self):
        """See `Subject.model`."""
        config = self.config
        return load_transformer(config.model, dtype=self.dtype, variant=config.variant)


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
