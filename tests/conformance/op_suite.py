"""What every implementation of block-sparse attention must satisfy; subclass and name yours.

Shapes are tiny: compilation is what the time goes into. A class compiles one function per case
and dtype and the tests share it.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask, block_sparse_attention, dense_attention
from tests import tolerances

GOLDEN = Path(__file__).parents[1] / "golden"


@functools.partial(jax.jit, static_argnames=("operation", "options"))
def run_operation(q, k, v, d_out, d_lse, extra, *, operation, options):
    """out, lse, dq, dk, dv of an operation; `extra` are its further arrays, by name."""

    def call(q, k, v):
        return operation(q, k, v, **extra, **dict(options))

    (out, lse), vjp = jax.vjp(call, q, k, v)
    return out, lse, *vjp((d_out, d_lse))


def check_under_vmap_scan_and_remat(loss, q, others):
    """The gradient of loss(q, others) in q [B, L, H, D] is the same inside those as without;
    `others` is a tree of arrays, which vmap batches too.
    """
    qs = jnp.stack([q, q[:, ::-1]])
    one_by_one = [jax.jit(jax.grad(loss))(x, others) for x in qs]
    twice = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), others)
    batched = jax.jit(jax.vmap(jax.grad(jax.checkpoint(loss))))(qs, twice)

    def total(qs):
        return jax.lax.scan(lambda s, q: (s + jax.checkpoint(loss)(q, others), None), 0.0, qs)[0]

    scanned = jax.jit(jax.grad(total))(qs)
    n = 3 * tolerances.attention_roundings(q)
    for got in (batched, scanned):
        tolerances.assert_rounding_apart(got, jnp.stack(one_by_one), n, "gradient")


def garbage(x):
    """What padding may hold, each kind in every few elements: none, infinite, so large that its square is."""
    return np.resize(np.array([np.nan, np.inf, 3e38], np.float32), x.shape)


@dataclasses.dataclass(frozen=True)
class Case:
    """One shape of block-sparse attention; the seed draws its mask and its numbers."""

    name: str
    lq: int = 32
    lk: int = 40
    batch: int = 1
    heads: int = 2
    head_dim: int = 8
    block_q: int = 8
    block_kv: int = 8
    mask_batch: int = 1
    mask_heads: int = 2
    density: float = 0.5
    q_ragged: bool = False
    kv_ragged: bool = False
    empty_rows: bool = False
    full_rows: bool = False
    magnitude: float = 1.0
    scale: float | None = None

    def mask(self, capacity=None):
        rng = np.random.default_rng(7)
        nq, nk = -(-self.lq // self.block_q), -(-self.lk // self.block_kv)
        keep = rng.random((self.mask_batch, self.mask_heads, nq, nk)) < self.density
        if self.empty_rows:
            keep[:, :, ::3] = False
        if self.full_rows:
            keep[:, -1, 1::2] = True

        def lengths(ragged, block, count):
            shape = (self.mask_batch, self.mask_heads, count)
            return rng.integers(0, block + 1, shape, np.int32) if ragged else None

        return BlockMask.from_dense(
            keep,
            block_q=self.block_q,
            block_kv=self.block_kv,
            q_lengths=lengths(self.q_ragged, self.block_q, nq),
            kv_lengths=lengths(self.kv_ragged, self.block_kv, nk),
            capacity=capacity,
        )

    def arrays(self, dtype):
        """q, k, v, d_out, d_lse; q, k, v and d_out are exact in bfloat16 and float16."""
        rng = np.random.default_rng(11)

        def draw(length, magnitude):
            shape = (self.batch, length, self.heads, self.head_dim)
            return jnp.asarray(np.round(rng.standard_normal(shape) * 16 * magnitude) / 16, dtype)

        q, d_out = draw(self.lq, self.magnitude), draw(self.lq, 1)
        k, v = draw(self.lk, self.magnitude), draw(self.lk, 1)
        d_lse = rng.standard_normal((self.batch, self.heads, self.lq)).astype(np.float32)
        return q, k, v, d_out, jnp.asarray(d_lse)


CASES = (
    Case("plain"),
    Case("ragged", lq=45, lk=70, head_dim=5, block_kv=16, batch=2, mask_batch=2, q_ragged=True,
         kv_ragged=True),
    Case("broadcast_batch_and_heads", batch=2, heads=3, mask_heads=1, kv_ragged=True),
    Case("empty_and_full_rows", lq=61, block_q=4, density=0.3, empty_rows=True, full_rows=True),
    Case("large_logits", block_q=4, magnitude=16.0, kv_ragged=True, empty_rows=True),
    Case("many_query_blocks", lq=150, block_q=2, lk=24, head_dim=3, density=0.6),
    Case("one_token", lq=1, lk=1, block_q=1, block_kv=1, density=1.0, scale=0.7),
    Case("keys_in_one_block", lk=300, block_kv=300, density=1.0, scale=-0.3),
)  # fmt: skip
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


class BlockSparseAttentionSuite:
    """Inherit and set `implementation`."""

    implementation: str

    def run(self, case, arrays, mask):
        options = (("implementation", self.implementation), ("scale", case.scale))
        return run_operation(
            *arrays, {"mask": mask}, operation=block_sparse_attention, options=options
        )

    def check(self, case, dtype, got, mask):
        q, k, v, d_out, d_lse = case.arrays(dtype)
        scale = case.scale or case.head_dim**-0.5
        keep = tolerances.token_keep(mask, case.lq, case.lk)
        exact = tolerances.exact_attention(q, k, v, keep, scale, d_out, d_lse)
        live = np.broadcast_to(keep.any(-1), d_lse.shape)
        d_lse = jnp.where(live, d_lse, 0)
        d_out = jnp.where(live.swapaxes(1, 2)[..., None], d_out, jnp.zeros((), dtype))
        plain = tolerances.plain_attention(q, k, v, keep, scale, d_out, d_lse)
        more = tolerances.moved_by_rounded_logits(q, k, v, keep, scale, d_out, d_lse)
        names = ("out", "lse", "dq", "dk", "dv")
        for name, *values, moved in zip(names, got, exact, plain, more, strict=True):
            kind = jnp.float32 if name == "lse" else dtype
            assert values[0].dtype == kind
            tolerances.assert_within_budget(*values, kind, f"{case.name}: {name}", moved)

    @by_name
    def test_matches_float64(self, case):
        mask = case.mask()
        self.check(case, jnp.float32, self.run(case, case.arrays(jnp.float32), mask), mask)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
    @pytest.mark.parametrize("case", [CASES[1], CASES[3]], ids=lambda case: case.name)
    def test_low_precision_stays_in_its_budget(self, case, dtype):
        mask = case.mask()
        self.check(case, dtype, self.run(case, case.arrays(dtype), mask), mask)

    def test_padding_never_matters(self):
        case = CASES[1]
        mask, arrays = case.mask(), case.arrays(jnp.float32)
        real_q = np.asarray(mask.real_queries(case.lq)).swapaxes(1, 2)[..., None]
        real_kv = np.asarray(mask.real_keys(case.lk)).swapaxes(1, 2)[..., None]
        q, k, v, d_out, d_lse = arrays
        q, d_out = (jnp.where(real_q, x, garbage(x)) for x in (q, d_out))
        k, v = (jnp.where(real_kv, x, garbage(x)) for x in (k, v))
        d_lse = jnp.where(real_q[..., 0].swapaxes(1, 2), d_lse, garbage(d_lse))
        dirty = self.run(case, (q, k, v, d_out, d_lse), mask)
        for clean, got in zip(self.run(case, arrays, mask), dirty, strict=True):
            np.testing.assert_array_equal(got, clean)

    def test_empty_rows_are_zero(self):
        case = CASES[3]
        mask = case.mask()
        out, lse, dq, _, _ = self.run(case, case.arrays(jnp.float32), mask)
        empty = np.broadcast_to(~tolerances.token_keep(mask, case.lq, case.lk).any(-1), lse.shape)
        assert empty.any()
        assert np.isneginf(np.asarray(lse)[empty]).all()
        empty = empty.swapaxes(1, 2)
        assert (np.asarray(out)[empty] == 0).all()
        assert (np.asarray(dq)[empty] == 0).all()

    def test_same_bits_on_a_rerun(self):
        case = CASES[1]
        first, second = (self.run(case, case.arrays(jnp.float32), case.mask()) for _ in range(2))
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_same_bits_alone_and_merged(self):
        case = CASES[3]
        arrays = case.arrays(jnp.float32)
        mask = case.mask(capacity=5)
        twice = [jnp.concatenate([x, x[:, :, ::-1]], 2) for x in arrays[:4]]
        twice.append(jnp.concatenate([arrays[4], arrays[4][:, ::-1]], 1))
        together = self.run(case, twice, BlockMask.concat_heads([mask, mask.take_heads([1, 0])]))
        for head in range(2):
            alone = [x[:, :, head : head + 1] for x in arrays[:4]]
            alone.append(arrays[4][:, head : head + 1])
            alone = self.run(case, alone, case.mask().take_heads([head]))
            for i, (a, b) in enumerate(zip(alone, together, strict=True)):
                for place in (head, 3 - head):
                    b_head = b[:, place : place + 1] if i == 1 else b[:, :, place : place + 1]
                    np.testing.assert_array_equal(a, b_head)

    def test_listed_order_does_not_matter(self):
        case = CASES[0]
        mask, arrays = case.mask(), case.arrays(jnp.float32)
        slots = np.arange(mask.capacity)
        listed = slots < mask.kv_counts[..., None]
        backwards = np.where(listed, mask.kv_counts[..., None] - 1 - slots, slots)
        indices = np.take_along_axis(mask.kv_indices, backwards, -1)
        mask = dataclasses.replace(mask, kv_indices=indices.astype(np.int32))
        self.check(case, jnp.float32, self.run(case, arrays, mask), mask)

    def test_every_block_equals_dense(self):
        case = dataclasses.replace(CASES[0], density=1.0)
        out, lse, *_ = self.run(case, case.arrays(jnp.float32), case.mask())
        dense = dense_attention(*case.arrays(jnp.float32)[:3], implementation="reference")
        n = tolerances.attention_roundings(case.arrays(jnp.float32)[1])
        tolerances.assert_rounding_apart(out, dense[0], n, "out")
        tolerances.assert_rounding_apart(lse, dense[1], n, "lse")

    def test_under_vmap_scan_and_remat(self):
        case = CASES[0]
        mask, (q, k, v, d_out, _) = case.mask(), case.arrays(jnp.float32)

        def loss(q, mask):
            out, lse = block_sparse_attention(q, k, v, mask, implementation=self.implementation)
            return (out * d_out).sum() + jnp.where(lse > -jnp.inf, lse, 0.0).sum()

        check_under_vmap_scan_and_remat(loss, q, mask)

    def test_golden_ragged_blocks(self):
        golden = np.load(GOLDEN / "blocksparse_vbs_0.npz")
        block, keep = int(golden["block_size"]), golden["block_map"]
        sizes = golden["q_block_sizes"], golden["kv_block_sizes"]

        def padded(x, sizes):
            parts = np.split(x, np.cumsum(sizes)[:-1], axis=2)
            pads = [((0, 0), (0, 0), (0, block - n), (0, 0)) for n in sizes]
            x = np.concatenate([np.pad(p, pad) for p, pad in zip(parts, pads, strict=True)], 2)
            return jnp.asarray(x.swapaxes(1, 2), jnp.float32)

        def unpadded(x, sizes):
            parts = np.split(np.asarray(x).swapaxes(1, 2), len(sizes), axis=2)
            return np.concatenate([p[:, :, :n] for p, n in zip(parts, sizes, strict=True)], 2)

        mask = BlockMask.from_dense(
            keep, block_q=block, block_kv=block, q_lengths=sizes[0], kv_lengths=sizes[1]
        )
        q, k, v, d_out = (
            padded(golden[name], sizes[name in "kv"]) for name in ("q", "k", "v", "do")
        )
        d_lse = jnp.zeros((q.shape[0], q.shape[2], q.shape[1]))
        case = Case("golden", head_dim=q.shape[-1])
        out, lse, *grads = self.run(case, (q, k, v, d_out, d_lse), mask)
        np.testing.assert_allclose(unpadded(out, sizes[0]), golden["out"], rtol=1e-5, atol=1e-5)
        lse = unpadded(lse.swapaxes(1, 2)[..., None], sizes[0])[..., 0]
        np.testing.assert_allclose(lse, golden["lse"], rtol=1e-5, atol=1e-5)
        for name, grad in zip(("dq", "dk", "dv"), grads, strict=True):
            grad = unpadded(grad, sizes[name != "dq"])
            np.testing.assert_allclose(grad, golden[name], rtol=1e-4, atol=1e-4)
