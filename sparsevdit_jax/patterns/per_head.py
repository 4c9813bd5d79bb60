"""PerHead: different patterns for different heads of a layer, in one launch if blocks agree.

Sparse-vDiT (arXiv 2506.03065) batches the heads of one mode into a call; here heads of different
modes share one.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._values import listed, wholes
from sparsevdit_jax.launch import attend_dense
from sparsevdit_jax.pattern import (
    AttentionPattern,
    AttentionPlan,
    BlockSparsePattern,
    check_inputs,
)
from sparsevdit_jax.schedule import Phase, StepContext
from sparsevdit_jax.token_order import TokenOrder
from sparsevdit_jax.token_permutation import TokenPermutation, shared_lengths


@dataclasses.dataclass(frozen=True)
class PerHead(AttentionPattern):
    """Pattern i serves the heads that group i names; the bits are those of a loop over the heads.

    Groups whose blocks have one size and number are merged into one mask and one launch, also when
    their token orders differ. `Skip` joins any launch as empty rows; `Dense` heads share one call
    of `dense_attention`. Patterns that are not block sparse, or that search in this step, run by
    themselves.

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
    def num_heads(self) -> int:
        """Heads of the layer."""
        return sum(len(heads) for _, heads in self.groups)

    def init(self, grid, *, batch, num_heads, head_dim):
        """Tuple of the groups' states."""
        self._check_heads(num_heads)
        return tuple(
            p.init(grid, batch=batch, num_heads=len(heads), head_dim=head_dim)
            for p, heads in self.groups
        )

    def attend(self, q, k, v, state, ctx):
        """See `AttentionPattern.attend`."""
        check_inputs(q, k, v, ctx)
        self._check_heads(q.shape[2])
        if all(isinstance(p, BlockSparsePattern) for p, _ in self.groups):
            out, _, state = self.attend_with_lse(q, k, v, state, ctx)
            return out, state
        outs, states = [], []
        for (pattern, heads), group_state in zip(self.groups, state, strict=True):
            q_g, k_g, v_g = (_take(x, heads, 2) for x in (q, k, v))
            out, group_state = pattern.attend(q_g, k_g, v_g, group_state, ctx)
            outs.append((heads, out))
            states.append(group_state)
        return _join(outs, 2), tuple(states)

    def attend_with_lse(self, q, k, v, state, ctx: StepContext) -> tuple[Any, Any, Any]:
        """(out, lse f32 [B, H, L], state); ValueError for patterns that are not block sparse."""
        check_inputs(q, k, v, ctx)
        self._check_heads(q.shape[2])
        members = [(p, heads) for p, heads in self.groups if isinstance(p, BlockSparsePattern)]
        if len(members) != len(self.groups):
            other = next(p for p, _ in self.groups if not isinstance(p, BlockSparsePattern))
            raise ValueError(f"{other} has no lse: it is not a BlockSparsePattern; use attend")
        if ctx.phase is Phase.DENSE:
            return *attend_dense(q, k, v, ctx), state
        plans, states = [], []
        for (pattern, heads), group_state in zip(members, state, strict=True):
            q_g, k_g = _take(q, heads, 2), _take(k, heads, 2)
            plan, group_state = pattern.plan(q_g, k_g, group_state, ctx)
            plans.append((heads, plan))
            states.append(group_state)
        outs, lses = [], []
        for heads, plan in _merge(plans, ctx):
            q_g, k_g, v_g = (_take(x, heads, 2) for x in (q, k, v))
            out, lse = plan.run(q_g, k_g, v_g, ctx)
            outs.append((heads, out))
            lses.append((heads, lse))
        lse = _join(lses, 1)
        states = tuple(
            p.update(_take(q, heads, 2), _take(k, heads, 2), _take(lse, heads, 1), s, ctx)
            for (p, heads), s in zip(members, states, strict=True)
        )
        return _join(outs, 2), lse, states

    def _check_heads(self, num_heads):
        if num_heads != self.num_heads:
            raise ValueError(
                f"PerHead names {self.num_heads} heads, but the layer has {num_heads}; name each "
                "of them once"
            )


def _merge(plans, ctx):
    """(heads, plan) of each group -> those of each launch."""
    launches: dict[Any, list] = {}
    for heads, plan in plans:
        if plan.mask is None:
            key = ("dense", plan.full)
        elif plan.exact is None and isinstance(plan.order, TokenOrder):
            key = (plan.order.block, plan.order.num_blocks)
        else:
            key = ("alone", heads)
        launches.setdefault(key, []).append((heads, plan))
    sparse = [key for key in launches if isinstance(key[0], int)]
    if sparse and ("dense", False) in launches:
        launches[sparse[0]] += launches.pop(("dense", False))
    return [_merge_group(group, ctx) for group in launches.values()]


def _merge_group(group, ctx):
    """Plans of equal blocks (or of none) as one, heads ascending."""
    heads = np.concatenate([heads for heads, _ in group]).astype(int)
    plan = group[0][1]
    if len(group) == 1:
        return group[0]
    rank = np.argsort(heads)
    merged = tuple(int(h) for h in heads[rank])
    if plan.mask is None:
        return merged, plan
    masks = [_bare(p.mask, like=plan.mask) for _, p in group]
    mask = BlockMask.concat_heads(masks, [len(hs) for hs, _ in group]).take_heads(rank)
    orders = [plan.order if p.mask is None else p.order for _, p in group]
    distinct = list(dict.fromkeys(orders))
    which = np.concatenate(
        [np.full(len(hs), distinct.index(o)) for (hs, _), o in zip(group, orders, strict=True)]
    )[rank]
    lengths = shared_lengths(distinct, which, ctx.text_lengths)
    mask = dataclasses.replace(mask, q_lengths=lengths, kv_lengths=lengths)
    order = distinct[0] if len(distinct) == 1 else TokenPermutation.choose(distinct, which)
    return merged, AttentionPlan(mask, order)


def _bare(mask, like):
    """The lists of a mask without lengths; no mask gives empty rows, as many as in `like`."""
    if mask is not None:
        return dataclasses.replace(mask, q_lengths=None, kv_lengths=None)
    nothing = np.zeros((like.num_q_blocks, like.num_kv_blocks), bool)
    return BlockMask.from_dense(nothing, block_q=like.block_q, block_kv=like.block_kv)


def _take(x, heads, axis):
    if len(heads) == x.shape[axis] and list(heads) == sorted(heads):
        return x
    return jnp.take(x, np.asarray(heads), axis=axis)


def _join(parts, axis):
    """(heads, array) parts as one array with heads in order."""
    heads = np.concatenate([heads for heads, _ in parts])
    whole = jnp.concatenate([x for _, x in parts], axis) if len(parts) > 1 else parts[0][1]
    return _take(whole, tuple(int(i) for i in np.argsort(heads)), axis)
