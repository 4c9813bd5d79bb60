import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import dense_attention
from pallas_kernels.dense_attention import cudnn
from tests.conformance.op_suite import Case

CASE = Case("cudnn", lq=9, lk=12, batch=2)


def test_refuses_a_cpu():
    q, k, v, *_ = CASE.arrays(jnp.float32)
    if jax.default_backend() == "cpu":
        with pytest.raises(NotImplementedError, match=r"cudnn needs an NVIDIA GPU; .* on cpu"):
            dense_attention(q, k, v, implementation="cudnn")


def test_refuses_what_is_not_nvidias(monkeypatch):
    @dataclasses.dataclass
    class Device:
        device_kind: str
        compute_capability: str

    q = jnp.zeros((1, 8, 1, 64), jnp.bfloat16)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [Device("AMD Instinct MI300X", "gfx942")])
    with pytest.raises(NotImplementedError, match="NVIDIA GPU; this is AMD Instinct MI300X"):
        dense_attention(q, q, q, implementation="cudnn")
    monkeypatch.setattr(jax, "devices", lambda: [Device("NVIDIA H200", "9.0")])
    assert cudnn._refuse_unless_supported(q) is None


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("through", ["out", "lse", "both"])
def test_gradients_through_both_results(monkeypatch, ragged, through):
    # The wrapper around jax.nn, with jax.nn's own XLA path standing in for cuDNN.
    monkeypatch.setattr(cudnn, "_IMPLEMENTATION", "xla")
    monkeypatch.setattr(cudnn, "_refuse_unless_supported", lambda q: None)
    q, k, v, d_out, d_lse = CASE.arrays(jnp.float32)
    lengths = {}
    if ragged:
        lengths["q_lengths"] = jnp.array([9, 4], jnp.int32)
        lengths["kv_lengths"] = jnp.array([7, 12], jnp.int32)

    def loss(q, k, v, implementation):
        out, lse = dense_attention(q, k, v, implementation=implementation, **lengths)
        lse = jnp.where(lse > -jnp.inf, lse, 0.0)
        parts = {"out": (out * d_out).sum(), "lse": (lse * d_lse).sum()}
        return parts.get(through, sum(parts.values()))

    got, expected = (
        jax.jit(jax.value_and_grad(loss, (0, 1, 2)), static_argnums=3)(q, k, v, name)
        for name in ("cudnn", "reference")
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
