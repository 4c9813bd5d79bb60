"""T5's configuration from real files' entries."""

import dataclasses
import warnings

import pytest

from models.t5 import PRESETS, T5Config, t5_config_from_json

# What transformers writes for an encoder, most of it about decoders and training.
DOCUMENT = {
    "architectures": ["UMT5EncoderModel"],
    "classifier_dropout": 0.0,
    "d_ff": 96,
    "d_kv": 16,
    "d_model": 48,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "umt5",
    "num_decoder_layers": 2,
    "num_heads": 3,
    "num_layers": 2,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "scalable_attention": True,
    "task_specific_params": {"summarization": {"num_beams": 4}},
    "tie_word_embeddings": False,
    "tokenizer_class": "T5Tokenizer",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.0.dev0",
    "use_cache": True,
    "vocab_size": 64,
}


def test_a_whole_file_is_read_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = t5_config_from_json(DOCUMENT)
    assert config == T5Config(
        model_type="umt5", vocab_size=64, d_model=48, d_kv=16, d_ff=96, num_layers=2, num_heads=3
    )


def test_architectures_tell_the_kind_where_model_type_is_absent():
    document = {key: value for key, value in DOCUMENT.items() if key != "model_type"}
    assert t5_config_from_json(document).model_type == "umt5"
    assert t5_config_from_json(document | {"architectures": ["T5EncoderModel"]}).model_type == "t5"


def test_presets_are_those_of_the_checkpoints():
    assert PRESETS["umt5-xxl"].vocab_size == 256384
    assert PRESETS["t5-v1.1-xxl"].vocab_size == 32128
    assert (
        dataclasses.replace(PRESETS["umt5-xxl"], model_type="t5", vocab_size=32128)
        == PRESETS["t5-v1.1-xxl"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "'llama'.*text_encoder of a Wan"),
        (
            {"model_type": "t5", "feed_forward_proj": "relu"},
            "'relu' is not implemented.*gated-gelu",
        ),
        ({"num_layers": 0}, "num_layers=0 must be a whole number from 1 to"),
        ({"dense_act_fn": "relu"}, "'relu' contradicts feed_forward_proj='gated-gelu'"),
        ({"is_gated_act": False}, "is_gated_act=False contradicts"),
        ({"model_type": ["umt5"]}, "of model_type .*umt5.* has 't5' or 'umt5'"),
        ({"model_type": None, "architectures": "UMT5EncoderModel"}, "of model_type None"),
        ({"relative_attention_num_buckets": 30}, "=30 must be a multiple of 4"),
        ({"relative_attention_max_distance": 8}, "=8 more than a quarter"),
    ],
)
def test_what_is_not_ours_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        t5_config_from_json(DOCUMENT | change)


def test_missing_sizes_are_named():
    document = {k: v for k, v in DOCUMENT.items() if k not in ("d_ff", "num_heads")}
    with pytest.raises(ValueError, match="lacks d_ff, num_heads"):
        t5_config_from_json(document)


def test_a_t5_file_without_its_activation_means_relu():
    document = {k: v for k, v in DOCUMENT.items() if k != "feed_forward_proj"}
    with pytest.raises(ValueError, match="'relu' is not implemented"):
        t5_config_from_json(document | {"model_type": "t5"})
    assert t5_config_from_json(document).feed_forward_proj == "gated-gelu"
