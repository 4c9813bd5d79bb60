"""Names of a T5 encoder's tensors in transformers' checkpoints."""

from models.keys import KeyTable

KEYS = KeyTable(
    {
        "blocks.*.attention": "encoder.block.*.layer.0.SelfAttention",
        "blocks.*.attention_norm": "encoder.block.*.layer.0.layer_norm",
        "blocks.*.feed_forward": "encoder.block.*.layer.1.DenseReluDense",
        "blocks.*.feed_forward_norm": "encoder.block.*.layer.1.layer_norm",
        "final_layer_norm": "encoder.final_layer_norm",
    }
)

# The encoder's embedding is the shared one. Files hold it under either name, or twice.
ALIASES = {"encoder.embed_tokens.weight": "shared.weight"}

# A whole T5's decoder, as transformers' encoder classes pass over it.
IGNORED = ("decoder.*", "lm_head.*")
