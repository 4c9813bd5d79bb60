"""Torch's attention on the same problems: SDPA, FlashAttention, FlexAttention. Only if installed.

One of the few files that may import torch: to time it beside our kernels, in the same run. Nothing
is imported or put on the GPU before a timer first runs, so that a torch without CUDA or a broken
package is a candidate that is not here, and not the end of a part.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.gpu_check.shapes import Case
from experiments.timing import Timer
from pallas_kernels import BlockMask

_FLEX_BLOCK = 128  # tokens; longer blocks of a mask are cut into so many


def dense(case: Case, dtype: str, *, backward: bool) -> dict[str, Timer]:
    """Dense attention: SDPA on cuDNN's and on torch's own kernel, FlashAttention if installed."""
    if not importlib.util.find_spec("torch"):
        return {}

    def sdpa(backend):
        def make():
            from torch.nn import attention
            from torch.nn.functional import scaled_dot_product_attention

            chosen = getattr(attention.SDPBackend, backend)

            def attend(q, k, v):
                with attention.sdpa_kernel(chosen):
                    return scaled_dot_product_attention(q, k, v)

            return attend

        return _timer(make, case, dtype, backward)

    timers = {
        "torch SDPA, cuDNN": sdpa("CUDNN_ATTENTION"),
        "torch SDPA, flash": sdpa("FLASH_ATTENTION"),
    }
    for module in ("flash_attn_interface", "flash_attn"):
        if importlib.util.find_spec(module):

            def make(module=module):
                return importlib.import_module(module).flash_attn_func

            timers[module] = _timer(make, case, dtype, backward, heads_first=False)
    return timers


def sparse(mask: BlockMask, case: Case, dtype: str, *, backward: bool) -> dict[str, Timer]:
    """FlexAttention over the blocks of `mask`; only where all of them are full of real tokens."""
    if not importlib.util.find_spec("torch") or mask.kv_lengths is not None:
        return {}

    def make():
        import torch
        from torch.nn.attention import flex_attention as flex

        block = min(_FLEX_BLOCK, mask.block_q)
        counts, lists = (torch.from_numpy(x).cuda() for x in finer_lists(mask, block))
        nothing = torch.zeros_like(counts)
        made = flex.BlockMask.from_kv_blocks(
            nothing, lists, counts, lists, BLOCK_SIZE=block, seq_lengths=(case.slots, case.slots)
        )
        options = None if block >= _FLEX_BLOCK else {"BLOCK_M": block, "BLOCK_N": block}
        compiled = torch.compile(flex.flex_attention, dynamic=False)

        def attend(q, k, v):
            return compiled(q, k, v, block_mask=made, kernel_options=options)

        return attend

    return {"FlexAttention": _timer(make, case, dtype, backward)}


def finer_lists(mask: BlockMask, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The mask's (counts [B, H, N], lists [B, H, N, N]) in blocks of `block` tokens, int32.

    Raises:
      ValueError: `block` does not divide the mask's blocks.
    """
    if mask.block_q % block or mask.block_kv % block:
        raise ValueError(f"blocks of {mask.block_q} x {mask.block_kv} cannot be cut into {block}")
    keep = np.asarray(mask.to_dense())
    keep = keep.repeat(mask.block_q // block, 2).repeat(mask.block_kv // block, 3)
    lists = np.argsort(~keep, axis=-1, kind="stable").astype(np.int32)
    return keep.sum(-1).astype(np.int32), lists


def _timer(
    make: Callable[[], Callable[..., Any]],
    case: Case,
    dtype: str,
    backward: bool,
    *,
    heads_first: bool = True,
) -> Timer:
    """Device time between two events around all calls; all is made when first called."""
    shape = (case.batch, case.slots, case.heads, case.head_dim)
    if heads_first:
        shape = (shape[0], shape[2], shape[1], shape[3])
    made: list = []

    def prepare():
        import torch

        attend, kind = make(), getattr(torch, dtype)
        q, k, v, d_out = (torch.randn(shape, dtype=kind, device="cuda") for _ in range(4))
        if not backward:
            return lambda: attend(q, k, v)
        inputs = [x.requires_grad_() for x in (q, k, v)]
        out = attend(*inputs)
        out = out[0] if isinstance(out, tuple) else out
        return lambda: torch.autograd.grad(out, inputs, d_out, retain_graph=True)

    def run(calls: int) -> float:
        if not made:
            made.append(prepare())
        import torch

        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            made[0]()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3

    return run
