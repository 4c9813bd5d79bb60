"""Block mass for Hopper: one pass of q k^T whose exponentials are summed where they arise.

A block of threads keeps 256 or 384 query rows in shared memory and streams all keys past them. Its
two consumer warpgroups multiply their 64-row tiles with a tile of keys and fold exp2(scale' s -
lse') over the columns that one thread holds; each product runs while the exponentials of the one
before it are taken, and the other consumer fills what is left: at head dim 128 the exponentials
keep their unit as busy as the products keep the tensor cores. What is left of a block pair, 8
numbers, waits in shared memory until 64 pairs are finished at once. Only results leave the chip.

Barriers (one copy arrives, unless said):

    q_full  copies of a consumer's queries and their lse landed
    k_full  copy of a tile of keys landed
    k_free  both consumers have read it
    met     both consumers have written their parts of sums (query blocks that both share)

Every completion of every barrier is waited for, also at the end: JAX's interpreter insists on it.
All items take equal time, so the grid is plain: nothing to balance, no list of work.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _hopper, _interpret, _measured, _vmap
from ._real_parts import over_real_parts

_ENTRIES = 64  # block pairs whose sums are finished together
_CONSUMERS = 2  # warpgroups that compute
_SCRATCH = 2048  # bytes for sums over the warps of a consumer
_KEYS = "block_kv", "tile_kv", "stages"  # fields that a measured table may change
_LANES = 8  # columns of a wgmma tile that different threads hold


@dataclasses.dataclass(frozen=True)
class Config:
    """How the kernel walks one pair of block sizes.

    Attributes:
      block_q, block_kv: tokens of the kernel's blocks; they divide the caller's.
      tile_kv: keys in one product.
      groups: sets of a consumer's rows that belong to different query blocks; blocks of 32 count
        as pairs.
      fold: 64-row tiles of a consumer in each group.
      shared: whether a query block spans both consumers, which then add up their parts.
      stages: key tiles in flight.
    """

    block_q: int
    block_kv: int
    tile_kv: int
    groups: int
    fold: int
    shared: bool
    stages: int

    @property
    def rows(self) -> int:
        """Query rows of a block of threads."""
        return _CONSUMERS * self.groups * self.fold * _hopper.TILE

    @property
    def step(self) -> int:
        """Keys after which sums are put aside: whole tiles and whole blocks."""
        return max(self.tile_kv, self.block_kv)

    @property
    def piece(self) -> int:
        """Keys of a tile that belong to one block."""
        return min(self.tile_kv, self.block_kv)

    def smem_bytes(self, head_dim: int) -> int:
        """Shared memory of the kernel for 16-bit arrays, barriers included."""
        half, single = jnp.dtype("bfloat16"), jnp.dtype("float32")
        barriers = _CONSUMERS + 2 * self.stages + 1
        return _hopper.smem_bytes(
            [
                ((self.rows, head_dim), half),
                ((self.stages, self.tile_kv, head_dim), half),
                ((self.rows,), single),
                ((_CONSUMERS, _ENTRIES, _LANES), single),
                ((2, _CONSUMERS, _ENTRIES), single),
                ((_CONSUMERS, _ENTRIES), single),
                ((2 * barriers,), single),
                ((_SCRATCH,), jnp.dtype("int8")),
            ]
        )


def heuristics(head_dim: int, block_q: int, block_kv: int) -> Config:
    """The walk for the caller's blocks, multiples of 32 tokens.

    The kernel's blocks are the caller's, or the largest divisors that it has a walk for.

    Raises:
      NotImplementedError: a block is not a multiple of 32.
    """
    for name, block in (("block_q", block_q), ("block_kv", block_kv)):
        if block % 32:
            raise NotImplementedError(
                f"mosaic_gpu takes blocks of multiples of 32 tokens, not {name}={block}"
            )
    walks = {  # groups, fold, shared
        384: (1, 3, True),
        256: (1, 2, True),
        192: (1, 3, False),
        128: (1, 2, False),
        64: (2, 1, False),
        32: (2, 1, False),
    }
    inner_q = next(size for size in walks if block_q % size == 0)
    groups, fold, shared = walks[inner_q]
    # With three tiles in a group, blocks of several tiles of keys, more pieces, and tiles of 96 keys spill registers.
    narrow = fold == 3 and block_kv % 128
    if fold == 3 and not narrow:
        block_kv = 128
    if narrow or (block_kv % 128 and block_kv % 96):
        block_kv = 64 if block_kv % 64 == 0 else 32
    tile_kv = 64 if narrow else 96 if block_kv % 128 and block_kv % 96 == 0 else 128
    return Config(inner_q, block_kv, tile_kv, groups, fold, shared, stages=384 // head_dim)


def configure(head_dim: int, block_q: int, block_kv: int, dtype: Any = "bfloat16") -> Config:
    """The walk to use: the heuristics', with what a measured table says of it.

    Raises:
      NotImplementedError: as `heuristics`.
      ValueError: an entry of the table is no walk of these blocks, or does not fit shared memory.
    """
    chosen = heuristics(head_dim, block_q, block_kv)

    def check(config):
        if dataclasses.replace(config, **_of_keys(chosen)) != chosen:
            raise ValueError(f"{config} must walk rows as {chosen} does; only {_KEYS} may differ")
        wide, narrow = max(config.tile_kv, config.block_kv), min(config.tile_kv, config.block_kv)
        per_step = (
            config.groups
            * (config.tile_kv // config.piece)
            * max(_hopper.TILE // config.block_q, 1)
        )
        if block_kv % config.block_kv or narrow % 32 or wide % narrow or _ENTRIES % per_step:
            raise ValueError(
                f"{config} must have a block_kv that divides {block_kv}, and a tile_kv of 1, 2, 4, ... of "
                "its blocks, or one that divides it, in multiples of 32 keys"
            )
        _hopper.refuse_misfit(config, head_dim)

    return _measured.override(chosen, check, "block_mass", head_dim, block_q, block_kv, dtype)


def _of_keys(config):
    return {name: getattr(config, name) for name in _KEYS}


def shipped_configs() -> list[tuple[int, Config]]:
    """Head dim and walk of every block size class, for checks of the compiled kernel."""
    pairs = (
        (32, 32),
        (64, 64),
        (128, 64),
        (128, 128),
        (192, 192),
        (256, 256),
        (384, 128),
        (384, 384),
    )
    return [(d, heuristics(d, *pair)) for d in _hopper.HEAD_DIMS for pair in pairs]


def block_mass(
    q: jax.Array,
    k: jax.Array,
    lse: jax.Array,
    *,
    block_q: int,
    block_kv: int,
    scale: float,
    q_lengths: jax.Array | None,
    kv_lengths: jax.Array | None,
) -> jax.Array:
    """See `api.block_mass`. Refuses what it has no tiles for, and other devices."""
    _hopper.refuse_unless_available()
    blocks = {"block_q": block_q, "block_kv": block_kv}
    lengths = {"q_lengths": q_lengths, "kv_lengths": kv_lengths}
    run = functools.partial(_block_mass, scale=scale)
    # Queries stay in blocks of their size: a walk of smaller ones shares each tile of keys less.
    return over_real_parts(run, q, k, lse, cut_q=False, **blocks, **lengths)


def _block_mass(q, k, lse, *, block_q, block_kv, scale, q_lengths, kv_lengths):
    config = configure(q.shape[-1], block_q, block_kv, q.dtype)
    given = [x for x in (q_lengths, kv_lengths) if x is not None]

    def merged(data, lengths):
        left = iter(lengths)
        both = (None if x is None else next(left) for x in (q_lengths, kv_lengths))
        return mass(*data, config, block_q, block_kv, scale, *both)

    return _vmap.merge_vmap(merged)((q, k, lse), tuple(map(jnp.asarray, given)))


def mass(q, k, lse, config, block_q, block_kv, scale, q_lengths, kv_lengths):
    """The same without a look at the device, so that it can be lowered and compiled anywhere.

    Costs outside the kernel: with lengths, or a length that is no multiple of what a block of
    threads takes, copies of the arrays with zeros for padding; where a block has no walk of its own
    (320 tokens, say), a sum over the kernel's smaller ones.
    """
    _hopper.refuse_unless_supported(q)
    b, lq, h, _ = q.shape
    lk = k.shape[1]
    extra_q, extra_kv = -lq % config.rows, -lk % config.step
    real_q, real_kv = _real_tokens(q_lengths, block_q, lq), _real_tokens(kv_lengths, block_kv, lk)
    shift = jnp.where(real_q & (lse > -jnp.inf), lse * np.float32(_hopper.LOG2E), jnp.inf)
    shift = jnp.pad(shift, ((0, 0), (0, 0), (0, extra_q)), constant_values=np.inf)
    pieces = None
    if extra_kv or kv_lengths is not None:
        pieces = jnp.pad(real_kv, ((0, 0), (0, 0), (0, extra_kv)))
        pieces = pieces.reshape(*pieces.shape[:2], -1, config.piece).sum(-1, dtype=jnp.int32)
    q = _clean(q, None if q_lengths is None else real_q, extra_q)
    k = _clean(k, None if kv_lengths is None else real_kv, extra_kv)
    sums = launch(config, scale, q, k, shift, pieces)
    nq, nk = -(-lq // block_q), -(-lk // block_kv)
    parts = block_q // config.block_q, block_kv // config.block_kv
    wanted = nq * parts[0], nk * parts[1]
    extra = ((0, max(n - have, 0)) for n, have in zip(wanted, sums.shape[2:], strict=True))
    sums = jnp.pad(sums, ((0, 0), (0, 0), *extra))[:, :, : wanted[0], : wanted[1]]
    return sums.reshape(b, h, nq, parts[0], nk, parts[1]).sum((3, 5))


@_hopper.in_32_bits
def launch(config, scale, q, k, shift, pieces, *, without=""):
    """The kernel alone.

    Args:
      config: the walk.
      scale: factor on the logits.
      q: [B, Lq, H, D], Lq a multiple of `config.rows`; zeros where padded.
      k: [B, Lk, H, D], Lk a multiple of `config.step`; zeros where padded.
      shift: float32 [B, H, Lq], lse in base 2, inf for a query without mass.
      pieces: int32 [B|1, H|1, Lk / piece], real keys at the start of each piece, or None for all.
      without: name of a wait or arrival to leave out, to test that it is needed.

    Returns:
      float32 [B, H, Lq / block_q, Lk / block_kv].
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    b, lq, h, d = q.shape
    steps, per_block = k.shape[1] // config.step, config.step // config.tile_kv
    num_pieces = config.tile_kv // config.piece
    halves = max(_hopper.TILE // config.block_q, 1)
    entries = config.groups * num_pieces * halves  # of a step
    steps_held = _ENTRIES // entries
    chunks = -(-steps // steps_held)
    tiles = config.groups * config.fold  # of 64 query rows in one warpgroup
    writers = 1 if config.shared else _CONSUMERS
    per_pair, per_row = plgpu.Layout.WGMMA, plgpu.Layout.WGMMA.reduce(1)
    product_type = plgpu.ACC((_hopper.TILE, config.tile_kv), jnp.float32)
    factor = np.float32(scale * _hopper.LOG2E)
    interpret = _interpret.active()

    def slot_of(tile):
        return jax.lax.rem(tile, jnp.int32(config.stages))

    def first_row(wg, i):
        if config.shared:
            group, i = divmod(i, config.fold)
            return group * config.block_q + (wg * config.fold + i) * _hopper.TILE
        return (wg * tiles + i) * _hopper.TILE

    def wait(name, barrier):
        if without != f"{name} wait":
            plgpu.barrier_wait(barrier)

    def arrive(name, barrier):
        if without != f"{name} arrive":
            plgpu.barrier_arrive(barrier)

    def multiply(q_tile, k_tile, then):
        """then(q k^T), the product still under way; see `finished`."""
        if interpret:  # plain reads, which the race detector sees
            s = jnp.dot(q_tile[...], k_tile[...].T, preferred_element_type=jnp.float32)
            plgpu.commit_smem()
            return then(s)

        def issue(acc):
            plgpu.wgmma(acc, q_tile, k_tile.T)
            return then(acc)

        return pl.run_scoped(issue, product_type)

    def finished(product, under_way=0):
        """A product, once no more than so many are under way."""
        if interpret:
            return product
        return plgpu.wgmma_accumulator_load(product, wait_n=under_way)

    def add_products(q_tiles, k_tile, add, sums):
        """sums = add(sums, i, q_i k^T) for every i; each product runs while the one before it is added.

        Not so for three tiles and a mask, which together spill registers.
        """
        if pieces is not None and tiles > 2:
            for i in range(tiles):
                sums = add(sums, i, multiply(q_tiles.at[i], k_tile, finished))
            return sums

        def visit(i, before, sums):
            if i == tiles:
                return add(sums, i - 1, finished(before))

            def overlapped(product):
                done = add(sums, i - 1, finished(before, 1)) if i else sums
                return visit(i + 1, product, done)

            return multiply(q_tiles.at[i], k_tile, overlapped)

        return visit(0, None, sums)

    def body(q_g, k_g, shift_g, *refs):
        pieces_g, refs = (None, refs) if pieces is None else (refs[0], refs[1:])
        out_g, q_s, k_s, shift_s, sums_s, parts_s, out_s, q_full, k_full, k_free, met = refs
        batch, head, item, wg = (jax.lax.axis_index(n) for n in ("b", "h", "item", "wg"))

        def consume():
            plgpu.set_max_registers(240, action="increase")
            for i in range(tiles):
                here = pl.ds(item * config.rows + first_row(wg, i), _hopper.TILE)
                plgpu.copy_gmem_to_smem(q_g.at[batch, here, head], q_s.at[wg, i], q_full.at[wg])
                plgpu.copy_gmem_to_smem(
                    shift_g.at[batch, head, here], shift_s.at[wg, i], q_full.at[wg]
                )
            wait("q_full", q_full.at[wg])

            def without_padding(p, real):
                """Zeros where keys are padding; `real` counts the keys of each piece."""

                def mask():
                    column = plgpu.broadcasted_iota(jnp.int32, p.shape, 1, layout=per_pair)
                    ends = zip(range(0, config.tile_kv, config.piece), real, strict=True)
                    inside = [(column >= at) & (column < at + n) for at, n in ends]
                    return jnp.where(functools.reduce(jnp.logical_or, inside), p, 0.0)

                least = functools.reduce(jnp.minimum, real)
                return jax.lax.cond(least == config.piece, lambda: p, mask)

            def add_keys(tile, sums):
                """Adds one tile of keys to the sums [64, 8] of every (group, piece)."""
                slot, real = slot_of(tile), real_keys(tile)

                def add(sums, i, s):
                    sums, group = list(sums), i // config.fold
                    shift = plgpu.load(shift_s.at[wg, i], layout=per_row)
                    p = jnp.exp2(s * factor - jax.lax.broadcast_in_dim(shift, s.shape, [0]))
                    if real is not None:
                        p = without_padding(p, real)
                    for at in range(0, config.tile_kv, _LANES):
                        sums[group * num_pieces + at // config.piece] += p[:, at : at + _LANES]
                    return tuple(sums)

                wait("k_full", k_full.at[slot])
                sums = add_products(q_s.at[wg], k_s.at[slot], add, sums)
                arrive("k_free", k_free.at[slot])
                return sums

            def real_keys(tile):
                if pieces_g is None:
                    return None
                at = [0 if n == 1 else i for i, n in zip((batch, head), pieces.shape, strict=False)]
                return [pieces_g[*at, tile * num_pieces + i] for i in range(num_pieces)]

            zeros = plgpu.layout_cast(
                jnp.zeros((_hopper.TILE, _LANES), jnp.float32), plgpu.Layout.WGMMA
            )

            def put_aside(step, sums):
                """Sums over rows, but not yet over the last 8 columns, to shared memory."""
                if halves == 2:
                    row = plgpu.broadcasted_iota(
                        jnp.int32, zeros.shape, 0, layout=plgpu.Layout.WGMMA
                    )
                    upper = row < config.block_q
                    sums = [
                        x
                        for t in sums
                        for x in (jnp.where(upper, t, 0.0), jnp.where(upper, 0.0, t))
                    ]
                table = jnp.concatenate(sums, axis=1) if len(sums) > 1 else sums[0]
                total = table.sum(axis=0)
                for i in range(entries):
                    sums_s[wg, step * entries + i] = total[i * _LANES : (i + 1) * _LANES]

            @pl.loop(0, chunks)
            def _(chunk):
                first = chunk * steps_held

                @pl.loop(0, jnp.minimum(steps - first, steps_held))
                def _(j):
                    tile = (first + j) * per_block
                    sums = (zeros,) * (config.groups * num_pieces)
                    if per_block == 1:
                        sums = add_keys(tile, sums)
                    else:
                        sums = jax.lax.fori_loop(
                            0, per_block, lambda i, sums: add_keys(tile + i, sums), sums
                        )
                    put_aside(j, sums)

                total = plgpu.load(sums_s.at[wg], layout=plgpu.Layout.WGMMA).sum(axis=1)
                if config.shared:
                    parity = jax.lax.rem(chunk, jnp.int32(2))
                    parts_s[parity, wg] = total
                    arrive("met", met)
                    wait("met", met)
                    total = plgpu.load(parts_s.at[parity, 0], layout=per_row)
                    for i in range(1, _CONSUMERS):
                        total += plgpu.load(parts_s.at[parity, i], layout=per_row)

                @pl.when(wg < writers)
                def _():
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    out_s[wg] = total
                    plgpu.commit_smem()
                    plgpu.copy_smem_to_gmem(out_s.at[wg], out_g.at[batch, head, item, wg, chunk])

            plgpu.wait_smem_to_gmem(0)

        def produce():
            count = steps * per_block

            @pl.loop(0, count)
            def _(tile):
                slot = slot_of(tile)

                @pl.when(tile >= config.stages)
                def _():
                    wait("k_free", k_free.at[slot])

                keys = pl.ds(tile * config.tile_kv, config.tile_kv)
                plgpu.copy_gmem_to_smem(k_g.at[batch, keys, head], k_s.at[slot], k_full.at[slot])

            @pl.loop(max(count - config.stages, 0), count)
            def _(tile):
                wait("k_free", k_free.at[slot_of(tile)])

        pl.when(wg < _CONSUMERS)(consume)

        @pl.when(wg == _CONSUMERS)
        def _():
            plgpu.set_max_registers(24, action="decrease")

            @plgpu.warp_map
            def _(warp):
                pl.when(warp == 0)(produce)

    groups, f32 = config.groups, jnp.float32
    operands = [q, k, shift] + ([] if pieces is None else [pieces])
    items = lq // config.rows
    out = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((b, h, items, writers, chunks, _ENTRIES), f32),
        scratch_types=[
            _hopper.smem((_CONSUMERS, tiles, _hopper.TILE, d), q.dtype),
            _hopper.smem((config.stages, config.tile_kv, d), q.dtype),
            plgpu.SMEM((_CONSUMERS, tiles, _hopper.TILE), f32),
            plgpu.SMEM((_CONSUMERS, _ENTRIES, _LANES), f32),
            plgpu.SMEM((2, _CONSUMERS, _ENTRIES), f32),
            plgpu.SMEM((_CONSUMERS, _ENTRIES), f32),
            plgpu.Barrier(num_arrivals=2 * tiles, num_barriers=_CONSUMERS),
            plgpu.Barrier(num_barriers=config.stages),
            plgpu.Barrier(num_arrivals=_CONSUMERS, num_barriers=config.stages),
            plgpu.Barrier(num_arrivals=_CONSUMERS),
        ],
        grid=(b, h, items),
        grid_names=("b", "h", "item"),
        num_threads=_CONSUMERS + 1,
        thread_name="wg",
        kernel_name="block_mass",
        compiler_params=plgpu.CompilerParams(approx_math=True, reduction_scratch_bytes=_SCRATCH),
    )(*operands)
    out = out.reshape(b, h, items, writers, chunks, steps_held, groups, num_pieces, halves)
    out = out.transpose(0, 1, 2, 3, 6, 8, 4, 5, 7)
    out = out.reshape(b, h, lq // config.block_q, -1)
    return out[..., : steps * num_pieces]


def _clean(x, real, extra):
    """x [B, L, H, D] with zeros for padding and for `extra` more tokens."""
    if real is not None:
        x = jnp.where(real.swapaxes(1, 2)[..., None], x, jnp.zeros((), x.dtype))
    return jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0))) if extra else x


def _real_tokens(lengths, block, length):
    if lengths is None:
        return jnp.ones((1, 1, length), bool)
    offsets = jnp.arange(block, dtype=jnp.int32).reshape(1, 1, 1, -1)
    real = offsets < lengths[..., None]
    return real.reshape(*lengths.shape[:2], -1)[..., :length]
