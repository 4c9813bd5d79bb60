"""Checks prompts before a text encoder is loaded."""

from collections.abc import Sequence

from models.pretrained import TEXT_ENCODERS, read_config
from models.tokenizer import clean_prompt, load_tokenizer

from .latent_family import LatentFamily
from .wan import Wan


def check_prompts(family: LatentFamily, prompts: Sequence[str]) -> None:
    """Makes sure that a folder's tokenizer and text encoder can take these prompts; reads no weights.

    Raises:
      ImportError: `tokenizers` is not installed, or `ftfy` is not and a prompt for Wan needs it.
      OSError, ValueError: no tokenizer or text encoder, damaged ones, or ones that do not belong together or to the
        transformer.
    """
    folder = family.folder
    if not family.ENCODES_TEXT:
        family.encode_prompts(prompts, None, dtype=None)  # says why
    for part in ("text_encoder", "tokenizer"):
        if not (folder / part).is_dir():
            raise FileNotFoundError(
                f"{folder} has no {part}/; download it, or pass precomputed --embeddings "
                "(python -m experiments.make_text_embeddings)"
            )
    name, config = read_config(folder, "text_encoder", TEXT_ENCODERS)
    _, width = family.text_shape
    if config.d_model != width:
        raise ValueError(
            f"{folder / 'text_encoder'} is a {name} of width {config.d_model}, but the transformer takes {width}; take "
            "both from one checkpoint"
        )
    vocabulary = load_tokenizer(folder / "tokenizer").vocabulary
    if vocabulary > config.vocab_size:
        raise ValueError(
            f"{folder / 'tokenizer'} has ids up to {vocabulary - 1}, but the vocabulary of "
            f"{folder / 'text_encoder'} is {config.vocab_size}; take both from one checkpoint"
        )
    if isinstance(family, Wan):
        for prompt in prompts:
            clean_prompt(prompt)
