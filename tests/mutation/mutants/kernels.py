"""Mistakes in pallas_kernels."""

from ..mutant import of

MUTANTS = [
    *of(
        "pallas_kernels/block_mask.py",
        (
            "q_lengths=self.kv_lengths,\n            kv_lengths=self.q_lengths,",
            "q_lengths=self.q_lengths,\n            kv_lengths=self.kv_lengths,",
            "transpose leaves the lengths where they were",
        ),
        (
            "listed = slots < self.kv_counts[..., None]",
            "listed = slots <= self.kv_counts[..., None]",
            "density counts one block too many",
        ),
        (
            "(0 <= lengths.min() and lengths.max() <= block)",
            "(0 <= lengths.min())",
            "lengths above the block are taken",
        ),
    ),
    *of(
        "pallas_kernels/_block_lists.py",
        (
            "listed = np.where(counts == num_kv_blocks, 0, counts)",
            "listed = counts",
            "full rows take room in the lists",
        ),
        (
            "return indices, jnp.where(full, counts, jnp.minimum(counts, capacity))",
            "return indices, counts",
            "counts beyond the capacity under tracing",
        ),
        (
            "listed = (slots < counts[..., None]) & (counts < num_kv_blocks)[..., None]",
            "listed = slots < counts[..., None]",
            "the list of a full row is looked at",
        ),
    ),
    *of(
        "pallas_kernels/_checks.py",
        ("if low < 0 or high > limit:", "if high > limit:", "negative lengths are taken"),
        (
            "if (x.shape[0], *x.shape[2:]) != (q.shape[0], *q.shape[2:]):",
            "if x.shape[2:] != q.shape[2:]:",
            "batch sizes need not agree",
        ),
    ),
    *of(
        "pallas_kernels/_dispatch.py",
        (
            "except NotImplementedError as reason:",
            "except Exception as reason:",
            "the default order goes on after a wrong call",
        ),
    ),
    *of(
        "pallas_kernels/_measured.py",
        (
            "if type(value) is int and value < 1:",
            "if type(value) is int and value < 0:",
            "a measured 0 is taken",
        ),
    ),
    *of(
        "pallas_kernels/_hopper.py",
        (
            "sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)",
            "sum(sizes)",
            "shared memory without alignment",
        ),
    ),
    *of(
        "pallas_kernels/_vmap.py",
        (
            "merge(x, is_batched) if all_vary or x.shape[0] > 1 else x",
            "merge(x, is_batched) if is_batched or x.shape[0] > 1 else x",
            "lists that vary and lists that do not are merged apart",
        ),
    ),
    *of(
        "pallas_kernels/_triton_call.py",
        (
            "float(capability) < _LOWEST_CAPABILITY",
            "float(capability) <= _LOWEST_CAPABILITY",
            "the lowest capability is refused",
        ),
    ),
    *of(
        "pallas_kernels/_tiles.py",
        (
            "x = jnp.maximum(x, np.float32(-127))",
            "x = jnp.maximum(x, np.float32(-1270))",
            "powers below the least exponent wrap",
        ),
        (
            "bits = lax.bitcast_convert_type(x, jnp.uint32) + np.uint32(0x8000)",
            "bits = lax.bitcast_convert_type(x, jnp.uint32)",
            "narrowing cuts instead of rounding",
        ),
        (
            "np.float32(abs(scale) * LOG2E)",
            "np.float32(scale * LOG2E)",
            "a negative scale is tame whatever the logits",
        ),
    ),
    *of(
        "pallas_kernels/block_sparse_attention/_walk.py",
        (
            "return (self.last - self.first + (self.step - 1)) // self.step",
            "return (self.last - self.first) // self.step",
            "the last partial step is left out",
        ),
        (
            "(slots < self.counts)[..., None], picked[2], -jnp.inf)",
            "(slots <= self.counts)[..., None], picked[2], -jnp.inf)",
            "one slot beyond the list is read",
        ),
        (
            "cap = (cap[:, 0] + (plan.step - 1)) // plan.step * plan.step",
            "cap = cap[:, 0]",
            "lead and group overlap in a partial step",
        ),
    ),
    *of(
        "pallas_kernels/block_sparse_attention/xla.py",
        (
            "shift = jnp.where(shifted & (top > -jnp.inf), top, 0.0)",
            "shift = jnp.where(shifted, top, 0.0)",
            "a shift of -inf for a query without keys",
        ),
        (
            "delta = jnp.where(live[..., 0], delta - d_lse.swapaxes(1, 2), 0.0)",
            "delta = jnp.where(live[..., 0], delta + d_lse.swapaxes(1, 2), 0.0)",
            "wrong sign of the gradient through lse",
        ),
        (
            "q, k, v = (_padding.zero(x, real) for x, real in ((q, real_q), (k, real_kv), (v, real_kv)))",
            "q, k = (_padding.zero(x, real) for x, real in ((q, real_q), (k, real_kv)))",
            "padding of v is not cleared",
        ),
    ),
    *of(
        "pallas_kernels/block_sparse_attention/mosaic_gpu.py",
        ("(tiles >= 0).sum(-1,", "(tiles > 0).sum(-1,", "tile 0 is given to nobody"),
    ),
    *of(
        "pallas_kernels/block_sparse_attention/mosaic_gpu_kernel.py",
        (
            "total = total * (spread(shrink, total.shape) if by_thread else shrink) + sums_of(p)",
            "total = total + sums_of(p)",
            "the running total is not rescaled",
        ),
        (
            "live = live & (rows < walk.real_queries(item, row))",
            "live = live & (rows <= walk.real_queries(item, row))",
            "one padded query is live",
        ),
    ),
    *of(
        "pallas_kernels/block_sparse_attention/mosaic_gpu_vjp.py",
        (
            "(delta - d_lse, 0.0))",
            "(delta + d_lse, 0.0))",
            "wrong sign of the gradient through lse",
        ),
        (
            "clamp = real_kv is not None or padded_kv != lk",
            "clamp = real_kv is not None",
            "padding of a ragged length is not clamped",
        ),
    ),
    *of(
        "pallas_kernels/_real_lists.py",
        (
            "if lengths is None and length % block == 0 and block % tile == 0:",
            "if lengths is None and length % block == 0:",
            "tiles that overhang a block are not masked",
        ),
        ("counts = xp.where(real_q > 0, counts, 0)", "pass", "padded queries read their lists"),
        (
            "real & xp.repeat(listed, parts, -1)",
            "xp.repeat(listed, parts, -1)",
            "parts that hold only padding stay listed",
        ),
        (
            "xp.where(full[..., 0], most[..., None], short)",
            "xp.where(full[..., 0], np.int32(mask.num_kv_blocks), short)",
            "full rows count blocks where parts are listed",
        ),
    ),
    *of(
        "pallas_kernels/block_sparse_attention/triton.py",
        (
            "(heads * count if batch > 1 else 0)",
            "(count if batch > 1 else 0)",
            "wrong stride over the batch",
        ),
    ),
    *of(
        "pallas_kernels/block_sparse_attention/triton_kernels.py",
        (
            "less -= tl.load(d_lse + numbers, mask=live, other=0.0)",
            "less += tl.load(d_lse + numbers, mask=live, other=0.0)",
            "wrong sign of the gradient through lse",
        ),
        (
            "acc = acc * shrink[:, None] + _dot(weights.to(v_tile.dtype), v_tile)",
            "acc = acc + _dot(weights.to(v_tile.dtype), v_tile)",
            "the running sum is not rescaled",
        ),
    ),
    *of(
        "pallas_kernels/dense_attention/xla.py",
        (
            "if real_kv is None and k.shape[1] % chunk == 0:",
            "if real_kv is None:",
            "zeros behind the last key get weight",
        ),
        (
            "    lse = lse if real_q is None else jnp.where(real_q, lse, -jnp.inf)\n",
            "",
            "padded queries have a finite lse",
        ),
    ),
    *of(
        "pallas_kernels/dense_attention/cudnn.py",
        (
            "weight = (d_lse * scale).swapaxes(1, 2)",
            "weight = d_lse.swapaxes(1, 2)",
            "the gradient of lse lacks the scale",
        ),
    ),
    *of(
        "pallas_kernels/dense_attention/_full_mask.py",
        (
            "lengths[:, None, None] - first.reshape(1, 1, -1), 0, block)",
            "lengths[:, None, None] - first.reshape(1, 1, -1), 0, block - 1)",
            "a full block is one token short",
        ),
    ),
    *of(
        "pallas_kernels/block_mass/xla.py",
        (
            "shift = binary_shift(lse, real_q).swapaxes(1, 2)[..., None]",
            "shift = binary_shift(lse, None).swapaxes(1, 2)[..., None]",
            "padded queries have mass",
        ),
    ),
    *of(
        "pallas_kernels/block_mass/mosaic_gpu.py",
        (
            "if lk % config.block_kv or kv_lengths is not None:",
            "if kv_lengths is not None:",
            "keys behind the end have mass",
        ),
    ),
]
