"""Whole heads on each device: tokens are traded for heads before a function, and back after it.

The all-to-all of DeepSpeed-Ulysses (arXiv 2309.14509). Differs: heads are laid out by counted work,
and neither tokens nor heads need divide by the devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .mesh import Shards, spec


def over_heads(
    f: Callable[..., tuple[tuple[jax.Array, ...], Any]],
    tokens: Sequence[jax.Array],
    *,
    rows: Any = None,
    heads: Any = None,
    deal: Any = None,
    shards: Shards,
) -> tuple[tuple[jax.Array, ...], Any]:
    """Calls ``f(tokens, rows, heads)`` on every device with its rows and heads, tokens whole.

    Args:
      f: gives arrays like `tokens`, [B, L, H, ...], and any tree of arrays [B, H, ...].
      tokens: arrays [B, L, H, D].
      rows: tree of arrays [B, ...].
      heads: tree of arrays [B|1, H|1, ...]. Where heads have to be added, they hold zeros.
      deal: order of heads from `deal_heads`; None: as they are numbered.
      shards: the present mesh.

    Returns:
      What `f` gave, for all rows and heads: the first spread by tokens, the second by heads.
    """
    batch, length, num_heads, _ = tokens[0].shape
    shards.check_rows(batch)
    n = shards.tokens
    if deal is None and num_heads % n:
        deal = np.arange(num_heads + -num_heads % n, dtype=np.int32)
    heads = jax.tree.map(lambda a: _lay_out(a, deal, num_heads), heads)

    def body(tokens, rows, heads, deal):
        tokens = tuple(_to_heads(x, deal, n)[:, :length] for x in tokens)
        out, per_head = f(tokens, rows, heads)
        return tuple(_to_tokens(x, n) for x in out), per_head

    by_tokens, by_heads = spec(4, tokens=1), spec(2, tokens=1)
    row_specs = jax.tree.map(lambda a: spec(a.ndim), rows)
    head_specs = jax.tree.map(_head_spec, heads)
    run = jax.shard_map(
        body,
        in_specs=(by_tokens, row_specs, head_specs, None if deal is None else spec(1, rows=None)),
        out_specs=(by_tokens, by_heads),
        check_vma=False,
    )
    padding = ((0, 0), (0, -length % n), (0, 0), (0, 0))
    padded = tuple(jnp.pad(x, padding) if length % n else x for x in tokens)
    out, per_head = run(padded, rows, heads, deal)
    out = tuple(x[:, :length] for x in out)
    if deal is None:
        return out, per_head
    places = jnp.argsort(deal)[:num_heads]
    take = lambda axis: lambda x: jnp.take(x, places, axis=axis)  # noqa: E731
    return tuple(map(take(2), out)), jax.tree.map(take(1), per_head)


def _head_spec(a):
    return spec(a.ndim, rows=0 if a.shape[0] > 1 else None, tokens=1 if a.shape[1] > 1 else None)


def _lay_out(a, deal, num_heads):
    """Heads of [B|1, H|1, ...] as dealt out, zeros for those that are none."""
    if deal is None:
        return a
    if isinstance(a, np.ndarray) and isinstance(deal, np.ndarray):  # stays on the host
        a = np.broadcast_to(a, (a.shape[0], num_heads, *a.shape[2:]))
        none = np.zeros((a.shape[0], 1, *a.shape[2:]), a.dtype)
        return np.concatenate([a, none], axis=1)[:, np.minimum(deal, num_heads)]
    a = jnp.broadcast_to(a, (a.shape[0], num_heads, *a.shape[2:]))
    return jnp.take(a, deal, axis=1, mode="fill", fill_value=0)


def _to_heads(x, deal, n):
    """[b, L / n, H, D] of one device to [b, L, H' / n, D]."""
    if deal is not None:
        x = jnp.take(x, deal, axis=2, mode="fill", fill_value=0)
    return jax.lax.all_to_all(x, "seq", 2, 1, tiled=True) if n > 1 else x


def _to_tokens(x, n):
    if n == 1:
        return x
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % n), (0, 0), (0, 0)))
    return jax.lax.all_to_all(x, "seq", 1, 2, tiled=True)
