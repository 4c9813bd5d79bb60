"""A pipeline's folder with a toy transformer."""

import pytest
from flax import nnx

from models import pretrained

from .toy import ToyConfig, ToyTransformer


@pytest.fixture
def toy_folder(tmp_path, monkeypatch):
    """`transformer/` in float32."""
    monkeypatch.setitem(pretrained.TRANSFORMERS, ToyTransformer.CLASS_NAME, ToyTransformer)
    model = ToyTransformer(ToyConfig(), rngs=nnx.Rngs(0))
    pretrained.save_transformer(model, tmp_path / "transformer")
    return tmp_path
