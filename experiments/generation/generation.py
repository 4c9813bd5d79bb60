"""One call of `experiments.generate`: planned, then run."""

import dataclasses
import gc
import time
from typing import Any

import jax
import jax.numpy as jnp

from experiments import hosts
from experiments.generation.choose import choose_attention
from experiments.generation.decoding import choose_decoding
from experiments.generation.image import read_image
from experiments.generation.memory import GIB, check_memory, device_memory
from experiments.generation.report import balance, compare, timing, write_report
from experiments.generation.settings import Config, check_flags, clip_of, dense_path
from experiments.generation.store import load_progress, save_progress, settings_of, store_of
from experiments.generation.weights import Weights
from experiments.media import write_mp4
from experiments.progress import progress_bar
from models import load_vae
from models.pipelines import Denoiser, read_family
from models.text_embeddings import TextEmbeddings, load_embeddings
from sparsevdit_jax import Phase, SparseAttention


class Generation:
    """One call of the command: plans, then runs.

    With a mesh denoising runs on it, and decoding where it fits; each process encodes the prompt on its first device,
    and the first writes.
    """

    def __init__(self, config: Config):
        self.family = read_family(config.model)
        if config.shift is not None:
            self.family = self.family.with_shift(config.shift)
        self.config = config = config.filled(self.family)
        check_flags(config, self.family)
        self.clip = clip_of(config)
        self.shape = self.family.latent_shape(self.clip)
        self.seconds: dict[str, float] = {}
        self.text = None if config.embeddings is None else load_embeddings(config.embeddings)
        conditions = self._planned_conditions()
        text = conditions.inputs["encoder_hidden_states"]
        self.rows = text.shape[0]
        if self.rows % config.cfg:
            raise ValueError(
                f"cfg={config.cfg} must divide the rows of the transformer's batch, here {self.rows} (two with "
                "classifier-free guidance, one without); leave --cfg out"
            )
        self.mesh = hosts.mesh_of(distributed=config.distributed, cfg=config.cfg, seq=config.seq)
        self.weights = Weights(config, self.family, self.mesh)
        self.transformer = self.weights.planned_transformer()
        self.grid = self.family.grid(self.transformer, self.clip, text.shape[1])
        self.attention = choose_attention(
            config.attention,
            self.grid,
            num_layers=self.transformer.num_attention_layers,
            num_heads=self.family.transformer.num_heads,
            num_steps=config.steps,
        )
        choices = {"dense": None} if config.compare else {}
        choices[config.attention] = self.attention
        self.denoisers = {name: self._denoiser(choice) for name, choice in choices.items()}
        self._plan(conditions)

    def _denoiser(self, attention: SparseAttention | None) -> Denoiser:
        return Denoiser(
            self.family,
            self.shape,
            num_steps=self.config.steps,
            grid=self.grid,
            num_heads=self.family.transformer.num_heads,
            head_dim=self.family.transformer.head_dim,
            attention=attention,
            key=jax.random.key(self.config.seed + 1),
            implementation=self.config.implementation,
        )

    def _planned_conditions(self):
        """The shapes of what the transformer is called with."""
        text = self.text
        if text is None:
            shape = (1, *self.family.text_shape)
            blank = jax.ShapeDtypeStruct(shape, jnp.dtype(self.config.dtype))
            guided = self.config.guidance != 1
            text = TextEmbeddings(
                prompt_embeds=blank, negative_prompt_embeds=blank if guided else None
            )
        image = None
        if self.family.takes_image:
            channels = self.family.transformer.in_channels - self.shape[self.family.channel_axis]
            shape = list(self.shape)
            shape[self.family.channel_axis] = channels
            image = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
        arrays = text.arrays()
        return jax.eval_shape(
            lambda arrays, image: self.family.conditions(
                TextEmbeddings(**arrays), self.clip, self.config.guidance, image
            ),
            arrays,
            image,
        )

    def _plan(self, conditions) -> None:
        """Compiles, and refuses what does not fit."""
        began = time.perf_counter()
        steps = {}
        with hosts.on(self.mesh):
            for name, denoiser in self.denoisers.items():
                for phase, memory in denoiser.compile(self.transformer, conditions).items():
                    steps[name, phase] = memory
        self.seconds["compile"] = time.perf_counter() - began
        limit = device_memory(1 if self.mesh is None else len(self.mesh.local_devices))
        if self.config.memory_gib is not None:
            limit = int(self.config.memory_gib * GIB)
        self.decoding = choose_decoding(
            self.family, self.clip, self.weights, self.mesh, tile=self.config.tile, limit=limit
        )
        says = check_memory(
            self.family,
            self.clip,
            steps,
            self.decoding.peak,
            dtype=self.config.dtype,
            tiled=self.decoding.tile is not None,
            limit=limit,
        )
        hosts.say(says + (", decoding in tiles" if self.decoding.tile is not None else ""))
        if self.config.seq > 1 and self.attention is not None:
            heads = self.family.transformer.num_heads
            hosts.say(balance(self.attention, self.grid, heads, self.config.seq))

    def run(self) -> dict[str, Any]:
        """Makes the videos; returns the report, which is empty on all processes but the first."""
        config = self.config
        config.out.parent.mkdir(parents=True, exist_ok=True)
        text = self._timed("text", self._encode_text)
        image = self._timed("image", self._encode_image) if config.image is not None else None
        conditions = self.family.conditions(text, self.clip, config.guidance, image)
        conditions = hosts.from_first(conditions)
        model = self._timed("load transformer", self.weights.load_transformer)
        latents, phases = {}, {}
        for name, denoiser in self.denoisers.items():
            latents[name], phases[name] = self._denoise(name, denoiser, model, conditions)
        del model
        gc.collect()
        vae = self._timed("load vae", self.weights.load_vae)
        videos = {
            name: self._timed("decode", lambda x=x: self._decode(vae, x))
            for name, x in latents.items()
        }
        report = self._finish(videos, phases) if hosts.is_first() else {}
        hosts.barrier("the video is written")
        return report

    def _finish(self, videos, phases) -> dict[str, Any]:
        """Writes."""
        config = self.config
        for name, video in videos.items():
            dense = config.compare and name == "dense"
            write_mp4(
                dense_path(config.out) if dense else config.out, video, fps=config.fps, scale=1
            )
        report = {
            "attention": config.attention,
            "pattern": self._describe(),
            "seconds": self.seconds,
            "phases": {name: timing(steps) for name, steps in phases.items()},
        }
        if config.compare:
            report["comparison"] = compare(
                videos[config.attention], videos["dense"], phases, config.attention
            )
        write_report(config.out.with_suffix(".json"), dataclasses.asdict(config), report)
        for name in self.denoisers:
            store_of(config, name).unlink(missing_ok=True)
        return report

    def _timed(self, name, call):
        began = time.perf_counter()
        result = call()
        jax.block_until_ready(result)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        return result

    def _encode_text(self):
        if self.text is not None:
            return self.text
        config = self.config
        negative = config.negative_prompt if config.guidance != 1 else None
        text = self.family.encode_prompts(config.prompt, negative, dtype=jnp.dtype(config.dtype))
        gc.collect()  # the encoder is larger than some of the transformers
        return text

    def _encode_image(self):
        image = read_image(self.config.image, self.clip.height, self.clip.width)
        vae = load_vae(self.config.model, dtype=jnp.dtype(self.config.dtype))
        return self.family.image_latents(vae, image, self.clip)

    def _denoise(self, name, denoiser, model, conditions):
        noise = jax.random.normal(jax.random.key(self.config.seed), self.shape, jnp.float32)
        store = store_of(self.config, name)
        settings = settings_of(self.config, name, denoiser.attention)
        begin = denoiser.start(hosts.from_first(noise), self.rows)
        progress = load_progress(store, begin, settings)
        hosts.agree(progress.step, f"the step that {store} goes on from")
        if progress.step:
            hosts.say(
                f"{name}: goes on after step {progress.step} of {self.config.steps}, from {store}"
            )
        steps: list[tuple[Phase | None, float]] = []
        label = f"{name}, {self.config.steps} steps"
        with progress_bar(label, total=self.config.steps, done=progress.step) as advance:
            clock = [time.perf_counter()]

            def on_step(phase, now):
                jax.block_until_ready(now.x)
                steps.append((phase, time.perf_counter() - clock[0]))
                if (
                    self.config.save_every
                    and now.step % self.config.save_every == 0
                    and now.step < self.config.steps
                ):
                    save_progress(store, now, settings)
                advance("" if phase is None else phase.value)
                clock[0] = time.perf_counter()

            with hosts.on(self.mesh):
                x = denoiser.run(model, conditions, progress, on_step)
        return x, steps

    def _decode(self, vae, x):
        return self.decoding.video(vae, x)

    def _describe(self) -> str | None:
        if self.attention is None:
            return None
        distinct = list(dict.fromkeys(self.attention.patterns))
        return (
            f"{distinct[0]}"
            if len(distinct) == 1
            else f"{len(distinct)} patterns for {len(self.attention.patterns)} layers"
        )
