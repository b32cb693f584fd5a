"""Decoders write what a loop without a cache writes, and leave nothing behind."""

from __future__ import annotations

import gc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import models, nn
from flambeau.models import generation
from flambeau.models.generation import Decoder

TOKENS = jnp.array([[3, 1, 4], [1, 5, 9]])


def small_gpt2(**sizes: Any) -> models.GPT2LMHeadModel:
    return models.GPT2LMHeadModel(
        **{"vocab_size": 30, "n_positions": 12, "n_embd": 8, "n_layer": 1, "n_head": 2, **sizes}
    )


def small_llama() -> models.LlamaForCausalLM:
    return models.LlamaForCausalLM(30, 8, 12, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)


def small_lstm() -> models.LSTMLanguageModel:
    return models.LSTMLanguageModel(30, 8, 6, nlayers=2, dropout=0.3)


DECODERS = [small_gpt2, small_llama, small_lstm]


def without_cache(net: Decoder, tokens: jax.Array, count: int) -> jax.Array:
    """The likeliest continuation, of which each token is found by looking at all before it anew."""
    whole = jnp.zeros((len(tokens), tokens.shape[1] + count), tokens.dtype).at[:, : tokens.shape[1]].set(tokens)
    call = fb.jit(net)
    for i in range(tokens.shape[1], whole.shape[1]):
        whole = whole.at[:, i].set(call(whole)[:, i - 1].argmax(-1))
    return whole


def sharpen(net: nn.Module) -> None:
    """Makes the logits of a network that has learnt nothing differ by more than rounding."""
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data * 10


@pytest.mark.parametrize("make", DECODERS)
def test_greedy(make: Any) -> None:
    """The cache changes nothing, dropout is off, and mode, buffers and names are what they were."""
    net = make()
    sharpen(net)
    names = list(net.state_dict())
    next(net.children()).eval()  # modes may differ from module to module
    modes = [module.training for module in net.modules()]
    found = net.generate(TOKENS, 6, temperature=0)
    assert modes == [module.training for module in net.modules()]
    assert net.cache is None and not list(net.buffers()) and names == list(net.state_dict())
    assert len(np.unique(found[:, 3:])) > 2
    np.testing.assert_array_equal(found, without_cache(net.eval(), TOKENS, 6))


@pytest.mark.parametrize("make", DECODERS)
def test_cache(make: Any) -> None:
    """Piece by piece a decoder gives what it gives for the whole; the cache has no names."""
    net = make().eval()
    tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, 30)
    call = fb.jit(net)
    whole, names = call(tokens), list(net.state_dict())
    net.make_cache(batch=2, length=9)
    pieces = [call(piece) for piece in jnp.split(tokens, [3, 4, 5, 8], axis=1)]
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), whole, atol=1e-5)
    assert names == list(net.state_dict()) and list(net.buffers())
    # The whole, the first piece, pieces of one token and of three; to an LSTM the first is like any other.
    assert len(call.compilations()) == (3 if make is small_lstm else 4)
    net.drop_cache()
    np.testing.assert_array_equal(call(tokens), whole)


@pytest.mark.parametrize("make", [small_gpt2, small_llama])
def test_padding_changes_nothing(make: Any) -> None:
    """Padding on the left, and in later pieces, is as if it were not there."""
    net = make().eval()
    call = fb.jit(net)
    tokens, mask = jnp.array([[0, 0, 3, 1, 0, 4]]), jnp.array([[0, 0, 1, 1, 0, 1]])
    plain = call(jnp.array([[3, 1, 4]]))[0]
    net.make_cache(1, 6)
    pieces = [call(tokens[:, part], mask[:, part]) for part in (slice(0, 4), slice(4, 6))]
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1)[0][jnp.array([2, 3, 5])], plain, atol=1e-5)


def test_full_cache() -> None:
    net = small_gpt2().eval()
    net.make_cache(2, 4)
    step = fb.jit(net)
    assert step(TOKENS).shape == (2, 3, 30)
    with pytest.raises(fb.ShapeError, match="at most 1 more tokens of 2 sequences"):
        net(TOKENS)
    assert not jnp.isnan(step(TOKENS[:, :1])).any()
    assert jnp.isnan(step(TOKENS[:, :1])).all()  # how many there were is not known there


def test_an_outer_cache_is_put_back() -> None:
    net = small_gpt2().eval()
    net.make_cache(2, 12)
    fb.jit(net)(TOKENS)
    kept, cache = net.cache, {name: np.asarray(buffer.data) for name, buffer in net.named_buffers()}
    first = net.generate(TOKENS, 3, temperature=0)
    assert net.cache is kept
    for name, buffer in net.named_buffers():
        np.testing.assert_array_equal(buffer.data, cache[name])
    net.drop_cache()
    np.testing.assert_array_equal(first, net.generate(TOKENS, 3, temperature=0))


def test_samples_repeat_with_the_seed() -> None:
    net = small_gpt2()
    fb.manual_seed(1)
    first, second = (net.generate(TOKENS, 9) for _ in range(2))
    assert (first != second).any()
    fb.manual_seed(1)
    np.testing.assert_array_equal(first, net.generate(TOKENS, 9))


class Fixed(Decoder):
    """Gives the same logits always."""

    def __init__(self, logits: Any) -> None:
        super().__init__()
        self.register_parameter("logits", nn.Parameter(jnp.asarray(logits, jnp.float32)))

    def forward(self, tokens: jax.Array, attention_mask: Any = None, logits_to_keep: int = 0) -> jax.Array:
        length = logits_to_keep or tokens.shape[1]
        return jnp.broadcast_to(self.logits, (len(tokens), length, len(self.logits)))

    def new_cache(self, batch: int, length: int) -> nn.Module:
        return nn.Identity()


PROBABILITIES = np.array([0.05, 0.4, 0.15, 0.1, 0.3])


@pytest.fixture(scope="module")
def fixed() -> Fixed:
    return Fixed(np.log(PROBABILITIES))


def test_eager_and_compiled_draw_the_same(fixed: Fixed) -> None:
    net = fixed
    fb.manual_seed(2)
    compiled = net.generate(TOKENS, 9, top_k=4, top_p=0.9)
    state = fb.get_rng_state()
    fb.manual_seed(2)
    with fb.disable_jit():
        np.testing.assert_array_equal(compiled, net.generate(TOKENS, 9, top_k=4, top_p=0.9))
    np.testing.assert_array_equal(state, fb.get_rng_state())
    assert net.cache is None and net.training


@pytest.mark.parametrize(
    ("options", "likely"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [1, 4]),
        ({"top_k": 50}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.6}, [1, 4]),
        ({"top_p": 0.75}, [1, 2, 4]),
        ({"top_p": 0.01}, [1]),
        ({"top_k": 3, "top_p": 0.8}, [1, 4]),  # of the three, which have 0.85 together, two have more than 0.8 of it
        ({"temperature": 0.5}, [0, 1, 2, 3, 4]),
    ],
)
def test_distribution(fixed: Fixed, options: dict[str, Any], likely: list[int]) -> None:
    """Tokens come as often as they should."""
    found = np.asarray(fixed.generate(jnp.zeros((50, 1), int), 200, **options))[:, 1:]
    expected = np.zeros(5)
    expected[likely] = PROBABILITIES[likely] ** (1 / options.get("temperature", 1.0))
    expected /= expected.sum()
    share = np.bincount(found.ravel(), minlength=5) / found.size
    assert (share[expected == 0] == 0).all()
    # Five standard deviations of the share of 10,000 draws.
    np.testing.assert_array_less(np.abs(share - expected), 5 * np.sqrt(expected * (1 - expected) / found.size) + 1e-9)


def test_ends() -> None:
    """Behind the end stands padding, by default the end itself; one of several ends is enough; others go on."""
    net = Fixed(np.log(PROBABILITIES))
    fb.manual_seed(0)
    found = np.asarray(net.generate(jnp.zeros((40, 1), int), 12, eos_token_id=[2, 3], pad_token_id=7))[:, 1:]
    lengths = []
    for row in found:
        ends = np.flatnonzero(np.isin(row, [2, 3]))
        length = ends[0] + 1 if len(ends) else len(row)
        assert (row[length:] == 7).all() and (row[:length] != 7).all()
        lengths.append(length)
    assert len(set(lengths)) > 3
    certain = Fixed([0.0, 0.0, 90.0])
    assert certain.generate(jnp.zeros((1, 1), int), 4, eos_token_id=2).tolist() == [[0, 2, 2, 2, 2]]
    # All have ended after one draw, and no further number is drawn.
    fb.manual_seed(3)
    certain.generate(jnp.zeros((1, 1), int), 1, eos_token_id=2)
    state = fb.get_rng_state()
    fb.manual_seed(3)
    certain.generate(jnp.zeros((1, 1), int), 9, eos_token_id=2)
    np.testing.assert_array_equal(state, fb.get_rng_state())


def test_one_program_for_all_temperatures() -> None:
    net = small_gpt2()
    for temperature, top_p in [(1.0, 0.9), (0.7, 0.5), (1, 1.0)]:
        net.generate(TOKENS, 4, temperature, top_p=top_p)
        net.eval().train()
    assert generation._compiled(net).compilations() == ["first call"]


def test_programs_go_with_their_network() -> None:
    net = small_gpt2()
    net.generate(TOKENS, 1)
    gc.collect()  # networks of other tests
    before = len(generation._programs)
    del net
    gc.collect()
    assert len(generation._programs) == before - 1


def test_in_a_compiled_function() -> None:
    net = small_gpt2()
    expected = net.generate(TOKENS, 4, temperature=0)

    @fb.jit
    def write(tokens: jax.Array) -> jax.Array:
        return net.generate(tokens, 4, temperature=0)

    np.testing.assert_array_equal(write(TOKENS), expected)
    assert net.cache is None and net.training


def test_half_precision() -> None:
    net = small_gpt2().to(jnp.bfloat16)
    found = net.generate(TOKENS, 4, top_p=0.9)
    assert found.dtype == TOKENS.dtype and ((found >= 0) & (found < 30)).all()


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (TOKENS[0], {}, r"tokens \(N, L\)"),
        (TOKENS[:, :0], {}, r"L > 0"),
        (TOKENS / 2, {}, "integer tokens, got float"),
        (TOKENS, {"max_new_tokens": 0}, "max_new_tokens > 0, got 0"),
        (
            TOKENS,
            {"temperature": -1.0, "top_k": 0, "top_p": 0.0},
            "0 <= temperature < inf, got -1.0; top_k > 0, got 0; 0 < top_p",
        ),
        (TOKENS, {"temperature": float("nan")}, "temperature < inf, got nan"),
        (TOKENS, {"temperature": jnp.inf}, "temperature < inf, got inf"),
        (TOKENS, {"top_p": float("nan")}, "top_p <= 1, got nan"),
        (TOKENS, {"attention_mask": jnp.array([[1, 1, 0], [1, 1, 1]])}, "padding on the left"),
        (TOKENS, {"max_new_tokens": 10}, "at most 12 tokens"),
        (TOKENS, {"attention_mask": jnp.ones((2, 2))}, "of the tokens' shape"),
        (TOKENS, {"attention_mask": [1, 1, 1]}, r"attention_mask of the tokens' shape \[2, 3\], got \[3\]"),
        (
            TOKENS,
            {"attention_mask": [[1, 1, 1], [0, 0, 0]]},
            "a token in each row of attention_mask, got none in row 1",
        ),
    ],
)
def test_mistakes(tokens: jax.Array, options: dict[str, Any], message: str) -> None:
    net = small_gpt2()
    with pytest.raises((ValueError, fb.DtypeError), match=message):
        net.generate(tokens, **{"max_new_tokens": 2, **options})
    assert net.cache is None and net.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 2.5}, "top_k to be an int, got 2.5"),
        ({"max_new_tokens": 2.5}, "max_new_tokens to be an int, got 2.5"),
        ({"max_new_tokens": None}, "max_new_tokens to be an int, got None"),
        ({"temperature": None}, "temperature to be a number, got None"),
        ({"temperature": [1.0, 2.0]}, r"temperature to be a number, got \[1.0, 2.0\]"),
        ({"top_p": "0.5"}, "top_p to be a number, got '0.5'"),
        ({"eos_token_id": 2.5}, "eos_token_id to be an int, got 2.5"),
        ({"eos_token_id": [1, 2.5]}, "eos_token_id to be an int, got 2.5"),
        ({"pad_token_id": 2.5}, "pad_token_id to be an int, got 2.5"),
    ],
)
def test_options_of_another_type(fixed: Fixed, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        fixed.generate(TOKENS, **{"max_new_tokens": 2, **options})


def test_numbers_of_other_libraries(fixed: Fixed) -> None:
    def drawn(integer: Any, number: Any) -> jax.Array:
        fb.manual_seed(4)
        share, end, pad = number(0.75), integer(2), integer(9)
        return fixed.generate(
            TOKENS.tolist(), integer(5), number(0.5), integer(3), share, eos_token_id=end, pad_token_id=pad
        )

    expected = drawn(int, float)
    np.testing.assert_array_equal(drawn(np.int64, np.float32), expected)
    np.testing.assert_array_equal(drawn(jnp.int32, jnp.float32), expected)
    assert fixed.generate(TOKENS, 2, jnp.float32(0)).tolist() == [[3, 1, 4, 1, 1], [1, 5, 9, 1, 1]]


def test_a_mask_may_be_a_list() -> None:
    net, mask = small_gpt2(), [[0, 1, 1], [1, 1, 1]]
    sharpen(net)
    expected = net.generate(TOKENS, 4, 0, attention_mask=jnp.array(mask))
    np.testing.assert_array_equal(net.generate(TOKENS, 4, 0, attention_mask=mask), expected)
    assert (expected[0] != net.generate(TOKENS, 4, 0)[0]).any()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"])
def test_narrow_prompts(dtype: str) -> None:
    """The tokens that follow need not fit into the prompt's dtype."""
    last = 70_000
    net = Fixed(jnp.zeros(last + 1).at[last].set(90.0))
    found = net.generate(np.array([[5]], dtype), 3, eos_token_id=last, pad_token_id=300)
    assert found.tolist() == [[5, last, 300, 300]]
    assert found.dtype == (dtype if dtype.endswith(("32", "64")) else "int32")


@pytest.mark.parametrize("make", DECODERS)
@pytest.mark.parametrize("token", [-1, 30])
def test_unknown_tokens(make: Any, token: int) -> None:
    net = make()
    with pytest.raises(IndexError, match=rf"^expected indices in \[0, 29\], got {token}$"):
        net.generate(TOKENS.at[1, 2].set(token), 2)
    assert net.cache is None and net.training


def test_options_known_at_run_time_only() -> None:
    """Arguments of a compiled function draw what numbers draw, down to 0; what the program depends on raises."""
    net = small_gpt2()
    sharpen(net)
    write = fb.jit(lambda net, tokens, temperature, top_p: net.generate(tokens, 6, temperature, top_p=top_p))
    for temperature, top_p in [(0.5, 0.9), (2.0, 1.0), (0.0, 1.0)]:
        fb.manual_seed(5)
        found = write(net, TOKENS, temperature, top_p)
        fb.manual_seed(5)
        np.testing.assert_array_equal(found, net.generate(TOKENS, 6, temperature, top_p=top_p))
    assert len(write.compilations()) == 1
    for name in ("max_new_tokens", "top_k"):
        with pytest.raises(TypeError, match=f"expected {name} to be known while compiling.*static_argnames"):
            fb.jit(lambda count, name=name: net.generate(TOKENS, **{"max_new_tokens": 2, name: count}))(3)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-42])
def test_no_temperature_is_too_low(fixed: Fixed, temperature: float) -> None:
    assert fixed.generate(TOKENS, 3, temperature)[:, 3:].tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("make", "dtype"), [(small_gpt2, jnp.bfloat16), (small_llama, jnp.float16), (small_lstm, jnp.bfloat16)]
)
def test_autocast(make: Any, dtype: Any) -> None:
    """Keys and values that autocast lowered are kept and read; logits and tokens are those without a cache."""
    net = make().eval()
    sharpen(net)
    call, tokens = fb.jit(net), jax.random.randint(jax.random.key(0), (2, 6), 0, 30)
    with fb.autocast(dtype):
        whole = call(tokens)
        net.make_cache(batch=2, length=6)
        pieces = [call(piece) for piece in jnp.split(tokens, [3, 4], axis=1)]
        net.drop_cache()
        found = net.generate(tokens[:, :3], 3, temperature=0)
        scores = call(found)[:, 2:-1].astype(jnp.float32)
    tolerance = 8 * float(jnp.finfo(dtype).eps) * float(jnp.abs(whole).max())
    joined = jnp.concatenate(pieces, axis=1)
    assert joined.dtype == whole.dtype == dtype
    np.testing.assert_allclose(joined.astype(jnp.float32), whole.astype(jnp.float32), rtol=0, atol=tolerance)
    chosen = jnp.take_along_axis(scores, found[:, 3:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, scores.max(axis=-1), rtol=0, atol=tolerance)


def test_lstm_goes_on_where_it_ended() -> None:
    """The cache is what `repackage_hidden` of PyTorch's example keeps, and gradients end at it."""
    net = small_lstm().eval()
    pieces = jnp.split(jax.random.randint(jax.random.key(1), (2, 8), 0, 30), 2, axis=1)
    net.make_cache(2, 8)
    grad = fb.jit(lambda tokens: fb.grad(lambda net: net(tokens).sum())(net))
    grad(pieces[0])
    hidden, cell = (buffer.data for buffer in net.buffers())
    kept = dict(grad(pieces[1]))
    net.drop_cache()
    again = dict(
        fb.jit(fb.grad(lambda net: net.decoder(net.rnn(net.encoder(pieces[1]), (hidden, cell))[0]).sum()))(net)
    )
    for name, value in kept.items():
        np.testing.assert_allclose(value, again[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(fb.ShapeError, match="expected 3 sequences"):
        net.make_cache(3, 8)
        net(pieces[0])
    with pytest.raises(ValueError, match="no attention_mask"):
        net(pieces[0], jnp.ones((2, 4)))
