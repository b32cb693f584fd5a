"""What the tests of the language models and `scripts/make_language_goldens.py` have in common: sizes and inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

TOKENS = np.array([[3, 14, 15, 9, 26, 5, 35], [8, 9, 7, 35, 0, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
TYPES = np.array([[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0, 0]])
PROMPT = np.array([[31, 4, 15, 9], [2, 7, 18, 28], [14, 1, 4, 21]])
LENGTHS = np.array([4, 2, 3])  # of the prompts, where they are padded
GENERATED = 8


def long_tokens() -> np.ndarray:
    """One sequence whose distances go past all of T5's buckets."""
    return np.random.default_rng(0).integers(0, 36, (1, 140))


GPT2 = {"vocab_size": 36, "n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 3}
LLAMA = {"vocab_size": 36, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 6}
# A context so short that all three ranges of frequencies occur.
SCALING = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
BERT = {
    "vocab_size": 36, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 10,
}  # fmt: skip
T5 = {"vocab_size": 36, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 3}
CLIP = {
    "projection_dim": 6, "vocab_size": 36, "text_width": 8, "text_layers": 1, "text_heads": 2, "max_position_embeddings": 8,
    "vision_width": 12, "vision_layers": 1, "vision_heads": 3, "image_size": 8, "patch_size": 4, "eos_token_id": 35,
}  # fmt: skip

# The small networks that are run: which family, and its sizes.
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "gpt2_untied": ("gpt2", {**GPT2, "n_layer": 1, "n_inner": 20, "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False}),
    "llama": ("llama", LLAMA),
    "llama3": (
        "llama",
        {
            **LLAMA, "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 8,
            "rope_theta": 500.0, "rope_scaling": SCALING, "rms_norm_eps": 1e-3,
            "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
        },
    ),
    "bert": ("bert", {**BERT, "num_hidden_layers": 2}),
    "bert_mlm": ("bert_mlm", BERT),
    "t5": ("t5", T5),
    "t5_gated": ("t5", {**T5, "num_layers": 1, "feed_forward_proj": "gated-gelu"}),
    "clip": ("clip", CLIP),
    "clip_gelu": ("clip", {**CLIP, "hidden_act": "gelu"}),
    "lstm": ("lstm", {"ntoken": 36, "ninp": 6, "nhid": 8, "nlayers": 2, "tie_weights": False}),
    "lstm_tied": ("lstm", {"ntoken": 36, "ninp": 8, "nhid": 8, "nlayers": 1, "tie_weights": True}),
}  # fmt: skip

_LARGE_TEXT = {
    "projection_dim": 768, "vocab_size": 49408, "text_width": 768, "text_layers": 12, "text_heads": 12,
    "max_position_embeddings": 77, "eos_token_id": 49407,
}  # fmt: skip
_LARGE_VISION = {"vision_width": 1024, "vision_layers": 24, "vision_heads": 16, "patch_size": 14}
_BASE = {
    "projection_dim": 512, "vocab_size": 49408, "text_width": 512, "text_layers": 12, "text_heads": 8,
    "max_position_embeddings": 77, "eos_token_id": 49407, "vision_width": 768, "vision_layers": 12, "vision_heads": 12,
    "image_size": 224,
}  # fmt: skip
_LLAMA3 = {"vocab_size": 128256, "num_key_value_heads": 8}

# The sizes in the config.json of the published checkpoints, by the names that we give them.
STANDARD: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2_small": ("gpt2", {}),
    "gpt2_medium": ("gpt2", {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "gpt2_large": ("gpt2", {"n_embd": 1280, "n_layer": 36, "n_head": 20}),
    "gpt2_xl": ("gpt2", {"n_embd": 1600, "n_layer": 48, "n_head": 25}),
    "tinyllama_1_1b": (
        "llama",
        {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_key_value_heads": 4},
    ),
    "llama2_7b": ("llama", {}),
    "llama3_1_8b": ("llama", {**_LLAMA3, "intermediate_size": 14336}),
    "llama3_2_1b": (
        "llama",
        {
            **_LLAMA3, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "tie_word_embeddings": True,
        },
    ),
    "bert_base_uncased": ("bert", {}),
    "bert_base_cased": ("bert", {"vocab_size": 28996}),
    "bert_large_uncased": (
        "bert",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    ),
    "t5_small_encoder": ("t5", {}),
    "t5_base_encoder": ("t5", {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}),
    "t5_large_encoder": ("t5", {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16}),
    "t5_v1_1_xxl_encoder": (
        "t5",
        {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"},
    ),
    "clip_vit_base_patch32": ("clip", {**_BASE, "patch_size": 32}),
    "clip_vit_base_patch16": ("clip", {**_BASE, "patch_size": 16}),
    "clip_vit_large_patch14": ("clip", {**_LARGE_TEXT, **_LARGE_VISION, "image_size": 224}),
    "clip_vit_large_patch14_336": ("clip", {**_LARGE_TEXT, **_LARGE_VISION, "image_size": 336}),
}  # fmt: skip
