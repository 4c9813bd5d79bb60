import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import bench_cpu


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": (4096, 5000)}, r"lengths \[5000\] have no canvas"),
        ({"density": 0.0}, r"density=0\.0 must lie in \(0, 1\]"),
        ({"repeats": 3}, "repeats=3 must be at least 7"),
        ({"block": 96}, r"block=96 must divide every length, but not \[4096, 8192, 16384, 32768\]"),
    ],
)
def test_bad_flags_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        bench_cpu.Config(**change)


def test_random_rows_keep_the_same_number():
    keep = bench_cpu.random_keep(bench_cpu.Config(), 4096)
    assert keep.shape == (1, 6, 32, 32)
    assert (keep.sum(-1) == 4).all()


def test_the_gate_stops_a_wrong_candidate(key):
    config = bench_cpu.Config(heads=1, head_dim=4)
    q, k, v = jax.random.normal(key, (3, 1, 256, 1, 4))
    keep = np.eye(2, dtype=bool)[None, None]
    out = [jax.nn.dot_product_attention(*(x[:, i : i + 128] for x in (q, k, v))) for i in (0, 128)]
    out = jnp.concatenate(out, 1)
    bench_cpu.gate(config, out, q, k, v, keep)
    with pytest.raises(RuntimeError, match=r"output is off .* nothing was timed"):
        bench_cpu.gate(config, out, q, k, v, None)
