"""Mistakes in pooled scores, in what they keep, and in budgets of heads."""

from ..mutant import of

MUTANTS = [
    *of(
        "sparsevdit_jax/block_rules.py",
        (
            "return scores >= _at(ranked, dropped)",
            "return scores > _at(ranked, dropped)",
            "the pair at a head's threshold is dropped",
        ),
    ),
    *of(
        "sparsevdit_jax/search/head_densities.py",
        ("_HALVINGS = 60", "_HALVINGS = 6", "heads stop short of one recall"),
    ),
    *of(
        "sparsevdit_jax/patterns/jenga.py",
        (
            "video_mask(keep | always[None, None], order)",
            "video_mask(keep, order)",
            "blocks that touch are not kept",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/cube_sparse.py",
        (
            "return keep | np.eye(count, dtype=bool)[None, None], min",
            "return keep, min",
            "a cube may leave itself out",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/sub_block.py",
        (
            "rounding=round_up, multiple=self.multiple",
            "rounding=round_up",
            "counts are no multiple of eight",
        ),
    ),
    *of(
        "sparsevdit_jax/patterns/nabla.py",
        ("crossing=True", "crossing=False", "the cell that passes the share is left out"),
    ),
    *of(
        "sparsevdit_jax/patterns/longcat_bsa.py",
        ("crossing=False", "crossing=True", "the tile that passes the share is kept"),
    ),
    *of(
        "sparsevdit_jax/patterns/rain_fusion.py",
        (
            'joined = self.dialect == "lightx2v"',
            "joined = False",
            "text is no part of the video's blocks",
        ),
    ),
]
