"""Mistakes in the transformers, text encoders, schedulers and pipelines of models."""

from ..mutant import of

MUTANTS = [
    *of(
        "models/wan/blocks.py",
        (
            "attend(self.heads(self.to_k(text), self.norm_k)",
            "attend(self.heads(self.to_k(text), self.norm_q)",
            "the prompt's k goes through q's norm",
        ),
        (
            "h.astype(jnp.float32) * ffn_gate)",
            "h.astype(jnp.float32) * gate)",
            "attention's gate after the feed-forward layer",
        ),
        (
            "out += attend(k",
            "out = attend(k",
            "with an image the text is not read",
        ),
    ),
    *of(
        "models/wan/conditioning.py",
        ("approximate=False", "approximate=True", "the approximate gelu for the exact one"),
    ),
    *of(
        "models/wan/model.py",
        (
            "shift, scale = modulation_parts(",
            "scale, shift = modulation_parts(",
            "swapped at the end",
        ),
    ),
    *of(
        "models/wan/config.py",
        (
            "if max(tokens) > self.rope_max_seq_len:",
            "if max(tokens) >= self.rope_max_seq_len:",
            "the longest video is refused",
        ),
    ),
    *of(
        "models/hunyuan_video/blocks.py",
        (
            "scale, shift = jnp.split(self.linear",
            "shift, scale = jnp.split(self.linear",
            "swapped at the end",
        ),
        (
            "jnp.concatenate([out, gelu_tanh(self.proj_mlp(h))], -1)",
            "jnp.concatenate([gelu_tanh(self.proj_mlp(h)), out], -1)",
            "attention and feed-forward layer change places",
        ),
    ),
    *of(
        "models/hunyuan_video/conditioning.py",
        (
            "jnp.finfo(value.dtype).bits < 32",
            "jnp.finfo(value.dtype).bits < 16",
            "times in 16 bits are taken",
        ),
    ),
    *of(
        "models/hunyuan_video/refiner.py",
        (
            "mask[:, None, :]) | first",
            "mask[:, None, :])",
            "rows of padding attend to nothing",
        ),
        (
            "jnp.where(mask[..., None], text.astype(jnp.float32), 0.0).sum(1)",
            "text.astype(jnp.float32).sum(1)",
            "padding counts in the mean of the text",
        ),
    ),
    *of(
        "models/hunyuan_video/model.py",
        (
            "text_lengths=mask.sum(1, dtype=jnp.int32),",
            "text_lengths=None,",
            "the video attends to padding",
        ),
    ),
    *of(
        "models/cogvideox/blocks.py",
        (
            "jnp.arange(x.shape[1]) < text_len",
            "jnp.arange(x.shape[1]) <= text_len",
            "a video token is modulated as text",
        ),
    ),
    *of(
        "models/cogvideox/positions.py",
        (
            "(0, 2, 1), (temporal, spatial, spatial)",
            "(0, 1, 2), (temporal, spatial, spatial)",
            "rows before columns",
        ),
        (
            "if height / width > trained_height / trained_width:",
            "if height / width < trained_height / trained_width:",
            "the canvas is fitted to the wrong side",
        ),
    ),
    *of(
        "models/cogvideox/embeddings.py",
        (
            "if shape == config.sample_shape:",
            "if shape[1:] == config.sample_shape[1:]:",
            "the learned table for another number of frames",
        ),
    ),
    *of(
        "models/cogvideox/model.py",
        (
            "text = ((grid.text_len, 0), (0, 0))",
            "text = ((0, grid.text_len), (0, 0))",
            "the text turns instead of the video's end",
        ),
    ),
    *of(
        "models/t5/model.py",
        ("half * (distance > 0)", "half * (distance >= 0)", "a token's own bucket lies ahead"),
        (
            'has_positions=config.model_type == "umt5" or index == 0,',
            "has_positions=index == 0,",
            "umT5 has one table of positions",
        ),
        (
            "jax.nn.gelu(self.wi_0(x).astype(jnp.float32), approximate=True)",
            "jax.nn.gelu(self.wi_0(x).astype(jnp.float32), approximate=False)",
            "the exact gelu for the approximate one",
        ),
    ),
    *of(
        "models/t5/prompts.py",
        (
            "return jnp.where(mask[..., None] > 0, states, jnp.zeros((), states.dtype)), mask",
            "return states, mask",
            "states of padding are not cleared",
        ),
    ),
    *of(
        "models/schedulers/unipc.py",
        (
            "corrects = (steps > start)",
            "corrects = (steps >= start)",
            "the first step is corrected",
        ),
        (
            "np.minimum(num_steps - steps, steps - start + 1)",
            "np.minimum(num_steps - steps, steps + 1)",
            "the solver looks back beyond the start",
        ),
    ),
    *of(
        "models/schedulers/flow_euler.py",
        (
            "(sigmas[i + 1] - sigmas[i]) * velocity",
            "(sigmas[i] - sigmas[i + 1]) * velocity",
            "a step towards noise",
        ),
    ),
    *of(
        "models/schedulers/cogvideox.py",
        (
            "final = 1.0 if config.set_alpha_to_one else alphas[0]",
            "final = 1.0",
            "set_alpha_to_one is not read",
        ),
    ),
    *of(
        "models/schedulers/cogvideox_dpm.py",
        (
            "second_order = (np.arange(num_steps) > start)",
            "second_order = (np.arange(num_steps) > 0)",
            "the solver looks back beyond the start",
        ),
    ),
    *of(
        "models/schedulers/scheduler.py",
        (
            "if not (sigmas[-1] > 0 and sigmas[0] <= 1 and (np.diff(sigmas) < 0).all()):",
            "if not (sigmas[-1] > 0 and sigmas[0] <= 1 and (np.diff(sigmas) <= 0).all()):",
            "a noise level twice is taken",
        ),
    ),
    *of(
        "models/pipelines/clip.py",
        (
            "np.round((np.clip(video, -1, 1) + 1) * 127.5)",
            "((np.clip(video, -1, 1) + 1) * 127.5)",
            "pixels are cut instead of rounded",
        ),
        (
            "(clip.frames - 1) % step:",
            "clip.frames % step:",
            "frames must be a multiple of the step",
        ),
    ),
    *of(
        "models/pipelines/conditions.py",
        (
            'names = [name, f"negative_{name}"] if guided',
            'names = [f"negative_{name}", name] if guided',
            "the negative prompt is the prompt",
        ),
    ),
    *of(
        "models/pipelines/wan.py",
        ("mask[:, :, 0] = 1", "mask[:] = 1", "every frame is said to be given"),
    ),
    *of(
        "models/pipelines/hunyuan_video.py",
        (
            "jnp.full((len(embeds),), 1000 * guidance, jnp.float32)",
            "jnp.full((len(embeds),), guidance, jnp.float32)",
            "guidance is not in thousandths",
        ),
    ),
    *of(
        "models/pipelines/cogvideox.py",
        (
            "return x[:, self.padding(clip) :].transpose(0, 2, 1, 3, 4)",
            "return x.transpose(0, 2, 1, 3, 4)",
            "frames of padding are decoded",
        ),
    ),
    *of(
        "models/pipelines/denoise.py",
        (
            "return Progress(step + 1, *now)",
            "return Progress(step, *now)",
            "a resumed run repeats a step",
        ),
    ),
]
