"""The flags of `experiments.generate`, and what is refused before anything takes time."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax

from experiments.generation.lora import lora_files
from models.pipelines import Clip, Family


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
      shift: flow shift, in place of the scheduler's own (Wan: 3 for 480p, 5 for 720p).
      fps: frames per second of the MP4.
      seed: of the noise.
      out: the MP4; its report and an interrupted run lie beside it.
      compare: make the dense video too, as NAME-dense.mp4, and compare.
      dtype: of weights and compute; auto is bfloat16 on a GPU and float32 on a CPU.
      lora: LoRAs to merge, each FILE or FILE:SCALE: --lora style.safetensors:0.8 fast.safetensors.
      lora_scale: strength of those that name none.
      tile: decode in tiles: on, off, or auto (where it would not fit otherwise).
      save_every: steps between saves of the run; 0 never saves.
      implementation: of the attention kernels; by default the best here.
      memory_gib: plan with this much memory instead of the device's.
      cfg: 2 denoises guidance's two rows on devices of their own.
      seq: devices that share the tokens of a row.
      shard_weights: lay every weight in parts over those devices, for a model that is too large for each.
      distributed: one process of several, on as many hosts; see `experiments.hosts`.
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
    shift: float | None = None
    fps: int | None = None
    seed: int = 0
    out: Path = Path("out/video.mp4")
    compare: bool = False
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    lora: tuple[str | Path, ...] = ()
    lora_scale: float = 1.0
    tile: Literal["auto", "on", "off"] = "auto"
    save_every: int = 5
    implementation: str | None = None
    memory_gib: float | None = None
    cfg: int = 1
    seq: int = 1
    shard_weights: bool = False
    distributed: bool = False

    def filled(self, family: Family) -> "Config":
        """With the family's values in place of None and auto."""
        default = family.defaults
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
    for name in ("cfg", "seq"):
        if (count := getattr(config, name)) < 1:
            raise ValueError(f"{name}={count} must be at least 1, a number of devices")
    if config.shard_weights and config.cfg * config.seq == 1:
        raise ValueError(
            "shard_weights=True lays weights over several devices; give --cfg or --seq, or leave it out"
        )
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
    lora_files(config.lora, config.lora_scale)
    for path in (config.image, config.embeddings):
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
