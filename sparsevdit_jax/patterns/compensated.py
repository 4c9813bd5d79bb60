"""Compensated: any pattern whose dropped blocks still count, each by its mean."""

import dataclasses

from sparsevdit_jax.pattern import AttentionPattern


@dataclasses.dataclass(frozen=True)
class Compensated(AttentionPattern):
    """Keeps the pattern's choice of blocks, and adds each dropped block to the softmax as one key.

    The key is the mean of the block's n real keys, with logit q . mean * scale + log n, and its value
    is the mean of the values. So a query keeps the mass of a block, and loses only the differences between its keys.
    Sol-Attn (arXiv 2607.24027) does this for its own choice; around other patterns it is ours. It costs
    attention to one key a block: 1 / block of dense attention.

    Blocks are those of the pattern's plan: tiles, packed tokens, text in its own blocks. A row that
    keeps all blocks does not change. A row that keeps none attends to all centroids, and so does a head
    of `Skip` (by itself it has one block, all tokens). `Dense`, dense steps and the state stay the
    pattern's. A pattern that remembers its lse remembers that of the whole softmax. Density counts
    what is kept. Fewer heads than devices are refused, because sequences must not be sharded.

    Attributes:
      member: the pattern; one that is a softmax over blocks.
    """

    member: AttentionPattern

    in_ring = False  # centroids of a whole sequence are not those of its parts

    def __post_init__(self):
        if not isinstance(self.member, AttentionPattern):
            raise ValueError(f"member={self.member!r} must be an AttentionPattern object")
        for pattern in (self.member, *self.member.members):
            if type(pattern).compute is not AttentionPattern.compute:
                raise ValueError(
                    f"member={self.member!r} holds {type(pattern).__name__}, which computes "
                    "something else than a softmax over blocks, so it drops none; wrap a pattern "
                    "that plans blocks"
                )

    @property
    def members(self) -> tuple[AttentionPattern, ...]:
        """The pattern."""
        return (self.member,)

    @property
    def sees_dense_steps(self) -> bool:  # pyrefly: ignore
        """Whether the pattern does."""
        return self.member.sees_dense_steps

    @property
    def is_dense(self) -> bool:  # pyrefly: ignore
        """Whether the pattern is."""
        return self.member.is_dense

    @property
    def num_heads(self) -> int | None:
        """Heads that the pattern names; None: any number."""
        return getattr(self.member, "num_heads", None)

    @property
    def serves_any_head(self) -> bool:
        """Whether the pattern does."""
        return self.member.serves_any_head

    def with_density(self, density):
        """Around the pattern with this density."""
        return Compensated(self.member.with_density(density))

    def at_step(self, step, num_heads):
        """Those of the pattern, each compensated."""
        return tuple(Compensated(p) for p in self.member.at_step(step, num_heads))

    def parts(self, grid, num_heads):
        """Those of the pattern, each compensated."""
        parts = self.member.parts(grid, num_heads)
        return parts and tuple((Compensated(p), heads) for p, heads in parts)

    def init(self, grid, *, batch, num_heads, head_dim):
        """The pattern's."""
        return self.member.init(grid, batch=batch, num_heads=num_heads, head_dim=head_dim)

    def prepare(self, q, k, v, state, ctx):
        """The pattern's."""
        return self.member.prepare(q, k, v, state, ctx)

    def plan(self, q, k, state, ctx):
        """The pattern's, compensated."""
        plan, state = self.member.plan(q, k, state, ctx)
        return dataclasses.replace(plan, compensated=True), state

    def update(self, q, k, lse, state, ctx):
        """The pattern's."""
        return self.member.update(q, k, lse, state, ctx)

    def side(self, q, k, v, plan, ctx):
        """The pattern's."""
        return self.member.side(q, k, v, plan, ctx)

    def head_work(self, state, ctx, num_heads):
        """The pattern's."""
        return self.member.head_work(state, ctx, num_heads)

    def density_on(self, grid, num_heads, *, state=None, step=0, text_lengths=None):
        """What the pattern keeps."""
        given = dict(state=state, step=step, text_lengths=text_lengths)
        return self.member.density_on(grid, num_heads, **given)

    def token_order(self, grid):
        """The pattern's."""
        return self.member.token_order(grid)
