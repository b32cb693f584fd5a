"""Hooks: functions that a module calls around its forward, its backward, its saving and its loading.

Names, arguments and order are PyTorch's. A hook that writes to a module is carried out of a transform like any other write.
"""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from flambeau._errors import FlambeauWarning
from flambeau.core.containers import rebuild_tuple
from flambeau.core.location import users_stacklevel
from flambeau.core.tree import Node, Registry

if TYPE_CHECKING:
    from flambeau.core.module import Module

__all__ = [
    "HookMethods",
    "RemovableHandle",
    "register_module_buffer_registration_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
]


class Hook(NamedTuple):
    """A registered function and how it is to be called."""

    function: Callable[..., Any]
    with_kwargs: bool = False
    always_call: bool = False


class RemovableHandle:
    """Removes a hook: by `remove()`, or at the end of a `with` block."""

    _ids = itertools.count()

    def __init__(self, registry: Registry) -> None:
        self.id = next(RemovableHandle._ids)
        self._registry = weakref.ref(registry)

    def remove(self) -> None:
        registry = self._registry()
        if registry is not None and self.id in registry:
            del registry[self.id]

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class _Global(Node):
    """Holds the hooks that every module calls; a node, so that a change of them reaches compiled functions."""

    _late_registry_names = (
        "_forward_pre_hooks",
        "_forward_hooks",
        "_backward_pre_hooks",
        "_backward_hooks",
        "_buffer_registration_hooks",
        "_module_registration_hooks",
        "_parameter_registration_hooks",
    )


global_hooks = _Global()


def add(node: Node, kind: str, hook: Hook, *, prepend: bool = False) -> RemovableHandle:
    """Registers `hook` in the node's registry `kind`."""
    registry = node._registry(kind)
    handle = RemovableHandle(registry)
    others = dict(registry)
    registry[handle.id] = hook
    if prepend and others:
        registry.assign({handle.id: hook, **others})
    return handle


def hooks_of(node: Node, kind: str) -> Iterator[Hook]:
    """The node's hooks of one kind, as they were when the call began."""
    return iter(tuple(node.__dict__.get(kind, {}).values()))


class HookMethods(Node):
    """The part of `Module` that registers hooks."""

    _late_registry_names = (
        "_forward_pre_hooks",
        "_forward_hooks",
        "_backward_pre_hooks",
        "_backward_hooks",
        "_state_dict_pre_hooks",
        "_state_dict_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
    )

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Calls `hook(module, args)` before each forward; what it returns, if anything, replaces the arguments.

        Args:
            hook: with `with_kwargs`, `hook(module, args, kwargs)`, which returns nothing or `(args, kwargs)`.
            prepend: whether it fires before the hooks registered so far.

        Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Module.html
        """
        return add(self, "_forward_pre_hooks", Hook(hook, with_kwargs), prepend=prepend)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> RemovableHandle:
        """Calls `hook(module, args, output)` after each forward; what it returns, if anything, replaces the output.

        Args:
            hook: with `with_kwargs`, `hook(module, args, kwargs, output)`.
            prepend: whether it fires before the hooks registered so far.
            always_call: whether it fires also when the forward raises (with the output None).

        Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Module.html
        """
        return add(self, "_forward_hooks", Hook(hook, with_kwargs, always_call), prepend=prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Calls `hook(module, grad_output)` before the module's gradients are computed.

        What it returns, if anything, replaces the gradient with respect to the output.
        """
        return add(self, "_backward_pre_hooks", Hook(hook), prepend=prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Calls `hook(module, grad_input, grad_output)` when the gradient with respect to the module's inputs is there.

        Both are tuples, over the positional arguments and over the outputs (an array or a tuple of arrays), with None for what
        is no array and for an output that no gradient reached. Where some input is differentiated, the others have the
        gradient 0; where none is, all of `grad_input` is None. What the hook returns, if anything, replaces `grad_input`.
        """
        return add(self, "_backward_hooks", Hook(hook), prepend=prepend)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(module, prefix, keep_vars)` before `state_dict` collects the module's entries."""
        return add(self, "_state_dict_pre_hooks", Hook(hook))

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(module, state_dict, prefix, local_metadata)`, which may change the dict in place."""
        return add(self, "_state_dict_hooks", Hook(hook))

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)`."""
        return add(self, "_load_state_dict_pre_hooks", Hook(hook))

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(module, incompatible_keys)` after loading; it may change the two lists in place."""
        return add(self, "_load_state_dict_post_hooks", Hook(hook))


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Calls `hook(module, args)` before the forward of every module."""
    return add(global_hooks, "_forward_pre_hooks", Hook(hook))


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Calls `hook(module, args, output)` after the forward of every module."""
    return add(global_hooks, "_forward_hooks", Hook(hook, with_kwargs, always_call))


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Calls `hook(module, grad_output)` before the gradients of every module are computed."""
    return add(global_hooks, "_backward_pre_hooks", Hook(hook))


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Calls `hook(module, grad_input, grad_output)` when the input gradients of any module are there."""
    return add(global_hooks, "_backward_hooks", Hook(hook))


def register_module_buffer_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Calls `hook(module, name, buffer)` at each registration of a buffer; it may return another one."""
    return add(global_hooks, "_buffer_registration_hooks", Hook(hook))


def register_module_module_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Calls `hook(module, name, submodule)` at each registration of a module; it may return another one."""
    return add(global_hooks, "_module_registration_hooks", Hook(hook))


def register_module_parameter_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Calls `hook(module, name, parameter)` at each registration of a parameter; it may return another one."""
    return add(global_hooks, "_parameter_registration_hooks", Hook(hook))


def registered(kind: str, module: Module, name: str, value: Any) -> Any:
    """What the global registration hooks make of a value that is about to be registered."""
    for hook in hooks_of(global_hooks, kind):
        replaced = hook.function(module, name, value)
        value = value if replaced is None else replaced
    return value


def call_with_hooks(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs a module's forward between its hooks and the global ones."""
    output: Any = None
    called: list[Hook] = []
    try:
        for hook in _both(module, "_forward_pre_hooks"):
            args, kwargs = _call_pre_hook(hook, module, args, kwargs)
        backward = _Backward.of(module)
        if backward is not None:
            args = backward.watch_inputs(args)
        output = module.forward(*args, **kwargs)
        for hook in _both(module, "_forward_hooks"):
            called.append(hook)
            output = _call_forward_hook(hook, module, args, kwargs, output)
        return output if backward is None else backward.watch_outputs(output)
    except Exception:
        for hook in _both(module, "_forward_hooks"):
            if hook.always_call and not any(hook is done for done in called):
                output = _call_in_spite_of_an_error(hook, module, args, kwargs, output)
        raise


def _both(module: Module, kind: str) -> list[Hook]:
    """The global hooks of one kind, and the module's own."""
    return [*hooks_of(global_hooks, kind), *hooks_of(module, kind)]


def _call_in_spite_of_an_error(hook: Hook, module: Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    try:
        return _call_forward_hook(hook, module, args, kwargs, output)
    except Exception as error:
        warnings.warn(
            "module forward hook with ``always_call=True`` raised an exception that was silenced as another error was "
            f"raised in forward: {error}",
            FlambeauWarning,
            stacklevel=users_stacklevel(),
        )
        return output


def _call_pre_hook(
    hook: Hook, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not hook.with_kwargs:
        replaced = hook.function(module, args)
        if replaced is None:
            return args, kwargs
        return (replaced if isinstance(replaced, tuple) else (replaced,)), kwargs
    replaced = hook.function(module, args, kwargs)
    if replaced is None:
        return args, kwargs
    if not (isinstance(replaced, tuple) and len(replaced) == 2):
        raise RuntimeError(f"a forward pre-hook with_kwargs returns None or (args, kwargs), got {replaced!r}")
    return replaced


def _call_forward_hook(hook: Hook, module: Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    given = (args, kwargs, output) if hook.with_kwargs else (args, output)
    replaced = hook.function(module, *given)
    return output if replaced is None else replaced


class _Backward:
    """Sees the gradients that flow through one call of a module, by identities around it whose derivatives call the hooks."""

    def __init__(self, module: Module, pre_hooks: list[Hook], hooks: list[Hook]) -> None:
        self.module = module
        self.pre_hooks = pre_hooks
        self.hooks = hooks
        self.count = 0  # of the positional arguments
        self.shapes: dict[int, jax.ShapeDtypeStruct] = {}  # of those that are arrays
        self.differentiated: list[int] = []  # those with respect to which is differentiated
        self.grad_output: tuple[Any, ...] | None = None

    @classmethod
    def of(cls, module: Module) -> _Backward | None:
        pre_hooks, hooks = _both(module, "_backward_pre_hooks"), _both(module, "_backward_hooks")
        return cls(module, pre_hooks, hooks) if pre_hooks or hooks else None

    def watch_inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.count = len(args)
        self.shapes = {
            i: jax.ShapeDtypeStruct(arg.shape, arg.dtype) for i, arg in enumerate(args) if isinstance(arg, jax.Array)
        }
        positions = [i for i, arg in enumerate(args) if _differentiable(arg)]

        def note(perturbed: list[bool]) -> None:
            self.differentiated = [i for i, is_perturbed in zip(positions, perturbed, strict=True) if is_perturbed]

        def backward(gradients: tuple[Any, ...]) -> tuple[Any, ...]:
            given = {i: _dense(g) for i, g in zip(positions, gradients, strict=True) if i in self.differentiated}
            if self.grad_output is not None:
                given = dict(enumerate(self.fire(given)))
            return tuple(given.get(i) for i in positions)

        return _watch(args, positions, note, backward)

    def watch_outputs(self, output: Any) -> Any:
        outputs = output if isinstance(output, tuple) else (output,)
        if not isinstance(output, (tuple, jax.Array)):
            warnings.warn(
                "For backward hooks to be called, module output should be an array or a tuple of arrays but received "
                f"{type(output).__name__}",
                FlambeauWarning,
                stacklevel=users_stacklevel(),
            )
        positions = [i for i, value in enumerate(outputs) if _differentiable(value)]

        def backward(gradients: tuple[Any, ...]) -> tuple[Any, ...]:
            given = {i: g for i, g in zip(positions, gradients, strict=True) if not isinstance(g, SymbolicZero)}
            grad_output = tuple(given.get(i) for i in range(len(outputs)))
            for hook in self.pre_hooks:
                grad_output = _replaced(hook.function(self.module, grad_output), grad_output, "pre hook", "grad_output")
            self.grad_output = grad_output
            if not self.differentiated:
                self.fire({})
            return tuple(grad_output[i] for i in positions)

        watched = _watch(outputs, positions, lambda perturbed: None, backward)
        return watched if isinstance(output, tuple) else watched[0]

    def fire(self, gradients: dict[int, Any]) -> tuple[Any, ...]:
        """Calls the hooks with the gradients of the inputs; gives those that go on from here."""
        # As in torch, an array that is not differentiated has the gradient 0 if another one is.
        zeros = {i: jnp.zeros(shape.shape, shape.dtype) for i, shape in self.shapes.items()} if gradients else {}
        given = {**zeros, **gradients}
        grad_input = tuple(given.get(i) for i in range(self.count))
        for hook in self.hooks:
            replaced = hook.function(self.module, grad_input, self.grad_output)
            grad_input = _replaced(replaced, grad_input, "hook", "grad_input")
        if not gradients and any(gradient is not None for gradient in grad_input):
            raise RuntimeError(
                "Backward hook for Modules where no input requires gradient should always return None or None for all gradients."
            )
        self.grad_output = None
        return grad_input


def _watch(
    values: tuple[Any, ...],
    positions: list[int],
    note: Callable[[list[bool]], None],
    backward: Callable[[tuple[Any, ...]], tuple[Any, ...]],
) -> tuple[Any, ...]:
    """The values, those at `positions` through an identity; None among the gradients that `backward` gives stands for 0."""
    if not positions:
        return values

    def forward(*primals: Any) -> tuple[tuple[jax.Array, ...], None]:
        note([primal.perturbed for primal in primals])
        return tuple(primal.value for primal in primals), None

    identity = jax.custom_vjp(lambda *arrays: arrays)
    identity.defvjp(forward, lambda _, gradients: backward(gradients), symbolic_zeros=True)
    watched = list(values)
    for position, array in zip(positions, identity(*(values[i] for i in positions)), strict=True):
        watched[position] = array
    return rebuild_tuple(values, watched)


def _replaced(replaced: Any, gradients: tuple[Any, ...], hook: str, what: str) -> tuple[Any, ...]:
    """What a hook makes of the gradients."""
    if replaced is None:
        return gradients
    given = replaced if isinstance(replaced, (tuple, list)) else (replaced,)
    if len(given) != len(gradients):
        raise RuntimeError(
            f"Backward {hook} returned an invalid number of {what}, got {len(given)}, but expected {len(gradients)}"
        )
    return tuple(given)


def _dense(gradient: Any) -> jax.Array:
    if not isinstance(gradient, SymbolicZero):
        return gradient
    return jnp.zeros(gradient.shape, gradient.dtype)  # pyright: ignore[reportArgumentType]


def _differentiable(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.inexact)
