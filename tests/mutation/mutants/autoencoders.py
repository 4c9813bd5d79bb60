"""Mistakes in the autoencoders of models, and in what they share."""

from ..mutant import EIGHT_DEVICES, of

MUTANTS = [
    *of(
        "models/video_vae.py",
        (
            "jnp.clip(log_variance, -30.0, 20.0)",
            "jnp.clip(log_variance, -20.0, 20.0)",
            "wrong floor of the variance",
        ),
        (
            "part, start + (i - 1) * each, 2)",
            "part, start + i * each, 2)",
            "frames are written one chunk late",
        ),
    ),
    *of(
        "models/tiling.py",
        (
            "share = (np.arange(overlap) / overlap)",
            "share = ((np.arange(overlap) + 0.5) / overlap)",
            "tiles fade half a pixel late",
        ),
        (
            "return any(n > cut.size for",
            "return all(n > cut.size for",
            "a long thin picture is not cut",
        ),
        (
            "tile = fade(before, tile, overlap=right.overlap, axis=-1)",
            "tile = fade(before, tile, overlap=down.overlap, axis=-1)",
            "columns fade over the rows' overlap",
        ),
    ),
    *of(
        "models/time_shards.py",
        (
            "past = jnp.where(jax.lax.axis_index(names) == 0, cache.first, left)",
            "past = left",
            "the first device does not see the clip's start",
            f"{EIGHT_DEVICES}[check_vae]",
        ),
    ),
    *of(
        "models/wan_vae/layers.py",
        (
            "padding=((0, 1), (0, 1)),",
            "padding=((1, 0), (1, 0)),",
            "zeros before the first row",
        ),
        (
            "        last = x[:, -1:]\n",
            "        last = x[:, :1]\n",
            "the first frame is remembered",
        ),
        (
            "                new_cache = jnp.zeros((x.shape[0], 2, *x.shape[2:]), x.dtype)\n",
            "                new_cache = jnp.concatenate([x, x], 1)\n",
            "the first frame is the past of the second",
        ),
    ),
    *of(
        "models/wan_vae/folding.py",
        (
            "return x[:, factor_t - 1 :] if first else x",
            "return x[:, factor_t:] if first else x",
            "one frame too few at the start",
        ),
        (
            "(-x.shape[1] % factor_t, 0)",
            "(0, -x.shape[1] % factor_t)",
            "frames are padded at the end",
        ),
    ),
    *of(
        "models/wan_vae/decoder.py",
        (
            "in_time = (*config.temperal_downsample[::-1], False)",
            "in_time = (*config.temperal_downsample, False)",
            "time is doubled in the encoder's order",
        ),
    ),
    *of(
        "models/wan_vae/model.py",
        (
            "z.astype(jnp.float32) / inverse + mean",
            "z.astype(jnp.float32) * inverse + mean",
            "denormalize divides twice",
        ),
        (
            "(1 + frames * (i - 1), frames)",
            "(frames * (i - 1), frames)",
            "chunks begin one frame early",
        ),
        (
            "tiles[box], caches[box] = _decode_tile_step(self, crop(frame, box), caches[box])",
            "tiles[box], _ = _decode_tile_step(self, crop(frame, box), caches[box])",
            "tiles forget the frame before",
        ),
    ),
    *of(
        "models/hunyuan_video_vae/layers.py",
        ('jnp.pad(x, pad, mode="edge")', "jnp.pad(x, pad)", "zeros around the clip"),
        (
            "frame[:, None] >= frame[None],",
            "frame[:, None] > frame[None],",
            "a frame does not see itself",
        ),
        (
            "return self.conv(x[:, self.factors[0] - 1 :])",
            "return self.conv(x)",
            "the first frame is doubled",
        ),
    ),
    *of(
        "models/hunyuan_video_vae/chunks.py",
        (
            "yield y[:, :, : cut.kept + first]",
            "yield y[:, :, : cut.kept]",
            "the first chunk is one frame short",
        ),
    ),
    *of(
        "models/hunyuan_video_vae/model.py",
        (
            "units if of_input else (unit[::-1] for unit in units)",
            "units",
            "encoder tiles are measured in latents",
        ),
    ),
    *of(
        "models/cogvideox_vae/layers.py",
        ("alone = frames % 2", "alone = 0", "the first frame is not alone"),
        (
            "pairs = x[:, alone:].reshape(b, -1, 2, *rest).mean(2)",
            "pairs = x[:, alone:].reshape(b, -1, 2, *rest)[:, :, 0]",
            "one frame of a pair instead of the mean",
        ),
        (
            "cache = jnp.concatenate([x[:, :1]] * 2, 1)",
            "cache = jnp.zeros((x.shape[0], 2, *x.shape[2:]), x.dtype)",
            "zeros before the clip",
        ),
    ),
    *of(
        "models/cogvideox_vae/chunks.py",
        (
            "return [length - (count - 1) * size] + [size] * (count - 1)",
            "return [size] * (count - 1) + [length - (count - 1) * size]",
            "the odd chunk comes last",
        ),
    ),
    *of(
        "models/cogvideox_vae/model.py",
        (
            "if self.config.invert_scale_latents:",
            "if not self.config.invert_scale_latents:",
            "the factor the wrong way round",
        ),
    ),
]
