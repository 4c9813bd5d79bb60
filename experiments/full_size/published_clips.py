"""One denoising step of each published model at its usual clip, and decoding, as functions of shapes."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from experiments.kernel_resources.deviceless import as_on_hopper
from models.cogvideox import PRESETS as COGVIDEOX
from models.cogvideox_vae import PRESETS as COGVIDEOX_VAE
from models.hunyuan_video import PRESETS as HUNYUAN
from models.hunyuan_video_vae import PRESETS as HUNYUAN_VAE
from models.keys import checkpoint_slots
from models.pipelines import FAMILIES, Clip, Denoiser, LatentFamily
from models.pretrained import TRANSFORMERS, VAES
from models.schedulers import scheduler_from_json
from models.sharding import fully_sharded
from models.text_embeddings import TextEmbeddings
from models.wan import PRESETS as WAN
from models.wan_vae import PRESETS as WAN_VAE
from sparsevdit_jax import Phase, SparseAttention
from sparsevdit_jax.presets import attention_for

DTYPE = jnp.bfloat16
METHODS = ("dense", "sta")
UNIPC = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 5.0,
}
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 7.0}
DPM = {
    "_class_name": "CogVideoXDPMScheduler",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "snr_shift_scale": 1.0,
}


@functools.cache
def _without_weights(cls: Any, config: Any) -> Any:
    """Made once: tracing the initialisers of 14B weights takes a second."""
    return nnx.eval_shape(lambda: cls(config, dtype=DTYPE, rngs=nnx.Rngs(0)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullSize:
    """One published model at its usual resolution.

    Attributes:
      name: of the transformer's preset.
      transformer: its configuration.
      vae: configuration of its VAE.
      scheduler: scheduler_config.json.
      clip: frames and pixels.
      guidance: 1 for models without a second row.
    """

    name: str
    class_name: str
    transformer: Any
    vae: Any
    scheduler: dict[str, Any]
    clip: Clip
    guidance: float

    @property
    def family(self) -> LatentFamily:
        """Its conventions."""
        family = next(f for f in FAMILIES if f.TRANSFORMER == self.class_name)
        return family(
            Path(self.name), self.transformer, self.vae, scheduler_from_json(self.scheduler)
        )

    def model(self) -> Any:
        """The transformer, without weights, in bfloat16."""
        return _without_weights(TRANSFORMERS[self.class_name], self.transformer)

    def counts(self) -> tuple[int, int]:
        """Scalars and tensors of a checkpoint."""
        slots = checkpoint_slots(self.model(), TRANSFORMERS[self.class_name].KEYS).values()
        return sum(slot.parameter.size for slot in slots), len(slots)

    @property
    def guided(self) -> bool:
        """Whether a clip has two rows, with the prompt and without."""
        return self.conditions().guidance is not None

    def density(self, method: str) -> float:
        """Kept share of token pairs in a sparse step, text included."""
        denoiser = self.denoiser(method)
        if denoiser.attention is None:
            return 1.0
        (pattern,) = set(denoiser.attention.patterns)
        mask = pattern.block_mask(denoiser.grid, self.transformer.num_heads)
        return float(mask.density())

    def conditions(self) -> Any:
        """Shapes of what the transformer is called with."""
        family = self.family
        tokens, width = family.text_shape
        blank = jax.ShapeDtypeStruct((1, tokens, width), DTYPE)
        mask = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
        arrays = {"prompt_embeds": blank, "prompt_attention_mask": mask}
        if hasattr(self.transformer, "pooled_projection_dim"):
            pooled = (1, self.transformer.pooled_projection_dim)
            arrays["pooled_projections"] = jax.ShapeDtypeStruct(pooled, DTYPE)
        arrays |= {f"negative_{name}": a for name, a in arrays.items()}
        return jax.eval_shape(
            lambda arrays: family.conditions(TextEmbeddings(**arrays), self.clip, self.guidance),
            arrays,
        )

    def denoiser(self, method: str, *, steps: int = 50) -> Denoiser:
        """The sampler with dense attention or a method's published settings, through the Hopper kernels."""
        family, model = self.family, self.model()
        grid = family.grid(family.latent_shape(self.clip), family.text_shape[0])
        heads = self.transformer.num_heads
        attention: SparseAttention | None = None
        if method != "dense":
            layers = model.num_attention_layers
            attention = attention_for(
                method, grid, num_layers=layers, num_heads=heads, num_steps=steps
            )
        return Denoiser(
            family,
            family.latent_shape(self.clip),
            num_steps=steps,
            text_len=family.text_shape[0],
            attention=attention,
            implementation="mosaic_gpu",
        )


CASES: tuple[FullSize, ...] = (
    FullSize(
        name="wan2.1-t2v-1.3b", class_name="WanTransformer3DModel", transformer=WAN["wan2.1-t2v-1.3b"],
        vae=WAN_VAE["wan2.1-vae"], scheduler=UNIPC, clip=Clip(81, 480, 832), guidance=5.0,
    ),
    FullSize(
        name="wan2.1-t2v-14b", class_name="WanTransformer3DModel", transformer=WAN["wan2.1-t2v-14b"],
        vae=WAN_VAE["wan2.1-vae"], scheduler=UNIPC, clip=Clip(81, 720, 1280), guidance=5.0,
    ),
    FullSize(
        name="hunyuanvideo", class_name="HunyuanVideoTransformer3DModel", transformer=HUNYUAN["hunyuanvideo"],
        vae=HUNYUAN_VAE["hunyuanvideo-vae"], scheduler=EULER, clip=Clip(129, 720, 1280), guidance=6.0,
    ),
    FullSize(
        name="cogvideox-5b", class_name="CogVideoXTransformer3DModel", transformer=COGVIDEOX["cogvideox-5b"],
        vae=COGVIDEOX_VAE["cogvideox-5b-vae"], scheduler=DPM, clip=Clip(49, 480, 720), guidance=6.0,
    ),
    FullSize(
        name="cogvideox1.5-5b", class_name="CogVideoXTransformer3DModel", transformer=COGVIDEOX["cogvideox1.5-5b"],
        vae=COGVIDEOX_VAE["cogvideox1.5-5b-vae"], scheduler=DPM, clip=Clip(81, 768, 1360), guidance=6.0,
    ),
)  # fmt: skip
"""Guided models run both rows in one call."""


def steps() -> Iterator[tuple[str, Callable, tuple]]:
    """(name, function, arguments) of every case with dense and with STA attention, for `compile_for_h200`."""
    for case in CASES:
        for method in METHODS:
            denoiser = case.denoiser(method)
            phase = Phase.DENSE if method == "dense" else Phase.REUSE
            step, arguments = denoiser.program(case.model(), case.conditions(), phase)
            yield f"{case.name} {method}", as_on_hopper(step), arguments


AXES = {"wan2.1-t2v-14b": {"cfg": 2, "seq": 4}, "hunyuanvideo": {"seq": 8}}
"""Eight H200s in one machine: guidance's rows apart where there are two."""


def spread_cases() -> list[FullSize]:
    """Those with axes."""
    return [case for case in CASES if case.name in AXES]


def sharded_steps(mesh: Mesh) -> Iterator[tuple[str, Callable, tuple]]:
    """`steps` of the models in `AXES` on a mesh: weights and states spread, the rest whole on each device."""
    place = fully_sharded(mesh)
    for case in spread_cases():
        for method in METHODS:
            denoiser = case.denoiser(method)
            phase = Phase.DENSE if method == "dense" else Phase.REUSE
            step, (model, *rest) = denoiser.program(case.model(), case.conditions(), phase)
            model = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place("", x.shape)), model
            )
            yield f"{case.name} {method}", as_on_hopper(step), (model, *rest)


def decodes() -> Iterator[tuple[str, Callable, tuple]]:
    """What decoding the clips of `spread_cases` on one device holds at a time, for `compile_for_h200`."""
    for case in spread_cases():
        yield f"{case.name} decode", _decode, _decoded(case, case.family.probe(case.clip, None))


def sharded_decodes(mesh: Mesh) -> Iterator[tuple[str, Callable, tuple]]:
    """Decoding the whole clips on a mesh, the VAE whole on each device."""
    del mesh
    for case in spread_cases():
        shape = (1, case.family.latent_channels, *case.family.latent_size(case.clip))
        yield f"{case.name} decode", _decode_all, _decoded(case, shape)


def _decode(vae: Any, z: jax.Array) -> jax.Array:
    return vae.decode(z)


def _decode_all(vae: Any, z: jax.Array) -> jax.Array:
    (video,) = vae.decode_chunks(z)
    return video


def _decoded(case: FullSize, shape: tuple[int, ...]) -> tuple:
    """A VAE without weights, and the shape of its latents."""
    cls = VAES[case.family.VAE]
    vae = nnx.eval_shape(lambda: cls(case.vae, dtype=DTYPE, rngs=nnx.Rngs(0)))
    return vae, jax.ShapeDtypeStruct(shape, DTYPE)
