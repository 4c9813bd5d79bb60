"""Mistakes in what all models share: layers, weights, text, guidance."""

from ..mutant import of

MUTANTS = [
    *of(
        "models/layers.py",
        ("return x * (1 + scale) + shift", "return x * scale + shift", "modulation without the 1"),
        (
            "return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)",
            "return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)",
            "sines before cosines",
        ),
        (
            "jax.nn.gelu(x.astype(jnp.float32), approximate=True)",
            "jax.nn.gelu(x.astype(jnp.float32), approximate=False)",
            "the exact gelu for the approximate one",
        ),
        (
            "y = y - y.mean((1, 3), keepdims=True)",
            "y = y - y.mean(3, keepdims=True)",
            "a group's mean of each pixel",
        ),
    ),
    *of(
        "models/patches.py",
        (
            "order = (0, 1, 3, 5, 7, 2, 4, 6) if channels_first",
            "order = (0, 1, 3, 5, 7, 4, 2, 6) if channels_first",
            "frames and rows of a patch change places",
        ),
    ),
    *of(
        "models/rope.py",
        ("even * sin + odd * cos], -1)", "odd * cos - even * sin], -1)", "no rotation any more"),
        (
            "spatial = 2 * (head_dim // 6)",
            "spatial = 2 * (head_dim // 8)",
            "wrong share of channels",
        ),
    ),
    *of(
        "models/keys.py",
        (
            "return tensor.transpose(*range(2, tensor.ndim), 1, 0)",
            "return tensor.transpose(*range(2, tensor.ndim), 0, 1)",
            "kernels are not transposed",
        ),
        (
            "key=lambda pair: -len(pair[0]),",
            "key=lambda pair: len(pair[0]),",
            "the shortest prefix wins",
        ),
    ),
    *of(
        "models/tensors.py",
        (
            "totals.get(kind, 0) + math.prod(self.shapes[name])",
            "totals.get(kind, 0) + 1",
            "the main dtype by number of tensors",
        ),
        (
            "if shards[-1] and used + sizes[name] > max_shard_bytes:",
            "if shards[-1] and used > max_shard_bytes:",
            "shards above the limit",
        ),
    ),
    *of(
        "models/keys.py",
        (
            "        if shapes[name] != slots[name].shape\n",
            "        if len(shapes[name]) != len(slots[name].shape)\n",
            "only the rank of a tensor is compared",
        ),
        (
            '    problems += [f"unexpected: {name}" for name in sorted(present - slots.keys())]\n',
            "",
            "tensors too many go unnoticed",
        ),
    ),
    *of(
        "models/lora/plan.py",
        (
            "divisor = rank**0.5 if file.settings.rslora else rank",
            "divisor = rank",
            "rsLoRA is scaled as LoRA",
        ),
    ),
    *of(
        "models/sharding.py",
        (
            "longest = max(fitting, key=lambda i: shape[i])",
            "longest = min(fitting, key=lambda i: shape[i])",
            "the shortest axis is cut",
        ),
    ),
    *of(
        "models/stack.py",
        (
            "kernel = KernelOptions() if ctx is None else ctx.kernel",
            "kernel = KernelOptions()",
            "dense attention ignores the implementation",
        ),
        (
            "grid, Phase.DENSE, text_lengths=text_lengths, kernel=kernel",
            "grid, Phase.DENSE, kernel=kernel",
            "dense attention attends to padding",
        ),
    ),
    *of(
        "models/text_embeddings.py",
        (
            "(np.diff(mask.astype(np.int8), axis=1) > 0).any()",
            "(np.diff(mask.astype(np.int8), axis=1) > 1).any()",
            "a mask that starts with padding is taken",
        ),
    ),
    *of(
        "models/flow_matching.py",
        (
            "return (x - x0) / per_video(jnp.maximum(t, t_min), x)",
            "return (x - x0) / per_video(t, x)",
            "division by a time of 0",
        ),
    ),
    *of(
        "models/pipelines/family.py",
        (
            "return unconditional + guidance * (conditional - unconditional)",
            "return conditional + guidance * (conditional - unconditional)",
            "guidance counts from the wrong end",
        ),
    ),
    *of(
        "models/tiny.py",
        (
            "for distance in (i, n - 1 - i):",
            "for distance in (i, n - i):",
            "the far border is one off",
        ),
    ),
    *of(
        "models/tokenizer.py",
        (
            "room = max_length - self.backend.num_special_tokens_to_add(False)",
            "room = max_length",
            "no room for the closing token",
        ),
        (
            "html.unescape(html.unescape(prompt))",
            "html.unescape(prompt)",
            "entities are unescaped once",
        ),
    ),
    *of(
        "models/sentencepiece_model.py",
        (
            "            shift += 7\n",
            "            shift += 8\n",
            "numbers of two bytes are misread",
        ),
    ),
]
