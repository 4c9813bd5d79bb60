"""From a prompt and a checkpoint folder to an MP4, dense or sparse.

    python -m experiments.generate --model Wan2.1-T2V-1.3B-Diffusers --prompt "a cat on a skateboard" \\
        --attention sta --frames 81 --height 480 --width 832 --steps 50 --seed 7 --out out/cat.mp4

The folder is one that diffusers saved: Wan 2.1, HunyuanVideo or CogVideoX. `--attention` is dense, sta, adaspa,
sparse-vdit or a JSON file (of `SparseAttention.to_json`, or FastVideo's STA strategies). `--compare` makes the dense
video too and reports PSNR, SSIM and the speed-up. The noise depends on the seed and the size only. A run that was
interrupted goes on where it was when the same command is given again. Beside the video lies a JSON with
everything measured.
"""

import dataclasses
import gc
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.generation.choose import choose_attention
from experiments.generation.memory import GIB, NotEnoughMemory, check_memory, device_memory
from experiments.generation.report import compare, timing, write_report
from experiments.generation.store import load_progress, save_progress
from experiments.media import write_mp4
from experiments.progress import progress_bar
from models import load_transformer, load_vae, merge_lora
from models.pipelines import Clip, Denoiser, Family, read_family
from models.pretrained import TRANSFORMERS, VAES
from models.text_embeddings import TextEmbeddings, load_embeddings
from sparsevdit_jax import Phase, SparseAttention


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      model: checkpoint folder in the layout of diffusers.
      prompt: what to show.
      negative_prompt: what guidance leads away from.
      image: first frame, for image-to-video models; cropped and scaled to the size.
      embeddings: .safetensors or .npz of `experiments.make_text_embeddings`, instead of the text encoder.
      attention: dense, sta, adaspa, sparse-vdit, or a JSON file.
      frames: of the video; the model's usual by default, as are height, width, steps, guidance and fps.
      height: pixels.
      width: pixels.
      steps: denoising steps.
      guidance: scale of classifier-free (HunyuanVideo: distilled) guidance; 1 turns it off.
      fps: frames per second of the MP4.
      seed: of the noise.
      out: the MP4; its report and an interrupted run lie beside it.
      compare: make the dense video too, as NAME-dense.mp4, and compare.
      dtype: of weights and compute; auto is bfloat16 on a GPU and float32 on a CPU.
      lora: LoRA files to merge.
      lora_scale: strength of them.
      tile: decode in tiles: on, off, or auto (where it would not fit otherwise).
      save_every: steps between saves of the run; 0 never saves.
      implementation: of the attention kernels; by default the best here.
      memory_gib: plan with this much memory instead of the device's.
    """

    model: Path
    prompt: str = ""
    negative_prompt: str = ""
    image: Path | None = None
    embeddings: Path | None = None
    attention: str = "dense"
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance: float | None = None
    fps: int | None = None
    seed: int = 0
    out: Path = Path("out/video.mp4")
    compare: bool = False
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    lora: tuple[Path, ...] = ()
    lora_scale: float = 1.0
    tile: Literal["auto", "on", "off"] = "auto"
    save_every: int = 5
    implementation: str | None = None
    memory_gib: float | None = None

    def filled(self, family: Family) -> "Config":
        """With the family's values in place of None and auto."""
        default = family.DEFAULTS
        values = {
            "frames": default.clip.frames,
            "height": default.clip.height,
            "width": default.clip.width,
            "steps": default.steps,
            "guidance": default.guidance,
            "fps": default.fps,
        }
        values = {k: v if getattr(self, k) is None else getattr(self, k) for k, v in values.items()}
        if self.dtype == "auto":
            on_cpu = jax.default_backend() == "cpu"
            values["dtype"] = "float32" if on_cpu else "bfloat16"
        return dataclasses.replace(self, **values)


def check_flags(config: Config, family: Family) -> None:
    """Refuses what cannot work, before anything takes time."""
    family.check_clip(clip_of(config))
    if config.steps < 1:
        raise ValueError(f"steps={config.steps} must be at least 1; 20 to 50 are usual")
    if config.out.suffix != ".mp4":
        raise ValueError(f"out={config.out} must end in .mp4")
    for path in outputs(config):
        if path.exists():
            raise FileExistsError(f"{path} exists and is not overwritten; choose another --out")
    if config.embeddings is None:
        if not family.ENCODES_TEXT:
            family.encode_prompts("", None, dtype=None)  # says why
        if not config.prompt:
            raise ValueError("there is no --prompt and no --embeddings; give one")
        for part in ("text_encoder", "tokenizer"):
            if not (config.model / part).is_dir():
                raise FileNotFoundError(
                    f"{config.model} has no {part}/; download it, or pass precomputed --embeddings "
                    "(python -m experiments.make_text_embeddings)"
                )
    if family.takes_image and config.image is None:
        raise ValueError(
            f"{config.model} holds an image-to-video model; give its first frame, --image"
        )
    if config.image is not None and not family.takes_image:
        raise ValueError(f"{config.model} holds a text-to-video model; leave --image out")
    for path in (config.image, config.embeddings, *config.lora):
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"no file {path}")


def clip_of(config: Config) -> Clip:
    """What is asked for."""
    return Clip(config.frames, config.height, config.width)


def outputs(config: Config) -> list[Path]:
    """Files that a run writes."""
    names = [config.out, config.out.with_suffix(".json")]
    return [*names, dense_path(config.out)] if config.compare else names


def dense_path(out: Path) -> Path:
    """Where `--compare` puts the dense video."""
    return out.with_name(f"{out.stem}-dense.mp4")


def abstract(registry: dict[str, Any], name: str, config: Any, dtype: str):
    """A model without weights."""
    return nnx.eval_shape(lambda: registry[name](config, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)))


def read_image(path: Path, height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: scaled to cover the size, cropped to its middle."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        return np.asarray(
            ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
        )


class Generation:
    """One call of the command: plans, then runs."""

    def __init__(self, config: Config):
        self.family = read_family(config.model)
        self.config = config = config.filled(self.family)
        check_flags(config, self.family)
        self.clip = clip_of(config)
        self.shape = self.family.latent_shape(self.clip)
        self.seconds: dict[str, float] = {}
        self.text = None if config.embeddings is None else load_embeddings(config.embeddings)
        self.transformer = abstract(
            TRANSFORMERS, self.family.TRANSFORMER, self.family.transformer, config.dtype
        )
        self.vae = abstract(VAES, self.family.VAE, self.family.vae, config.dtype)
        conditions = self._planned_conditions()
        text = conditions.inputs["encoder_hidden_states"]
        self.rows = text.shape[0]
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
        for name, denoiser in self.denoisers.items():
            for phase, memory in denoiser.compile(self.transformer, conditions).items():
                steps[name, phase] = memory
        self.seconds["compile"] = time.perf_counter() - began
        limit = (
            device_memory() if self.config.memory_gib is None else int(self.config.memory_gib * GIB)
        )
        self.tile = self.family.tiling() if self.config.tile == "on" else None
        decoding = self._decoding(self.tile)
        if self.config.tile == "auto" and limit is not None and decoding > 0.9 * limit:
            self.tile = self.family.tiling()
            decoding = self._decoding(self.tile)
        says = check_memory(
            self.family,
            self.clip,
            steps,
            decoding,
            dtype=self.config.dtype,
            tiled=self.tile is not None,
            limit=limit,
        )
        print(says + (", decoding in tiles" if self.tile is not None else ""))

    def _decoding(self, tile) -> int:
        """Bytes that decoding takes beside the video."""
        z = self.family.probe(self.clip, tile)
        z = jax.ShapeDtypeStruct(z, jnp.dtype(self.config.dtype))
        plan = jax.jit(lambda vae, z: vae.decode(z)).lower(self.vae, z).compile().memory_analysis()
        return plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes

    def run(self) -> dict[str, Any]:
        """Makes the videos; returns the report."""
        config = self.config
        config.out.parent.mkdir(parents=True, exist_ok=True)
        text = self._timed("text", self._encode_text)
        image = self._timed("image", self._encode_image) if config.image is not None else None
        conditions = self.family.conditions(text, self.clip, config.guidance, image)
        model = self._timed("load transformer", self._load_transformer)
        latents, phases = {}, {}
        for name, denoiser in self.denoisers.items():
            latents[name], phases[name] = self._denoise(name, denoiser, model, conditions)
        del model
        gc.collect()
        vae = self._timed("load vae", lambda: load_vae(config.model, dtype=jnp.dtype(config.dtype)))
        videos = {
            name: self._timed("decode", lambda x=x: self._decode(vae, x))
            for name, x in latents.items()
        }
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
            self._store(name).unlink(missing_ok=True)
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

    def _load_transformer(self):
        model = load_transformer(self.config.model, dtype=jnp.dtype(self.config.dtype))
        for path in self.config.lora:
            merge_lora(model, path, scale=self.config.lora_scale)
        return model

    def _store(self, name: str) -> Path:
        part = "-dense" if name == "dense" and self.config.compare else ""
        return self.config.out.with_name(f"{self.config.out.stem}{part}.run.safetensors")

    def _settings(self, name: str) -> dict[str, Any]:
        """What must be the same for an interrupted run to go on."""
        fields = (
            "prompt",
            "negative_prompt",
            "frames",
            "height",
            "width",
            "steps",
            "guidance",
            "seed",
            "dtype",
            "lora_scale",
        )
        settings = {f: getattr(self.config, f) for f in fields}
        for field in ("model", "image", "embeddings"):
            path = getattr(self.config, field)
            settings[field] = None if path is None else str(path)
        settings["lora"] = [str(path) for path in self.config.lora]
        attention = self.denoisers[name].attention
        settings["attention"] = name if attention is None else attention.to_json()
        return settings

    def _denoise(self, name, denoiser, model, conditions):
        noise = jax.random.normal(jax.random.key(self.config.seed), self.shape, jnp.float32)
        store, settings = self._store(name), self._settings(name)
        progress = load_progress(store, denoiser.start(noise, self.rows), settings)
        if progress.step:
            print(
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

            x = denoiser.run(model, conditions, progress, on_step)
        return x, steps

    def _decode(self, vae, x):
        frames = list(self.family.frames(vae, x, self.clip, tile=self.tile))
        return np.concatenate(frames)[: self.clip.frames]

    def _describe(self) -> str | None:
        if self.attention is None:
            return None
        distinct = list(dict.fromkeys(self.attention.patterns))
        return (
            f"{distinct[0]}"
            if len(distinct) == 1
            else f"{len(distinct)} patterns for {len(self.attention.patterns)} layers"
        )


def main(config: Config) -> None:
    """Runs the command."""
    generation = Generation(config)
    report = generation.run()
    for name, rows in report["phases"].items():
        for phase, row in rows.items():
            print(f"{name:>12} {phase:<7} {row['steps']:3d} steps, {row['median_ms']:9.1f} ms each")
    print("  ".join(f"{name} {value:.1f} s" for name, value in report["seconds"].items()))
    if "comparison" in report:
        c = report["comparison"]
        print(
            f"against dense: PSNR {c['psnr_db']:.2f} dB, SSIM {c['ssim']:.3f}, {c['speedup']:.2f}x"
        )
    print(f"wrote {generation.config.out}")


if __name__ == "__main__":
    import tyro

    try:
        main(tyro.cli(Config, description=__doc__))
    except (ValueError, FileNotFoundError, FileExistsError, NotEnoughMemory) as error:
        sys.exit(f"generate: {error}")
    except KeyboardInterrupt:
        sys.exit("generate: interrupted; the same command goes on from the last saved step")
