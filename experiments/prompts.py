"""Checks prompts for every command that takes them. It needs no jax, as `experiments.make_text_embeddings` has none."""

from collections.abc import Iterable


def check_text(prompts: Iterable[str]) -> None:
    """ValueError for a prompt that is not text; an empty one is."""
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError as problem:
            raise ValueError(
                f"prompt {prompt!r} holds bytes that are not UTF-8 (the first is character {problem.start}); give it "
                "from a terminal or file that is"
            ) from problem
