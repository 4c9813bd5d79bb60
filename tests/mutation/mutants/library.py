"""Mistakes in the rest of sparsevdit_jax: devices, masks, offline search, files, metrics."""

from ..mutant import EIGHT_DEVICES, of

MUTANTS = [
    *of(
        "sparsevdit_jax/codec.py",
        (
            "if found is not cls:",
            "if found is None:",
            "a name that leads to another class is written",
        ),
    ),
    *of(
        "sparsevdit_jax/distill.py",
        (
            "video = (place < 0) | (place >= grid.text_len)",
            "video = place < 0",
            "video behind text is taken for padding",
        ),
        (
            "    teacher = jax.lax.stop_gradient(teacher)\n",
            "",
            "gradients reach the teacher",
        ),
    ),
    *of(
        "sparsevdit_jax/functional.py",
        (
            "if jax.tree.leaves(state) or pattern.searches or pattern.num_steps not in (None, 1):",
            "if jax.tree.leaves(state) or pattern.searches:",
            "a table of several steps runs its first",
        ),
    ),
    *of(
        "sparsevdit_jax/metrics.py",
        (
            "return kept.sum(-1) / jnp.maximum(real.sum(-1).astype(np.float32), 1.0)",
            "return kept.mean(-1)",
            "recall averages over padding too",
        ),
        ("return 10.0 * jnp.log10(", "return 20.0 * jnp.log10(", "twice the decibels"),
        (
            "c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2",
            "c1, c2 = 0.01**2, 0.03**2",
            "ssim ignores the data range",
        ),
    ),
    *of(
        "sparsevdit_jax/presets.py",
        (
            "math.ceil(0.24 * num_steps)",
            "math.floor(0.24 * num_steps)",
            "STA's warm-up is rounded down",
        ),
    ),
    *of(
        "sparsevdit_jax/fastvideo.py",
        (
            "else SlidingTile(tile, here[w])",
            "else SlidingTile(TILE, here[w])",
            "the caller's tile is not used",
        ),
    ),
    *of(
        "sparsevdit_jax/parallel/balance.py",
        (
            "row[xp.argsort(xp.argsort(load, stable=True), stable=True)]",
            "row[xp.argsort(load, stable=True)]",
            "an order of devices is taken for their ranks",
        ),
        (
            "float(load.max() / load.mean())",
            "float(load.max() / load.min())",
            "imbalance against the idlest",
        ),
    ),
    *of(
        "sparsevdit_jax/merge.py",
        ("    top = jnp.where(jnp.isfinite(top), top, 0)\n", "", "NaN where no set has a key"),
        (
            "total = sum(weights[1:], weights[0])",
            "total = weights[0]",
            "the first set's weight alone",
        ),
    ),
    *of(
        "sparsevdit_jax/parallel/ulysses.py",
        (
            "back = jnp.argsort(jnp.asarray(layout))[:num_heads]",
            "back = jnp.asarray(layout)[:num_heads]",
            "heads go back by the wrong permutation",
            f"{EIGHT_DEVICES}[check_attention]",
        ),
    ),
    *of(
        "sparsevdit_jax/parallel/join.py",
        (
            "which = place - np.int32(0 if text_first else length)",
            "which = place - np.int32(length)",
            "text comes last whatever is asked",
            f"{EIGHT_DEVICES}[check_join]",
        ),
    ),
    *of(
        "sparsevdit_jax/parallel/ring.py",
        (
            "counts = jnp.where(full, np.int32(share), inside.sum(-1, dtype=np.int32))",
            "counts = inside.sum(-1, dtype=np.int32)",
            "full rows lose their columns",
            f"{EIGHT_DEVICES}[check_attention]",
        ),
        (
            "parts = jnp.roll(parts, device, axis=0)",
            "parts = jnp.roll(parts, -device, axis=0)",
            "columns are turned the wrong way",
            f"{EIGHT_DEVICES}[check_attention]",
        ),
    ),
    *of(
        "sparsevdit_jax/masks/blocks.py",
        (
            'right = left if even_window == "paper" or window % 2 else left - 1',
            "right = left",
            "an exact even window keeps one more",
        ),
        (
            "pairs = density * tokens**2 - (tokens**2 - video**2)",
            "pairs = density * video**2",
            "text is not counted in the density",
        ),
    ),
    *of(
        "sparsevdit_jax/masks/layout.py",
        ("        share = np.maximum(share, 0)\n", "", "pixels take from cells they do not touch"),
    ),
    *of(
        "sparsevdit_jax/masks/draw.py",
        (
            "np.log(pixels / low) / np.log(high / low)",
            "np.log(pixels / low) / np.log(high)",
            "the colour scale has no lower end",
        ),
    ),
    *of(
        "sparsevdit_jax/search/costs.py",
        (
            "float(max(c1 + (c1 - c0) / (d1 - d0) * (density - d1), c1))",
            "float(c1 + (c1 - c0) / (d1 - d0) * (density - d1))",
            "a falling curve is carried on",
        ),
        (
            "return min(fits, key=lambda m: m.batch, default=None)",
            "return max(fits, key=lambda m: m.batch, default=None)",
            "the largest batch answers for all",
        ),
    ),
    *of(
        "sparsevdit_jax/search/rules.py",
        (
            "epsilon = least[order[count - 1]] if count",
            "epsilon = least[order[count - 2]] if count",
            "one head too few leaves full attention",
        ),
        (
            "share = (votes * (votes - 1)).sum(0) / (raters * (raters - 1))",
            "share = (votes * (votes - 1)).sum(0) / raters**2",
            "pairs of raters with themselves",
        ),
        (
            "xp.where(loss.min(-2) > self.epsilon,",
            "xp.where(loss.min(-2) >= self.epsilon,",
            "a loss of exactly epsilon is full attention",
        ),
    ),
    *of(
        "sparsevdit_jax/search/mixture.py",
        (
            "bound = priced.min(1).sum() - price * budget",
            "bound = priced.min(1).sum() + price * budget",
            "wrong sign of the dual bound",
        ),
    ),
    *of(
        "sparsevdit_jax/search/tables.py",
        (
            "    choice[[phase is Phase.DENSE for phase in schedule.phases()]] = -1\n",
            "",
            "dense steps are read from the choice",
        ),
    ),
    *of(
        "sparsevdit_jax/search/measurements.py",
        (
            "exact = {Phase.DENSE, Phase.FIRST_SEARCH} if online else {Phase.DENSE}",
            "exact = {Phase.DENSE, Phase.FIRST_SEARCH}",
            "the first search is left out of every run",
        ),
        (
            "for name in {*stored, *wanted} if stored",
            "for name in {*wanted} if stored",
            "a setting that is gone goes unnoticed",
        ),
    ),
]
