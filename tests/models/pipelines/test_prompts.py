"""What is wrong with tokenizer, text encoder or prompts, before weights are read."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from models.cogvideox import PRESETS as COGVIDEOX
from models.cogvideox_vae import PRESETS as COGVIDEOX_VAES
from models.pipelines import CogVideoX, Wan, check_prompts
from models.schedulers import scheduler_from_json
from models.t5 import PRESETS as T5
from models.t5.config import t5_config_to_json
from models.tokenizer import train_tokenizer
from models.wan import PRESETS as WANS
from models.wan_vae import PRESETS as WAN_VAES

SCHEDULER = scheduler_from_json({"_class_name": "FlowMatchEulerDiscreteScheduler"})


@pytest.fixture
def folder(tmp_path):
    train_tokenizer(tmp_path / "tokenizer", ["a cat rides a skateboard"], vocab_size=300)
    write(tmp_path, "umt5-xxl")
    return tmp_path


def write(folder: Path, name: str, **changes) -> None:
    (folder / "text_encoder").mkdir(exist_ok=True)
    document = t5_config_to_json(T5[name]) | changes
    (folder / "text_encoder" / "config.json").write_text(json.dumps(document))


def wan(folder):
    return Wan(folder, WANS["wan2.1-t2v-1.3b"], WAN_VAES["wan2.1-vae"], SCHEDULER)


def cogvideox(folder):
    vae = COGVIDEOX_VAES["cogvideox-5b-vae"]
    return CogVideoX(folder, COGVIDEOX["cogvideox-5b"], vae, SCHEDULER)


def test_parts_of_one_checkpoint_pass(folder):
    check_prompts(wan(folder), ["a cat", ""])
    write(folder, "t5-v1.1-xxl")
    check_prompts(cogvideox(folder), ["a cat", ""])


@pytest.mark.parametrize("family", [wan, cogvideox])
def test_parts_that_do_not_belong_together_are_refused(folder, family):
    write(folder, "umt5-xxl", vocab_size=100)
    with pytest.raises(ValueError, match=r"has ids up to \d+, but the vocabulary of .* is 100"):
        check_prompts(family(folder), ["a cat"])
    write(folder, "umt5-xxl", d_model=48)
    with pytest.raises(ValueError, match="of width 48, but the transformer takes 4096"):
        check_prompts(family(folder), ["a cat"])
    (folder / "text_encoder" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no text_encoder/config\.json"):
        check_prompts(family(folder), ["a cat"])


def test_what_is_not_installed_is_said_where_it_is_needed(folder, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n: None if n == "ftfy" else find(n))
    check_prompts(wan(folder), ["a cat"])
    with pytest.raises(ImportError, match="ftfy is not installed, and the prompt 'a cat’s'"):
        check_prompts(wan(folder), ["a cat", "a cat’s"])
    check_prompts(cogvideox(folder), ["a cat’s"])  # as it is
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="tokenizers is not installed"):
        check_prompts(cogvideox(folder), ["a cat"])
