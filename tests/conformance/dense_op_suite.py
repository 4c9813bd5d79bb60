"""What every implementation of dense attention and of block mass must satisfy; subclass yours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import block_mass, dense_attention
from tests import tolerances
from tests.conformance.op_suite import (
    CASES,
    Case,
    check_under_vmap_scan_and_remat,
    run_operation,
)

DENSE_CASES = (
    Case("plain"),
    Case("ragged", lq=45, lk=70, batch=3, head_dim=5, q_ragged=True, kv_ragged=True),
    Case("large_logits", batch=2, magnitude=16.0, kv_ragged=True),
    Case("several_chunks", lq=40, lk=1100, heads=1),
)


CASES_AND_DTYPES = [
    pytest.param(case, dtype, id=f"{case.name}-{dtype.__name__}")
    for case in DENSE_CASES
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16)
    if dtype == jnp.float32 or case.name == "ragged"  # one case is enough for the narrow ones
]


class DenseAttentionSuite:
    """Inherit and set `implementation`."""

    implementation: str

    @pytest.mark.parametrize(("case", "dtype"), CASES_AND_DTYPES)
    def test_matches_float64(self, case, dtype):
        q, k, v, d_out, d_lse = case.arrays(dtype)
        keep, extra, real = np.ones((case.batch, 1, case.lq, case.lk), bool), {}, {}
        for name, ragged, axis in (
            ("q_lengths", case.q_ragged, 2),
            ("kv_lengths", case.kv_ragged, 3),
        ):
            length = keep.shape[axis]
            lengths = np.full(case.batch, length, np.int32)
            if ragged:  # none of a row, half of it, all of it, in another order for q and k
                lengths = np.linspace(0, length, case.batch).round().astype(np.int32)
                lengths = np.roll(lengths, axis)
                extra[name] = jnp.asarray(lengths)
            real[name] = np.arange(length) < lengths[:, None]
            keep &= np.expand_dims(real[name], (1, 5 - axis))
        scale = case.head_dim**-0.5
        exact = tolerances.exact_attention(q, k, v, keep, scale, d_out, d_lse)
        live = keep.any(-1).repeat(case.heads, 1)
        clean = jnp.where(live.swapaxes(1, 2)[..., None], d_out, jnp.zeros((), dtype))
        plain = tolerances.plain_attention(q, k, v, keep, scale, clean, jnp.where(live, d_lse, 0))
        more = tolerances.moved_by_rounded_logits(q, k, v, keep, scale, d_out, d_lse)
        q_real, kv_real = (x[..., None, None] for x in real.values())
        nan = jnp.full((), np.nan, dtype)
        q, d_out = jnp.where(q_real, q, nan), jnp.where(q_real, d_out, nan)
        k, v = jnp.where(kv_real, k, nan), jnp.where(kv_real, v, nan)
        options = (("implementation", self.implementation),)
        got = run_operation(
            q, k, v, d_out, d_lse, extra, operation=dense_attention, options=options
        )
        names = ("out", "lse", "dq", "dk", "dv")
        for name, *values, moved in zip(names, got, exact, plain, more, strict=True):
            kind = jnp.float32 if name == "lse" else dtype
            tolerances.assert_within_budget(*values, kind, f"{case.name}: {name}", moved)

    def test_same_bits_on_a_rerun(self):
        arrays = CASES[0].arrays(jnp.float32)
        options = (("implementation", self.implementation),)
        first, second = (
            run_operation(*arrays, {}, operation=dense_attention, options=options) for _ in range(2)
        )
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_under_vmap_scan_and_remat(self):
        q, k, v, d_out, d_lse = CASES[0].arrays(jnp.float32)

        def loss(q, kv_lengths):
            out, lse = dense_attention(
                q, k, v, kv_lengths=kv_lengths, implementation=self.implementation
            )
            return (out * d_out).sum() + (lse * d_lse).sum()

        check_under_vmap_scan_and_remat(loss, q, jnp.array([29], jnp.int32))


class BlockMassSuite:
    """Inherit and set `implementation`."""

    implementation: str

    @pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=str)
    def test_matches_float64(self, ragged, dtype):
        case = Case("mass", lq=45, lk=70, batch=2, mask_batch=2, head_dim=5, block_kv=16,
                    density=1.0, q_ragged=ragged, kv_ragged=ragged)  # fmt: skip
        mask, (q, k, _, _, _) = case.mask(), case.arrays(dtype)
        keep = tolerances.token_keep(mask, case.lq, case.lk)
        lse = tolerances.exact_attention(q, k, k, keep, 0.5, q, np.zeros((2, 2, 45)))[1]
        lse[0, 0, 3] = -np.inf
        keep = np.broadcast_to(keep, (2, 2, 45, 70)) & ~np.isneginf(lse)[..., None]
        q64, k64 = (np.asarray(x, np.float64) for x in (q, k))
        logits = 0.5 * np.einsum("bqhd,bkhd->bhqk", q64, k64)
        exact = np.exp(
            np.where(keep, logits, -np.inf) - np.where(np.isneginf(lse), 0, lse)[..., None]
        )
        exact = np.pad(exact, ((0, 0), (0, 0), (0, 3), (0, 10))).reshape(2, 2, 6, 8, 5, 16)
        exact = exact.sum((3, 5))
        if ragged:  # padding is garbage
            q_real = mask.real_queries(45).swapaxes(1, 2)[..., None]
            k_real = mask.real_keys(70).swapaxes(1, 2)[..., None]
            q, k = (
                jnp.where(r, x, jnp.full((), np.nan, dtype)) for r, x in ((q_real, q), (k_real, k))
            )
            lse = np.where(mask.real_queries(45), lse, 0.0)  # finite, unlike attention's own
        got = block_mass(
            q, k, jnp.asarray(lse, jnp.float32), block_q=8, block_kv=16, scale=0.5,
            q_lengths=mask.q_lengths, kv_lengths=mask.kv_lengths,
            implementation=self.implementation,
        )  # fmt: skip
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-6)
        if not ragged:
            rows = np.asarray(got).sum(-1)[1]
            np.testing.assert_allclose(rows, np.broadcast_to([8] * 5 + [5], (2, 6)), rtol=1e-5)

    def test_same_bits_on_a_rerun(self):
        q, k, _, _, lse = CASES[0].arrays(jnp.float32)
        call = jax.jit(
            lambda *x: block_mass(*x, block_q=8, block_kv=8, implementation=self.implementation)
        )
        np.testing.assert_array_equal(call(q, k, lse), call(q, k, lse))

    def test_under_vmap_scan_and_remat(self):
        q, k, _, _, lse = CASES[0].arrays(jnp.float32)

        def loss(q, lse):  # as AdaSpa does, its gradient goes past the masses
            mass = block_mass(
                jax.lax.stop_gradient(q), k, lse, block_q=8, block_kv=8,
                implementation=self.implementation,
            )  # fmt: skip
            rows = mass.sum(-1).repeat(8, -1).swapaxes(1, 2)[..., None]
            return (q * rows).sum() / 8

        check_under_vmap_scan_and_remat(loss, q, lse + 4)
