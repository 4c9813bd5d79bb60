"""Problems small enough for `reference`: every kind of row, block, length and padding.

Padding holds NaN wherever a kernel may not look. What a problem draws depends on the session's seed
and the problem's name alone, so that one of them can be run again by itself.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gpu_check.oracle import check_close
from experiments.gpu_check.programs import NAMES, attend, attend_densely, twice
from pallas_kernels import BlockMask, block_mass
from sparsevdit_jax import VideoGrid
from sparsevdit_jax.token_order import TokenOrder, slot_positions
from sparsevdit_jax.token_permutation import TokenPermutation


@dataclasses.dataclass(frozen=True)
class Sparse:
    """Block-sparse attention: the first row of blocks is empty, the second full, the rest random.

    Attributes:
      block_q: tokens of a query block.
      block_kv: tokens of a key block.
      rows: query blocks.
      columns: key blocks.
      ragged: blocks hold fewer real tokens than slots.
      shared: one mask for all heads and batch items.
      batch: B.
      heads: H.
    """

    operation = "block_sparse_attention"
    block_q: int
    block_kv: int
    rows: int = 5
    columns: int = 6
    ragged: bool = False
    shared: bool = False
    batch: int = 1
    heads: int = 2

    def mask(self, rng: np.random.Generator) -> BlockMask:
        """Random lists and lengths."""
        lead = (1, 1) if self.shared else (self.batch, self.heads)
        keep = rng.random((*lead, self.rows, self.columns)) < 0.4
        keep[:, :, 0], keep[:, :, 1] = False, True
        sizes = {}
        if self.ragged:
            sides = ("q", self.block_q, self.rows), ("kv", self.block_kv, self.columns)
            sizes = {f"{x}_lengths": _lengths(rng, (lead[0], 1, n), block) for x, block, n in sides}
        return BlockMask.from_dense(keep, block_q=self.block_q, block_kv=self.block_kv, **sizes)

    def check(self, name: str, dtype: str, dim: int, key, rng: np.random.Generator) -> str:
        """Errors of an implementation; raises as `check_close`."""
        mask = self.mask(rng)
        lengths = self.rows * self.block_q, self.columns * self.block_kv
        arrays = _arrays(key, self.batch, self.heads, *lengths, dim, dtype)
        real = [mask.real_queries(lengths[0]), mask.real_keys(lengths[1])]
        return _compare(attend, name, mask, arrays, real, dtype)


@dataclasses.dataclass(frozen=True)
class Dense:
    """Dense attention of three rows; ragged: one whole, one short, one without a key.

    Attributes:
      length_q: Lq.
      length_kv: Lk.
      ragged: rows hold fewer real tokens than slots.
    """

    operation = "dense_attention"
    length_q: int
    length_kv: int
    ragged: bool = False

    def check(self, name: str, dtype: str, dim: int, key, rng: np.random.Generator) -> str:
        """Errors of an implementation; raises as `check_close`."""
        arrays = _arrays(key, 3, 2, self.length_q, self.length_kv, dim, dtype)
        lengths, real = {}, [None, None]
        if self.ragged:
            sizes = (
                [self.length_q, 5, 70],
                [int(rng.integers(1, self.length_kv)), self.length_kv, 0],
            )
            lengths = {
                x: np.asarray(n, np.int32)
                for x, n in zip(("q_lengths", "kv_lengths"), sizes, strict=True)
            }
            ends = zip(lengths.values(), (self.length_q, self.length_kv), strict=True)
            real = [jnp.asarray(np.arange(n) < size[:, None])[:, None] for size, n in ends]
        return _compare(attend_densely, name, lengths, arrays, real, dtype)


@dataclasses.dataclass(frozen=True)
class Mass:
    """Block mass; one query has lse -inf, and with lengths blocks are ragged.

    Attributes:
      block_q: tokens of a query block.
      block_kv: tokens of a key block.
      missing: tokens by which the sequences are shorter than their blocks.
      ragged: blocks hold fewer real tokens than slots.
    """

    operation = "block_mass"
    block_q: int
    block_kv: int
    missing: int = 0
    ragged: bool = False

    def check(self, name: str, dtype: str, dim: int, key, rng: np.random.Generator) -> str:
        """The error of an implementation; raises as `check_close`."""
        blocks, counts = (self.block_q, self.block_kv), (3, 5)
        lq, lk = (n * block - self.missing for n, block in zip(counts, blocks, strict=True))
        q, k, *_ = _arrays(key, 2, 2, lq, lk, dim, dtype)
        # Of the right size is enough: kernel and reference read the same one.
        lse = (np.log(lk) + 0.1 * rng.standard_normal((2, 2, lq))).astype(np.float32)
        lse[1, 0, 2] = -np.inf
        lengths, dirty = {}, [q, k, lse]
        if self.ragged:
            sizes = [
                _lengths(rng, (2, 1, n), block) for n, block in zip(counts, blocks, strict=True)
            ]
            lengths = dict(zip(("q_lengths", "kv_lengths"), sizes, strict=True))
            real_q, real_k = (
                (np.arange(block) < size[..., None]).reshape(2, 1, -1)[..., :length]
                for size, block, length in zip(sizes, blocks, (lq, lk), strict=True)
            )
            dirty = [_fill(q, real_q), _fill(k, real_k), np.where(real_q, lse, np.float32(np.nan))]
        how = {"block_q": self.block_q, "block_kv": self.block_kv}

        def run(name, lengths, q, k, lse):
            return block_mass(q, k, lse, **how, **lengths, implementation=name)

        got = twice(jax.jit(functools.partial(run, name)), lengths, *dirty)
        exact = jax.jit(functools.partial(run, "reference"))(
            lengths, q.astype(jnp.float32), k.astype(jnp.float32), lse
        )
        return f"mass {check_close('mass', got, exact, dtype):.1e}"


PROBLEMS = {  # one for each kernel and each structure of it first
    "384x384": Sparse(384, 384, rows=3, columns=3, ragged=True, shared=True),
    "64x64": Sparse(64, 64),
    "128x128": Sparse(128, 128, ragged=True, batch=2),
    "dense_ragged": Dense(200, 328, ragged=True),
    "mass_square": Mass(128, 128, ragged=True),
    "64x128": Sparse(64, 128, rows=7, shared=True),
    "128x64": Sparse(128, 64, ragged=True),
    "192x192": Sparse(192, 192, rows=3, columns=4, ragged=True),
    "256x256": Sparse(256, 256, rows=3, columns=3),
    "dense": Dense(256, 384),
    "mass": Mass(64, 64),
    "mass_odd": Mass(32, 96, missing=7, ragged=True),
    "mass_parts": Mass(384, 320, missing=5),
}
ORDER = "order"  # the name of the check of token orders


def orders(grid: VideoGrid, tile: tuple[int, int, int], heads: int, dtype: str, key) -> str:
    """Tiles, and a permutation for each head: tokens go where they should and come back, bit for bit.

    Raises:
      ArithmeticError: a token is elsewhere or another one.
    """
    block = int(np.prod(tile))
    tiles = TokenOrder(grid, block, tile)
    packed = [TokenOrder(grid, block), TokenOrder(grid, block, axes=(1, 2, 0))]
    which = np.arange(heads, dtype=np.int32) % 2
    permutation = TokenPermutation.choose(packed, which)
    x = jax.random.normal(key, (1, grid.num_tokens, heads, 8), dtype)
    for name, order, there in (
        ("tiles", tiles, [tiles] * heads),
        ("permutation", permutation, [packed[i] for i in which]),
    ):
        moved = jax.jit(lambda order, x: order.apply(x))(order, x)
        back = jax.jit(lambda order, x: order.undo(x))(order, moved)
        if not np.array_equal(_bits(back), _bits(x)):
            raise ArithmeticError(f"{name}: applied and undone, a sequence differs from itself")
        for head, wanted in enumerate(there):
            placed = _bits(moved)[:, slot_positions(wanted), head]
            if not np.array_equal(placed, _bits(x)[:, :, head]):
                raise ArithmeticError(f"{name}: a token of head {head} is in another's slot")
    return "tiles and permutation exact"


def _bits(x):
    return np.asarray(x).view(np.uint8)


def _compare(program, name, how, arrays, real, dtype) -> str:
    """Runs an implementation over dirty padding and `reference` over clean, and compares them."""
    q, k, v, d_out, d_lse = arrays
    dirty = [_fill(x, real[i]) for x, i in ((q, 0), (k, 1), (v, 1), (d_out, 0))]
    got = twice(jax.jit(functools.partial(program, name)), how, *dirty, d_lse)
    exact = jax.jit(functools.partial(program, "reference"))(
        how, *(x.astype(jnp.float32) for x in (q, k, v, d_out)), d_lse
    )
    errors = [check_close(*entry, dtype) for entry in zip(NAMES, got, exact, strict=True)]
    return " ".join(f"{n} {e:.1e}" for n, e in zip(NAMES, errors, strict=True))


def _arrays(key, batch, heads, lq, lk, dim, dtype):
    """q, k, v, d_out and d_lse."""
    keys = jax.random.split(key, 5)
    q, k, v, d_out = (
        jax.random.normal(x, (batch, length, heads, dim), dtype)
        for x, length in zip(keys, (lq, lk, lk, lq), strict=False)
    )
    return q, k, v, d_out, jax.random.normal(keys[4], (batch, heads, lq))


def _lengths(rng, shape, block):
    """Real tokens of blocks, int32; the last block is about half full."""
    sizes = rng.integers(0, block + 1, shape, np.int32)
    sizes[..., -1] = block // 2 + 1
    return sizes


def _fill(x, real):
    """x [B, L, H, D] with NaN where `real` [B|1, H|1, L] is not set; None: all are real."""
    if real is None:
        return x
    return jnp.where(real.swapaxes(1, 2)[..., None], x, jnp.nan).astype(x.dtype)
