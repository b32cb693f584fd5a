"""Attributes: what reading and assigning arrays, parameters, lists and the rest does, and what ties."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau._errors import ShapeError, StateError
from flambeau.core.cell import Parameter, owner_of
from tests.core.twins import Library, agree, ours, plain

EAGER_AND_COMPILED = pytest.mark.parametrize("wrap", [lambda f: f, fb.jit], ids=["eager", "compiled"])


# -- parameters ---------------------------------------------------------------------------------------------------------------


def test_reading_gives_arrays_and_looking_up_gives_parameters() -> None:
    linear = nn.Linear(2, 3)
    assert isinstance(linear.weight, jax.Array) and not isinstance(linear.weight, Parameter)
    assert isinstance(linear.get_parameter("weight"), Parameter)
    assert all(isinstance(p, Parameter) for p in linear.parameters())
    assert linear.get_parameter("weight").data is linear.weight


@EAGER_AND_COMPILED
@pytest.mark.parametrize(
    "assign",
    [
        lambda m: setattr(m, "weight", m.weight * 2),
        lambda m: setattr(m, "weight", np.full((2, 2), 2.0)),
        lambda m: setattr(m, "weight", jnp.full((2, 2), 2, jnp.int32)),
        lambda m: setattr(m.get_parameter("weight"), "data", jnp.full((2, 2), 2.0)),
        lambda m: m.get_parameter("weight").copy_(2),
        lambda m: nn.init.constant_(m.weight, 2),
        lambda m: m.load_state_dict({"weight": jnp.full((2, 2), 2.0)}),
    ],
    ids=["array", "numpy", "integers", "data", "copy_", "init", "load_state_dict"],
)
def test_assigning_replaces_the_value_of_the_same_parameter(assign: Any, wrap: Any) -> None:
    module = nn.Linear(2, 2, bias=False)
    nn.init.ones_(module.weight)
    parameter, held = module.get_parameter("weight"), module.weight

    def run(module: Any) -> None:
        assign(module)

    wrap(run)(module)
    assert module.get_parameter("weight") is parameter and list(module._parameters) == ["weight", "bias"]
    assert module.weight.dtype == jnp.float32 and (module.weight == 2).all() and (held == 1).all()


def test_another_shape_is_an_error_that_names_the_parameter() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    before = module[0].weight
    with pytest.raises(
        ShapeError, match=r"Linear\.weight: expected shape \(2, 2\), got \(3,\)\. Assign a new nn\.Parameter"
    ):
        module[0].weight = jnp.ones(3)
    assert module[0].weight is before
    module[0].weight = nn.Parameter(jnp.ones(3))
    assert module[0].weight.shape == (3,)


def test_absent_parameters_read_as_none() -> None:
    linear: Any = nn.Linear(2, 2, bias=False)
    assert linear.bias is None
    linear.register_parameter("bias", nn.Parameter(jnp.ones(2)))
    assert linear.state_dict()["bias"].tolist() == [1, 1] and list(linear.state_dict()) == ["weight", "bias"]
    linear.bias = None
    assert linear.bias is None and list(linear.state_dict()) == ["weight"]


# -- ties ---------------------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: jax.Array) -> jax.Array:
        return self.head(self.embed(tokens))


def tied(lib: Library) -> Any:
    class Tied(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = lib.nn.Embedding(5, 3)
            self.head = lib.nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Any) -> Any:
            return self.head(self.embed(tokens))

    return lib.filled(Tied())


def test_ties(torch: Any) -> None:
    def run(lib: Library) -> Any:
        model = tied(lib)
        seen = [
            list(model.named_parameters()),
            list(model.named_parameters(remove_duplicate=False)),
            model.state_dict(),
        ]
        twin = copy.deepcopy(model)
        twin.get_parameter("head.weight").data = lib.array(np.ones((5, 3)))
        seen += [twin.embed.weight, model.embed.weight, model(lib.array([1, 4]))]
        model.head.weight = lib.nn.Parameter(lib.array(np.zeros((5, 3))))
        return [*seen, list(model.named_parameters())]

    agree(torch, run)


def test_gradients_of_ties(torch: Any) -> None:
    tokens = np.array([1, 4, 4])

    def run(lib: Library) -> Any:
        model = tied(lib)
        if isinstance(model, nn.Module):
            return list(fb.grad(lambda model: (model(lib.array(tokens)) ** 2).sum())(model).values())
        (model(lib.array(tokens)) ** 2).sum().backward()
        return [p.grad for p in model.parameters()]

    agree(torch, run)


@EAGER_AND_COMPILED
def test_writing_one_name_writes_both(wrap: Any) -> None:
    model = Tied()
    for path, value in (("head", 2.0), ("embed", 3.0)):
        wrap(lambda model, path=path, value=value: nn.init.constant_(getattr(model, path).weight, value))(model)
        assert model.head.weight is model.embed.weight and (model.embed.weight == value).all()
        model.get_submodule(path).weight = jnp.full((5, 3), value + 10)
        assert model.head.weight is model.embed.weight and (model.embed.weight == value + 10).all()
    assert model.get_parameter("head.weight") is model.get_parameter("embed.weight")


def test_tying_and_untying_inside_a_compiled_function() -> None:
    model = Tied()
    fb.jit(lambda model: setattr(model.head, "weight", nn.Parameter(model.embed.weight + 1)))(model)
    assert len(list(model.parameters())) == 2
    np.testing.assert_allclose(model.head.weight, model.embed.weight + 1)
    fb.jit(lambda model: setattr(model.embed, "weight", model.head.weight))(model)
    assert model.get_parameter("head.weight") is model.get_parameter("embed.weight")


def test_a_new_name_for_a_parameter_ties() -> None:
    """Also one that the module did not have: what is read from a parameter's name stands for the Parameter."""
    linear = nn.Linear(2, 2)
    linear.also = linear.weight
    assert linear.get_parameter("also") is linear.get_parameter("weight")
    assert list(linear.state_dict()) == ["weight", "bias", "also"]
    linear.not_tied = linear.weight + 0
    linear.copied = jnp.copy(linear.weight)
    assert list(linear.state_dict()) == ["weight", "bias", "also"]


def test_nanogpt(torch: Any) -> None:
    """Its weight tying and its `apply(self._init_weights)` leave one parameter, initialised."""

    def build(lib: Library) -> Any:
        class GPT(lib.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.transformer = lib.nn.ModuleDict(
                    {
                        "wte": lib.nn.Embedding(40, 16),
                        "wpe": lib.nn.Embedding(8, 16),
                        "h": lib.nn.ModuleList([lib.nn.Linear(16, 16) for _ in range(2)]),
                        "ln_f": lib.nn.LayerNorm(16),
                    }
                )
                self.lm_head = lib.nn.Linear(16, 40, bias=False)
                self.transformer.wte.weight = self.lm_head.weight
                self.apply(self._init_weights)

            def _init_weights(self, module: Any) -> None:
                if isinstance(module, lib.nn.Linear):
                    lib.nn.init.normal_(module.weight, mean=0.0, std=0.02)
                    if module.bias is not None:
                        lib.nn.init.zeros_(module.bias)
                elif isinstance(module, lib.nn.Embedding):
                    lib.nn.init.normal_(module.weight, mean=0.0, std=0.02)

        return GPT()

    def run(lib: Library) -> Any:
        model = build(lib)
        one = model.get_parameter("lm_head.weight") is model.get_parameter("transformer.wte.weight")
        names = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
        return one, names, list(model.state_dict()), model.transformer.h[0].bias

    agree(torch, run)
    model = build(ours())
    for name, p in model.named_parameters():
        if name.endswith("weight") and "ln_f" not in name:
            assert 0.015 < float(p.std()) < 0.025, name
    assert model.lm_head.weight is model.transformer.wte.weight
    assert sum(p.numel() for p in model.parameters()) == 40 * 16 + 8 * 16 + 2 * (16 * 16 + 16) + 32


# -- buffers and other arrays -------------------------------------------------------------------------------------------------


@EAGER_AND_COMPILED
def test_buffers_keep_their_dtype(wrap: Any) -> None:
    norm: Any = nn.BatchNorm1d(2)

    def write(norm: Any) -> None:
        norm.running_mean = jnp.asarray([1.0, 2.0], jnp.float64)
        norm.num_batches_tracked = norm.num_batches_tracked + 1

    buffer, dtype = norm.get_buffer("running_mean"), norm.num_batches_tracked.dtype
    wrap(write)(norm)
    assert norm.get_buffer("running_mean") is buffer and norm.running_mean.dtype == jnp.float32
    assert norm.running_mean.tolist() == [1, 2] and norm.num_batches_tracked.dtype == dtype
    assert list(norm._buffers) == ["running_mean", "running_var", "num_batches_tracked"]


@EAGER_AND_COMPILED
def test_other_arrays_are_state_that_is_not_saved(wrap: Any) -> None:
    module = nn.Module()
    module.cache = jnp.zeros(2)

    def write(module: Any) -> None:
        module.cache = module.cache + 1
        module.new = jnp.ones(3)

    for _ in range(2):
        wrap(write)(module)
    assert module.cache.tolist() == [2, 2] and module.new.tolist() == [1, 1, 1]
    assert not list(module.state_dict()) and not list(module.parameters()) and not list(module.buffers())
    assert {"cache", "new"} <= set(dir(module))
    del module.cache
    assert not hasattr(module, "cache")
    module.new = "text"
    assert module.new == "text" and "new" in module.__dict__


def test_arrays_of_buffers_are_copied_and_not_tied() -> None:
    norm: Any = nn.BatchNorm1d(2)
    other: Any = nn.Module()
    other.held = norm.running_mean
    other.register_buffer("buffer", norm.running_mean)
    norm.running_mean = norm.running_mean + 1
    assert other.held.tolist() == [0, 0] and other.buffer.tolist() == [0, 0]
    assert owner_of(other.buffer) is other.get_buffer("buffer")


# -- everything else ----------------------------------------------------------------------------------------------------------


def test_as_torch(torch: Any) -> None:
    """Plain attributes of all kinds, class attributes, properties, and names that come and go."""

    def run(lib: Library) -> Any:
        class Plain(lib.nn.Module):
            shared = 7

            def __init__(self) -> None:
                super().__init__()
                self.number, self.text, self.nothing, self.pair = 3, "x", None, (1, 2)
                self.values, self.table = [1, 2], {"a": 1}
                self._double = 0

            @property
            def double(self) -> Any:
                return self._double * 2

            @double.setter
            def double(self, value: Any) -> None:
                self._double = value

        module: Any = Plain()
        values = module.values
        module.values.append(3)
        module.double = 5
        module.shared = 8
        seen = [module.number, module.text, module.nothing, module.pair, module.values, module.table, module.double]
        seen += [module.values is values, module.shared, Plain.shared, module.__dict__["number"]]
        module.values = module.number = module.table = 1
        del module.shared, module.number
        seen += [module.shared, hasattr(module, "number"), module.values, getattr(module, "none", "default")]
        return [*seen, "values" in dir(module), "number" in dir(module)]

    agree(torch, run)


def test_properties_that_fail_say_why() -> None:
    class Broken(nn.Module):
        @property
        def size(self) -> Any:
            return self.widht

    with pytest.raises(AttributeError, match="object has no attribute"):
        _ = Broken().size


def test_identity_of_containers_is_kept() -> None:
    module, values, table = nn.Module(), [jnp.ones(1)], {"x": jnp.ones(1)}
    module.values, module.table = values, table

    @fb.jit
    def grow(module: Any) -> None:
        module.values.append(module.values[0] * 2)
        module.table["y"] = module.table["x"] * 3

    grow(module)
    assert module.values is values and module.table is table
    assert plain(values) == [("float64", 1), ("float64", 2)] and plain(table)["y"] == ("float64", 3)


def test_tracers_are_not_kept() -> None:
    """A raw transform would leave its tracer on the module: an error names the module and what to write."""
    module = nn.Linear(2, 2)
    module.cache = jnp.zeros(2)
    before = module.state_dict()

    def write(name: str) -> Any:
        return jax.vmap(lambda x: setattr(module, name, x) or x.sum())

    for name in ("weight", "cache", "new"):
        x = jnp.ones((3, 2, 2)) if name == "weight" else jnp.ones((3, 2))
        with pytest.raises(StateError, match=rf"Linear\.{name} was written inside a raw jax transform.*fb\.jit"):
            write(name)(x)
    assert all(value is before[key] for key, value in module.state_dict().items())
    assert module.cache.tolist() == [0, 0] and not hasattr(module, "new")
