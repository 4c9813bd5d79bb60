"""Table: a small library of patterns and which of them each head uses at each step.

What STA's mask search (arXiv 2502.04507, Algorithm 1) and Sparse-vDiT's offline search (arXiv
2506.03065) produce, for one layer; a `SparseAttention` holds one per layer.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._values import listed, whole, wholes
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan, StaticPattern
from sparsevdit_jax.token_order import TokenOrder
from sparsevdit_jax.token_permutation import choose_order


@dataclasses.dataclass(frozen=True)
class Table(AttentionPattern):
    """Head h at step t uses ``library[choice[t][h]]``, all heads in one launch.

    Masks are data here: another step neither recompiles nor moves the library, which lies on the
    device once. `Dense` entries are full rows of the launch and `Skip` entries are empty ones.
    A concrete step outside the table is refused; a traced step uses the nearest row.
    `SparseAttention` refuses a table whose length is not its schedule's.

    Attributes:
      library: static patterns, each one mask for any head; their blocks have one size and number.
      choice: index into `library` for each step and head, [steps][heads].
    """

    library: tuple[StaticPattern, ...]
    choice: tuple[tuple[int, ...], ...]

    in_ring = True

    def __post_init__(self):
        object.__setattr__(self, "library", listed("library", self.library))
        rows = listed("choice", self.choice)
        choice = tuple(wholes("choice", row, remedy="index the library") for row in rows)
        object.__setattr__(self, "choice", choice)
        for pattern in self.library:
            if not isinstance(pattern, AttentionPattern):
                raise ValueError(f"library holds {pattern!r}; its members must be static patterns")
            if not pattern.is_static:
                raise ValueError(
                    f"{pattern} depends on more than positions; a Table's library holds static "
                    "patterns, use PerHead"
                )
        sizes = {len(row) for row in choice}
        if len(sizes) != 1 or sizes == {0}:
            raise ValueError(
                f"choice has rows of {sorted(sizes)} heads; give every step one entry for each head"
            )
        bad = sorted({c for row in choice for c in row if c >= len(self.library)})
        if bad:
            raise ValueError(
                f"choice holds {bad}, but the library has {len(self.library)} patterns, "
                f"0..{len(self.library) - 1}; add them or correct the table"
            )

    @property
    def num_steps(self) -> int:  # pyrefly: ignore
        """Rows of the table."""
        return len(self.choice)

    @property
    def members(self) -> tuple[AttentionPattern, ...]:
        """The library."""
        return self.library

    @property
    def serves_any_head(self) -> bool:
        """False: it names its heads."""
        return False

    @property
    def num_heads(self) -> int:
        """Heads of the layer."""
        return len(self.choice[0])

    def init(self, grid, *, batch, num_heads, head_dim):
        """No state. Builds the library, so that one that does not fit is refused here."""
        del batch, head_dim
        self._check_heads(num_heads)
        _library(self, grid)
        return ()

    def at_step(self, step, num_heads):
        """The library's pattern of each head."""
        self._check_heads(num_heads)
        return tuple(self.library[i] for i in self.choice[self._row(step)])

    def plan(self, q, k, state, ctx):
        """The masks and orders of this step's row, gathered from the library."""
        del k
        self._check_heads(ctx.num_heads(q))
        lists, counts, orders, order_of = _library(self, ctx.grid)
        choice = np.asarray(self.choice, np.int32)
        if isinstance(ctx.step, jax.Array):
            row = jnp.take(jnp.asarray(choice), ctx.step, axis=0, mode="clip")
        else:
            row = choice[self._row(ctx.step)]
        row = ctx.local_heads(row, axis=0)
        if isinstance(row, jax.Array):
            lists, counts, order_of = (jnp.asarray(a) for a in (lists, counts, order_of))
        block = orders[0].block
        mask = BlockMask(
            lists[row][None],
            counts[row][None],
            block_q=block,
            block_kv=block,
            num_kv_blocks=counts.shape[-1],
        )
        return AttentionPlan(mask, choose_order(orders, order_of[row], ctx.text_lengths)), state

    def density_on(self, grid, num_heads, *, state=None, step=0, text_lengths=None):
        """Those of the step's patterns."""
        del state
        row = self.at_step(step, num_heads)
        each = {p: p.density_on(grid, 1, text_lengths=text_lengths)[0] for p in set(row)}
        return np.asarray([each[p] for p in row], np.float32)

    def head_work(self, state, ctx, num_heads):
        """Blocks that each head keeps, of every step where the present one is traced."""
        del state, num_heads
        work = _library(self, ctx.grid)[1].sum(-1)[np.asarray(self.choice)]
        return work if isinstance(ctx.step, jax.Array) else work[self._row(ctx.step)]

    def _row(self, step):
        if whole("step", step) >= self.num_steps:
            raise ValueError(
                f"step={step} lies outside this table's 0..{self.num_steps - 1}; use the table "
                "that was made for this number of steps"
            )
        return step

    def _check_heads(self, num_heads):
        if num_heads != self.num_heads:
            raise ValueError(
                f"Table has choices for {self.num_heads} heads, but the layer has {num_heads}; "
                "use the table that was made for this model"
            )


@functools.lru_cache(maxsize=64)
def _library(table, grid):
    """(lists int32 [P, N, S], counts int32 [P, N], distinct orders, order of each int32 [P])."""
    plans = [pattern.static_plan(grid, 1) for pattern in table.library]
    own = [p for p in plans if not (p.mask.is_full or p.mask.is_empty)]
    orders = list(dict.fromkeys(p.q_order for p in own)) or [TokenOrder(grid, 128)]
    blocks = sorted({(o.block, o.num_blocks) for o in orders})
    if len(blocks) > 1:
        raise ValueError(
            f"library patterns have blocks of different (size, number) {blocks} on {grid}; "
            "one launch needs equal ones: choose one block size"
        )
    count = orders[0].num_blocks
    capacity = max((p.mask.capacity for p in own), default=1)
    lists = np.zeros((len(plans), count, capacity), np.int32)
    counts = np.zeros((len(plans), count), np.int32)
    order_of = np.zeros(len(plans), np.int32)
    for i, plan in enumerate(plans):
        if plan.mask.is_full:
            counts[i] = count
        elif not plan.mask.is_empty:
            lists[i, :, : plan.mask.capacity] = plan.mask.kv_indices[0, 0]
            counts[i] = plan.mask.kv_counts[0, 0]
            order_of[i] = orders.index(plan.q_order)
    return lists, counts, tuple(orders), order_of
