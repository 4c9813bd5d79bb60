"""The flags of `experiments.generate`; `flags.py` has what they rule out."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from experiments.generation.lora import lora_files

if TYPE_CHECKING:  # a wrong flag is told before jax is imported
    from models.pipelines import Clip, LatentFamily

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
