"""A tiny random Qwen2 that writes bytes, for tests that need a real model and no download."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens: a BPE without merges; 256 is the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>")


def model(**more: Any) -> Qwen2ForCausalLM:
    """Sharpened, so that it prefers some tokens and comes to ends."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 258,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    made = Qwen2ForCausalLM(Qwen2Config(**{**sizes, **more}))
    with torch.no_grad():
        made.lm_head.weight *= 12
    return made
