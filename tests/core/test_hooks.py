"""Hooks: when each is called, with what, and what its answer does, held against torch's."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau.core import hooks
from tests.core.twins import Library, Log, agree, ours, plain

PROGRAMS: dict[str, Any] = {}


def program(function: Any) -> Any:
    """Adds a program that must do on ours what it does on torch's modules."""
    assert function.__name__ not in PROGRAMS
    PROGRAMS[function.__name__] = function
    return function


@pytest.fixture(autouse=True)
def no_global_hooks_are_left() -> Iterator[None]:
    yield
    left = [name for name, registry in hooks.global_hooks._registries() if registry]
    assert not left


def double(lib: Library) -> Any:
    """A module with an argument, a keyword and an output, on which it is easy to see what hooks did."""

    class Double(lib.nn.Module):
        def forward(self, x: Any, *, plus: float = 0.0) -> Any:
            if plus == 13:
                raise ValueError("unlucky")
            return x * 2 + plus

    return Double(), lib.array([1.0, 2.0])


# -- forward -----------------------------------------------------------------------------------------------------------------


@program
def order_of_forward_hooks(lib: Library) -> Any:
    (module, x), log = double(lib), Log()
    module.register_forward_hook(log("a"))
    module.register_forward_hook(log("b"))
    module.register_forward_hook(log("c"), prepend=True)
    module.register_forward_pre_hook(log("d"))
    module.register_forward_pre_hook(log("e"), prepend=True)
    handles = [
        lib.hooks.register_module_forward_hook(log("global")),
        lib.hooks.register_module_forward_pre_hook(log("global pre")),
    ]
    output = module(x)
    for handle in handles:
        handle.remove()
    return output, module(x), log


@program
def answers_of_forward_hooks(lib: Library) -> Any:
    seen = []
    for answer in (None, lambda args, out: out * 10, lambda args, out: (out, out)):
        (module, x), log = double(lib), Log()
        module.register_forward_hook(log("a", answer))
        module.register_forward_hook(log("b"))
        seen.append((module(x), log))
    return seen


@program
def answers_of_pre_hooks(lib: Library) -> Any:
    seen = []
    for answer in (None, lambda args: args[0] * 10, lambda args: (args[0] * 10,)):
        (module, x), log = double(lib), Log()
        module.register_forward_pre_hook(log("a", answer))
        module.register_forward_pre_hook(log("b"))
        module.register_forward_hook(log("c"))
        seen.append((module(x), log))
    return seen


@program
def keywords(lib: Library) -> Any:
    (module, x), log = double(lib), Log()
    module.register_forward_pre_hook(
        log("a", lambda args, kwargs: (args, {"plus": kwargs["plus"] + 1})), with_kwargs=True
    )
    module.register_forward_pre_hook(log("b"))
    module.register_forward_hook(log("c"), with_kwargs=True)
    module.register_forward_hook(log("d", lambda args, kwargs, out: out + kwargs["plus"]), with_kwargs=True)
    with lib.hooks.register_module_forward_hook(log("e"), with_kwargs=True):
        output = module(x, plus=5.0)
    return output, module(x=x, plus=1.0), log


@program
def a_pre_hook_with_kwargs_gives_a_pair(lib: Library) -> Any:
    module, x = double(lib)
    module.register_forward_pre_hook(lambda module, args, kwargs: args, with_kwargs=True)
    return module(x)


@program
def removing(lib: Library) -> Any:
    (module, x), log = double(lib), Log()
    first, second = module.register_forward_hook(log("a")), module.register_forward_hook(log("b"))
    module(x)
    first.remove()
    first.remove()
    module(x)
    with second:
        module(x)
    module(x)
    with module.register_forward_pre_hook(log("c")) as handle:
        module(x)
    return log, first.id < second.id < handle.id


@program
def a_hook_may_remove_itself(lib: Library) -> Any:
    (module, x), log = double(lib), Log()

    def once(module: Any, args: Any, output: Any) -> None:
        handle.remove()
        log.append("once")

    handle = module.register_forward_hook(once)
    module.register_forward_hook(log("b"))
    return module(x), module(x), log


@program
def a_pre_hook_may_add_a_hook(lib: Library) -> Any:
    (module, x), log = double(lib), Log()
    module.register_forward_pre_hook(lambda module, args: module.register_forward_hook(log("added")) and None)
    return module(x), module(x), log


@program
def the_same_function_twice(lib: Library) -> Any:
    (module, x), log = double(lib), Log()
    hook = log("a")
    first, _ = module.register_forward_hook(hook), module.register_forward_hook(hook, always_call=True)
    module(x)
    first.remove()
    module(x)
    return log


def failing(lib: Library, **changed: Any) -> Any:
    (module, x), log = double(lib), Log()
    module.register_forward_hook(log("never"))
    module.register_forward_hook(log("always", lambda *given: "answer"), always_call=True)
    module.register_forward_hook(log("always with kwargs"), always_call=True, with_kwargs=True)
    with lib.hooks.register_module_forward_hook(log("global always"), always_call=True):
        try:
            module(x, plus=13)
        except ValueError as error:
            return str(error), log


@program
def always_called_hooks_see_a_failing_forward(lib: Library) -> Any:
    return failing(lib)


@program
def always_called_hooks_after_a_failing_hook(lib: Library) -> Any:
    (module, x), log = double(lib), Log()

    def fail(*given: Any) -> None:
        log.append("fail")
        raise KeyError("hook")

    module.register_forward_hook(log("before"), always_call=True)
    module.register_forward_hook(fail, always_call=True)
    module.register_forward_hook(log("after"), always_call=True)
    module.register_forward_hook(log("not this"))
    try:
        module(x)
    except KeyError as error:
        return error.args[0], log


@program
def always_called_hooks_after_a_failing_pre_hook(lib: Library) -> Any:
    (module, x), log = double(lib), Log()
    module.register_forward_hook(log("always"), always_call=True)
    module.register_forward_pre_hook(lambda module, args: {}["pre"])
    try:
        module(x)
    except KeyError as error:
        return error.args[0], log


@program
def an_error_in_an_always_called_hook_does_not_hide_the_first(lib: Library) -> Any:
    (module, x), log = double(lib), Log()
    module.register_forward_hook(lambda *given: {}["second"], always_call=True)
    module.register_forward_hook(log("still"), always_call=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            module(x, plus=13)
        except ValueError as error:
            return str(error), log, [str(w.message) for w in caught if "always_call" in str(w.message)]


@program
def hooks_of_inner_modules(lib: Library) -> Any:
    net, log = lib.filled(lib.Net()), Log()
    for name, module in net.named_modules():
        module.register_forward_hook(log(name))
    x = lib.array([[1.0, 2.0, 3.0]])
    output = net(x)
    with lib.hooks.register_module_forward_pre_hook(log("global")):
        net.layers(x)
    return output, log


@program
def registration_hooks(lib: Library) -> Any:
    log = Log()
    handles = [
        lib.hooks.register_module_parameter_registration_hook(log("parameter")),
        lib.hooks.register_module_buffer_registration_hook(log("buffer")),
        lib.hooks.register_module_module_registration_hook(log("module")),
    ]
    block = lib.Block()
    block.add_module("none", None)
    block.fc = lib.nn.ReLU()
    for handle in handles:
        handle.remove()
    lib.Block()
    return [entry[:3] for entry in log]


@program
def registration_hooks_may_replace(lib: Library) -> Any:
    def replace(module: Any, name: str, value: Any) -> Any:
        return lib.nn.Parameter(lib.array([7.0])) if name == "scale" else None

    with lib.hooks.register_module_parameter_registration_hook(replace):
        block = lib.Block()
    with lib.hooks.register_module_module_registration_hook(lambda module, name, child: lib.nn.Tanh()):
        block.fc = lib.nn.ReLU()
    with lib.hooks.register_module_buffer_registration_hook(
        lambda module, name, value: lib.nn.Buffer(lib.array([8.0]), persistent=True)
    ):
        block.register_buffer("more", lib.array([1.0]))
    return block.scale, block.more, repr(block)


@program
def copies_keep_hooks(lib: Library) -> Any:
    (module, x), log = double(lib), Log()
    handle = module.register_forward_hook(lambda module, args, output: log.append("called"))
    twin = copy.deepcopy(module)
    handle.remove()
    return module(x), twin(x), log


# -- state dicts -------------------------------------------------------------------------------------------------------------


@program
def state_dict_hooks(lib: Library) -> Any:
    net, log = lib.filled(lib.Net()), Log()

    def add(module: Any, state: Any, prefix: str, metadata: Any) -> None:
        log.append(["add", type(module).__name__, prefix, list(state), metadata])
        state[prefix + "extra"] = lib.array([1.0])

    handles = [
        net.register_state_dict_pre_hook(log("pre")),
        net.layers[0].register_state_dict_pre_hook(log("inner pre")),
        net.layers[0].register_state_dict_post_hook(add),
        net.register_state_dict_post_hook(add),
    ]
    state = list(net.state_dict(prefix="p.", keep_vars=True))
    for handle in handles:
        handle.remove()
    return state, list(net.state_dict()), log


@program
def state_dict_post_hooks_give_nothing(lib: Library) -> Any:
    block = lib.Block()
    block.register_state_dict_post_hook(lambda module, state, prefix, metadata: state)
    return block.state_dict()


@program
def load_state_dict_hooks(lib: Library) -> Any:
    net, log = lib.filled(lib.Net()), Log()

    def rename(
        module: Any, state: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        log.append([type(module).__name__, prefix, metadata, strict, list(missing), list(unexpected), list(errors)])
        state[prefix + "scale"] = state.pop(prefix + "gain")

    def forgive(module: Any, keys: Any) -> None:
        log.append([type(module).__name__, list(keys.missing_keys), list(keys.unexpected_keys)])
        keys.missing_keys.clear()

    state = net.state_dict()
    state["layers.0.gain"] = state.pop("layers.0.scale") * 5
    del state["first.scale"], state["again.scale"]
    handles = [
        net.layers[0].register_load_state_dict_pre_hook(rename),
        net.register_load_state_dict_post_hook(forgive),
        net.layers.register_load_state_dict_post_hook(forgive),
    ]
    result = net.load_state_dict(state)
    for handle in handles:
        handle.remove()
    return str(result), net.layers[0].scale, log


@program
def errors_of_load_hooks_are_reported(lib: Library) -> Any:
    block = lib.Block()
    block.register_load_state_dict_pre_hook(lambda *given: given[-1].append("the hook's own complaint"))
    block.load_state_dict(block.state_dict())


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_torch(torch: Any, name: str) -> None:
    agree(torch, PROGRAMS[name])


# -- handles, state and transforms -------------------------------------------------------------------------------------------


def test_handles_do_not_keep_modules_alive() -> None:
    module, x = double(ours())
    handle = module.register_forward_hook(lambda *given: None)
    module(x)
    del module
    gc.collect()
    handle.remove()


def test_what_hooks_write_is_there_after_a_compiled_call() -> None:
    """Eager or compiled, hooks see and leave the same."""

    def run(wrap: Callable[[Any], Any]) -> Any:
        module, x = double(ours())
        module.register_buffer("total", jnp.zeros(2))
        module.seen = []

        def count(module: Any, args: Any, output: Any) -> Any:
            module.total = module.total + output
            module.seen.append(output)
            return output + 1

        handle = module.register_forward_hook(count)
        call = wrap(lambda module, x: module(x))
        outputs = [call(module, x), call(module, 2 * x)]
        handle.remove()
        return plain([*outputs, call(module, x), module.total, module.seen])

    for one, other in zip(run(lambda f: f), run(fb.jit), strict=True):
        np.testing.assert_equal(other, one)


def test_adding_and_removing_hooks_reaches_compiled_functions() -> None:
    module, x = double(ours())
    call = fb.jit(lambda module, x: module(x))
    assert call(module, x).tolist() == [2, 4]
    with module.register_forward_hook(lambda module, args, output: output * 0):
        assert call(module, x).tolist() == [0, 0]
    assert call(module, x).tolist() == [2, 4]


def test_global_hooks_reach_compiled_functions() -> None:
    module, x = double(ours())
    call = fb.jit(lambda module, x: module(x))
    assert call(module, x).tolist() == [2, 4]
    with hooks.register_module_forward_hook(lambda module, args, output: output + 1):
        assert call(module, x).tolist() == [3, 5]
    assert call(module, x).tolist() == [2, 4]
