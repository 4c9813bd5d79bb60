"""The order in which `xla` visits parts of blocks, and how it fetches them.

The query tiles of a head are taken in groups, longest lists first, so that the members of a group have
lists of nearly equal length; at every step a group visits the next few listed parts of each member.
Text reads everything, and one such row would hold up its whole group. So the rows with the longest lists
(the lead) first go by themselves through what their lists have beyond the others' (the cap), and take the
rest with their group. A group never spans two heads, hence a head gives the same bits alone or among
others.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._real_lists import RealLists
from ..block_mask import ArrayLike

_GROUP_ROWS = 3072  # queries of a group; with the keys of a step, logits of about 3 MiB
_STEP_KEYS = 256  # keys a step fetches for every member of a group
_LEAD_KEYS = 1024  # the same for the lead, which is small
_MAX_GROUP = 64
_LEAD_SHARE = 128  # of so many query tiles one is taken to have a long list

Head = tuple[jax.Array, jax.Array]  # index in the batch, head


class Plan(NamedTuple):
    """Static sizes of the loops over lists.

    Attributes:
      tile: queries of a tile.
      group: query tiles processed together.
      num_groups: of a head; the last one is filled up with empty rows.
      lead: of the first group, query tiles that may have much longer lists than the rest.
      step, lead_step: listed parts visited at a time.
    """

    tile: int
    group: int
    num_groups: int
    lead: int
    step: int
    lead_step: int

    @staticmethod
    def of(lists: RealLists, tile: int) -> "Plan":
        """The sizes for the lists of tiles of `tile` queries; they depend on shapes alone."""
        rows = lists.counts.shape[-1]
        most = min(max(_GROUP_ROWS // tile, 1), _MAX_GROUP, rows)
        group = min(range(most, most // 2, -1), key=lambda size: -(-rows // size) * size)
        # Two at least, because the product over a batch of one has other bits.
        lead = min(2 + rows // _LEAD_SHARE, group)
        step, lead_step = (max(keys // lists.part, 1) for keys in (_STEP_KEYS, _LEAD_KEYS))
        return Plan(tile, group, -(-rows // group), lead, step, lead_step)

    @property
    def num_rows(self) -> int:
        """Query tiles of a head, with those that fill the last group."""
        return self.group * self.num_groups


class Walk(NamedTuple):
    """The way of some query tiles of a head through a stretch of their lists.

    Attributes:
      head: whose they are.
      rows: int32 [R], the query tiles; a place past the last one holds 0 and has no list.
      parts: of all lists, `RealLists.parts`.
      starts, counts: int32 [R, 1], where the lists begin there, and their lengths.
      first, last: int32, slots of the lists where the walk begins and ends.
      step: listed parts visited at a time.
    """

    head: Head
    rows: jax.Array
    parts: ArrayLike
    starts: jax.Array
    counts: jax.Array
    first: jax.Array
    last: jax.Array
    step: int

    @staticmethod
    def of(lists: RealLists, head: Head, members: jax.Array, step: int) -> "Walk":
        """All the way of `members`, int32 [R]; past the last tile they stand for no row."""
        inside = members < lists.counts.shape[-1]
        rows = jnp.where(inside, members, 0)
        starts = pick(lists.starts, head, rows)[:, None]
        counts = jnp.where(inside, pick(lists.counts, head, rows), 0)[:, None]
        return Walk(head, rows, lists.parts, starts, counts, jnp.int32(0), counts.max(), step)

    @property
    def steps(self) -> jax.Array:
        """Int32, number of steps."""
        return (self.last - self.first + (self.step - 1)) // self.step

    def fetch(self, step: jax.Array, keys: list[jax.Array], bias: jax.Array):
        """What a step visits.

        Args:
          step: int32, counted from 0.
          keys: k and v, [B, H, parts, part, D].
          bias: float32 [B|1, H|1, parts, part].

        Returns:
          Indices of the parts in all of k, int32 [R, step], and their k, v and bias, joined:
          [R, step * part, ...]. The bias is -inf throughout a part that is not listed.
        """
        slots = self.first + step * self.step + jnp.arange(self.step, dtype=jnp.int32)[None]
        places = jnp.minimum(self.starts + slots, self.parts.shape[-1] - 1)
        chosen = pick(self.parts, self.head, places)
        picked = [pick(x, self.head, chosen) for x in (*keys, bias)]
        picked[2] = jnp.where((slots < self.counts)[..., None], picked[2], -jnp.inf)
        picked = [x.reshape(x.shape[0], -1, *x.shape[3:]) for x in picked]
        return flat_head(keys[0], self.head) * keys[0].shape[2] + chosen, picked


def over_heads(lists: RealLists, plan: Plan, q: jax.Array, fresh, lead, group, carry, results):
    """Takes all query tiles of all heads through their lists.

    Args:
      lists: what each of them reads.
      plan: the sizes of loops.
      q: [B, Lq, H, D], for its shape.
      fresh: for each sum of a query tile, what it starts from: a number and the sum's shape.
      lead: (carry, walk, sums) -> (carry, sums), for the lead alone; sums are arrays [lead, ...].
      group: (carry, walk, sums) -> (carry, tiles), for a group; its sums go on from the lead's.
      carry: what passes from call to call.
      results: arrays [B * H * num_rows, ...] to take the tiles, which are arrays [group, ...].

    Returns:
      The last carry, and the results as arrays [B, H, tiles, ...].
    """
    batch, heads, count = q.shape[0], q.shape[2], lists.counts.shape[-1]
    counts = jnp.broadcast_to(lists.counts, (batch, heads, count)).reshape(-1, count)
    counts = jnp.pad(counts, ((0, 0), (0, plan.num_rows - count)))
    order = jnp.argsort(-counts, stable=True).astype(jnp.int32)
    # The longest list outside the lead, in whole steps.
    cap = jnp.take_along_axis(counts, order[:, min(plan.lead, plan.num_rows - 1)][:, None], 1)
    cap = (cap[:, 0] + (plan.step - 1)) // plan.step * plan.step

    def one_head(state, operands):
        index, members, cap = operands
        head = index // np.int32(heads), index % np.int32(heads)
        walk = Walk.of(lists, head, members[0, : plan.lead], plan.lead_step)
        walk = walk._replace(first=jnp.minimum(cap, walk.last))
        nothing = [jnp.full((plan.lead, *shape), value, np.float32) for value, shape in fresh]
        carry, ahead = lead(state[0], walk, nothing)

        def one_group(state, operands):
            (carry, results), (number, members) = state, operands
            walk = Walk.of(lists, head, members, plan.step)
            walk = walk._replace(last=jnp.minimum(walk.last, cap))
            sums = [
                jnp.where(number == 0, _extend(x, plan.group, value), value)
                for x, (value, _) in zip(ahead, fresh, strict=True)
            ]
            carry, tiles = group(carry, walk, sums)
            place = (index * plan.num_groups + number) * plan.group
            return (carry, _write(results, tiles, place)), None

        numbers = jnp.arange(plan.num_groups, dtype=jnp.int32)
        return lax.scan(one_group, (carry, state[1]), (numbers, members))

    members = order.reshape(-1, plan.num_groups, plan.group)
    indices = jnp.arange(batch * heads, dtype=jnp.int32)
    (carry, results), _ = lax.scan(one_head, (carry, results), (indices, members, cap))
    places = jnp.argsort(order)[:, :count].astype(jnp.int32) + plan.num_rows * indices[:, None]
    return carry, [take_rows(x, places.reshape(batch, heads, count)) for x in results]


def flat_head(x: ArrayLike, head: Head) -> jax.Array:
    """Index of (batch, head) in the first two axes of x [B|1, H|1, ...], taken as one."""
    b, h = (jnp.minimum(i, n - 1) for i, n in zip(head, x.shape[:2], strict=True))
    return b * x.shape[1] + h


def pick(x: ArrayLike, head: Head, blocks: jax.Array) -> jax.Array:
    """Entries of x [B|1, H|1, N, ...] at (batch, head) and an array of blocks."""
    rows = jnp.asarray(x).reshape(np.prod(x.shape[:3]), *x.shape[3:])
    return take_rows(rows, flat_head(x, head) * x.shape[2] + blocks)


def take_rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Rows of x [N, ...] at an array of indices."""
    # Gathered as flat rows, and kept apart from the reshape: a CPU copies those whole, where it
    # would walk a longer shape number by number, at half the speed or less.
    picked = lax.optimization_barrier(x.reshape(x.shape[0], -1)[rows.reshape(-1)])
    return picked.reshape(*rows.shape, *x.shape[1:])


def _extend(x, length, value):
    return jnp.pad(x, [(0, length - len(x)), *[(0, 0)] * (x.ndim - 1)], constant_values=value)


def _write(arrays, tiles, place):
    return [
        lax.dynamic_update_slice_in_dim(x, tile, place, 0)
        for x, tile in zip(arrays, tiles, strict=True)
    ]
