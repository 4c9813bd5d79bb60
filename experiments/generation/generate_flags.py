"""The flags of `experiments.generate`; `flag_rules.py` checks them."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from experiments.generation.lora import lora_files

if TYPE_CHECKING:  # a wrong flag is told before jax is imported
    from models.pipelines import Clip, LatentFamily

Dtype = Literal["bfloat16", "float16", "float32"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      model: checkpoint folder in the layout of diffusers.
      variant: read the files of this variant, such as fp16.
      prompt: the text to show. Each of several makes a video. "" is a prompt, too.
      negative_prompt: text that guidance leads away from, in all videos.
      image: first frame, for image-to-video models.
      image_fit: crop what does not fit, stretch as diffusers does, or pad with black bars.
      embeddings: file of `experiments.make_text_embeddings` instead of prompts. Each of its rows makes a video.
      latents: .safetensors, .npz or .npy of the noise to start from, instead of the seed's.
      lora: LoRAs to merge, each FILE or FILE:SCALE, as in style.safetensors:0.8 fast.safetensors.
      lora_scale: scale of the LoRAs that name none.
      frames: number of frames; the model's usual one by default.
      height: rows of pixels; the model's usual number by default.
      width: columns of pixels; the model's usual number by default.
      fps: frames per second, such as 16, 23.976 or 24000/1001; the model's usual by default.
      seed: seed of the noise; 0 by default. Each of several makes a video.
      out: NAME.mp4, or NAME.npz or a folder NAME for frames without loss. Several videos are NAME-0001-seed7.mp4 and
        so on. Reports and interrupted runs are beside them.
      save_latents: keep the denoised latents, as NAME.latents.safetensors.
      steps: denoising steps; the model's usual number by default.
      guidance: scale of classifier-free guidance, which 1 or less turns off. HunyuanVideo's is distilled and always on.
      scheduler: euler or unipc (Wan, HunyuanVideo), ddim or dpm (CogVideoX); the model's own by default.
      shift: flow shift; the scheduler's own by default. Wan takes 3 for 480p and 5 for 720p.
      dtype: dtype of weights and compute. auto is bfloat16 on a GPU and float32 on a CPU.
      vae_dtype: dtype of the VAE; --dtype by default.
      text_dtype: dtype of the text encoder; --dtype by default.
      tile: decode in tiles. auto does so if the whole clip would not fit, and always for HunyuanVideo.
      save_every: steps between saves of the run. 0 saves only its end.
      attention: dense, the name of a method (sparsevdit_jax/patterns/README.md lists them), or a JSON file. By default
        the method that the model was trained with, or dense.
      dense_steps: number of dense steps at the start; the attention's own by default.
      dense_last_steps: number of dense steps at the end; the attention's own by default.
      dense_layers: layers that are dense in every step, counted from 0.
      compare: make the dense video too, as NAME-dense.mp4, and compare.
      implementation: xla, mosaic_gpu, triton, cudnn (dense only) or reference; the best on this machine by default.
      memory_gib: memory to plan with; the device's by default.
      cfg: 2 gives each of guidance's two batch rows devices of its own.
      seq: devices over which the tokens of a batch row are sharded.
      shard_weights: shard every weight over all devices, for a model too large for one.
      distributed: this is one of several processes, one on each host. See `experiments.hosts`.
    """

    model: Path
    variant: str | None = None
    prompt: tuple[str, ...] = ()
    negative_prompt: str | None = None
    image: Path | None = None
    image_fit: Literal["crop", "stretch", "pad"] = "crop"
    embeddings: Path | None = None
    latents: Path | None = None
    attention: str | None = None
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

    GROUPS: ClassVar = {
        "input": ("model", "variant", "prompt", "negative_prompt", "image", "image_fit", "embeddings", "latents",
                  "lora", "lora_scale"),
        "video": ("frames", "height", "width", "fps", "seed", "out", "save_latents"),
        "denoising": ("steps", "guidance", "scheduler", "shift", "dtype", "vae_dtype", "text_dtype", "tile",
                      "save_every"),
        "attention": ("attention", "dense_steps", "dense_last_steps", "dense_layers", "compare", "implementation"),
        "device": ("memory_gib", "cfg", "seq", "shard_weights", "distributed"),
    }  # fmt: skip

    def filled(self, family: "LatentFamily") -> "Config":
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
            "attention": getattr(family.transformer, "combine", None) or "dense",
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
