"""What Triton's own compiler, and its ptxas, make of the kernels, for GPUs that are not there.

    python -m tests.triton_compiler '[[80, "bfloat16", 128, 64, 64], "lower"]'

compiles forward and backward for compute capability 8.0, head dim 128 and blocks of 64 x 64, as the
host code launches them, and prints a JSON line for each kernel. "gfx942" in the place of
80 compiles for that GPU of AMD's. "lower" goes through jax_triton instead, last, and needs JAX's CUDA
plugin. A process of its own, because `triton_interpreter` switches the compiler off.
"""

import functools
import json
import re
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from pallas_kernels import BlockMask, _triton_call, block_sparse_attention

_TYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "int32": "i32"}


def problem(dtype, head_dim, block_q, block_kv, *, ragged=True):
    """A function that runs forward and backward, and its abstract arguments."""
    mask = BlockMask.full(3, 3, block_q=block_q, block_kv=block_kv)
    length_q, length_kv = 3 * block_q - ragged, 3 * block_kv - ragged

    def both(q, k, v):
        results, vjp = jax.vjp(
            lambda *x: block_sparse_attention(*x, mask, implementation="triton"), q, k, v
        )
        return results, vjp(results)

    shapes = [(1, length, 24, head_dim) for length in (length_q, length_kv, length_kv)]
    return both, [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]


def resources(chip, dtype, head_dim, block_q, block_kv):
    """One dictionary for each kernel of a problem."""
    found = []
    function, arguments = problem(dtype, head_dim, block_q, block_kv)
    with _triton_call.use(functools.partial(_compile, chip, found)):
        jax.eval_shape(function, *arguments)
    return found


def lower(dtype="bfloat16", head_dim=128, block=64):
    """Number of kernels in a program lowered for CUDA by jax_triton."""
    function, arguments = problem(dtype, head_dim, block, block)
    with _triton_call.use(functools.partial(_triton_call.launch, compute_capability=90)):
        lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    return len(re.findall(r"custom_call @triton_kernel_call\w*\(", lowered.as_text()))


def _compile(chip, found, kernel, arrays, numbers, *, out, grid, num_warps, num_stages, constants):
    del grid
    arguments = [f"*{_TYPES[str(x.dtype)]}" for x in arrays]
    arguments += ["i32"] * len(numbers) + [f"*{_TYPES[str(x.dtype)]}" for x in out]
    names = [name for name in kernel.arg_names if name not in constants]
    signature = dict(zip(names, arguments, strict=True)) | dict.fromkeys(constants, "constexpr")
    aligned = {
        (place,): [["tt.divisibility", 16]]  # as jax_triton has it
        for place, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*")
    }
    amd = isinstance(chip, str)
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("hip", chip, 64) if amd else GPUTarget("cuda", chip, 32),
        options={"num_warps": num_warps, "num_stages": num_stages},
    )
    found.append(
        {
            "kernel": kernel.__name__,
            "tiles": [constants["TILE"], constants["OTHER_TILE"]],
            "num_warps": num_warps,
            "shared": compiled.metadata.shared,
        }
        | (_of_amd(compiled.asm["amdgcn"]) if amd else _of_nvidia(compiled.asm["ptx"], chip))
    )
    return [jnp.zeros(x.shape, x.dtype) for x in out]


def _of_nvidia(ptx, capability):
    log = _ptxas(ptx, capability)
    return {
        "registers": int(re.search(r"Used (\d+) registers", log)[1]),
        "spilled": int(re.search(r"(\d+) bytes spill stores", log)[1]),
        "wgmma": len(re.findall(r"wgmma\.mma_async", ptx)),
        "mma": len(re.findall(r"\bmma\.sync", ptx)),
        "copies": len(re.findall(r"\bcp\.async\.c", ptx)),
    }


def _of_amd(assembly):
    def count(name):
        return int(re.search(rf"\.{name}:\s*(\d+)", assembly)[1])

    return {
        "registers": count("vgpr_count"),
        "spilled": count("vgpr_spill_count"),
        "mma": len(re.findall(r"\bv_mfma_", assembly)),
    }


def _ptxas(ptx, capability):
    arch = re.search(r"\.target (\w+)", ptx)[1]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [get_ptxas(capability).path, "-v", f"-arch={arch}", file.name, "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


if __name__ == "__main__":
    for case in json.loads(sys.argv[1]):
        for line in [{"kernels": lower()}] if case == "lower" else resources(*case):
            print(json.dumps({"case": case} | line), flush=True)
