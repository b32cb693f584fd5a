"""`Module`'s surface: registration, the tree, modes and casts, held against torch's."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from flambeau._errors import ShapeError
from tests.core.twins import Library, agree, ours

PROGRAMS: dict[str, Any] = {}


def program(function: Any) -> Any:
    """Adds a program that must do on ours what it does on torch's modules."""
    assert function.__name__ not in PROGRAMS
    PROGRAMS[function.__name__] = function
    return function


# -- registration ------------------------------------------------------------------------------------------------------------


@program
def registries(lib: Library) -> Any:
    block = lib.Block()
    return [list(registry) for registry in (block._parameters, block._buffers, block._modules)]


@program
def attributes_read_back(lib: Library) -> Any:
    block = lib.Block()
    return block.scale, block.steps, block.scratch, block.absent, block.missing, block.kind, block.fc, block.offset


@program
def register_parameter(lib: Library) -> Any:
    module = lib.nn.Module()
    module.register_parameter("a", lib.nn.Parameter(lib.array([1.0])))
    module.register_parameter("b", None)
    module.register_parameter("a", lib.nn.Parameter(lib.array([2.0, 3.0])))
    module.b = lib.nn.Parameter(lib.array([4.0]))
    return module.a, list(module._parameters), list(module.named_parameters())


@program
def register_buffer(lib: Library) -> Any:
    module = lib.nn.Module()
    module.register_buffer("a", lib.array([1.0]))
    module.register_buffer("b", lib.array([1.0]), persistent=False)
    module.register_buffer("c", lib.array([1.0]), False)
    module.register_buffer("d", None)
    before = list(module.state_dict())
    module.register_buffer("a", lib.array([1.0]), persistent=False)
    module.register_buffer("b", lib.array([5.0]))
    module.d = lib.array([7.0])
    return before, module.state_dict(), list(module.named_buffers())


@program
def buffers_keep_their_persistence_when_assigned(lib: Library) -> Any:
    module = lib.nn.Module()
    module.register_buffer("a", lib.array([1.0]), persistent=False)
    module.register_buffer("b", lib.array([1.0]))
    module.a, module.b = lib.array([2.0]), lib.array([2.0])
    given = list(module.state_dict())
    module.a, module.b = None, None
    module.a, module.b = lib.array([3.0]), lib.array([3.0])
    again = list(module.state_dict())
    module.b = lib.nn.Buffer(lib.array([3.0]), persistent=False)
    return given, again, list(module.state_dict()), module.b


@program
def register_module(lib: Library) -> Any:
    module = lib.nn.Module()
    module.add_module("a", lib.nn.Linear(2, 2))
    module.register_module("b", None)
    module.c = lib.nn.ReLU()
    module.a = lib.nn.Linear(2, 3)
    module.b = lib.nn.ReLU()
    module.c = None
    return repr(module), list(module._modules), module.c


@program
def one_name_moves_between_registries(lib: Library) -> Any:
    module, seen = lib.nn.Module(), []
    for value in (
        3,
        lib.nn.Linear(1, 1),
        lib.nn.Parameter(lib.array([1.0])),
        None,
        lib.nn.Parameter(lib.array([1.0])),
    ):
        module.x = value
        kinds = [list(registry) for registry in (module._parameters, module._buffers, module._modules)]
        seen.append([kinds, "x" in module.__dict__, module.x])
    return seen


@program
def a_buffer_moves_to_the_other_registries(lib: Library) -> Any:
    module = lib.nn.Module()
    for value in (lib.nn.ReLU(), lib.nn.Parameter(lib.array([1.0]))):
        module.x = lib.nn.Buffer(lib.array([1.0]))
        module.x = value
        seen = [list(registry) for registry in (module._parameters, module._buffers, module._modules)]
        del module.x
    return seen


@program
def deleting(lib: Library) -> Any:
    block = lib.Block()
    block.plain = 3
    for name in ("fc", "scale", "steps", "absent", "missing", "plain", "scratch"):
        delattr(block, name)
    return list(block.state_dict()), [hasattr(block, name) for name in ("fc", "scale", "steps", "absent", "plain")]


@program
def a_deleted_buffer_forgets_that_it_was_not_persistent(lib: Library) -> Any:
    block = lib.Block()
    del block.scratch
    block.register_buffer("scratch", lib.array([1.0]))
    return list(block.state_dict())


@program
def none_unregisters_nothing(lib: Library) -> Any:
    block = lib.Block()
    block.scale, block.fc, block.steps = None, None, None
    return [list(registry) for registry in (block._parameters, block._buffers, block._modules)], block.state_dict()


REFUSED: dict[str, Any] = {
    "parameter with a dot": lambda lib, m: m.register_parameter("a.b", lib.nn.Parameter(lib.array([1.0]))),
    "parameter without name": lambda lib, m: m.register_parameter("", None),
    "parameter with a number for name": lambda lib, m: m.register_parameter(3, None),
    "parameter that is an array": lambda lib, m: m.register_parameter("new", lib.array([1.0])),
    "parameter over an attribute": lambda lib, m: m.register_parameter("kind", None),
    "parameter over a module": lambda lib, m: m.register_parameter("fc", None),
    "parameter over a method": lambda lib, m: m.register_parameter("forward", lib.nn.Parameter(lib.array([1.0]))),
    "buffer with a dot": lambda lib, m: m.register_buffer("a.b", lib.array([1.0])),
    "buffer without name": lambda lib, m: m.register_buffer("", None),
    "buffer with a number for name": lambda lib, m: m.register_buffer(3, None),
    "buffer that is a list": lambda lib, m: m.register_buffer("new", [1.0]),
    "buffer over a parameter": lambda lib, m: m.register_buffer("scale", None),
    "module with a dot": lambda lib, m: m.add_module("a.b", lib.nn.ReLU()),
    "module without name": lambda lib, m: m.add_module("", lib.nn.ReLU()),
    "module with a number for name": lambda lib, m: m.add_module(3, lib.nn.ReLU()),
    "module that is a class": lambda lib, m: m.add_module("new", lib.nn.ReLU),
    "module over an attribute": lambda lib, m: m.add_module("kind", lib.nn.ReLU()),
    "module replaced by a number": lambda lib, m: setattr(m, "fc", 3),
    "module replaced by an array": lambda lib, m: setattr(m, "fc", lib.array([1.0])),
    "parameter replaced by a string": lambda lib, m: setattr(m, "scale", "large"),
    "parameter replaced by a module": lambda lib, m: setattr(m, "scale", lib.nn.ReLU()),
    "parameter replaced by a buffer": lambda lib, m: setattr(m, "scale", lib.nn.Buffer(lib.array([1.0]))),
    "module replaced by a buffer": lambda lib, m: setattr(m, "fc", lib.nn.Buffer(lib.array([1.0]))),
    "attribute with a dot, a parameter": lambda lib, m: setattr(m, "a.b", lib.nn.Parameter(lib.array([1.0]))),
    "attribute with a dot, a buffer": lambda lib, m: setattr(m, "a.b", lib.nn.Buffer(lib.array([1.0]))),
    "absent parameter set to a module": lambda lib, m: setattr(m, "absent", lib.nn.ReLU()),
    "absent parameter set to an array": lambda lib, m: setattr(m, "absent", lib.array([1.0])),
    "buffer replaced by a list": lambda lib, m: setattr(m, "steps", [1]),
    "deleting what is not there": lambda lib, m: delattr(m, "nothing"),
    "reading what is not there": lambda lib, m: m.nothing,
    "mode that is a number": lambda lib, m: m.train(1),
    "integer dtype": lambda lib, m: m.to(lib.array([1]).dtype),
    "argument of Module": lambda lib, m: lib.nn.Module(3),
    "keyword of Module": lambda lib, m: lib.nn.Module(width=3),
    "gradients of integers": lambda lib, m: lib.nn.Parameter(lib.array([1]), requires_grad=False).requires_grad_(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_as_by_torch(torch: Any, name: str) -> None:
    """Ours raises what code written for PyTorch catches, and changes nothing."""
    agree(torch, lambda lib: REFUSED[name](lib, lib.Block()))
    lib = ours()
    block = lib.Block()
    before, attributes = block.state_dict(), dir(block)
    with pytest.raises(Exception):  # noqa: B017 - which one is what the line above is about
        REFUSED[name](lib, block)
    assert dir(block) == attributes
    assert all(value is block.state_dict()[key] for key, value in before.items())


# -- the tree ----------------------------------------------------------------------------------------------------------------

RECURSE = [{}, {"recurse": False}]
PREFIX = [{}, {"prefix": "x"}, {"prefix": "a.b"}]


@program
def parameters(lib: Library) -> Any:
    net = lib.filled(lib.Net())
    return [[list(net.parameters(**kwargs)), list(net.first.parameters(**kwargs))] for kwargs in RECURSE]


@program
def buffers(lib: Library) -> Any:
    net = lib.Net()
    return [[list(net.buffers(**kwargs)), list(net.first.buffers(**kwargs))] for kwargs in RECURSE]


@program
def named_members(lib: Library) -> Any:
    net, seen = lib.filled(lib.Net()), []
    for one in RECURSE:
        for two in PREFIX:
            for three in ({}, {"remove_duplicate": False}):
                seen.append(list(net.named_parameters(**one, **two, **three)))
                seen.append(list(net.first.named_buffers(**one, **two, **three)))
    return seen, list(net.named_parameters("p", False, False)), list(net.first.named_buffers("p", False))


@program
def named_modules(lib: Library) -> Any:
    net = lib.Net()
    again = [list(net.named_modules(**kwargs, remove_duplicate=False)) for kwargs in PREFIX]
    memo = {net.layers[0]}
    skipped = list(net.named_modules(memo, "x"))
    return [list(net.named_modules(**kwargs)) for kwargs in PREFIX], again, skipped, len(memo)


@program
def modules(lib: Library) -> Any:
    net = lib.Net()
    return list(net.modules()), list(net.modules(remove_duplicate=False))


@program
def children(lib: Library) -> Any:
    net = lib.Net()
    return list(net.children()), list(net.named_children()), next(net.children()) is net.first


@program
def apply(lib: Library) -> Any:
    net, seen = lib.Net(), []
    assert net.apply(seen.append) is net
    return seen


@program
def finding(lib: Library) -> Any:
    net = lib.filled(lib.Net())
    return [
        net.get_submodule(""),
        net.get_submodule("layers.2.fc"),
        net.get_parameter("layers.0.fc.weight"),
        net.get_buffer("first.steps"),
        net.first.get_buffer("scratch"),
        net.get_parameter("layers.0.fc.weight") is net.get_parameter("first.fc.weight"),
    ]


MISSING = {
    "get_submodule": ["nothing", "layers.9", "layers.0.fc.weight", "first.kind", "first.fc.", ".first"],
    "get_parameter": ["nothing", "first.steps", "first", "first.absent", "nothing.weight", ""],
    "get_buffer": ["nothing", "first.scale", "first", "first.kind", "nothing.steps"],
}


@pytest.mark.parametrize("name", [f"{method} {path}" for method, paths in MISSING.items() for path in paths])
def test_paths_that_lead_nowhere(torch: Any, name: str) -> None:
    method, path = name.split(" ")
    agree(torch, lambda lib: getattr(lib.Net(), method)(path))


def test_what_there_is_instead() -> None:
    net = ours().Net()
    for call, message in (
        (lambda: net.get_submodule("layer"), "Net has no attribute `layer` that is a module; it has first, layers"),
        (lambda: net.get_submodule("layer"), "Did you mean: 'layers'?"),
        (
            lambda: net.get_submodule("layers.3.fc"),
            "Net at 'layers' has no attribute `3` that is a module; it has 0, 1, 2",
        ),
        (lambda: net.get_parameter("first.fc.wieght"), "at 'first.fc' has no parameter 'wieght'; it has weight, bias"),
        (lambda: net.get_parameter("first.fc.wieght"), "Did you mean: 'weight'?"),
        (lambda: net.get_buffer("first.step"), "Block at 'first' has no buffer 'step'; it has steps, scratch, offset"),
        (lambda: net.frist, "'Net' object has no attribute 'frist'. Did you mean: 'first'?"),
        (lambda: net.first.scal, "Did you mean: 'scale'?"),
    ):
        with pytest.raises(AttributeError) as caught:
            call()
        assert message in str(caught.value) and type(caught.value).__name__ == "AttributeError"


@program
def set_submodule(lib: Library) -> Any:
    net = lib.Net()
    net.set_submodule("layers.1", lib.nn.Tanh())
    net.set_submodule("layers.2.fc", lib.nn.Linear(1, 1), strict=True)
    net.set_submodule("first.extra", lib.nn.Identity())
    net.set_submodule("new", lib.nn.Identity(), False)
    return repr(net)


NOT_SET: dict[str, Any] = {
    "": (lambda lib: lib.nn.ReLU(), {}),
    "layers.0": (lambda lib: 3, {}),
    "nothing.0": (lambda lib: lib.nn.ReLU(), {}),
    "first.scale": (lambda lib: lib.nn.ReLU(), {}),
    "first.kind": (lambda lib: lib.nn.ReLU(), {}),
    "first.new": (lambda lib: lib.nn.ReLU(), {"strict": True}),
}


@pytest.mark.parametrize("path", NOT_SET)
def test_submodules_that_cannot_be_set(torch: Any, path: str) -> None:
    make, kwargs = NOT_SET[path]
    agree(torch, lambda lib: lib.Net().set_submodule(path, make(lib), **kwargs))


# -- modes, dtypes, places ---------------------------------------------------------------------------------------------------


@program
def modes(lib: Library) -> Any:
    net = lib.Net()
    seen = [[m.training for m in net.modules()]]
    assert net.eval() is net
    seen.append([m.training for m in net.modules()])
    assert net.layers.train() is net.layers
    seen.append([m.training for m in net.modules()])
    net.train(False)
    net.layers[0].training = True
    return [*seen, [m.training for m in net.modules()]]


@program
def requires_grad(lib: Library) -> Any:
    net = lib.Net()
    seen = [[p.requires_grad for p in net.parameters()]]
    assert net.requires_grad_(False) is net
    seen.append([p.requires_grad for p in net.parameters()])
    net.layers.requires_grad_()
    net.first.scale_ = lib.nn.Parameter(lib.array([1.0]), False)
    net.get_parameter("first.fc.bias").requires_grad = True
    return [*seen, [p.requires_grad for p in net.parameters()]]


@program
def casts(lib: Library) -> Any:
    seen = []
    for name in ("float", "double", "half", "bfloat16"):
        block = lib.Block()
        before = dict(block.named_parameters())
        assert getattr(block, name)() is block
        assert all(before[key] is parameter for key, parameter in block.named_parameters())
        seen.append(
            [block.scale, block.offset, block.steps, block.scratch, *(p.requires_grad for p in block.parameters())]
        )
    return seen


@program
def integers_are_cast_by_type_alone(lib: Library) -> Any:
    double, single = lib.array([1.0]).dtype, lib.array(np.zeros(1, np.float32)).dtype
    return [
        [value.dtype == double for value in block.state_dict().values()]
        for block in (lib.Block().type(double), lib.Block().to(double), lib.Block().double(), lib.Block().type(single))
    ]


@program
def to(lib: Library) -> Any:
    half, like = lib.array(np.zeros(1, np.float16)).dtype, lib.array(np.zeros(1, np.float16))
    blocks = [lib.Block() for _ in range(6)]
    assert blocks[0].to(half) is blocks[0]
    blocks[1].to(dtype=half)
    blocks[2].to("cpu", half)
    blocks[3].to(like)
    blocks[4].to("cpu")
    blocks[5].to(device="cpu", dtype=half, non_blocking=True)
    return [[block.offset, block.steps] for block in blocks]


@program
def to_empty(lib: Library) -> Any:
    net = lib.filled(lib.Net())
    before = list(net.parameters())
    assert net.to_empty(device="cpu") is net
    after = list(net.parameters())
    return [(one is other, tuple(other.shape), other.dtype == one.dtype) for one, other in zip(before, after)]


def test_to_takes_jax_places() -> None:
    lib = ours()
    device = jax.devices()[0]
    sharding = jax.sharding.NamedSharding(jax.make_mesh((1,), ("x",)), jax.sharding.PartitionSpec())
    for place in (device, jax.sharding.SingleDeviceSharding(device), sharding):
        for block in (lib.Block().to(place), lib.Block().to(place, jnp.float16), lib.Block().to(jnp.float16, place)):
            for value in block.state_dict().values():
                assert value.committed and value.devices() == {device}
    block = lib.Block().to(sharding=sharding, dtype="bfloat16")
    assert block.scale.sharding == sharding and block.scale.dtype == jnp.bfloat16
    assert lib.Block().to(device=device).scale.committed
    assert lib.Block().cpu().scale.devices() == {jax.devices("cpu")[0]}
    assert not lib.Block().scale.committed
    for mistake in ({"dtyp": jnp.float16}, {"memory_format": "channels_last"}):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            lib.Block().to(**mistake)
    with pytest.raises(TypeError, match="to\\(\\) takes a dtype, a device, a sharding or an array, got 'large'"):
        lib.Block().to("large")


def test_float64_is_float32_without_x64() -> None:
    with jax.enable_x64(False):
        linear = nn.Linear(2, 2)
        assert linear.double().weight.dtype == jnp.float32
        assert linear.to(jnp.float64).weight.dtype == jnp.float32


# -- printing ----------------------------------------------------------------------------------------------------------------


@program
def representation(lib: Library) -> Any:
    class Named(lib.nn.Module):
        def __init__(self, text: str, **inside: Any) -> None:
            super().__init__()
            self.text = text
            for name, module in inside.items():
                self.add_module(name, module)

        def extra_repr(self) -> str:
            return self.text

        def _get_name(self) -> str:
            return f"Named{len(self.text)}"

    return [
        repr(lib.Net()),
        str(lib.nn.Module()),
        repr(Named("")),
        repr(Named("one line")),
        repr(Named("one line", child=lib.nn.ReLU())),
        repr(Named("two\nlines")),
        repr(Named("two\nlines", child=Named("a\n\nb", inner=Named("c\n  d"), gone=None))),
        repr(Named("", child=Named("x\n"))),
    ]


@program
def directory(lib: Library) -> Any:
    net, block = lib.Net(), lib.Block()
    block.plain = 3
    names = ("fc", "scale", "absent", "steps", "scratch", "missing", "kind", "plain", "training", "forward")
    return (
        [name in dir(block) for name in names],
        [n in dir(net) for n in ("first", "gone", "layers")],
        "0" in dir(net.layers),
    )


def test_nothing_of_torchs_surface_is_missing(torch: Any) -> None:
    """Names and arguments; what is left out belongs to autograd's tape, or to devices that JAX names otherwise."""
    left_out = {"T_destination", "dump_patches", "ipu", "mtia", "xpu", "register_backward_hook", "share_memory"}
    module = torch.nn.Module
    public = {name for name in dir(module) if not name.startswith("_")}
    assert public - set(dir(nn.Module)) == left_out
    for name in public - left_out:
        mine, its = getattr(nn.Module, name), getattr(module, name)
        if callable(its) and name not in ("to", "compile", "forward", "state_dict"):
            given = [p.name for p in inspect.signature(its).parameters.values()]
            assert [p.name for p in inspect.signature(mine).parameters.values()][: len(given)] == given, name


# -- copies ------------------------------------------------------------------------------------------------------------------


@program
def deepcopy(lib: Library) -> Any:
    net = lib.filled(lib.Net())
    twin = copy.deepcopy(net)
    inside = [
        twin.again is twin.first,
        twin.get_parameter("first.fc.weight") is twin.get_parameter("layers.0.fc.weight"),
        twin.get_parameter("first.fc.weight") is net.get_parameter("first.fc.weight"),
        twin.get_parameter("first.scale").requires_grad,
    ]
    twin.get_parameter("first.fc.weight").data = lib.array(np.zeros((3, 3)))
    twin.first.steps = lib.array(5)
    return inside, repr(twin), net.state_dict(), twin.state_dict(), list(twin.named_buffers())


@program
def shallow_copy(lib: Library) -> Any:
    net = lib.filled(lib.Net())
    twin = copy.copy(net)
    return twin is net, twin.first is net.first, twin.state_dict()


@program
def copies_of_parameters(lib: Library) -> Any:
    parameter = lib.nn.Parameter(lib.array([1.0]), requires_grad=False)
    one, two = copy.deepcopy([parameter, parameter])
    return one is two, one is parameter, one.requires_grad, one, type(one).__name__


class Pickled(nn.Module):
    """Pickle wants a class of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 2)
        self.two = nn.Linear(2, 2)
        self.two.weight = self.one.weight
        self.get_parameter("one.bias").requires_grad_(False)
        self.register_buffer("hidden", jnp.arange(3), persistent=False)
        self.bare = jnp.ones(2)
        self.history = [jnp.zeros(1), 3]
        self.settings = {"width": 3}
        self.eval()

    def forward(self, x: jax.Array) -> jax.Array:
        return self.two(self.one(x))


def double_the_output(module: nn.Module, args: Any, output: jax.Array) -> jax.Array:
    return 2 * output


@pytest.mark.parametrize("again", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_everything_survives_a_copy(again: Any, compiled: bool) -> None:
    module, x = Pickled().double(), jnp.ones((1, 2))
    handle = module.register_forward_hook(double_the_output)
    if compiled:
        module.compile()
    expected = module(x)
    twin = again(module)
    handle.remove()
    module.get_parameter("one.bias").data = jnp.zeros(2)
    np.testing.assert_allclose(twin(x), expected)
    assert repr(twin) == repr(module) and not twin.training and list(twin.state_dict()) == list(module.state_dict())
    assert twin.get_parameter("one.weight") is twin.get_parameter("two.weight")
    assert twin.get_parameter("one.weight") is not module.get_parameter("one.weight")
    assert [p.requires_grad for p in twin.parameters()] == [True, False, True]
    assert "hidden" not in twin.state_dict() and twin.hidden.tolist() == [0, 1, 2]
    assert twin.bare.tolist() == [1, 1] and twin.history[1] == 3 and twin.settings == {"width": 3}
    twin.history.append(4)
    twin.settings["width"] = 4
    assert len(module.history) == 2 and module.settings == {"width": 3}
    fb.nn.init.zeros_(twin.one.weight)
    assert not (module.one.weight == 0).any() and (twin.two.weight == 0).all()
    with pytest.raises(ShapeError, match="in_features"):
        twin.one(jnp.ones((1, 3)))


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_torch(torch: Any, name: str) -> None:
    agree(torch, PROGRAMS[name])


# -- compile -----------------------------------------------------------------------------------------------------------------


def test_compile() -> None:
    """A compiled module does what it does uncompiled, and its state is there after each call."""

    class Counting(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.trace: list[Any] = []

        def forward(self, x: jax.Array, *, scale: float = 1.0) -> jax.Array:
            Counting.calls += 1
            self.trace.append(x.sum())
            return self.norm(x) * scale

    x = jnp.arange(6.0).reshape(2, 3)
    eager = Counting().double()
    compiled = copy.deepcopy(eager)
    assert compiled.compile() is None
    for module in (eager, compiled):
        before = Counting.calls
        outputs = [module(x), module(x + 1), module(2 * x, scale=2.0), module.eval()(x)]
        module.outputs = outputs
        assert Counting.calls - before == (4 if module is eager else 3)
    for one, other in zip(eager.outputs + eager.trace, compiled.outputs + compiled.trace, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for (name, one), other in zip(eager.state_dict().items(), compiled.state_dict().values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=name)
