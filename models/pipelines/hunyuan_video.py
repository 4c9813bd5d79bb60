"""HunyuanVideo: text to video with a distilled guidance."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from models.hunyuan_video.config import TEXT_TOKENS
from models.schedulers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from .conditions import Conditions, check_width, text_rows
from .latent_family import Clip, Defaults, LatentFamily


class HunyuanVideo(LatentFamily):
    """Conventions of diffusers' HunyuanVideoPipeline (0.42); text comes as precomputed embeddings.

    The guidance scale is an input of the transformer where that was distilled. Differs from diffusers, which
    rounds it to the transformer's dtype (6000 becomes 6016 in bfloat16): it stays float32.
    """

    NAME = "HunyuanVideo"
    PIPELINES = ("HunyuanVideoPipeline",)
    TRANSFORMER = "HunyuanVideoTransformer3DModel"
    VAE = "AutoencoderKLHunyuanVideo"
    SCHEDULERS = (FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler)
    DEFAULTS = Defaults(clip=Clip(129, 720, 1280), steps=50, guidance=6.0, fps=15)
    ENCODES_TEXT = False

    @property
    def channel_kinds(self):
        """Its image-to-video models have others."""
        return {"text to video": self.vae.latent_channels}

    def latent_shape(self, clip):
        """[1, C, T, h, w]."""
        return 1, self.transformer.in_channels, *self.latent_size(clip)

    def guided(self, guidance):
        """Never where the transformer was distilled: then any scale from 0 on is an input of it, 1 and less too."""
        above = super().guided(guidance)
        return above and not self.transformer.guidance_embeds

    def untiled(self):
        """Cut in time alone, without which this VAE never works."""
        return dataclasses.replace(self.tiling(), height=None, width=None)

    def probe(self, clip, tile):
        """One tile: without `tile` the VAE decodes its default tile in chunks."""
        return super().probe(clip, tile or self.tiling())

    @property
    def text_shape(self):
        """See `LatentFamily.text_shape`."""
        return TEXT_TOKENS, self.transformer.text_embed_dim

    def encode_prompts(self, prompts, negative, *, dtype, variant=None):
        """Not here: LLaMA and CLIP have no port."""
        del prompts, negative, dtype, variant
        raise ValueError(
            "HunyuanVideo's text encoders (LLaMA, CLIP) run in torch only; make an embeddings file with "
            "python -m experiments.make_text_embeddings and pass it with --embeddings"
        )

    def set_timesteps(self, num_steps):
        """The pipeline gives the sigmas itself, so that the shift applies once."""
        return self.scheduler.set_timesteps(num_steps, np.linspace(1.0, 0.0, num_steps + 1)[:-1])

    def conditions(self, text, clip, guidance, image=None):
        """See `LatentFamily.conditions`."""
        del clip, image
        guided = self.guided(guidance)
        embeds = text_rows(text, "prompt_embeds", guided)
        pooled = text_rows(text, "pooled_projections", guided)
        check_width("prompt_embeds", embeds, self.transformer.text_embed_dim)
        check_width("pooled_projections", pooled, self.transformer.pooled_projection_dim)
        inputs = {
            "encoder_hidden_states": embeds,
            "encoder_attention_mask": text_rows(text, "prompt_attention_mask", guided),
            "pooled_projections": pooled,
        }
        if self.transformer.guidance_embeds:
            inputs["guidance"] = jnp.full((len(embeds),), 1000 * guidance, jnp.float32)
        return Conditions(inputs=inputs, guidance=jnp.float32(guidance) if guided else None)
