"""Triton kernels on the CPU: a launcher for `_triton_call.use` that runs Triton's interpreter.

Imports triton with the interpreter switched on, which lasts: compile kernels in another process.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import jax
import numpy as np
import triton.runtime.interpreter as interpreter

_TYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "int32": "i32"}


class _Pointer:
    """The part of a torch tensor that the interpreter uses, over a numpy array."""

    def __init__(self, array):
        assert array.flags.c_contiguous
        self.array = array
        self.dtype = _TYPES[array.dtype.name]

    def data_ptr(self):
        return self.array.ctypes.data

    # The interpreter copies tensors to the host and back; this one is there.
    def untyped_storage(self):
        return self

    def cpu(self):
        return self

    def new_empty(self, size, device):
        return _Pointer(self.array)

    def set_(self, *_):
        pass

    def copy_(self, _):
        pass

    def storage_offset(self):
        return 0

    def size(self):
        return self.array.shape

    def stride(self):
        return tuple(step // self.array.itemsize for step in self.array.strides)


def _patch_scalars():
    """NumPy 2.5 makes no number of an array of shape (1,), as triton 3.6 asks it to."""
    original = interpreter._patch_lang_tensor

    def patch(tensor, scope):
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch


_patch_scalars()


def launch(kernel, arrays, numbers, *, out, grid, num_warps, num_stages, constants):
    """`_triton_call.call` in the interpreter; results start as NaN."""
    del num_warps, num_stages

    def run(*arrays):
        arrays = [np.ascontiguousarray(x) for x in arrays]
        results = [np.full(x.shape, np.nan, x.dtype) for x in out]
        pointers = [list(map(_Pointer, x)) for x in (arrays, results)]
        with np.errstate(all="ignore"):
            kernel[grid](*pointers[0], *numbers, *pointers[1], **constants)
        return tuple(results)

    return jax.pure_callback(run, tuple(out), *arrays)
