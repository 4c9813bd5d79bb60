"""CogVideoX 1.0 and 1.5: text to video and image to video."""

import jax
import jax.numpy as jnp

from models.cogvideox import rotary_embedding
from models.pretrained import load_text_encoder
from models.schedulers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from models.t5 import encode_cogvideox_prompts
from models.tokenizer import load_tokenizer

from .conditions import Conditions, check_not_hunyuan, check_width, text_rows
from .latent_family import Clip, Defaults, LatentFamily

OFS = 2.0
"""What the image-to-video pipeline of 1.5 passes as `ofs`."""


class CogVideoX(LatentFamily):
    """Conventions of diffusers' CogVideoXPipeline and CogVideoXImageToVideoPipeline (0.42).

    Differs from diffusers: latents stay float32 between steps (there: the transformer's dtype), the image's latents
    are the mean of the VAE's distribution, not a sample. A video has the requested number of frames: from an even
    number of latents the VAE makes 3 more (16 from 4 latents, 88 from 22); diffusers returns them and we drop them.
    """

    NAME = "CogVideoX"
    PIPELINES = ("CogVideoXPipeline", "CogVideoXImageToVideoPipeline")
    TRANSFORMER = "CogVideoXTransformer3DModel"
    VAE = "AutoencoderKLCogVideoX"
    SCHEDULERS = (CogVideoXDDIMScheduler, CogVideoXDPMScheduler)
    DEFAULTS = Defaults(clip=Clip(49, 480, 720), steps=50, guidance=6.0, fps=8)
    channel_axis = 2
    latents_at_a_time = 5  # in chunks: the longest (3) and a usual one (2)

    @property
    def channel_kinds(self):
        """An image adds its latents."""
        channels = self.vae.latent_channels
        return {"text to video": channels, "image to video": 2 * channels}

    @property
    def defaults(self):
        """1.5 was made for longer and larger clips."""
        is_new = self.transformer.patch_size_t is not None
        return (
            Defaults(clip=Clip(81, 768, 1360), steps=50, guidance=6.0, fps=16)
            if is_new
            else self.DEFAULTS
        )

    @property
    def takes_image(self):
        """Image-to-video transformers have channels for the image's latents."""
        return self.transformer.in_channels != self.vae.latent_channels

    def padding(self, clip) -> int:
        """Latent frames at the start that are made and dropped, so that patches in time divide (1.5)."""
        return -self.latent_size(clip)[0] % self.patch[0]

    def latent_shape(self, clip):
        """[1, T, C, h, w]."""
        t, h, w = self.latent_size(clip)
        return 1, t + self.padding(clip), self.vae.latent_channels, h, w

    @property
    def text_shape(self):
        """See `LatentFamily.text_shape`."""
        return self.transformer.max_text_seq_length, self.transformer.text_embed_dim

    def encode_prompts(self, prompts, negative, *, dtype, variant=None):
        """T5 states, padding included."""
        return encode_cogvideox_prompts(
            load_tokenizer(self.folder / "tokenizer"),
            load_text_encoder(self.folder, dtype=dtype, variant=variant),
            prompts,
            negative_prompts=None if negative is None else [negative] * len(prompts),
            max_length=self.text_shape[0],
        )

    def conditions(self, text, clip, guidance, image=None):
        """See `LatentFamily.conditions`."""
        guided = self.guided(guidance)
        check_not_hunyuan(text)
        embeds = text_rows(text, "prompt_embeds", guided)
        tokens, width = self.text_shape
        check_width("prompt_embeds", embeds, width)
        if embeds.shape[1] != tokens:
            raise ValueError(
                f"prompt_embeds have {embeds.shape[1]} tokens, but this CogVideoX takes {tokens}, and its padding is "
                "encoded like text, so none can be added or cut off afterwards: make them again with python -m "
                f"experiments.make_text_embeddings --max-length {tokens}"
            )
        if self.takes_image and image is None:
            raise ValueError(
                f"{self.folder} holds an image-to-video CogVideoX; give its first frame with --image"
            )
        inputs = {"encoder_hidden_states": embeds}
        if self.transformer.ofs_embed_dim is not None:
            inputs["ofs"] = jnp.full((len(embeds),), OFS, jnp.float32)
        rotary = None
        if self.transformer.use_rotary_positional_embeddings:
            _, frames, _, height, width = self.latent_shape(clip)
            cos, sin = rotary_embedding(self.transformer, height, width, frames)
            rotary = jnp.asarray(cos), jnp.asarray(sin)
        scale = jnp.float32(guidance) if guided else None
        return Conditions(inputs=inputs, image=image, guidance=scale, rotary=rotary)

    def image_latents(self, vae, image, clip):
        """Latents of the image as first frame, zeros after it. The padding of 1.5 shifts nothing: the image is in the
        first of the latents that are made, which is dropped at the end, and not in the first of those that are kept.
        """
        if not self.takes_image:
            return super().image_latents(vae, image, clip)
        first = jnp.asarray(image, jnp.float32).transpose(2, 0, 1)[None, :, None] / 127.5 - 1
        mean, _ = jax.jit(lambda vae, video: vae.encode(video))(vae, first.astype(vae.dtype))
        latents = vae.normalize(mean.astype(jnp.float32)).transpose(0, 2, 1, 3, 4)
        rest = self.latent_shape(clip)[1] - 1
        return jnp.pad(latents, [(0, 0), (0, rest), (0, 0), (0, 0), (0, 0)])

    def to_vae(self, x, clip):
        """Without the padding, channels before frames."""
        return x[:, self.padding(clip) :].transpose(0, 2, 1, 3, 4)
