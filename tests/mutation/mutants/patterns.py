"""Mistakes in sparsevdit_jax: patterns, and what every step goes through."""

from ..mutant import EIGHT_DEVICES, of

MUTANTS = [
    *of(
        "sparsevdit_jax/patterns/adaspa.py",
        (
            "        return AdaSpaState(lse, self.search(q, k, lse, ctx))",
            "        return AdaSpaState(lse, state.mask)",
            "the first search is forgotten",
        ),
        (
            "kept = kept + mass[:, :, video:].sum((-1, -2))",
            "kept = kept + 0",
            "recall leaves out the text rows",
        ),
        (
            "state = AdaSpaState(lse, self.search(q, k, lse, ctx))",
            "state = AdaSpaState(state.lse, self.search(q, k, lse, ctx))",
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
            "[len(hs) for _, hs in plans]).take_heads(rank)",
            "[len(hs) for _, hs in plans]).take_heads(np.argsort(rank))",
            "merged heads go through the inverse permutation",
        ),
        (
            "return mask, tuple(distinct), which[rank].astype(np.int32)",
            "return mask, tuple(distinct), which.astype(np.int32)",
            "heads of several orders take another's",
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
            "order_of[i] = orders.index(plan.q_order)",
            "order_of[i] = 0",
            "every pattern runs in the first one's order",
        ),
        ("elif not plan.mask.is_empty:", "else:", "Skip in a table lists a block"),
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
        ("AttentionPlan.nothing(grid)", "AttentionPlan.everything(grid)", "Skip attends to all"),
    ),
    *of(
        "sparsevdit_jax/plan.py",
        (
            "jnp.full((batch, heads, length), -jnp.inf, np.float32)",
            "jnp.zeros((batch, heads, length), np.float32)",
            "nothing has an lse of 0",
        ),
    ),
    *of(
        "sparsevdit_jax/centroids.py",
        (
            "jnp.log(jnp.maximum(sizes, 1) + np.float32(epsilon))",
            "jnp.log(jnp.ones_like(sizes) + np.float32(epsilon))",
            "a block counts as one key of its mean",
        ),
        (
            "lse = jnp.where(real_q, lse, -jnp.inf)",
            "pass",
            "text padding attends to centroids",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/sol_attn.py",
        (
            "np.abs(block[:, None] - block) <= self.neighbours",
            "np.abs(block[:, None] - block) < self.neighbours",
            "the neighbours are not exact",
        ),
        (
            "of_keys = jnp.square(k - mean)",
            "of_keys = jnp.square(k)",
            "the variance is no variance",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/lite_attention.py",
        (
            "open_before = above & ~state.opens",
            "open_before = above",
            "runs that touch are taken for one",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/sparge.py",
        (
            "return mean, alike & (order.video_lengths == order.block)[None, None]",
            "return mean, alike",
            "a short block is ranked",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/ssta.py",
        ("* filled[None, None, :, None]", "* 1.0", "border tiles count as whole ones"),
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
        "sparsevdit_jax/ops.py",
        (
            "back = grid.num_video_tokens if grid.text_first else 0",
            "back = grid.text_len if grid.text_first else 0",
            "text that stood first is turned the same way twice",
        ),
        (
            "block_kv=order.block,\n        scale=scale,",
            "block_kv=order.block,\n        scale=None,",
            "block mass ignores the scale",
        ),
    ),
    *of(
        "sparsevdit_jax/schedule.py",
        (
            "number = step + self.first_step",
            "number = step",
            "search steps are counted from 0",
        ),
        (
            "Phase.FIRST_SEARCH: 1.5,",
            "Phase.FIRST_SEARCH: density + 0.5,",
            "the first search costs a sparse step",
        ),
    ),
    *of(
        "sparsevdit_jax/context.py",
        (
            "values.max() > grid.text_len",
            "values.max() > grid.text_len + 1",
            "text longer than its room",
        ),
        (
            "return x if self.heads is None else self.heads.gather(x, axis)",
            "return x",
            "heads of one device trade among themselves",
            EIGHT_DEVICES + "[check_attention]",
        ),
    ),
    *of(
        "sparsevdit_jax/engine.py",
        (
            "if ctx.phase is Phase.DENSE and not pattern.sees_dense_steps:",
            "if ctx.phase is Phase.DENSE:",
            "a dense step is not recorded",
        ),
        (
            "order = np.argsort(np.concatenate([heads for _, heads in parts]))",
            "order = np.concatenate([heads for _, heads in parts])",
            "heads of parts go back by the wrong permutation",
        ),
        (
            "lse = jnp.concatenate(lses, 1) if len(lses) == len(done) else None",
            "lse = jnp.concatenate(lses, 1)",
            "an lse of some of the heads is given out for all",
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
        "sparsevdit_jax/selection.py",
        (
            "dtype=np.int32), heads // 2)",
            "dtype=np.int32), heads)",
            "more than half of the heads give",
        ),
        (
            "delta = min(round_half_up(count / 2), num_blocks - count, count - 1)",
            "delta = min(round_half_up(count / 2), num_blocks - count)",
            "a head may be left without a block",
        ),
        (
            "counts[..., None] + np.int32(text), ranked.shape[:-1])",
            "counts[..., None], ranked.shape[:-1])",
            "text takes the place of video blocks",
        ),
        (
            "counts = count(jnp.minimum(jnp.asarray(ctx.density) * proportion, np.float32(1)))",
            "counts = count(jnp.asarray(proportion * own.mean().astype(np.float32)))",
            "a schedule's density is not followed",
        ),
        (
            "delta = min(density / 2, 1 - density)",
            "delta = density / 2",
            "a density above 1",
        ),
    ),
]
