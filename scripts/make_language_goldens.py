"""Runs the language models of transformers and writes what `flambeau.models` is compared with.

python -m scripts.make_language_goldens      # needs torch and transformers; writes tests/models/golden
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
    modeling_rope_utils,
)
from transformers.models.clip import modeling_clip
from transformers.models.llama import modeling_llama
from transformers.models.t5 import modeling_t5

from tests.models.goldens import GOLDEN, LEARNING_RATE, Spec, digest, filling, images, write_golden
from tests.models.language import GENERATED, LENGTHS, MASK, PROMPT, SIZES, STANDARD, TOKENS, TYPES, long_tokens


class Wide:
    """torch, in which the numbers that networks lower to float32 stay wide."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


for module in (modeling_clip, modeling_llama, modeling_rope_utils, modeling_t5):
    module.torch = Wide()
torch.Tensor.float = torch.Tensor.double


class WordLanguageModel(nn.Module):
    """As in https://github.com/pytorch/examples/tree/main/word_language_model."""

    def __init__(self, ntoken: int, ninp: int, nhid: int, nlayers: int, tie_weights: bool) -> None:
        super().__init__()
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers)
        self.decoder = nn.Linear(nhid, ntoken)
        if tie_weights:
            self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

    def forward(self, tokens: Any) -> Any:
        return self.decoder(self.rnn(self.encoder(tokens.T))[0]).transpose(0, 1)


NO_DROPOUT: dict[str, dict[str, Any]] = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "t5": {"dropout_rate": 0.0},
}


def gpt2(**sizes: Any) -> Any:
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))


def llama(rope_theta: float = 10000.0, rope_scaling: Any = None, **sizes: Any) -> Any:
    rope = {"rope_theta": rope_theta, **(rope_scaling or {"rope_type": "default"})}
    return LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=rope, bos_token_id=None, eos_token_id=None))


def clip(**sizes: Any) -> Any:
    text = {
        "vocab_size": sizes["vocab_size"],
        "hidden_size": sizes["text_width"],
        "intermediate_size": 4 * sizes["text_width"],
        "num_hidden_layers": sizes["text_layers"],
        "num_attention_heads": sizes["text_heads"],
        "max_position_embeddings": sizes["max_position_embeddings"],
        "eos_token_id": sizes["eos_token_id"],
    }
    vision = {
        "hidden_size": sizes["vision_width"],
        "intermediate_size": 4 * sizes["vision_width"],
        "num_hidden_layers": sizes["vision_layers"],
        "num_attention_heads": sizes["vision_heads"],
        "image_size": sizes["image_size"],
        "patch_size": sizes["patch_size"],
    }
    activation = {"hidden_act": sizes.get("hidden_act", "quick_gelu")}
    return CLIPModel(
        CLIPConfig(
            projection_dim=sizes["projection_dim"],
            text_config={**text, **activation},
            vision_config={**vision, **activation},
        )
    )


MAKERS: dict[str, Callable[..., Any]] = {
    "gpt2": gpt2,
    "llama": llama,
    "bert": lambda **sizes: BertModel(BertConfig(**sizes)),
    "bert_mlm": lambda **sizes: BertForMaskedLM(BertConfig(**sizes)),
    "t5": lambda **sizes: T5EncoderModel(T5Config(**sizes)),
    "clip": clip,
    "lstm": WordLanguageModel,
}


def tensor(array: Any) -> Any:
    return torch.from_numpy(np.asarray(array))


def outputs(family: str, net: Any) -> dict[str, Any]:
    """What a network gives: the last one is trained on."""
    tokens, mask, types = tensor(TOKENS), tensor(MASK), tensor(TYPES)
    real = mask[..., None].bool()
    if family == "lstm":
        return {"plain": net(tokens)}
    if family == "clip":
        # The padding is on the right, and behind the end of the text.
        found = net(input_ids=tokens, pixel_values=tensor(images(8)), attention_mask=mask)
        return {"text": found.logits_per_text, "masked": found.logits_per_image}
    if family == "t5":
        long = net(tensor(long_tokens())).last_hidden_state
        return {"plain": long, "masked": net(tokens, attention_mask=mask).last_hidden_state * real}
    if family == "bert":
        found = net(tokens, attention_mask=mask, token_type_ids=types)
        return {"plain": net(tokens)[1], "masked": found[0] * real}
    if family == "bert_mlm":
        return {"plain": net(tokens)[0], "masked": net(tokens, attention_mask=mask, token_type_ids=types)[0] * real}
    return {"plain": net(tokens).logits, "masked": net(tokens, attention_mask=mask).logits * real}


def generated(net: Any) -> dict[str, Any]:
    """The likeliest continuations: of whole prompts, with an end, and of prompts of several lengths."""
    prompt, options = tensor(PROMPT), {"max_new_tokens": GENERATED, "do_sample": False}
    whole = net.generate(prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **options)
    end = int(whole[0, prompt.shape[1] + 2])
    ended = net.generate(prompt, attention_mask=torch.ones_like(prompt), eos_token_id=end, pad_token_id=0, **options)
    left = torch.arange(prompt.shape[1])[None] >= prompt.shape[1] - tensor(LENGTHS)[:, None]
    padded = net.generate(prompt * left, attention_mask=left.long(), pad_token_id=0, **options)
    return {"generated": whole, "end": torch.tensor(end), "generated_to_end": ended, "generated_padded": padded}


def specs(net: Any) -> list[Spec]:
    return [Spec(name, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in net.state_dict().items()]


def record(case: str) -> None:
    family, sizes = SIZES[case]
    net = MAKERS[family](**sizes, **NO_DROPOUT.get(family.split("_")[0], {}))
    deviations = [float(p.detach().std(unbiased=False)) for p in net.parameters()]
    net = net.double()
    net.load_state_dict({spec.name: tensor(filling(*spec)) for spec in specs(net)})
    arrays: dict[str, Any] = {}
    if family in ("gpt2", "llama"):
        arrays |= {key: value.numpy() for key, value in generated(net.eval()).items()}
    found = outputs(family, net.train())
    loss = (found[next(reversed(found))] ** 2).mean()
    loss.backward()
    torch.optim.SGD(net.parameters(), lr=LEARNING_RATE).step()
    zero = torch.zeros(())
    arrays |= {key: value.detach().numpy() for key, value in found.items()}
    arrays |= {
        "initial_deviation": torch.tensor(deviations).numpy(),
        "loss": loss.detach().numpy(),
        "gradient_norms": torch.stack([(zero if p.grad is None else p.grad.norm()) for p in net.parameters()]).numpy(),
        "sums_after_step": torch.stack([t.double().sum() for t in net.state_dict().values()]).numpy(),
    }
    write_golden(f"language_{case}", specs(net), arrays)


def main() -> None:
    torch.manual_seed(0)
    for case in SIZES:
        record(case)
    with torch.device("meta"):
        digests = {name: digest(specs(MAKERS[family](**sizes))) for name, (family, sizes) in STANDARD.items()}
    (GOLDEN / "language.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
