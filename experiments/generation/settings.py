"""The flags of `experiments.generate`, and what they rule out by themselves, without a model."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from experiments.generation.lora import lora_files

if TYPE_CHECKING:  # a wrong flag is told before jax is imported
    from models.pipelines import Clip, Family

Dtype = Literal["bfloat16", "float16", "float32"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      model: checkpoint folder in the layout of diffusers.
      variant: of its files, such as fp16.
      prompt: what to show; several make a video each, and "" is one too.
      negative_prompt: what guidance leads away from, in all videos.
      image: first frame, for image-to-video models.
      image_fit: how it comes to the size: crop what stands over, stretch it as diffusers does, or pad with black bars.
      embeddings: .safetensors or .npz of `experiments.make_text_embeddings`, instead of the text encoder; each of its
        prompts makes a video.
      latents: .safetensors, .npz or .npy of the noise to start from, instead of the seed's.
      attention: dense, sta, adaspa, sparse-vdit, or a JSON file.
      dense_steps: leading steps with dense attention; by default the attention's own number.
      dense_last_steps: the same of the last steps.
      dense_layers: layers with dense attention in every step.
      frames: of the video; the model's usual by default, as are height, width, steps, guidance and fps.
      height: pixels.
      width: pixels.
      steps: denoising steps.
      guidance: scale of classifier-free guidance, which 1 or less turns off (HunyuanVideo: of its distilled guidance,
        which knows no negative prompt and which nothing turns off).
      scheduler: in place of the model's own: euler or unipc (Wan, HunyuanVideo), ddim or dpm (CogVideoX).
      shift: flow shift, in place of the scheduler's own (Wan: 3 for 480p, 5 for 720p).
      fps: frames per second of the video, such as 16, 23.976 or 24000/1001.
      seed: of the noise; several make a video each. 0 by default.
      out: NAME.mp4; NAME.npz or a folder's NAME for frames without loss. Several videos are NAME-0001.mp4, ... by
        prompt, NAME-seed7.mp4 by seed, or NAME-0001-seed7.mp4. Reports and interrupted runs lie beside them.
      save_latents: keep the denoised latents, as NAME.latents.safetensors.
      compare: make the dense video too, as NAME-dense.mp4, and compare.
      dtype: of weights and compute; auto is bfloat16 on a GPU and float32 on a CPU.
      vae_dtype: that of the VAE, where it is another.
      text_dtype: that of the text encoder, where it is another.
      lora: LoRAs to merge, each FILE or FILE:SCALE: --lora style.safetensors:0.8 fast.safetensors.
      lora_scale: strength of those that name none.
      tile: decode in tiles: on, off, or auto (where it would not fit otherwise; HunyuanVideo always).
      save_every: steps between saves of the run; 0 saves the end alone.
      implementation: of the attention kernels; by default the best here.
      memory_gib: plan with this much memory instead of the device's.
      cfg: 2 denoises guidance's two rows on devices of their own.
      seq: devices that share the tokens of a row.
      shard_weights: lay every weight in parts over those devices, for a model that is too large for each.
      distributed: one process of several, on as many hosts; see `experiments.hosts`.
    """

    model: Path
    variant: str | None = None
    prompt: tuple[str, ...] = ()
    negative_prompt: str | None = None
    image: Path | None = None
    image_fit: Literal["crop", "stretch", "pad"] = "crop"
    embeddings: Path | None = None
    latents: Path | None = None
    attention: str = "dense"
    dense_steps: int | None = None
    dense_last_steps: int | None = None
    dense_layers: tuple[int, ...] = ()
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
    shift: float | None = None
    fps: float | str | None = None
    seed: tuple[int, ...] = ()
    out: Path = Path("out/video.mp4")
    save_latents: bool = False
    compare: bool = False
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    vae_dtype: Dtype | None = None
    text_dtype: Dtype | None = None
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

    def filled(self, family: "Family") -> "Config":
        """With the family's values in place of None and auto, and without the negative prompt that is not used."""
        import jax

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
        dtype = self.dtype
        if dtype == "auto":
            dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        encodes = self.embeddings is None
        return dataclasses.replace(
            self,
            **values,
            negative_prompt=(self.negative_prompt or "")
            if encodes and family.guided(values["guidance"])
            else None,
            seed=self.seed or (0,),
            dtype=dtype,
            vae_dtype=self.vae_dtype or dtype,
            text_dtype=(self.text_dtype or dtype) if encodes else None,
        )

    @property
    def clip(self) -> "Clip":
        """What is asked for, of a config that is `filled`."""
        from models.pipelines import Clip

        return Clip(self.frames, self.height, self.width)

    @property
    def loras(self) -> list[tuple[Path, float]]:
        """Path and scale of each LoRA; raises as `lora_files`."""
        return lora_files(self.lora, self.lora_scale)

    @property
    def dense_part(self) -> dict:
        """What stays dense of a sparse attention, as `choose_attention` takes it."""
        names = ("dense_steps", "dense_last_steps", "dense_layers")
        return {name: getattr(self, name) for name in names}


def check_flags(config: Config) -> list[str]:
    """Refuses numbers that cannot be and flags that contradict each other.

    Returns:
      A line for each flag that has no effect and does no harm.

    Raises:
      ValueError, FileNotFoundError: with the flag, the rule and a remedy.
    """
    for name, least in (("frames", 1), ("height", 1), ("width", 1), ("steps", 1), ("cfg", 1),
                        ("seq", 1), ("save_every", 0), ("dense_steps", 0), ("dense_last_steps", 0)):  # fmt: skip
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name}={value} must be at least {least}{_USUAL.get(name, '')}")
    for name in ("shift", "memory_gib"):
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} must be a finite number above 0, or left out")
    if config.guidance is not None and not (
        math.isfinite(config.guidance) and config.guidance >= 0
    ):
        raise ValueError(
            f"guidance={config.guidance} must be a finite number from 0 on; 5 or 6 is usual, and 1 or less turns "
            "classifier-free guidance off"
        )
    for seed in config.seed:
        if not 0 <= seed < 2**32:
            raise ValueError(
                f"seed={seed} must lie in 0..{2**32 - 1}: beyond, two seeds have the same noise"
            )
    if len(set(config.seed)) < len(config.seed):
        raise ValueError(f"seed={config.seed} names one twice; give each seed once")
    _check_pairs(config)
    _check_files(config)
    loras = config.loras
    unused = []
    if not loras and config.lora_scale != 1:
        unused.append(f"--lora-scale {config.lora_scale:g} has no effect without --lora")
    if config.image is None and config.image_fit != "crop":
        unused.append(f"--image-fit {config.image_fit} has no effect without --image")
    if config.embeddings is not None and config.text_dtype is not None:
        unused.append(
            f"--text-dtype {config.text_dtype} has no effect: --embeddings {config.embeddings} are taken as they are"
        )
    return unused


_USUAL = {
    "steps": "; 20 to 50 are usual",
    "cfg": ", a number of devices",
    "seq": ", a number of devices",
    "save_every": " steps; 0 saves the end of the run alone",
}


def _check_files(config: Config) -> None:
    """What is not there needs no library to be told."""
    model = config.model.expanduser()
    if not model.exists() and not model.is_symlink():
        raise FileNotFoundError(
            f"no folder {config.model}; give a checkpoint in the layout of diffusers"
        )
    for flag in ("image", "embeddings", "latents"):
        path = getattr(config, flag)
        if path is not None and not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "is not there"
            raise FileNotFoundError(f"--{flag} {path} {what}; give the path of a file")


def _check_pairs(config: Config) -> None:
    """Flags of which one would silently win."""
    if config.embeddings is not None and config.prompt:
        raise ValueError(
            f"--prompt {config.prompt[0]!r} and --embeddings {config.embeddings} contradict each other: embeddings are "
            "of prompts already; leave one of them out"
        )
    if config.embeddings is not None and config.negative_prompt is not None:
        raise ValueError(
            f"--negative-prompt {config.negative_prompt!r} cannot join --embeddings {config.embeddings}, which bring "
            "their own: leave it out, or make the file again with python -m experiments.make_text_embeddings "
            "--negative-prompt"
        )
    if config.embeddings is None and not config.prompt:
        raise ValueError('there is no --prompt and no --embeddings; give one ("" is a prompt, too)')
    if config.attention == "dense":
        if config.compare:
            raise ValueError(
                "--compare compares with dense attention, which --attention is already; choose another one, or leave "
                "--compare out"
            )
        given = [name for name, value in config.dense_part.items() if value not in (None, ())]
        if given:
            flag = given[0].replace("_", "-")
            raise ValueError(
                f"--{flag} says what stays dense of a sparse attention, and --attention is dense as a whole; choose "
                f"another --attention, or leave --{flag} out"
            )
    if config.shard_weights and config.cfg * config.seq == 1:
        raise ValueError(
            "shard_weights=True lays weights over several devices; give --cfg or --seq, or leave it out"
        )
    inputs = [config.image, config.embeddings, config.latents]
    if any(path is not None and path.resolve() == config.out.resolve() for path in inputs):
        raise ValueError(f"out={config.out} is one of the files that are read; choose another name")


def check_family(given: Config, config: Config, family: "Family") -> list[str]:
    """Refuses what this model cannot do; the lines are as those of `check_flags`.

    Args:
      given: the flags.
      config: the same, `filled` by the family.
      family: of the model.
    """
    family.check_clip(config.clip)
    if config.embeddings is None:
        if not family.ENCODES_TEXT:
            family.encode_prompts(config.prompt, None, dtype=None)  # says why
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
    rows = 2 if family.guided(config.guidance) else 1
    if rows % config.cfg:
        raise ValueError(
            f"cfg={config.cfg} must divide the rows of the transformer's batch, here {rows} (two with "
            "classifier-free guidance, one without); leave --cfg out"
        )
    unused = []
    if given.negative_prompt is not None and config.negative_prompt is None:
        unused.append(
            f"--negative-prompt {given.negative_prompt!r} has no effect: guidance {config.guidance:g} is off "
            "(1 or less)"
        )
    if config.latents is not None and given.seed and not family.scheduler.draws_noise:
        if len(given.seed) > 1:
            raise ValueError(
                f"--seed {' '.join(map(str, given.seed))} would make one video {len(given.seed)} times: the noise is "
                f"that of --latents {config.latents}; leave one of them out"
            )
        unused.append(f"--seed {given.seed[0]} has no effect: the noise is that of --latents")
    if given.fps is not None and config.out.suffix == "":
        unused.append(f"--fps {given.fps} has no effect on a folder of pictures, {config.out}")
    return unused
