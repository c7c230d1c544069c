"""Tiny text encoders with random weights, on disk as transformers and sentence-transformers do."""

import importlib.util
import os

import pytest

# Read when the encoders' library is imported: no test looks a name up in the net.
os.environ["HF_HUB_OFFLINE"] = "1"
WORDS = "we were on a break ! i cannot believe this . how are you doing ? great thank ross : rachel"
WORDS += " joey phoebe yes no never good bad day night , the cat dog sat"


def needs_encoder(test):
    """Marks a test of the real encoder's library."""
    reason = "needs sentence-transformers (extra features)"
    missing = importlib.util.find_spec("sentence_transformers") is None
    return pytest.mark.slow(pytest.mark.skipif(missing, reason=reason)(test))


def write_encoder(folder, kind="Bert", layers=2, width=16, dropout=0.0):
    """A folder with a transformer of ``transformers`` alone, which knows ``WORDS``."""
    import torch
    import transformers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if kind == "MPNet":
        special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*special, *dict.fromkeys(WORDS.split())]))
    tokenizer = getattr(transformers, f"{kind}Tokenizer")(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=2, intermediate_size=2 * width, max_position_embeddings=66,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=0.0, initializer_range=0.3,
    )  # fmt: skip
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
