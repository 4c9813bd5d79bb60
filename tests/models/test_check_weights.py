"""What is wrong with a folder's weights, said before a tensor is read; which of its files count."""

import json
import re

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from models import pretrained

from .folders import FILE, parity_folder, rewrite


@pytest.fixture
def folder(toy_folder):
    return toy_folder


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda folder: (folder / FILE).unlink(), FileNotFoundError),
        (lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-4]), ValueError),
        (lambda folder: (folder / "config.json").write_text("[]"), ValueError),
        (lambda folder: (folder / "config.json").unlink(), FileNotFoundError),
        (
            lambda folder: (folder / "config.json").write_text(
                '{"_class_name": "ToyTransformer3DModel", "layers": 3}'
            ),
            ValueError,
        ),
    ],
)
def test_checking_raises_what_loading_raises(folder, spoil, error):
    pretrained.check_weights(folder, "transformer")
    spoil(folder / "transformer")
    with pytest.raises(error) as loading:
        pretrained.load_transformer(folder)
    with pytest.raises(error) as checking:
        pretrained.check_weights(folder, "transformer")
    assert str(checking.value) == str(loading.value)


def test_more_layers_than_tensors_are_refused_before_they_are_made(folder, monkeypatch):
    """A toy of so many layers would not end."""
    monkeypatch.setattr(pretrained, "planned", lambda *a: pytest.fail("made"))
    path = folder / "transformer" / "config.json"
    tensors = len(load_file(folder / "transformer" / FILE))
    path.write_text(f'{{"_class_name": "ToyTransformer3DModel", "layers": {2**24}}}')
    said = f"{path}: ToyConfig layers=16777216 is more than the {tensors} tensors of the weights"
    with pytest.raises(ValueError, match=re.escape(said)):
        pretrained.check_weights(folder, "transformer")


def test_checking_reads_no_tensor(folder, monkeypatch):
    monkeypatch.setattr(pretrained.TensorFiles, "read", None)
    pretrained.check_weights(folder, "transformer")
    with pytest.raises(ValueError, match="part='lora' must be transformer, vae, text_encoder"):
        pretrained.check_weights(folder, "lora")


def test_the_index_wins_over_a_stale_single_file(folder):
    part, stale = folder / "transformer", folder / "stale.safetensors"
    model = pretrained.load_transformer(folder)
    (part / FILE).rename(stale)
    (part / "config.json").unlink()
    pretrained.save_transformer(model, part, max_shard_bytes=500)
    tensors = {name: np.full_like(array, 7) for name, array in load_file(stale).items()}
    save_file(tensors, str(part / FILE))
    jax.tree.map(
        np.testing.assert_array_equal,
        nnx.state(pretrained.load_transformer(folder)),
        nnx.state(model),
    )


def test_a_variant_of_one_part_leaves_the_others_plain(folder, tmp_path):
    (folder / "transformer" / FILE).rename(folder / "transformer" / FILE.replace(".", ".fp16.", 1))
    parity_folder(tmp_path / "vae", "vae_wan")
    pretrained.check_weights(folder, "transformer", variant="fp16")
    pretrained.check_weights(folder, "vae", variant="fp16")
    with pytest.raises(FileNotFoundError, match="give --variant fp16"):
        pretrained.load_transformer(folder)
    for part in ("transformer", "vae"):
        with pytest.raises(FileNotFoundError, match="no weights of the variant ema"):
            pretrained.check_weights(folder, part, variant="ema")


def test_another_layout_is_told_by_its_names(folder):
    rewrite(folder, lambda t: t.update({f"model.{name}": t.pop(name) for name in list(t)}))
    with pytest.raises(ValueError, match="no name fits: this is the original authors' layout"):
        pretrained.check_weights(folder, "transformer")


def test_a_quantised_model_is_told_by_its_configuration(folder):
    config = folder / "transformer" / "config.json"
    document = json.loads(config.read_text()) | {"quantization_config": {"quant_method": "torchao"}}
    config.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"config\.json has a quantization_config"):
        pretrained.check_weights(folder, "transformer")


@pytest.mark.parametrize("name", ["umt5", "t5v11"])
@pytest.mark.parametrize("head", ["ForConditionalGeneration", "Model"])
def test_the_decoder_of_a_whole_t5_is_passed_over(tmp_path, name, head):
    document = parity_folder(tmp_path / "whole", name)
    document["architectures"] = [document["architectures"][0].replace("EncoderModel", head)]
    (tmp_path / "whole" / "config.json").write_text(json.dumps(document))
    path = tmp_path / "whole" / "model.safetensors"
    extra = {
        "decoder.block.0.layer.0.SelfAttention.q.weight": np.zeros((4, 4), np.float32),
        "decoder.embed_tokens.weight": np.zeros((4, 4), np.float32),
        "lm_head.weight": np.zeros((4, 4), np.int8),
    }
    encoder = load_file(path)
    save_file(encoder | extra, str(path))
    model = pretrained.load_text_encoder(tmp_path / "whole")
    np.testing.assert_array_equal(model.shared.embedding[...], encoder["shared.weight"])
