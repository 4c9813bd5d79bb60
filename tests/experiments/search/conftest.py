"""Tiny checkpoint folders that searches run on."""

import numpy as np
import pytest

from models.text_embeddings import TextEmbeddings, save_embeddings

from ..generation import folders


@pytest.fixture(scope="package")
def checkpoints(tmp_path_factory):
    """Flags that name a model and its prompts, of each family."""
    prompts = dict(prompts=("a cat rides a skateboard", "two dogs watch the rain"))
    size = dict(frames=9, height=64, width=96)
    root = tmp_path_factory.mktemp("checkpoints")
    texts = []
    for i in range(2):
        random = np.random.default_rng(i).standard_normal
        text = TextEmbeddings(
            prompt_embeds=random((1, 5, folders.TEXT_DIM), np.float32),
            pooled_projections=random((1, 12), np.float32),
            prompt_attention_mask=np.array([[1, 1, 1, 1, i]], np.int32),
        )
        texts.append(root / f"text{i}.npz")
        save_embeddings(texts[-1], text)
    return {
        "wan": dict(model=folders.wan(root / "wan"), **size, **prompts),
        "hunyuan_video": dict(
            model=folders.hunyuan_video(root / "hunyuan"), **size, embeddings=tuple(texts)
        ),
        "cogvideox": dict(model=folders.cogvideox(root / "cogvideox"), **size, **prompts),
    }
