import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from pallas_kernels import BlockMask, block_mass, block_sparse_attention
from tests.conformance.op_suite import CASES, BlockSparseAttentionSuite

PROGRAM = """
import pathlib, resource, sys
import jax, jax.numpy as jnp, numpy as np
from pallas_kernels import BlockMask, block_sparse_attention

length, heads, block = 32768, int(sys.argv[2]), 128
n = length // block
keep = np.random.default_rng(0).random((1, heads, n, n)).argsort(-1) < n // 8
mask = BlockMask.from_dense(keep, block_q=block, block_kv=block)
q, k, v = jax.random.normal(jax.random.key(0), (3, 1, length, heads, 64))
if sys.argv[1] == "forward":
    run = jax.jit(lambda q, k, v: block_sparse_attention(q, k, v, mask, implementation="xla"))
else:
    def loss(q, k, v):
        out, lse = block_sparse_attention(q, k, v, mask, implementation="xla")
        return out.sum() + lse.sum()
    run = jax.jit(jax.grad(loss, (0, 1, 2)))
jax.block_until_ready(run(q, k, v))
kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
status = pathlib.Path("/proc/self/status")
if status.exists():  # on Linux ru_maxrss begins with what the process that started this one held
    kib = int(status.read_text().split("VmHWM:")[1].split()[0])
print(kib / 2**20)
"""


class TestXla(BlockSparseAttentionSuite):
    implementation = "xla"

    @pytest.mark.optimised
    def test_matches_float64_as_users_compile_it(self):
        self.test_matches_float64(CASES[1])

    @pytest.mark.optimised  # with few optimisations a head's bits depend on the heads beside it
    def test_same_bits_alone_and_merged(self):
        super().test_same_bits_alone_and_merged()


@pytest.mark.parametrize(
    ("direction", "heads", "gib"),
    [
        ("backward", 1, 1),  # which runs both; the logits of one head are 4 GiB
        pytest.param("forward", 6, 3, marks=pytest.mark.slow),
        pytest.param("backward", 6, 3, marks=pytest.mark.slow),
    ],
)
def test_memory_at_32768_tokens_is_far_from_that_of_the_logits(direction, heads, gib):
    command = [sys.executable, "-c", PROGRAM, direction, str(heads)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < gib


def test_copies_of_q_k_v_wait_until_a_search_is_done():
    x = jax.ShapeDtypeStruct((1, 1024, 2, 64), np.float32)
    lse = jax.ShapeDtypeStruct((1, 2, 1024), np.float32)

    def search(q, k, lse):
        mass = block_mass(q, k, lse, block_q=128, block_kv=128, implementation="xla")
        return BlockMask.from_dense(mass > 1, block_q=128, block_kv=128)

    def search_and_attend(q, k, v, lse):
        return block_sparse_attention(q, k, v, search(q, k, lse), implementation="xla")

    def held(run, *args):
        """Temporaries that XLA holds at once, in arrays of the size of q."""
        compiled = jax.jit(run).lower(*args).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (x.size * x.dtype.itemsize)

    assert held(search_and_attend, x, x, x, lse) < held(search, x, x, lse) + 2  # with copies, 3.5
