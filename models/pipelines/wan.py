"""Wan 2.1: text to video and image to video."""

import jax
import jax.numpy as jnp
import numpy as np

from models.pretrained import load_text_encoder
from models.schedulers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from models.t5 import encode_wan_prompts
from models.tokenizer import load_tokenizer

from .conditions import Conditions, check_not_hunyuan, check_width, fill_text, text_rows
from .latent_family import Clip, Defaults, LatentFamily

TEXT_TOKENS = 512


class Wan(LatentFamily):
    """Conventions of diffusers' WanPipeline and WanImageToVideoPipeline (0.42)."""

    NAME = "Wan"
    PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")
    TRANSFORMER = "WanTransformer3DModel"
    VAE = "AutoencoderKLWan"
    SCHEDULERS = (UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler)
    DEFAULTS = Defaults(clip=Clip(81, 480, 832), steps=50, guidance=5.0, fps=16)
    latents_at_a_time = 3  # one by one: the third is the first with all caches

    def check_parts(self, index):
        """See `LatentFamily.check_parts`."""
        if self.vae.patch > 1 and "expand_timesteps" not in index:
            raise ValueError(
                f"{self.folder} holds the VAE of Wan 2.2 TI2V and no model_index.json that says how its timesteps go "
                "(expand_timesteps); that pipeline is not here yet: take Wan 2.1, HunyuanVideo or CogVideoX"
            )
        if self.transformer.pos_embed_seq_len is not None:
            raise ValueError(
                f"{self.folder / 'transformer'} has pos_embed_seq_len={self.transformer.pos_embed_seq_len}: it takes "
                "the first and the last frame (Wan 2.1 FLF2V); only a first frame is run here"
            )

    @property
    def channel_kinds(self):
        """An image adds its latents, and a mask of as many channels as a latent has frames."""
        z = self.vae.z_dim
        return {"text to video": z, "image to video": 2 * z + self.compression[0]}

    @property
    def patch(self):
        """See `LatentFamily.patch`."""
        return tuple(self.transformer.patch_size)

    @property
    def takes_image(self):
        """Image-to-video transformers have channels for the mask and the image's latents."""
        return self.transformer.in_channels != self.vae.z_dim

    def latent_shape(self, clip):
        """[1, C, T, h, w]."""
        return 1, self.vae.z_dim, *self.latent_size(clip)

    @property
    def text_shape(self):
        """See `LatentFamily.text_shape`."""
        return TEXT_TOKENS, self.transformer.text_dim

    def encode_prompts(self, prompts, negative, *, dtype, variant=None):
        """UMT5 states, zero beyond the prompt."""
        return encode_wan_prompts(
            load_tokenizer(self.folder / "tokenizer"),
            load_text_encoder(self.folder, dtype=dtype, variant=variant),
            prompts,
            negative_prompts=None if negative is None else [negative] * len(prompts),
            max_length=TEXT_TOKENS,
        )

    def conditions(self, text, clip, guidance, image=None):
        """See `LatentFamily.conditions`."""
        guided = self.guided(guidance)
        check_not_hunyuan(text)
        embeds = text_rows(fill_text(text, TEXT_TOKENS), "prompt_embeds", guided)
        check_width("prompt_embeds", embeds, self.transformer.text_dim)
        inputs = {"encoder_hidden_states": embeds}
        if self.takes_image and image is None:
            raise ValueError(
                f"{self.folder} holds an image-to-video Wan; give its first frame with --image"
            )
        if self.transformer.image_dim is not None:
            if text.image_embeds is None:
                raise ValueError(
                    "this Wan needs `image_embeds`, CLIP's states of the first frame; make an embeddings "
                    "file with python -m experiments.make_text_embeddings --image and pass --embeddings"
                )
            check_width("image_embeds", text.image_embeds, self.transformer.image_dim)
            inputs["encoder_hidden_states_image"] = jnp.concatenate(
                [text.image_embeds[:1]] * len(embeds)
            )
        scale = jnp.float32(guidance) if guided else None
        return Conditions(inputs=inputs, image=image, guidance=scale)

    def image_latents(self, vae, image, clip):
        """A mask of the known frame (four channels: a latent stands for four frames) and the latents of the
        clip that is the image first and grey after it.
        """
        if not self.takes_image:
            return super().image_latents(vae, image, clip)
        t, _, _ = self.compression
        first = jnp.asarray(image, jnp.float32).transpose(2, 0, 1)[None, :, None] / 127.5 - 1
        rest = jnp.zeros((1, 3, clip.frames - 1, clip.height, clip.width), jnp.float32)
        mean, _ = jax.jit(lambda vae, video: vae.encode(video))(
            vae, jnp.concatenate([first, rest], 2).astype(vae.dtype)
        )
        latents = vae.normalize(mean.astype(jnp.float32))
        mask = np.zeros((1, t, *latents.shape[2:]), np.float32)
        mask[:, :, 0] = 1
        return jnp.concatenate([jnp.asarray(mask), latents], 1)
