"""Prompts to ids beside transformers' T5Tokenizer (tests/golden/tokenizer)."""

import importlib.util
import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from models.tokenizer import clean_prompt, load_tokenizer, train_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizer"
SENTENCES = ["A cat walks on the grass.", "A dog runs along the beach.", "A cat and a dog."]


def folder(tmp_path, **changes):
    """The golden folder with other settings."""
    new = tmp_path / "tokenizer"
    new.mkdir()
    shutil.copy(GOLDEN / "spiece.model", new)
    settings = json.loads((GOLDEN / "tokenizer_config.json").read_text())
    (new / "tokenizer_config.json").write_text(json.dumps(settings | changes))
    return new


def test_ids_from_a_sentencepiece_model_are_those_of_transformers():
    tokenizer = load_tokenizer(GOLDEN)
    for case in json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8")):
        ids, mask = tokenizer([case["prompt"]], max_length=128)
        length = mask[0].sum()
        assert ids[0, :length].tolist() == case["transformers"], case["prompt"]
        assert (ids[0, length:] == 0).all()
        assert (np.diff(mask[0]) <= 0).all()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ids, mask = tokenizer([case["prompt"]], max_length=6)
        assert ids[0].tolist() == case["of_6"]
        assert mask[0].tolist() == case["mask_of_6"]


def test_rows_are_int32_of_one_length():
    ids, mask = load_tokenizer(GOLDEN)(["a cat", "two dogs dances", ""])
    assert ids.shape == mask.shape == (3, 512)
    assert ids.dtype == mask.dtype == np.int32
    assert mask[2].sum() == 1
    assert ids[2, 0] == 1


def test_what_is_cut_is_quoted():
    tokenizer = load_tokenizer(GOLDEN)
    prompt = "a cat walks on the grass, realistic."
    with pytest.warns(
        UserWarning, match="prompt 1 has .* and keeps 5; cut was: '.*realistic.'"
    ) as w:
        ids, mask = tokenizer(["a cat", prompt], max_length=6)
    cut = str(w[0].message).split("'")[1]
    assert prompt.endswith(cut)
    kept = prompt.removesuffix(cut).strip()
    assert ids[1].tolist() == tokenizer([kept], max_length=6)[0][0].tolist()
    assert ids[1, -1] == 1
    assert mask[1].all()


def test_trained_tokenizer_is_t5_shaped(tmp_path):
    train_tokenizer(tmp_path / "tokenizer", SENTENCES)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    prompt = "Ein Hund, 猫 🐱 </s>"
    ids, mask = tokenizer([prompt], max_length=64)
    length = mask[0].sum()
    assert ids[0, length - 1] == 1
    assert ids.max() < 320
    assert tokenizer.backend.decode(ids[0, :length], skip_special_tokens=True).strip() in prompt
    again = tmp_path / "again"
    train_tokenizer(again, SENTENCES)
    assert (again / "tokenizer.json").read_bytes() == (
        tmp_path / "tokenizer/tokenizer.json"
    ).read_bytes()


def test_padding_and_truncation_stored_in_a_file_do_not_count(tmp_path):
    train_tokenizer(tmp_path, SENTENCES)
    want = load_tokenizer(tmp_path)(["a cat on the beach"], max_length=32)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text())
    document["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    document["padding"] = {
        "strategy": {"Fixed": 16},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    path.write_text(json.dumps(document))
    got = load_tokenizer(tmp_path)(["a cat on the beach"], max_length=32)
    np.testing.assert_array_equal(got, want)


def test_a_t5_file_without_an_end_gets_one(tmp_path):
    train_tokenizer(tmp_path, SENTENCES)
    want = load_tokenizer(tmp_path)(["a cat"], max_length=8)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    without = load_tokenizer(tmp_path)(["a cat"], max_length=8)
    assert without[1].sum() == want[1].sum() - 1
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "T5TokenizerFast"})
    )
    np.testing.assert_array_equal(load_tokenizer(tmp_path)(["a cat"], max_length=8), want)


def test_special_tokens_map_stands_in(tmp_path):
    train_tokenizer(tmp_path, SENTENCES)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"pad_token None.*set pad_token"):
        load_tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": {"content": "<unk>"}}')
    assert load_tokenizer(tmp_path).pad_id == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padding_side": "left"}, "has padding_side 'left'"),
        ({"truncation_side": "left"}, "has truncation_side 'left'"),
        ({"pad_token": "[PAD]"}, r"pad_token '\[PAD\]', which"),
        ({"eos_token": "<end>"}, "eos_token '<end>', which"),
    ],
)
def test_contradicting_settings_are_refused(tmp_path, changes, message):
    train_tokenizer(tmp_path, SENTENCES)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "T5Tokenizer"}
    path.write_text(json.dumps(settings | changes))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


def test_extra_ids_follow_the_setting(tmp_path):
    backend = load_tokenizer(folder(tmp_path, extra_ids=3)).backend
    assert backend.get_vocab_size() == 108
    assert backend.token_to_id("<extra_id_2>") == 105


def test_wrong_calls(tmp_path):
    tokenizer = load_tokenizer(GOLDEN)
    with pytest.raises(TypeError, match="'a cat' must be a list"):
        tokenizer("a cat")
    with pytest.raises(TypeError, match="must be a list of strings"):
        tokenizer([1])
    with pytest.raises(ValueError, match="0 prompts"):
        tokenizer([])
    with pytest.raises(ValueError, match="max_length=1; give at least one, and at least 2 tokens"):
        tokenizer(["a"], max_length=1)
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer\.json nor spiece\.model"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="vocab_size=100 must be at least 259"):
        train_tokenizer(tmp_path, SENTENCES, vocab_size=100)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"sparsevdit-jax\[text\]"):
        load_tokenizer(GOLDEN)


CLEANED = {  # as diffusers' WanPipeline cleans them: ftfy.fix_text, html.unescape twice, white space
    "  A &amp;amp; B\n\t&lt;c&gt;  ": "A & B <c>",
    "a\u00a0b\u3000c": "a b c",
    "a “quoted” dog’s ‘life’": "a \"quoted\" dog's 'life'",
    "donâ€™t": "don't",
    "色调艳丽，过曝": "色调艳丽,过曝",
    "ﬁre &eacute;&#146;s": "fire é's",
    "a\x0bb\x1cc": "abc",
    "caf\u0065\u0301": "caf\u00e9",
    "an emoji 🐱 and an em—dash": "an emoji 🐱 and an em—dash",
}


@pytest.mark.parametrize("prompt", CLEANED)
def test_prompts_are_cleaned_as_in_wan(prompt):
    assert clean_prompt(prompt) == CLEANED[prompt]


def test_without_ftfy_only_what_it_leaves_alone_is_cleaned(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n: None if n == "ftfy" else find(n))
    plain = "  A 'cat' &amp;amp; \"B\"\n\t&lt;c&gt; ~{}  "
    assert clean_prompt(plain) == "A 'cat' & \"B\" <c> ~{}"
    changed = [prompt for prompt in CLEANED if not prompt.startswith("  A")]
    for prompt in [*changed, "&amp;amp;amp;lt;", "&EACUTE;", "&#8220;a"]:
        with pytest.raises(ImportError, match=r"ftfy is not installed.*sparsevdit-jax\[text\]"):
            clean_prompt(prompt)


def point(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def dangle(path):
    path.unlink()
    path.symlink_to("../../blobs/0123")


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (point, ValueError, "is a Git LFS pointer"),
        (dangle, FileNotFoundError, "is a link that points nowhere"),
        (lambda path: path.write_text(""), ValueError, "is empty"),
        (lambda path: path.write_text("{}"), ValueError, r"is not a (tokenizer|sentencepiece)"),
        (lambda path: path.write_text("not"), ValueError, r"is not a (tokenizer|sentencepiece)"),
    ],
)
@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model"])
def test_damaged_files_are_named(tmp_path, name, spoil, error, says):
    folder(tmp_path)
    if name == "tokenizer.json":
        train_tokenizer(tmp_path / "tokenizer", SENTENCES)
    spoil(tmp_path / "tokenizer" / name)
    with pytest.raises(error, match=rf"{name} {says}"):
        load_tokenizer(tmp_path / "tokenizer")


def test_a_byte_order_mark_is_passed_over(tmp_path):
    train_tokenizer(tmp_path, SENTENCES)
    want = load_tokenizer(tmp_path)(["a cat"], max_length=8)
    for path in tmp_path.iterdir():
        path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    np.testing.assert_array_equal(load_tokenizer(tmp_path)(["a cat"], max_length=8), want)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    ("entry", "value", "rule"),
    [
        ("pad_token", 0, "a token: a text"),
        ("pad_token", {"text": "<pad>"}, "a token: a text"),
        ("eos_token", ["</s>"], "a token: a text"),
        ("unk_token", {"content": 1}, "a token: a text"),
        ("extra_ids", "100", "a whole number from 0 up"),
        ("extra_ids", True, "a whole number"),
        ("extra_ids", -1, "a whole number"),
        ("padding_side", 1, "a text in quotes"),
        ("tokenizer_class", ["T5Tokenizer"], "a text in quotes"),
    ],
)
def test_entries_have_their_types(tmp_path, name, entry, value, rule):
    path = folder(tmp_path) / name
    path.write_text(json.dumps({entry: value}))
    with pytest.raises(ValueError, match=rf"{name} has {entry}=.*; it must be {rule}"):
        load_tokenizer(path.parent)


def test_null_is_as_if_absent(tmp_path):
    path = folder(tmp_path, extra_ids=None, padding_side=None, pad_token=None)
    assert load_tokenizer(path).pad_id == 0
