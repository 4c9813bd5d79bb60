"""Mistakes in sparsevdit_jax: patterns, and what every step goes through."""

from ..mutant import of

MUTANTS = [
    *of(
        "sparsevdit_jax/patterns/adaspa.py",
        (
            "lambda: AdaSpaState(lse, self.search(q, k, lse, ctx), jnp.ones((), bool)),",
            "lambda: AdaSpaState(lse, self.search(q, k, lse, ctx), state.searched),",
            "the first search is forgotten",
        ),
        (
            "counts = jnp.broadcast_to(counts[..., None] + text, scores.shape[:-1])",
            "counts = jnp.broadcast_to(counts[..., None], scores.shape[:-1])",
            "text takes the place of video blocks",
        ),
        (
            "kept = kept.sum((-1, -2)) + mass[:, :, video:].sum((-1, -2))",
            "kept = kept.sum((-1, -2))",
            "recall leaves out the text rows",
        ),
        (
            "dataclasses.replace(state, lse=lse, mask=self.search(q, k, lse, ctx))",
            "dataclasses.replace(state, mask=self.search(q, k, lse, ctx))",
            "the lse of a later search is not kept",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/diagonal.py",
        ("SITE_MAJOR = (1, 2, 0)", "SITE_MAJOR = (2, 1, 0)", "sites go column by column"),
    ),
    *of(
        "sparsevdit_jax/patterns/per_head.py",
        (
            "[len(hs) for hs, _ in group]).take_heads(rank)",
            "[len(hs) for hs, _ in group]).take_heads(np.argsort(rank))",
            "merged heads go through the inverse permutation",
        ),
        (
            "return _join(outs, 2), lse, states",
            "return _join(outs, 2), lse, state",
            "the groups' new states are dropped",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/sliding_tile.py",
        (
            "(axis_window(n, w, self.even_window) for n, w",
            "(axis_window(n, w) for n, w",
            "even_window is not passed on",
        ),
        ("if w < n and w % 2", "if w <= n and w % 2", "a window as large as the canvas warns"),
    ),
    *of(
        "sparsevdit_jax/patterns/table.py",
        (
            "order_of[i] = orders.index(plan.order)",
            "order_of[i] = 0",
            "every pattern runs in the first one's order",
        ),
        ("counts[i] = count * plan.full", "counts[i] = count", "Skip in a table is dense"),
    ),
    *of(
        "sparsevdit_jax/patterns/vertical_stripe.py",
        (
            "return -(-order.grid.height * order.grid.width // order.block)",
            "return order.grid.height * order.grid.width // order.block",
            "the first frame's last block is left out",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/skip.py",
        ("AttentionPlan(None, full=False)", "AttentionPlan(None)", "Skip attends to all"),
    ),
    *of(
        "sparsevdit_jax/pattern.py",
        (
            "jnp.full((batch, heads, length), -jnp.inf, np.float32)",
            "jnp.zeros((batch, heads, length), np.float32)",
            "nothing has an lse of 0",
        ),
    ),
    *of(
        "sparsevdit_jax/attention.py",
        (
            "self.check(grid=grid, num_heads=num_heads)",
            "self.check(grid=grid)",
            "init takes another number of heads",
        ),
    ),
    *of(
        "sparsevdit_jax/grid.py",
        (
            "return self.video_start + (frame * self.height + row) * self.width + column",
            "return (frame * self.height + row) * self.width + column",
            "text before the video is not counted",
        ),
    ),
    *of(
        "sparsevdit_jax/launch.py",
        (
            "back = grid.num_video_tokens if grid.text_first else 0",
            "back = grid.text_len if grid.text_first else 0",
            "text that stood first is turned the same way twice",
        ),
        (
            "block_kv=order.block,\n        scale=ctx.scale,",
            "block_kv=order.block,\n        scale=None,",
            "block mass ignores the scale",
        ),
    ),
    *of(
        "sparsevdit_jax/schedule.py",
        (
            "step + self.first_step in self.search_steps",
            "step in self.search_steps",
            "search steps are counted from 0",
        ),
        (
            "exact = phase is Phase.DENSE or (search and not searched)",
            "exact = phase is Phase.DENSE",
            "the first search costs a sparse step",
        ),
        (
            "values.max() > grid.text_len",
            "values.max() > grid.text_len + 1",
            "text longer than its room",
        ),
    ),
    *of(
        "sparsevdit_jax/token_order.py",
        (
            "\n            and (grid.frames % self.tile[0] == 0 or not grid.text_len)",
            "",
            "a ragged last tile before text is an identity",
        ),
        (
            "rank = rank * _tile_sizes(n, t)[x // t] + x % t",
            "rank = rank * t + x % t",
            "ragged tiles have holes",
        ),
        (
            "tuple(int(i) for i in np.argsort(perm))",
            "tuple(int(i) for i in perm)",
            "undo permutes forwards",
        ),
    ),
    *of(
        "sparsevdit_jax/search/select.py",
        (
            "dtype=np.int32), heads // 2)",
            "dtype=np.int32), heads)",
            "more than half of the heads give",
        ),
        (
            "num_blocks - count, count - 1)",
            "num_blocks - count)",
            "a head may be left without a block",
        ),
        (
            "delta = min(density / 2, 1 - density)",
            "delta = density / 2",
            "a density above 1",
        ),
    ),
]
