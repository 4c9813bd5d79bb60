"""The conventions of a family of latent video models: clips, latents, prompts, guidance.

A `LatentFamily` is made from the configurations in a checkpoint folder (`read_family`), before any weight is read:
it knows which clips are possible, what the transformer is called with, and how latents become video.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.schedulers import Scheduler, exchange_scheduler
from models.text_embeddings import TextEmbeddings
from models.tiling import Tile

from .clip import Clip, Defaults, as_bytes, check_clip
from .conditions import Conditions
from .family import Family


class LatentFamily(Family):
    """One family's conventions.

    Args:
      folder: of the checkpoint, for messages.
      transformer: configuration of the transformer.
      vae: configuration of the VAE.
      scheduler: as read.
    """

    NAME: ClassVar[str]
    PIPELINES: ClassVar[tuple[str, ...]]  # `_class_name` in model_index.json
    TRANSFORMER: ClassVar[str]  # `_class_name` in transformer/config.json
    VAE: ClassVar[str]
    SCHEDULERS: ClassVar[
        tuple[type[Scheduler], ...]
    ]  # that follow the path of noise it was trained on
    DEFAULTS: ClassVar[Defaults]
    ENCODES_TEXT: ClassVar[bool] = True
    channel_axis: ClassVar[int] = 1
    latents_at_a_time: ClassVar[int | None] = None
    """Latents with which a VAE that streams in time has used all it needs; None: it is cut in time by its tiles."""

    def __init__(self, folder: Path, transformer: Any, vae: Any, scheduler: Scheduler):
        super().__init__(transformer, scheduler)
        self.folder, self.vae = folder, vae

    def check_parts(self, index: Mapping[str, Any]) -> None:
        """ValueError unless transformer and VAE make a model that is run here, beyond `channel_kinds`.

        Args:
          index: contents of model_index.json, empty where there is none.
        """
        del index

    @property
    @abc.abstractmethod
    def channel_kinds(self) -> dict[str, int]:
        """`in_channels` of the transformers that are run with this VAE, by what they do."""

    @property
    def defaults(self) -> Defaults:
        """The defaults for this checkpoint."""
        return self.DEFAULTS

    def with_shift(self, shift: float) -> "LatentFamily":
        """The same with another flow shift in its scheduler.

        Raises:
          ValueError: its scheduler has none.
        """
        config = self.scheduler.config
        names = {field.name for field in dataclasses.fields(config)} & {"shift", "flow_shift"}
        if not names:
            raise ValueError(
                f"{type(self.scheduler).__name__} has no flow shift; leave shift={shift} out"
            )
        changed = dataclasses.replace(config, **dict.fromkeys(names, shift))
        scheduler = dataclasses.replace(self.scheduler, config=changed)
        return type(self)(self.folder, self.transformer, self.vae, scheduler)

    def with_scheduler(self, name: str) -> "LatentFamily":
        """The same with another scheduler; see `models.schedulers.exchange_scheduler`."""
        scheduler = exchange_scheduler(self.scheduler, name)
        return type(self)(self.folder, self.transformer, self.vae, scheduler)

    @property
    def compression(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels that one latent stands for."""
        return self.vae.compression

    @property
    def patch(self) -> tuple[int, int, int]:
        """Frames, rows and columns of latents in one token."""
        return self.transformer.patch

    @property
    def frame_step(self) -> int:
        """Possible frame counts are 1 + k times this."""
        return self.compression[0]

    def check_clip(self, clip: Clip) -> None:
        """ValueError, with the nearest clips that are possible, unless the models can make `clip`."""
        _, rows, columns = (n * m for n, m in zip(self.compression, self.patch, strict=True))
        check_clip(clip, self.NAME, (self.frame_step, rows, columns))

    def latent_size(self, clip: Clip) -> tuple[int, int, int]:
        """Frames, rows and columns of the latents that the VAE decodes to `clip`."""
        t, y, x = self.compression
        return (clip.frames - 1) // t + 1, clip.height // y, clip.width // x

    @abc.abstractmethod
    def latent_shape(self, clip: Clip) -> tuple[int, ...]:
        """Shape of the latents that are denoised, one clip."""

    def grid(self, shape, text_len=None):
        """See `Family.grid`; `shape` is a `latent_shape`, and the latents of an image that is joined are no matter."""
        own = list(shape)
        own[self.channel_axis] = self.transformer.in_channels
        return super().grid(tuple(own), text_len)

    @property
    @abc.abstractmethod
    def text_shape(self) -> tuple[int, int]:
        """Tokens and width of the prompt's embeddings."""

    @abc.abstractmethod
    def encode_prompts(
        self, prompts: Sequence[str], negative: str | None, *, dtype, variant: str | None = None
    ) -> TextEmbeddings:
        """Runs the folder's tokenizer and text encoder, which are loaded once.

        Args:
          prompts: B of them.
          negative: for all of them; None without guidance.
          dtype: of the encoder.
          variant: of its files.

        Returns:
          Embeddings with B rows.
        """

    def guided(self, guidance: float) -> bool:
        """Above 1, as in diffusers: then a negative prompt is used."""
        if not (math.isfinite(guidance) and guidance >= 0):
            raise ValueError(
                f"guidance={guidance} must be a finite number from 0 on; {self.defaults.guidance} is usual for "
                f"{self.NAME}, and 1 or less turns classifier-free guidance off"
            )
        return guidance > 1

    @abc.abstractmethod
    def conditions(
        self, text: TextEmbeddings, clip: Clip, guidance: float, image=None
    ) -> Conditions:
        """What the transformer is called with in every step.

        Args:
          text: embeddings of one prompt, with a negative one where `guidance` needs it.
          clip: what to generate.
          guidance: scale; see `guided`.
          image: what `image_latents` made, for image-to-video models.

        Raises:
          ValueError: embeddings are missing or do not fit the transformer.
        """

    def image_latents(self, vae: Any, image: np.ndarray, clip: Clip) -> jax.Array:
        """The first frame, uint8 [height, width, 3], as latents for `conditions`."""
        del vae, image, clip
        raise ValueError(f"{self.folder} holds a text-to-video {self.NAME}; leave the image out")

    @property
    def takes_image(self) -> bool:
        """Whether the transformer continues a first frame."""
        return False

    def transformer_input(self, model, x, conditions):
        """In the transformer's dtype, with the first frame's latents where it continues one."""
        hidden = x.astype(model.dtype)
        if conditions.image is None:
            return hidden
        return jnp.concatenate([hidden, conditions.image.astype(model.dtype)], self.channel_axis)

    @property
    def latent_channels(self) -> int:
        """Channels of the VAE's latents."""
        return self.vae.latent_channels

    def tiling(self) -> Tile:
        """The VAE's default tile, for ``frames(..., tile=)``."""
        return self.vae.default_tile

    def untiled(self) -> Tile | None:
        """What keeps every picture whole, for ``frames(..., tile=)``."""
        return None

    def probe(self, clip: Clip, tile: Tile | None) -> tuple[int, ...]:
        """Shape of latents [1, C, T, h, w] whose decoding without tiles takes what decoding `clip` holds at a time."""
        frames, *size = self.latent_size(clip)
        unit, *ratios = self.compression
        if tile is not None:
            sides = zip(size, (tile.height, tile.width), ratios, strict=True)
            size = [n if side is None else min(n, side // ratio) for n, side, ratio in sides]
        if self.latents_at_a_time is not None:
            frames = min(frames, self.latents_at_a_time)
        elif tile is not None and tile.frames is not None:
            frames = min(frames, tile.frames // unit + 1)  # the cut tiles have one frame more
        return 1, self.latent_channels, frames, *size

    def to_vae(self, x: jax.Array, clip: Clip) -> jax.Array:
        """Denoised latents as the VAE takes them, [1, C, T, h, w], not yet denormalised."""
        del clip
        return x

    def frames(
        self,
        vae: Any,
        x: jax.Array,
        clip: Clip,
        *,
        tile: Tile | None = None,
        decode: Callable[[Any, jax.Array], np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """Decodes denoised latents to the clip's frames: uint8 [n, height, width, 3], a few at a time.

        Args:
          vae: that decodes.
          x: denoised latents.
          clip: what they show.
          tile: cuts pictures; see the VAE's `decode_chunks`.
          decode: a `decode(vae, z)` that returns all frames, in place of the VAE's `decode_chunks`.
        """
        z = vae.denormalize(self.to_vae(x, clip)).astype(vae.dtype)
        chunks = vae.decode_chunks(z, tile=tile) if decode is None else [decode(vae, z)]
        return as_bytes(chunks, clip.frames)
