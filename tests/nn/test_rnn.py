"""Recurrent layers beyond their rows in the table: packed sequences, dropout between layers, states, settings, mistakes."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

NAMES = ["RNN", "LSTM", "GRU"]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def twins(torch: Any, name: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """A layer of float64 and its torch twin."""
    theirs = getattr(torch.nn, name)(*args, **kwargs).double()
    ours = getattr(nn, name)(*args, **kwargs).double()
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    return ours, theirs


def assert_close(ours: Any, theirs: Any) -> None:
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(ours, np.asarray(theirs.detach()), rtol=1e-9, atol=1e-9)


def states(name: str, layers: int, batch: int, hidden: int, out: int) -> list[np.ndarray]:
    return [normal(layers, batch, size, seed=size) for size in ([out, hidden] if name == "LSTM" else [out])]


def as_argument(name: str, parts: list[Any]) -> Any:
    return tuple(parts) if name == "LSTM" else parts[0]


def leaves_of(output: Any) -> list[Any]:
    packed, state = output
    return [packed.data, *(state if isinstance(state, tuple) else (state,))]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lengths", [[4, 4, 2, 1], [1, 3, 2, 3]], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("given_state", [False, True], ids=["zeros", "state"])
def test_packed_sequences(torch: Any, name: str, lengths: list[int], given_state: bool) -> None:
    """Outputs, last states and gradients of packed sequences, both ways, through two layers."""
    special = {"proj_size": 2} if name == "LSTM" else {}
    ours, theirs = twins(torch, name, 3, 4, 2, bidirectional=True, **special)
    x, parts = normal(max(lengths), len(lengths), 3), states(name, 4, len(lengths), 4, 2 if special else 4)
    enforce_sorted = lengths == sorted(lengths, reverse=True)

    tensors = [torch.tensor(part, requires_grad=True) for part in parts]
    tx = torch.tensor(x, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(tx, lengths, enforce_sorted=enforce_sorted)
    expected = leaves_of(theirs(packed, as_argument(name, tensors) if given_state else None))
    wanted = [*theirs.parameters(), tx, *(tensors if given_state else [])]
    found = torch.autograd.grad(sum((leaf * torch.tensor(normal(*leaf.shape))).sum() for leaf in expected), wanted)

    def loss(net: Any, x: Any, parts: list[Any]) -> Any:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
        output = net(packed, as_argument(name, parts) if given_state else None)
        assert isinstance(output[0], PackedSequence)
        return sum(jnp.sum(leaf * normal(*leaf.shape)) for leaf in leaves_of(output)), leaves_of(output)

    arguments = (ours, jnp.asarray(x), list(map(jnp.asarray, parts)))
    (_, mine), grads = fb.jit(fb.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arguments)
    for a, b in zip(mine, expected, strict=True):
        assert_close(a, b)
    derivatives = [*(grads[0][key] for key, _ in theirs.named_parameters()), grads[1]]
    for a, b in zip([*derivatives, *(grads[2] if given_state else [])], found, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_packed_is_each_sequence_alone(name: str) -> None:
    """No sequence of a packed batch knows of the others, nor of what would be padding."""
    fb.manual_seed(1)
    net = getattr(nn, name)(2, 3, bidirectional=True).double()
    sequences = [normal(length, 2, seed=i) for i, length in enumerate([1, 3, 3])]
    output, state = net(pack_sequence(sequences, enforce_sorted=False))
    alone = [net(jnp.asarray(sequence)) for sequence in sequences]
    for mine, (theirs, _) in zip(nn.utils.rnn.unpack_sequence(output), alone, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts, 1), *(last for _, last in alone))
    for mine, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(stacked), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_packed_argument_of_jit() -> None:
    """It is an argument like any other, with its order as data; other batch sizes are another structure."""
    net, compiled = nn.GRU(2, 3), []

    @fb.jit
    def run(net: Any, packed: Any) -> Any:
        compiled.append(packed.batch_sizes.tolist())
        return net(packed)

    def check(lengths: list[int]) -> None:
        packed = pack_sequence([np.float32(normal(n, 2)) for n in lengths], enforce_sorted=False)
        output, state = run(net, packed)
        eager, eager_state = net(packed)
        assert isinstance(output.batch_sizes, np.ndarray)
        np.testing.assert_array_equal(output.batch_sizes, packed.batch_sizes)
        np.testing.assert_array_equal(output.unsorted_indices, packed.unsorted_indices)
        np.testing.assert_allclose(output.data, eager.data, atol=1e-6)
        np.testing.assert_allclose(state, eager_state, atol=1e-6)

    check([1, 3, 2])
    check([3, 2, 1])
    assert compiled == [[3, 2, 1]]
    check([3, 3])
    assert compiled == [[3, 2, 1], [2, 2, 2]]


@pytest.mark.parametrize("name", NAMES)
def test_dropout_comes_between_layers(name: str) -> None:
    """With p = 1 the second layer reads zeros, with p in between another draw each time; the first layer is untouched."""
    x, kinds = jnp.asarray(normal(4, 2, 3)), getattr(nn, name)
    both = kinds(3, 3, 2, dropout=1.0).double()
    single = kinds(3, 3).double()
    single.load_state_dict({key[:-1] + "0": value for key, value in both.state_dict().items() if key.endswith("1")})
    np.testing.assert_allclose(both(x)[0], single(jnp.zeros_like(x))[0])

    half = kinds(3, 3, 2, dropout=0.5).double()
    first, second = half(x), half(x)
    assert np.all(jax.tree.leaves(first[1])[0][0] == jax.tree.leaves(second[1])[0][0])
    assert np.any(first[0] != second[0])
    half.eval()
    np.testing.assert_array_equal(half(x)[0], half(x)[0])


def test_dropout_is_the_same_compiled() -> None:
    """Under jit and grad the default generator advances as it does eagerly, also for packed sequences."""
    net = nn.LSTM(2, 3, 3, dropout=0.4).double()

    def loss(net: Any, packed: Any) -> Any:
        return jnp.sum(net(packed)[0].data ** 2)

    step, packed = fb.jit(fb.value_and_grad(loss)), pack_sequence([normal(3, 2), normal(2, 2)])
    fb.manual_seed(4)
    eager = [loss(net, packed) for _ in range(3)]
    fb.manual_seed(4)
    compiled = [step(net, packed)[0] for _ in range(3)]
    np.testing.assert_allclose(compiled, eager)
    assert len({float(value) for value in eager}) == 3


@pytest.mark.parametrize("name", NAMES)
def test_large_batches(name: str) -> None:
    """A CPU computes them in another form, step by step, with the results and gradients of the small ones in them."""
    net = getattr(nn, name)(2, 3, 2, bidirectional=True).double()
    sequences = [normal(length, 2, seed=i) for i, length in enumerate([4, 4, 3, 4, 1, 2, 4, 3, 4])]

    def loss(net: Any, sequences: list[Any]) -> Any:
        packed = net(pack_sequence(sequences, enforce_sorted=False))[0]
        outputs = [
            *nn.utils.rnn.unpack_sequence(packed),
            *jnp.unstack(net(jnp.stack([sequences[0]] * 9, 1))[0], axis=1),
        ]
        return sum(jnp.sum(output**2) for output in outputs), outputs[: len(sequences)]

    (_, whole), grads = fb.jit(fb.value_and_grad(loss, has_aux=True))(net, sequences)
    call = fb.jit(net)
    for output, sequence in zip(whole, sequences, strict=True):
        np.testing.assert_allclose(output, call(jnp.asarray(sequence))[0], rtol=1e-12)

    def one_by_one(net: Any, sequences: list[Any]) -> Any:
        alone = [jnp.sum(net(jnp.asarray(sequence))[0] ** 2) for sequence in sequences]
        return sum(alone) + 9 * alone[0]

    for key, expected in fb.jit(fb.grad(one_by_one))(net, sequences).items():
        np.testing.assert_allclose(grads[key], expected, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_empty_batch(name: str) -> None:
    output, state = getattr(nn, name)(2, 3, 2)(jnp.zeros((4, 0, 2), np.float32))
    assert output.shape == (4, 0, 3)
    assert {part.shape for part in jax.tree.leaves(state)} == {(2, 0, 3)}


def test_eager_calls_compile_once(caplog: pytest.LogCaptureFixture) -> None:
    """A call outside of any transform does not compile the time steps again."""
    net, x = nn.GRU(2, 3), jnp.ones((3, 1, 2), np.float32)
    net(x)
    with jax.log_compiles():
        net(x)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


def test_all_weights_and_flatten_parameters() -> None:
    net = nn.LSTM(4, 3, 2, bidirectional=True, proj_size=2)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = [[names[id(parameter)] for parameter in layer] for layer in net.all_weights]
    kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"]
    suffixes = ["l0", "l0_reverse", "l1", "l1_reverse"]
    assert found == [[f"{kind}_{suffix}" for kind in kinds] for suffix in suffixes]
    assert net.flatten_parameters() is None
    assert len(nn.GRU(4, 3, bias=False).all_weights[0]) == 2


@pytest.mark.parametrize(
    "make", [lambda: nn.LSTM(5, 400, proj_size=3), lambda: nn.GRUCell(5, 400)], ids=["layer", "cell"]
)
def test_initial_values(make: Any) -> None:
    """U(-k, k) with k = 1/√hidden_size for every parameter, whatever its fan-in."""
    fb.manual_seed(0)
    net, bound = make(), np.float32(1 / 20)
    for values in net.state_dict().values():
        assert 0.95 * bound < np.abs(values).max() <= bound
        assert abs(values.mean()) < 5 * bound / np.sqrt(3 * values.size)
        assert abs(values.std() * np.sqrt(3) / bound - 1) < 6 / np.sqrt(values.size)
    before = dict(net.state_dict())
    net.reset_parameters()
    assert all((before[key] != value).any() for key, value in net.state_dict().items())


x = np.zeros((5, 3, 10), np.float32)
MISTAKES: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "features": (nn.LSTM(4, 3), (x,), "expected input (T, N, 4) or (T, 4), got float32[5, 3, 10]"),
    "batch first": (nn.LSTM(4, 3, batch_first=True), (x,), "expected input (N, T, 4) or (T, 4)"),
    "rank": (nn.GRU(10, 3), (x[None],), "expected input (T, N, 10) or (T, 10), got float32[1, 5, 3, 10]"),
    "no time step": (nn.GRU(10, 3), (x[:0],), "expected sequences of one time step or more, got none"),
    "state": (nn.GRU(10, 3), (x, x), "expected hx (1, 3, 3), got float32[5, 3, 10]"),
    "state of no batch": (nn.RNN(10, 3), (x[0], x), "expected hx (1, 3), got float32[5, 3, 10]"),
    "both states": (
        nn.LSTM(10, 4, 2, proj_size=2),
        (x, (x, x)),
        "expected h_0 (2, 3, 2), got float32[5, 3, 10]; expected c_0 (2, 3, 4), got float32[5, 3, 10]",
    ),
    "no pair": (nn.LSTM(10, 3), (x, (x,)), "expected hx to be a pair of h_0 (1, 3, 3) and c_0 (1, 3, 3), got 1 arrays"),
    "dtype": (
        nn.GRU(10, 3),
        (x.astype(np.float16),),
        "expected weight of dtype float16 like input, got float32[9, 10]",
    ),
    "packed": (
        nn.GRU(4, 3),
        (pack_sequence([x[0]]),),
        "expected input of packed sequences (*, 4), got float32[3, 10]",
    ),
    "packed state": (
        nn.GRU(10, 3),
        (pack_sequence([x[0], x[1]], enforce_sorted=False), np.zeros((1, 1, 3), np.float32)),
        "expected hx (1, 2, 3), got float32[1, 1, 3]",
    ),
    "cell": (nn.LSTMCell(4, 3), (x[0],), "expected input (N, 4) or (4,), got float32[3, 10]"),
    "cell's state": (nn.RNNCell(10, 3), (x[0], x[1]), "expected hx (3, 3), got float32[3, 10]"),
    "nonlinearity": (nn.RNNCell(10, 3, True, "sine"), (x[0],), "expected nonlinearity 'tanh' or 'relu', got 'sine'"),  # pyright: ignore
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str) -> None:
    net, arguments, message = MISTAKES[mistake]
    with pytest.raises(RuntimeError, match=re.escape(message)):
        net(*jax.tree.map(jnp.asarray, arguments))


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((3, 0), {}, ValueError, "hidden_size must be greater than zero, got 0"),
        ((0, 3, 0), {}, ValueError, "input_size must be greater than zero, got 0; num_layers must be"),
        ((3, 4), {"proj_size": 4}, ValueError, "expected proj_size of 0, or smaller than hidden_size, got 4"),
        ((3, 4), {"proj_size": -1}, ValueError, "expected proj_size of 0, or smaller than hidden_size, got -1"),
        ((3, 4, 2), {"dropout": 1.5}, ValueError, "expected dropout to be a number in [0, 1], got 1.5"),
        ((3, 4, 2), {"dropout": True}, ValueError, "expected dropout to be a number in [0, 1], got True"),
        ((3, 4), {"bias": 1}, TypeError, "bias should be of type bool, got: int"),
        ((3, 4), {"batch_first": "yes"}, TypeError, "batch_first should be of type bool, got: str"),
        ((3.0, 4), {}, TypeError, "input_size should be of type int, got: float"),
    ],
)
def test_settings(arguments: Any, settings: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        nn.LSTM(*arguments, **settings)


def test_more_settings() -> None:
    with pytest.raises(ValueError, match="expected mode to be one of RNN_TANH, RNN_RELU, LSTM, GRU, got 'TREE'"):
        nn.RNNBase("TREE", 3, 4)
    with pytest.raises(ValueError, match="expected nonlinearity 'tanh' or 'relu', got 'sine'"):
        nn.RNN(3, 4, nonlinearity="sine")  # pyright: ignore[reportArgumentType]
    with pytest.warns(UserWarning, match="num_layers is 1"):
        nn.GRU(3, 4, dropout=0.5)
    with pytest.raises(NotImplementedError):
        nn.RNNBase("GRU", 3, 4)(jnp.zeros((2, 3), np.float32))
