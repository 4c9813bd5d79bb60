"""One call of `experiments.generate`: checked, planned, then run."""

import gc
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import hosts
from experiments.generation.choose_attention import choose_attention
from experiments.generation.decoding import Decoding, choose_decoding
from experiments.generation.finish import finish, unfinished
from experiments.generation.generate_flags import Config
from experiments.generation.inputs import one_prompt
from experiments.generation.jobs import Job
from experiments.generation.memory import GIB, check_memory, device_memory
from experiments.generation.request import read_request, settings_of
from experiments.generation.run_report import balance
from experiments.generation.store import (
    Denoised,
    check_kept,
    load_latents,
    load_progress,
    save_latents,
    save_progress,
)
from experiments.generation.weights import Weights
from experiments.progress import progress_bar
from models import check_loras, load_vae
from models.combine import check_branches
from models.pipelines import Conditions, Denoiser
from models.text_embeddings import TextEmbeddings
from sparsevdit_jax import Phase, SparseAttention


class Generation:
    """One call of the command: checks, plans, then runs.

    All videos are denoised, each one's latents kept on disk, before the first is decoded, so that transformer and VAE
    are loaded once and never together. With a mesh denoising runs on it, and decoding where it fits; each process
    encodes the prompts on its first device, and the first writes.
    """

    def __init__(self, config: Config):
        self.request = request = read_request(config)
        self.config = config = request.config
        self.family = request.family
        self.seconds: dict[str, float] = {}
        conditions = request.planned_conditions()
        self.text_len = conditions.inputs["encoder_hidden_states"].shape[1]
        self.mesh = hosts.mesh_of(distributed=config.distributed, cfg=config.cfg, seq=config.seq)
        self.weights = Weights(config, self.family, self.mesh)
        self.transformer = self.weights.planned_transformer()
        for line in check_loras(self.transformer, config.loras):
            hosts.say(f"warning: {line}")
        self.grid = self.family.grid(request.shape, self.text_len)
        self.attention = choose_attention(
            config.attention,
            self.grid,
            num_layers=self.transformer.num_attention_layers,
            num_heads=self.family.transformer.num_heads,
            num_steps=config.steps,
            model=type(self.family).__name__.lower(),
            **config.dense_part,
        )
        trained = getattr(self.family.transformer, "combine", None)
        check_branches(trained, self.attention)
        if trained is None and any(p.has_side for p in getattr(self.attention, "patterns", ())):
            raise ValueError(
                f"--attention {config.attention} has a second branch, which {config.model} was not trained with; take "
                "a checkpoint that was, or another method"
            )
        self.attentions = {"dense": None} if config.compare else {}
        self.attentions[config.attention] = self.attention
        self.jobs = unfinished(
            request.jobs, self._settings, list(self.attentions), compare=config.compare
        )
        self.to_denoise = [(job, name) for job in self.jobs for name in self._to_denoise(job)]
        hosts.agree(len(self.to_denoise), "how many videos are still to be denoised")
        self.denoisers = {
            name: self._denoiser(self.attentions[name]) for _, name in self.to_denoise
        }
        self.decoding = self._plan(conditions)

    def _settings(self, job: Job, name: str) -> dict[str, Any]:
        return settings_of(self.request, job, self.attentions[name])

    def _is_dense(self, name: str) -> bool:
        return self.config.compare and name == "dense"

    def _to_denoise(self, job: Job) -> list[str]:
        """The attentions whose latents are not there yet; refuses what was kept of other runs."""
        left = []
        for name in self.attentions:
            settings, dense = self._settings(job, name), self._is_dense(name)
            check_kept(job.run(dense=dense), settings)
            if check_kept(job.latents(dense=dense), settings) is None:
                left.append(name)
        return left

    def _denoiser(self, attention: SparseAttention | None) -> Denoiser:
        return Denoiser(
            self.family,
            self.request.shape,
            num_steps=self.config.steps,
            text_len=self.text_len,
            attention=attention,
            implementation=self.config.implementation,
        )

    def _plan(self, conditions: Conditions) -> Decoding:
        """Compiles, and refuses what does not fit."""
        config, clip = self.config, self.request.clip
        began = time.perf_counter()
        steps = {}
        with hosts.on(self.mesh):
            for name, denoiser in self.denoisers.items():
                for phase, memory in denoiser.compile(self.transformer, conditions).items():
                    steps[name, phase] = memory
        self.seconds["compile"] = time.perf_counter() - began
        limit = device_memory(1 if self.mesh is None else len(self.mesh.local_devices))
        if config.memory_gib is not None:
            limit = int(config.memory_gib * GIB)
        decoding = choose_decoding(
            self.family, clip, self.weights, self.mesh, tile=config.tile, limit=limit
        )
        says = check_memory(
            self.family,
            clip,
            steps,
            decoding.peak,
            dtype=config.dtype,
            tiled=decoding.tiled,
            limit=limit,
        )
        hosts.say(says + (", decoding in tiles" if decoding.tiled else ""))
        if config.seq > 1 and self.attention is not None:
            heads = self.family.transformer.num_heads
            hosts.say(balance(self.attention, self.grid, heads, config.seq))
        return decoding

    def run(self) -> dict[Path, dict[str, Any]]:
        """Makes the videos; returns the reports by the videos' paths, none on all processes but the first."""
        self.config.out.parent.mkdir(parents=True, exist_ok=True)
        denoised = self._denoise_all() if self.to_denoise else {}
        vae = self._timed("load vae", self.weights.load_vae)
        reports = {}
        for job in self.jobs:
            ends, videos = {}, {}
            settings = {name: self._settings(job, name) for name in self.attentions}
            kept = {name: job.latents(dense=self._is_dense(name)) for name in self.attentions}
            try:
                for name in self.attentions:
                    end = denoised.get((job, name)) or load_latents(kept[name], settings[name])
                    ends[name] = end
                    x = hosts.on_every(jnp.asarray(end.x), self.mesh)
                    videos[name] = self._timed("decode", lambda x=x: self._decode(vae, x))
                if hosts.is_first():
                    reports[job.out] = finish(
                        self.config, job, videos, ends, self.attention, settings, self.seconds
                    )
            except BaseException:
                hosts.say(
                    f"the denoised latents stay in {', '.join(map(str, kept.values()))}; the same command goes "
                    "straight to decoding"
                )
                raise
            self.seconds.pop("decode")
        hosts.barrier("the videos are written")
        return reports

    def _denoise_all(self) -> dict[tuple[Job, str], Denoised]:
        text = self._timed("text", self._encode_text)
        image = None
        if self.request.image is not None:
            image = self._timed("image", self._encode_image)
        model = self._timed("load transformer", self.weights.load_transformer)
        denoised = {}
        for job, name in self.to_denoise:
            own = one_prompt(text, job.row)
            conditions = self.family.conditions(own, self.request.clip, self.config.guidance, image)
            conditions = hosts.from_first(conditions)
            denoised[job, name] = self._denoise(job, name, model, conditions)
        del model
        gc.collect()
        return denoised

    def _timed(self, name, call):
        began = time.perf_counter()
        result = call()
        jax.block_until_ready(result)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        return result

    def _encode_text(self) -> TextEmbeddings:
        """Of all prompts."""
        if self.request.text is not None:
            return self.request.text
        config = self.config
        text = self.family.encode_prompts(
            config.prompt,
            config.negative_prompt,
            dtype=jnp.dtype(config.text_dtype),
            variant=config.variant,
        )
        gc.collect()  # the encoder is larger than some of the transformers
        return text

    def _encode_image(self):
        config = self.config
        dtype = jnp.dtype(config.vae_dtype)
        vae = load_vae(config.model, dtype=dtype, variant=config.variant)
        return self.family.image_latents(vae, self.request.image, self.request.clip)

    def _noise(self, job: Job) -> jax.Array:
        given = self.request.latents
        if given is not None:
            return jnp.asarray(given[job.row : job.row + 1] if len(given) > 1 else given)
        return jax.random.normal(jax.random.key(job.seed), self.request.shape, jnp.float32)

    def _denoise(self, job: Job, name: str, model: Any, conditions: Conditions) -> Denoised:
        config, denoiser = self.config, self.denoisers[name]
        store, settings = job.run(dense=self._is_dense(name)), self._settings(job, name)
        begin = denoiser.start(hosts.from_first(self._noise(job)), conditions)
        progress = load_progress(store, begin, settings)
        hosts.agree(progress.step, f"the step that {store} goes on from")
        if progress.step:
            hosts.say(f"{name}: goes on after step {progress.step} of {config.steps}, from {store}")
        steps: list[tuple[str, float]] = []
        label = f"{name}, {config.steps} steps"
        if len(self.request.jobs) > 1:
            label = f"{job.out.stem}: {label}"
        with progress_bar(label, total=config.steps, done=progress.step) as advance:
            clock = [time.perf_counter()]

            def on_step(phase: Phase, now):
                jax.block_until_ready(now.x)
                steps.append((phase.value, time.perf_counter() - clock[0]))
                if (
                    config.save_every
                    and now.step % config.save_every == 0
                    and now.step < config.steps
                ):
                    save_progress(store, now, settings)
                advance(phase.value)
                clock[0] = time.perf_counter()

            key = jax.random.key((job.seed + 1) % 2**32)
            with hosts.on(self.mesh):
                x = denoiser.run(model, conditions, progress, on_step, key=key)
        denoised = Denoised(hosts.to_host(x), steps)
        save_latents(job.latents(dense=self._is_dense(name)), denoised, settings)
        if hosts.is_first():
            store.unlink(missing_ok=True)
        return denoised

    def _decode(self, vae: Any, x: jax.Array) -> np.ndarray | None:
        return self.decoding.video(vae, x)
