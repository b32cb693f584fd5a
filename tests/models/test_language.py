"""The language models are those of transformers: names, outputs, gradients, a step of training, and the tokens they write.

What they are compared with was written by `scripts/make_language_goldens.py`; no other package is needed here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import models, nn
from tests.models.goldens import LEARNING_RATE, Spec, digest, filling, images, read_digests, read_golden
from tests.models.language import GENERATED, LENGTHS, MASK, PROMPT, SIZES, STANDARD, TOKENS, TYPES, long_tokens

MAKERS = {
    "gpt2": models.GPT2LMHeadModel,
    "llama": models.LlamaForCausalLM,
    "bert": models.BertModel,
    "bert_mlm": models.BertForMaskedLM,
    "t5": models.T5EncoderModel,
    "clip": models.CLIPModel,
    "lstm": models.LSTMLanguageModel,
}
NO_DROPOUT: dict[str, dict[str, Any]] = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "t5": {"dropout_rate": 0.0},
    "lstm": {"dropout": 0.0},
}
DECODERS = [case for case, (family, _) in SIZES.items() if family in ("gpt2", "llama")]


def made(case: str) -> nn.Module:
    """The network of a case, filled as the other one was."""
    family, sizes = SIZES[case]
    try:
        fb.set_default_dtype(jnp.float64)
        with fb.init_empty():
            net = MAKERS[family](**sizes, **NO_DROPOUT.get(family.split("_")[0], {}))
    finally:
        fb.set_default_dtype(jnp.float32)
    net.load_state_dict({spec.name: filling(*spec) for spec in specs(net)})
    return net


def specs(net: nn.Module) -> list[Spec]:
    return [Spec(name, tuple(array.shape), str(array.dtype)) for name, array in net.state_dict(keep_vars=True).items()]


@cache
def golden(case: str) -> tuple[list[str], dict[str, np.ndarray]]:
    return read_golden(f"language_{case}")


def outputs(family: str, net: nn.Module, whole: bool) -> dict[str, Any]:
    """What is compared; the last one is trained on. With `whole`, that of sequences without padding too."""
    tokens, mask, types = jnp.asarray(TOKENS), jnp.asarray(MASK), jnp.asarray(TYPES)
    real = mask[..., None]
    if family == "lstm":
        return {"plain": net(tokens)}
    if family == "clip":
        per_image, per_text = net(tokens, jnp.asarray(images(8)), mask)
        return {"text": per_text, "masked": per_image}
    found: dict[str, Any] = {}
    if whole:
        plain = net(jnp.asarray(long_tokens()) if family == "t5" else tokens)
        found["plain"] = plain[1] if family == "bert" else plain
    masked = net(tokens, mask, types) if family.startswith("bert") else net(tokens, mask)
    return {**found, "masked": (masked[0] if family == "bert" else masked) * real}


@pytest.mark.parametrize("case", SIZES)
def test_names(case: str) -> None:
    family, sizes = SIZES[case]
    with fb.init_empty():
        net = MAKERS[family](**sizes)
    ours = [f"{spec.name} {list(spec.shape)}" for spec in specs(net)]
    assert ours == [line.rpartition(" ")[0] for line in golden(case)[0]]


@pytest.mark.parametrize("case", ["gpt2_untied", "llama", "bert_mlm", "t5_gated", "clip", "lstm"])
def test_first_weights(case: str) -> None:
    """The first weights are spread as theirs: the deviations are of few numbers, so only nearly the same."""
    theirs = golden(case)[1]["initial_deviation"]
    family, sizes = SIZES[case]
    with fb.init_empty():
        net = MAKERS[family](**sizes)
    ours = np.array([np.std(p.data) for p in net.materialize().parameters()])
    assert ((ours == 0) == (theirs == 0)).all()
    large = theirs > 0
    np.testing.assert_allclose(ours[large], theirs[large], rtol=0.75)
    np.testing.assert_allclose(np.log(ours[large] / theirs[large]).mean(), 0, atol=0.1)


@pytest.mark.parametrize("case", SIZES)
def test_parity(case: str) -> None:
    """Outputs, the loss, the gradient of each parameter, and the state after a step."""
    theirs = golden(case)[1]
    family, net = SIZES[case][0], made(case)

    def loss_of(net: nn.Module) -> tuple[Any, Any]:
        found = outputs(family, net, whole=case == family)
        return (found[next(reversed(found))] ** 2).mean(), found

    optimizer = fb.optim.SGD(net.parameters(), lr=LEARNING_RATE)

    @fb.jit
    def step() -> Any:
        (loss, found), grads = fb.value_and_grad(loss_of, has_aux=True)(net)
        optimizer.step(grads)
        return loss, found, dict(grads)

    loss, found, grads = step()
    for name, array in found.items():
        np.testing.assert_allclose(array, theirs[name], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(loss, theirs["loss"], rtol=1e-9)
    norms = [np.linalg.norm(np.asarray(grads[name])) for name, _ in net.named_parameters()]
    np.testing.assert_allclose(norms, theirs["gradient_norms"], rtol=1e-7, atol=1e-12)
    sums = [np.sum(array) for array in net.state_dict().values()]
    np.testing.assert_allclose(sums, theirs["sums_after_step"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", DECODERS)
def test_generated(case: str) -> None:
    """The likeliest continuations are theirs, token by token: of whole prompts, with an end, and padded on the left."""
    theirs, net = golden(case)[1], made(case)
    length = theirs["generated_to_end"].shape[1]  # theirs stop where all have ended

    def generate(real: np.ndarray, end: int) -> np.ndarray:
        mask = jnp.asarray(real.astype(int))
        return np.asarray(
            net.generate(PROMPT * real, GENERATED, 0, attention_mask=mask, eos_token_id=end, pad_token_id=0)
        )

    nowhere = 99
    whole = np.ones_like(PROMPT, bool)
    np.testing.assert_array_equal(generate(whole, nowhere), theirs["generated"])
    ended = generate(whole, int(theirs["end"]))
    np.testing.assert_array_equal(ended[:, :length], theirs["generated_to_end"])
    assert not ended[:, length:].any()
    left = np.arange(PROMPT.shape[1]) >= PROMPT.shape[1] - LENGTHS[:, None]
    np.testing.assert_array_equal(generate(left, nowhere), theirs["generated_padded"])


def test_gpt2_published(tmp_path: Path) -> None:
    """As the public file has it: no prefix, no head, and the causal masks, which older networks kept."""
    net = made("gpt2")
    entries = {name.removeprefix("transformer."): np.asarray(a) for name, a in net.state_dict().items()}
    del entries["lm_head.weight"]
    entries |= {"h.0.attn.bias": np.ones((1, 1, 16, 16)), "h.1.attn.masked_bias": np.asarray(-1e4)}
    _, sizes = SIZES["gpt2"]
    fb.save(entries, tmp_path / "model.safetensors")
    _check_same(net, models.create("gpt2_small", weights=tmp_path / "model.safetensors", **sizes))
    body = models.GPT2Model(**sizes)
    for given in (entries, net.state_dict()):
        body.load_state_dict(given)
        _check_same(net.transformer, body)


def test_llama_published() -> None:
    """A tied head is stored once, and old files hold the rotations' frequencies."""
    net = made("llama3")
    entries = {name: np.asarray(array) for name, array in net.state_dict().items()}
    del entries["lm_head.weight"]
    entries["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4)
    _check_same(net, models.create("llama3_2_1b", weights=entries, **SIZES["llama3"][1]))


def test_bert_published() -> None:
    """The public files are of the network that was pretrained with two heads, and come from TensorFlow."""
    net, head = made("bert"), made("bert_mlm")
    entries = {f"bert.{name}": np.asarray(array) for name, array in net.state_dict().items()}
    entries |= {name: np.asarray(array) for name, array in head.state_dict().items() if name.startswith("cls.")}
    entries |= {"cls.seq_relationship.weight": np.ones((2, 12)), "bert.embeddings.position_ids": np.arange(10)[None]}
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in entries.items()
        if not name.startswith("cls.predictions.decoder")
    }
    _check_same(net, models.create("bert_base_uncased", weights=old, **SIZES["bert"][1]))
    masked = models.BertForMaskedLM(**SIZES["bert"][1])
    masked.load_state_dict(old)
    _check_same(net.encoder, masked.bert.encoder)
    bias = masked.get_parameter("cls.predictions.decoder.bias")
    np.testing.assert_allclose(bias.data, old["cls.predictions.bias"], rtol=1e-6)
    assert masked.get_parameter(
        "cls.predictions.decoder.weight"
    ) is masked.bert.embeddings.word_embeddings.get_parameter("weight")


def test_t5_and_clip_published() -> None:
    """Files of the whole T5 hold its decoder, and old ones of CLIP the positions."""
    net = made("t5")
    entries = {name: np.asarray(array) for name, array in net.state_dict().items()}
    del entries["encoder.embed_tokens.weight"]
    entries |= {"decoder.final_layer_norm.weight": np.ones(8), "lm_head.weight": np.ones((36, 8))}
    _check_same(net, models.create("t5_small_encoder", weights=entries, **SIZES["t5"][1]))
    net = made("clip")
    entries = {name: np.asarray(array) for name, array in net.state_dict().items()}
    entries["text_model.embeddings.position_ids"] = np.arange(8)[None]
    _check_same(net, models.create("clip_vit_base_patch32", weights=entries, **SIZES["clip"][1]))


@pytest.mark.parametrize("case", ["gpt2", "llama", "bert_mlm", "t5", "clip"])
def test_what_does_not_fit_is_named(case: str) -> None:
    net = made(case)
    entries = dict(net.state_dict())
    last = next(name for name, array in entries.items() if array.ndim == 1)
    entries[f"{last}_other"] = entries.pop(last)
    with pytest.raises(fb.StateDictError) as caught:
        net.load_state_dict(entries)
    assert f'Missing key(s) in state_dict: "{last}"' in str(caught.value)
    assert f'Unexpected key(s) in state_dict: "{last}_other"' in str(caught.value)


def _check_same(ours: nn.Module, other: nn.Module) -> None:
    theirs = other.state_dict()
    for name, array in ours.state_dict().items():
        np.testing.assert_allclose(theirs[name], array, rtol=1e-6)


@pytest.mark.parametrize("name", STANDARD)
def test_standard_sizes(name: str) -> None:
    with fb.init_empty():
        net = models.create(name)
    assert digest(specs(net)) == read_digests("language")[name]
