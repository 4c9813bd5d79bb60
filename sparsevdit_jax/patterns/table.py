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
from pallas_kernels._values import listed, wholes
from sparsevdit_jax.parallel import deal_steps
from sparsevdit_jax.pattern import AttentionPlan, BlockSparsePattern
from sparsevdit_jax.schedule import Phase, StepContext
from sparsevdit_jax.token_order import TokenOrder
from sparsevdit_jax.token_permutation import TokenPermutation, shared_lengths


@dataclasses.dataclass(frozen=True)
class Table(BlockSparsePattern):
    """Head h at step t uses ``library[choice[t][h]]``, all heads in one launch.

    Masks are data here: another step neither recompiles nor moves the library, which lies on the
    device once. `Dense` entries are full rows of the launch and `Skip` entries are empty ones.
    A step outside the table is refused, but a traced one cannot be and uses the nearest row;
    `SparseAttention` refuses a table whose length is not its schedule's.

    Attributes:
      library: block-sparse patterns without state, each one mask for any head; their blocks have
        one size and number.
      choice: index into `library` for each step and head, [steps][heads].
    """

    library: tuple[BlockSparsePattern, ...]
    choice: tuple[tuple[int, ...], ...]

    def __post_init__(self):
        object.__setattr__(self, "library", listed("library", self.library))
        rows = listed("choice", self.choice)
        choice = tuple(wholes("choice", row, remedy="index the library") for row in rows)
        object.__setattr__(self, "choice", choice)
        for pattern in self.library:
            if not isinstance(pattern, BlockSparsePattern):
                raise ValueError(
                    f"library holds {pattern!r}; its members must be block-sparse patterns"
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
    def num_steps(self) -> int:
        """Rows of the table."""
        return len(self.choice)

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

    def plan(self, q, k, state, ctx):
        """The masks and orders of this step's row, gathered from the library."""
        del k
        self._check_heads(q.shape[2])
        lists, counts, orders, order_of = _library(self, ctx.grid)
        choice, step = np.asarray(self.choice, np.int32), ctx.step
        deal = deal_steps(counts.sum(-1)[choice])
        if isinstance(step, jax.Array):
            lists, counts, order_of, choice = (
                jnp.asarray(a) for a in (lists, counts, order_of, choice)
            )
            row = jnp.take(choice, step, axis=0, mode="clip")
        else:
            if step >= self.num_steps:
                raise ValueError(
                    f"step={step} lies outside this table's 0..{self.num_steps - 1}; use the table "
                    "that was made for this number of steps"
                )
            row = choice[step]
        which, block = order_of[row], orders[0].block
        lengths = shared_lengths(orders, which, ctx.text_lengths)
        mask = BlockMask(
            lists[row][None],
            counts[row][None],
            q_lengths=lengths,
            kv_lengths=lengths,
            block_q=block,
            block_kv=block,
            num_kv_blocks=counts.shape[-1],
        )
        order = orders[0] if len(orders) == 1 else TokenPermutation.choose(orders, which)
        if deal is not None:
            deal = jnp.take(deal, step, axis=0, mode="clip")
        return AttentionPlan(mask, order, deal=deal), state

    def update(self, q, k, lse, state, ctx):
        """Nothing to remember."""
        del q, k, lse, ctx
        return state

    def _check_heads(self, num_heads):
        if num_heads != self.num_heads:
            raise ValueError(
                f"Table has choices for {self.num_heads} heads, but the layer has {num_heads}; "
                "use the table that was made for this model"
            )


@functools.lru_cache(maxsize=64)
def _library(table, grid):
    """(lists int32 [P, N, S], counts int32 [P, N], distinct orders, order of each int32 [P])."""
    one_head = jax.ShapeDtypeStruct((1, grid.num_tokens, 1, 1), np.float32)
    ctx = StepContext(grid, Phase.REUSE)
    plans = []
    for pattern in table.library:
        state = pattern.init(grid, batch=1, num_heads=1, head_dim=1)
        static = not jax.tree.leaves(state) and not isinstance(pattern, Table)
        plan = pattern.plan(one_head, one_head, state, ctx)[0] if static else None
        if plan is None or not (plan.mask is None or isinstance(plan.order, TokenOrder)):
            raise ValueError(
                f"{pattern} depends on more than positions; a Table's library holds static "
                "patterns, use PerHead"
            )
        plans.append(plan)
    orders = list(dict.fromkeys(p.order for p in plans if p.mask is not None))
    orders = orders or [TokenOrder(grid, 128)]
    blocks = sorted({(o.block, o.num_blocks) for o in orders})
    if len(blocks) > 1:
        raise ValueError(
            f"library patterns have blocks of different (size, number) {blocks} on {grid}; "
            "one launch needs equal ones: choose one block size"
        )
    count = orders[0].num_blocks
    capacity = max((p.mask.capacity for p in plans if p.mask is not None), default=1)
    lists = np.zeros((len(plans), count, capacity), np.int32)
    counts = np.zeros((len(plans), count), np.int32)
    order_of = np.zeros(len(plans), np.int32)
    for i, plan in enumerate(plans):
        if plan.mask is None:
            counts[i] = count * plan.full
            continue
        lists[i, :, : plan.mask.capacity] = plan.mask.kv_indices[0, 0]
        counts[i] = plan.mask.kv_counts[0, 0]
        order_of[i] = orders.index(plan.order)
    return lists, counts, tuple(orders), order_of
