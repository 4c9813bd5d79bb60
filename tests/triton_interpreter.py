"""Triton kernels on the CPU: a launcher for `_triton_call.use` that runs Triton's interpreter.

Imports triton with the interpreter switched on, which lasts: compile kernels in another process.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import jax
import ml_dtypes
import numpy as np
import triton.language as tl
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


def _mend_scalars():
    """NumPy 2.5 makes no number of an array of shape (1,), as triton 3.6 asks it to."""
    original = interpreter._patch_lang_tensor

    def patch(tensor, scope):
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch


def _mend_bfloat16():
    """The interpreter holds bfloat16 as uint16: it cuts where it should round, and multiplies bits."""
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    original = builder.cast_impl

    def numbers(x):
        return x.data.view(ml_dtypes.bfloat16) if x.dtype.scalar == tl.bfloat16 else x.data

    def cast(self, x, dtype):
        if tl.bfloat16 not in (x.dtype.scalar, dtype.scalar):
            return original(self, x, dtype)
        if dtype.scalar == tl.bfloat16:
            data = numbers(x).astype(ml_dtypes.bfloat16).view(np.uint16)
        else:
            data = numbers(x).astype(interpreter._get_np_dtype(dtype.scalar))
        return handle(data, dtype.scalar)

    def dot(self, a, b, total, *_):
        a, b = (numbers(x).astype(np.float32) for x in (a, b))
        return handle(np.matmul(a, b) + total.data, total.dtype.scalar)

    builder.cast_impl, builder.create_dot = cast, dot


def _mend_fma():
    """The interpreter rounds the product of a fused multiply-add."""

    def fma(self, x, y, z):
        exact = x.data.astype(np.float64) * y.data + z.data
        return interpreter.TensorHandle(exact.astype(z.data.dtype), x.dtype.scalar)

    interpreter.InterpreterBuilder.create_fma = fma


def _mend_speed():
    """The interpreter patches all of triton.language at every call of a function in a kernel."""
    patched = set()

    def call(self, *args, **kwargs):
        if id(self.fn.__globals__) not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(id(self.fn.__globals__))
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call


_mend_scalars()
_mend_bfloat16()
_mend_fma()
_mend_speed()


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
