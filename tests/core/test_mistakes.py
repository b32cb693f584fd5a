"""Mistakes that PyTorch lets pass, or answers with a riddle; and what an exception says and leaves behind."""

from __future__ import annotations

import collections
import inspect
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau._errors import FlambeauError, ForwardMissingError, HiddenModulesWarning, RegistrationError, ShapeError

# -- modules that nobody sees --------------------------------------------------------------------------------------------------


def layer() -> nn.Module:
    return nn.Linear(2, 2)


class Hiding(nn.Module):
    """A module with something hidden in `.parts`."""

    def __init__(self, parts: Any) -> None:
        super().__init__()
        self.parts = parts
        self.shown = layer()

    def forward(self, x: jax.Array) -> jax.Array:
        return self.shown(x)


HIDDEN: dict[str, tuple[Any, int, str, str]] = {
    "list": (lambda: [layer(), layer()], 2, "list", "nn.ModuleList([...])"),
    "tuple": (lambda: (layer(), 3, layer()), 2, "tuple", "nn.ModuleList([...])"),
    "dict": (lambda: {"a": layer()}, 1, "dict", "nn.ModuleDict({...})"),
    "ordered dict": (lambda: collections.OrderedDict(a=layer()), 1, "OrderedDict", "nn.ModuleDict({...})"),
    "nested": (lambda: [(layer(), "name"), {"x": [layer()]}], 2, "list", "nn.ModuleList([...])"),
    "with what is inside": (lambda: [nn.Sequential(layer(), layer())], 1, "list", "nn.ModuleList([...])"),
}
GOING_OVER: dict[str, Any] = {
    "parameters": lambda module: list(module.parameters()),
    "named_parameters": lambda module: list(module.named_parameters()),
    "state_dict": lambda module: module.state_dict(),
    "jit": lambda module: fb.jit(lambda module, x: module(x))(module, jnp.ones((1, 2), jnp.float32)),
    "grad": lambda module: fb.grad(lambda module: module(jnp.ones((1, 2), jnp.float32)).sum())(module),
}


@pytest.mark.parametrize("going", GOING_OVER)
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_modules(name: str, going: str) -> None:
    """One warning names the attribute, how many it hides, and the cure; it points at the user's line, and comes once."""
    make, count, kind, cure = HIDDEN[name]
    outer = nn.Sequential(nn.ReLU(), Hiding(make()))
    line = inspect.getsourcelines(GOING_OVER[going])[1]
    with pytest.warns(HiddenModulesWarning) as caught:
        GOING_OVER[going](outer)
    assert len(caught) == 1 and issubclass(HiddenModulesWarning, UserWarning)
    modules = "1 module" if count == 1 else f"{count} modules"
    assert f"Hiding: the plain {kind} in `1.parts` hides {modules}: neither parameters() nor state_dict()" in str(
        caught[0].message
    )
    assert f"Write self.parts = {cure}." in str(caught[0].message)
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)
    outer.append(nn.ReLU())
    for again in GOING_OVER.values():
        again(outer)


def test_each_attribute_and_module_has_its_warning() -> None:
    outer = nn.Sequential(Hiding([layer()]), Hiding([layer()]))
    outer[0].more = {"x": layer()}
    with pytest.warns(HiddenModulesWarning) as caught:
        outer.state_dict()
    found = [str(warning.message).split("`")[1] for warning in caught]
    assert found == ["0.parts", "0.more", "1.parts"]


def test_what_is_hidden_later_is_found_later() -> None:
    module = Hiding([])
    list(module.parameters())
    module.others = [layer()]
    with pytest.warns(HiddenModulesWarning, match="`others` hides 1 module"):
        list(module.parameters())


NOT_HIDDEN: dict[str, Any] = {
    "empty": lambda: [],
    "arrays": lambda: [jnp.ones(1), (jnp.ones(1), 2)],
    "strings": lambda: {"a": "b", "c": [1, 2]},
    "classes": lambda: [nn.Linear, nn.ReLU],
}


@pytest.mark.parametrize("name", NOT_HIDDEN)
def test_nothing_is_hidden(name: str) -> None:
    for going in GOING_OVER.values():
        going(Hiding(NOT_HIDDEN[name]()))


def test_what_is_registered_too_is_not_hidden() -> None:
    module = Hiding([])
    module.order = [module.shown]
    module.inner = nn.Sequential(layer(), layer())
    module.pairs = (("a", module.inner[0]), ("b", module.inner[1]))
    for going in GOING_OVER.values():
        going(module)


# -- writing a class -----------------------------------------------------------------------------------------------------------


ASSIGNED: dict[str, tuple[Any, str]] = {
    "a module": (lambda m: setattr(m, "x", layer()), r"cannot assign a module to Forgetful\.x"),
    "a parameter": (lambda m: setattr(m, "x", nn.Parameter(jnp.ones(1))), r"cannot assign a parameter to Forgetful\.x"),
    "a buffer": (lambda m: setattr(m, "x", nn.Buffer(jnp.ones(1))), r"cannot assign a buffer to Forgetful\.x"),
    "add_module": (lambda m: m.add_module("x", layer()), r"cannot assign a module to Forgetful\.x"),
    "register_parameter": (lambda m: m.register_parameter("x", None), r"cannot assign a parameter to Forgetful\.x"),
    "register_buffer": (lambda m: m.register_buffer("x", None), r"cannot assign a buffer to Forgetful\.x"),
    "training": (lambda m: m.training, r"object has no attribute 'training'"),
}


@pytest.mark.parametrize("name", ASSIGNED)
def test_super_init_is_forgotten(name: str) -> None:
    assign, message = ASSIGNED[name]

    class Forgetful(nn.Module):
        def __init__(self) -> None:
            assign(self)

    with pytest.raises(AttributeError, match=message + r".*super\(\).__init__\(\)"):
        Forgetful()


def test_forward_is_missing() -> None:
    class Without(nn.Module):
        pass

    class Misspelt(nn.Module):
        def foward(self, x: Any) -> Any:
            return x

    for cls in (Without, Misspelt):
        with pytest.raises(
            ForwardMissingError, match=rf'Module \[{cls.__name__}\] is missing the required "forward"'
        ) as caught:
            cls()(1)
        assert isinstance(caught.value, NotImplementedError)


def test_forward_is_indented_into_init() -> None:
    """The article's own listing has it."""

    class Indented(nn.Module):
        def __init__(self) -> None:
            super().__init__()

            def forward(self: Any, x: Any) -> Any:
                return x

    class Below(Indented):
        pass

    for cls in (Indented, Below):
        with pytest.raises(
            ForwardMissingError, match=r"defined inside of Indented.__init__, where it is a local function. Move"
        ):
            cls()(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda nn: nn.Linear(in_feature=3, out_features=2), "'in_feature': did you mean 'in_features'?"),
        (lambda nn: nn.Linear(3, 2, baias=False), "'baias': did you mean 'bias'?"),
        (lambda nn: nn.LayerNorm(3, elementwise=False), "'elementwise'"),
        (lambda nn: nn.Linear(3, 2, colour="red"), "'colour'; it takes in_features, out_features, bias, device, dtype"),
        (lambda nn: nn.Identity(whatever=3), None),
    ],
)
def test_keywords_are_misspelt(make: Any, message: str | None) -> None:
    if message is None:
        make(nn)
        return
    with pytest.raises(TypeError, match=r"\.__init__\(\) got an unexpected keyword argument") as caught:
        make(nn)
    assert message in str(caught.value)


def test_keywords_of_ones_own_classes() -> None:
    class Block(nn.Module):
        def __init__(self, width: int, *, kernel_size: int = 3) -> None:
            super().__init__()

    class Wide(Block):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(4, **kwargs)

    with pytest.raises(TypeError, match=r"Block.*'kernel_szie': did you mean 'kernel_size'\?"):
        Block(3, kernel_szie=5)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="kernel_szie"):
        Wide(kernel_szie=5)
    Wide(kernel_size=5)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Lineer", "Linear"), ("batchNorm1d", "BatchNorm1d"), ("ModuleLIst", "ModuleList"), ("layernorm", "LayerNorm")],
)
def test_layers_are_misspelt(name: str, meant: str) -> None:
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}'\. Did you mean: '{meant}'\?"):
        getattr(nn, name)
    with pytest.raises(AttributeError):
        _ = nn.Nothing_like_it  # pyright: ignore[reportAttributeAccessIssue]


# -- registering ---------------------------------------------------------------------------------------------------------------


def test_a_module_in_itself() -> None:
    inner = layer()
    outer = nn.Sequential(inner)
    for holder, module in ((inner, inner), (inner, outer), (outer, outer)):
        for register in (lambda h, m: setattr(h, "x", m), lambda h, m: h.add_module("x", m)):
            with pytest.raises(RegistrationError, match=r"cannot register a module into itself: \w+\.x would contain"):
                register(holder, module)
    inner.kept = 3
    with pytest.raises(RegistrationError):
        inner.kept = outer
    assert inner.kept == 3 and not inner._modules and repr(outer)


REGISTERED: dict[str, Any] = {
    "setattr a module": lambda m, name: setattr(m, name, layer()),
    "setattr a parameter": lambda m, name: setattr(m, name, nn.Parameter(jnp.ones(1))),
    "setattr a buffer": lambda m, name: setattr(m, name, nn.Buffer(jnp.ones(1))),
    "add_module": lambda m, name: m.add_module(name, layer()),
    "register_module": lambda m, name: m.register_module(name, None),
    "register_parameter": lambda m, name: m.register_parameter(name, nn.Parameter(jnp.ones(1))),
    "register_buffer": lambda m, name: m.register_buffer(name, jnp.ones(1)),
}


@pytest.mark.parametrize("register", REGISTERED)
def test_names_with_a_dot_and_names_that_hide_a_method(register: str) -> None:
    """All of them are a KeyError, as where torch sees them, and change nothing."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = 3

        def sample(self) -> None: ...

    module = Own()
    before = dict(module.__dict__), dir(module)
    for name, message in (
        ("a.b", """name can't contain ".": got 'a.b'. Register it on the module that shall hold it"""),
        ("", "name can't be empty string"),
        ("forward", "named 'forward' would hide the method Own.forward: choose another name"),
        ("sample", "named 'sample' would hide the method Own.sample"),
        ("train", "named 'train' would hide the method Own.train"),
        ("parameters", "named 'parameters' would hide"),
    ):
        with pytest.raises(RegistrationError) as caught:
            REGISTERED[register](module, name)
        assert isinstance(caught.value, KeyError) and isinstance(caught.value, FlambeauError)
        assert message in caught.value.args[0]
    assert (dict(module.__dict__), dir(module)) == before


def test_a_key_error_that_reads_as_prose() -> None:
    with pytest.raises(RegistrationError) as caught:
        nn.Module().add_module("a.b", layer())
    assert str(caught.value) == caught.value.args[0]


# -- exceptions in a forward ---------------------------------------------------------------------------------------------------


class Failing(nn.Module):
    """Changes everything that it has, and fails if it is told so."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error
        self.norm: Any = nn.BatchNorm1d(3)
        self.trace: list[Any] = [jnp.zeros(1)]
        self.table: dict[str, Any] = {"a": [1]}
        self.cache = jnp.zeros(2)
        self.steps = 0
        self.gone = "still here"

    def forward(self, x: jax.Array, scale: float = 1.0, mask: Any = None) -> jax.Array:
        x = self.norm(x) * scale
        self.trace.append(x)
        self.table["a"].append(2)
        self.table["b"] = x
        self.cache = self.cache + 1
        self.steps += 1
        self.new = "new"
        del self.gone
        self.register_buffer("late", jnp.ones(1))
        self.get_parameter("norm.weight").requires_grad_(False)
        nn.init.ones_(self.norm.bias)
        self.eval()
        if self.error is not None:
            raise self.error
        return x


def network(error: BaseException | None) -> Any:
    return nn.ModuleDict({"encoder": nn.Sequential(nn.Identity(), nn.Sequential(Failing(error), nn.ReLU()))}).encoder


def snapshot(net: Any) -> Any:
    failing = net[1][0]
    return [
        [(name, id(value)) for name, value in net.state_dict().items()],
        [(name, p.requires_grad) for name, p in net.named_parameters()],
        [module.training for module in net.modules()],
        list(failing._buffers),
        {name: value for name, value in failing.__dict__.items() if not name.startswith("_")},
        (id(failing.trace), list(map(id, failing.trace)), id(failing.table), repr(failing.table), id(failing.cache)),
    ]


X = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)
CALLS: dict[str, Any] = {
    "eager": lambda net: net(X),
    "inner": lambda net: net[1](X),
    "jit": lambda net: fb.jit(lambda net, x: net(x))(net, X),
    "closure": lambda net: fb.jit(lambda x: net(x))(X),
    "grad": lambda net: fb.grad(lambda net: net(X).sum())(net),
    "jit of grad": lambda net: fb.jit(fb.grad(lambda net: net(X).sum()))(net),
    "grad of jit": lambda net: fb.grad(fb.jit(lambda net: net(X).sum()))(net),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_everything_as_it_was(call: str, kind: type[BaseException]) -> None:
    net = network(kind("stop"))
    before = snapshot(net)
    for _ in range(2):
        with pytest.raises(kind, match="stop"):
            CALLS[call](net)
        assert snapshot(net) == before
    net[1][0].error = None
    CALLS[call](net)
    after = net[1][0]
    assert after.steps == 1 and after.new == "new" and len(after.trace) == 2 and after.cache.tolist() == [1, 1]
    assert not hasattr(after, "gone") and after.norm.num_batches_tracked == 1 and not after.training


@pytest.mark.parametrize("call", CALLS)
def test_where_an_exception_arose(call: str) -> None:
    """A note has the path from the root, the module's line, and the shapes and dtypes that it was called with."""
    root = "Sequential"
    with pytest.raises(ValueError, match="stop") as caught:
        CALLS[call](network(ValueError("stop")))
    notes = [note for note in caught.value.__notes__ if note.startswith("in ")]
    path = "0" if call == "inner" else "1.0"
    assert notes == [f"in {path} (Failing(...)) of {root}, called with (float32[2, 3])"]


def test_what_a_note_says_of_the_arguments() -> None:
    failing = Failing(ValueError("stop"))
    with pytest.raises(ValueError) as caught:
        failing(X, 2.0, mask=[X, {"a": (np.zeros(3, np.int8), None)}, "text", object()])
    assert caught.value.__notes__ == [
        "in Failing(...) of Failing, called with (float32[2, 3], 2.0, "
        "mask=[float32[2, 3], {'a': (int8[3], None)}, 'text', object])"
    ]


def test_errors_of_ours_begin_with_the_path() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4)))
    for call in (net, fb.jit(lambda x: net(x))):
        with pytest.raises(ShapeError) as caught:
            call(X)
        assert str(caught.value).startswith("1.1 (Linear(in_features=3, out_features=4, bias=True)): expected input ")
        assert "float32[2, 4]" in str(caught.value)
        assert any("called with (float32[2, 4])" in note for note in caught.value.__notes__)


def test_modules_that_are_no_children_are_named_too() -> None:
    class Calling(nn.Module):
        def forward(self, other: Any) -> Any:
            return other(X)

    with pytest.raises(ValueError) as caught:
        nn.Sequential(Calling())[0](Failing(ValueError("stop")))
    assert caught.value.__notes__ == [
        "in <Failing, not registered> (Failing(...)) of Calling, called with (float32[2, 3])"
    ]


def test_an_exception_that_is_caught_inside_says_nothing() -> None:
    """And what was changed before it stays changed, as in Python."""

    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.failing = Failing(ValueError("stop"))
            self.other = nn.Identity()

        def forward(self, x: jax.Array) -> jax.Array:
            try:
                return self.failing(x)
            except ValueError:
                if x.shape[0] == 1:
                    raise RuntimeError("second") from None
                return self.other(x)

    for wrap in (lambda f: f, fb.jit):
        module = Catching()
        wrap(lambda module, x: module(x))(module, X)
        assert module.failing.steps == 1 and len(module.failing.trace) == 2
    with pytest.raises(RuntimeError, match="second") as caught:
        Catching()(X[:1])
    assert caught.value.__notes__ == ["in Catching(...) of Catching, called with (float32[1, 3])"]


def test_one_exception_object_raised_twice() -> None:
    error = ValueError("stop")
    failing, other = Failing(error), nn.Sequential(Failing(error))
    for module, where in ((failing, "in Failing(...) of Failing"), (other, "in 0 (Failing(...)) of Sequential")):
        with pytest.raises(ValueError) as caught:
            module(X)
        assert caught.value.__notes__[-1] == f"{where}, called with (float32[2, 3])"


def test_hooks_that_fail_leave_everything_too() -> None:
    net = network(None)
    before = snapshot(net)

    def fail(*given: Any) -> None:
        raise ZeroDivisionError

    with net[1].register_forward_hook(fail), pytest.raises(ZeroDivisionError) as caught:
        net(X)
    assert snapshot(net) == before
    assert caught.value.__notes__[0].startswith("in 1 (Sequential(...)) of Sequential")


def test_no_warning_is_given_without_a_mistake() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = nn.Sequential(nn.Linear(3, 3), nn.ModuleList([nn.ReLU()])[0])
        fb.jit(lambda net: net(X))(net)
        assert net.state_dict() and list(net.parameters())
