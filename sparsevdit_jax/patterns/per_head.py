"""PerHead: different patterns for different heads of a layer, in one launch where blocks agree.

Sparse-vDiT (arXiv 2506.03065) batches the heads of one mode into a call; here heads of different
modes share one.
"""

import dataclasses
import functools

import jax
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._values import listed, wholes
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.token_permutation import choose_order


@dataclasses.dataclass(frozen=True)
class PerHead(AttentionPattern):
    """Pattern i serves the heads that group i names; the bits are those of a loop over the heads.

    Static patterns whose blocks have one size and number are merged into one mask and one launch,
    also when their token orders differ. `Skip` joins any launch as empty rows; `Dense` heads share one
    call of `dense_attention`. Other patterns run by themselves.

    Attributes:
      groups: (pattern, heads) pairs; every head of the layer appears once.
    """

    groups: tuple[tuple[AttentionPattern, tuple[int, ...]], ...]

    def __post_init__(self):
        for group in listed("groups", self.groups):
            pair = isinstance(group, tuple | list) and len(group) == 2
            if not pair or not isinstance(group[0], AttentionPattern):
                held = group[0] if pair else group
                raise ValueError(f"groups hold {held!r}; each must be (AttentionPattern, heads)")
        groups = tuple((p, wholes("groups name heads", heads)) for p, heads in self.groups)
        object.__setattr__(self, "groups", groups)
        heads = sorted(h for _, hs in groups for h in hs)
        if not heads or heads != list(range(len(heads))) or not all(hs for _, hs in groups):
            raise ValueError(
                f"groups name heads {heads}; name every head from 0 on once, and one at least in "
                "each group"
            )

    @classmethod
    def of(cls, patterns) -> "PerHead":
        """The pattern of each head in turn; equal ones are grouped."""
        groups: dict[AttentionPattern, list[int]] = {}
        for head, pattern in enumerate(patterns):
            groups.setdefault(pattern, []).append(head)
        return cls(tuple((p, tuple(heads)) for p, heads in groups.items()))

    @property
    def serves_any_head(self) -> bool:
        """False: it names its heads."""
        return False

    @property
    def num_heads(self) -> int:
        """Heads of the layer."""
        return sum(len(heads) for _, heads in self.groups)

    @property
    def members(self) -> tuple[AttentionPattern, ...]:
        """The groups' patterns."""
        return tuple(p for p, _ in self.groups)

    def with_density(self, density):
        """Each pattern with another budget where it has one."""
        return PerHead(tuple((p.with_density(density), heads) for p, heads in self.groups))

    def at_step(self, step, num_heads):
        """The pattern of each head."""
        self._check_heads(num_heads)
        found = {
            head: pattern
            for member, heads in self.groups
            for head, pattern in zip(heads, member.at_step(step, len(heads)), strict=True)
        }
        return tuple(found[head] for head in range(num_heads))

    def init(self, grid, *, batch, num_heads, head_dim):
        """Tuple of the parts' states; none where all heads share one launch."""
        parts = self.parts(grid, num_heads)
        if parts is None:
            _merged(self, grid)
            return ()
        return tuple(
            p.init(grid, batch=batch, num_heads=len(heads), head_dim=head_dim) for p, heads in parts
        )

    def parts(self, grid, num_heads):
        """Static patterns that share a launch as one `PerHead`, every other pattern by itself.

        None where one launch serves all heads.
        """
        self._check_heads(num_heads)
        launches: dict = {}
        for member, heads in self.groups:
            launches.setdefault(_launch(member, grid, heads), []).append((member, heads))
        if _EMPTY in launches and (shared := [k for k in launches if k[0] == "blocks"]):
            launches[shared[0]] += launches.pop(_EMPTY)
        if len(launches) == 1 and len(self.groups) > 1:
            return None
        return tuple(_part(group) for group in launches.values())

    def density_on(self, grid, num_heads, *, state=None, step=0, text_lengths=None):
        """Those of its patterns."""
        parts = self.parts(grid, num_heads)
        result, given = np.zeros(num_heads, np.float32), dict(step=step, text_lengths=text_lengths)
        if parts is None:
            for member, heads in self.groups:
                result[list(heads)] = member.density_on(grid, len(heads), **given)
            return result
        states = (None,) * len(parts) if state is None else state
        for (member, heads), own in zip(parts, states, strict=True):
            result[list(heads)] = member.density_on(grid, len(heads), state=own, **given)
        return result

    def plan(self, q, k, state, ctx):
        """One launch for all heads; called where `parts` says that they share one."""
        del k
        mask, orders, which = _merged(self, ctx.grid)
        mask, which = jax.tree.map(ctx.local_heads, mask), ctx.local_heads(which, axis=0)
        if mask.is_full or mask.is_empty:
            return AttentionPlan(mask), state
        return AttentionPlan(mask, choose_order(orders, which, ctx.text_lengths)), state

    def head_work(self, state, ctx, num_heads):
        """Blocks that each head keeps."""
        del state, num_heads
        counts = _merged(self, ctx.grid)[0].kv_counts
        return counts.sum((0, 2)) if counts.shape[1] > 1 else None

    def _check_heads(self, num_heads):
        if num_heads != self.num_heads:
            raise ValueError(
                f"PerHead names {self.num_heads} heads, but the layer has {num_heads}; name each "
                "of them once"
            )


# Layers of one pattern come one after the other, and a mask may take 100 MB.
@functools.lru_cache(maxsize=2)
def _merged(pattern, grid):
    """(mask of all heads without lengths, the distinct orders, which of them each head has)."""
    plans = [(p.static_plan(grid, len(heads)), heads) for p, heads in pattern.groups]  # pyrefly: ignore
    like = next((plan for plan, _ in plans if not plan.mask.is_empty), plans[0][0])
    if like.mask.is_full:
        return like.mask, (), np.zeros(pattern.num_heads, np.int32)
    masks = [_like(plan.mask, like.mask) for plan, _ in plans]
    heads = np.concatenate([heads for _, heads in plans])
    rank = np.argsort(heads)
    mask = BlockMask.concat_heads(masks, [len(hs) for _, hs in plans]).take_heads(rank)
    orders = [like.q_order if plan.mask.is_empty else plan.q_order for plan, _ in plans]
    distinct = list(dict.fromkeys(orders))
    which = np.repeat([distinct.index(o) for o in orders], [len(hs) for _, hs in plans])
    return mask, tuple(distinct), which[rank].astype(np.int32)


_EMPTY = ("empty",)


def _launch(member, grid, heads):
    """What heads of one launch have in common."""
    if not member.is_static:
        return "alone", heads
    plan = member.static_plan(grid, len(heads))
    if plan.mask.is_full:
        return ("dense",)
    return _EMPTY if plan.mask.is_empty else ("blocks", plan.q_order.block, plan.q_order.num_blocks)


def _part(group):
    """(pattern, heads) of patterns that share a launch; their heads renumbered from 0."""
    heads = tuple(sorted(h for _, hs in group for h in hs))
    if len(group) == 1:
        pattern, own = group[0]
        return pattern, own
    number = {h: i for i, h in enumerate(heads)}
    return PerHead(tuple((p, tuple(number[h] for h in hs)) for p, hs in group)), heads


def _like(mask, like):
    """A mask of the blocks of `like`: an empty one has none of its own."""
    if not mask.is_empty:
        return mask
    nothing = np.zeros((like.num_q_blocks, like.num_kv_blocks), bool)
    return BlockMask.from_dense(nothing, block_q=like.block_q, block_kv=like.block_kv)
