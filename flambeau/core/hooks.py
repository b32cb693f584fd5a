"""Hooks: functions that a module calls around its forward, its backward, its saving and its loading.

Names, arguments and order are PyTorch's. A hook that writes to a module is carried out of a transform like any other write.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

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
        registry.clear()
        registry.update({handle.id: hook, **others})
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

        Both are tuples over the positional arguments and the outputs; entries that are no arrays, or through which nothing is
        differentiated, are None in `grad_input`. What the hook returns, if anything, replaces `grad_input`.
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
    pending = [hook for node in (global_hooks, module) for hook in hooks_of(node, "_forward_hooks")]
    try:
        for node in (global_hooks, module):
            for hook in hooks_of(node, "_forward_pre_hooks"):
                args, kwargs = _call_pre_hook(hook, module, args, kwargs)
        backward = _Backward.of(module)
        if backward is not None:
            args = backward.watch_inputs(args)
        output = module.forward(*args, **kwargs)
        if backward is not None:
            output = backward.watch_outputs(output)
        while pending:
            output = _call_forward_hook(pending.pop(0), module, args, kwargs, output)
        return output
    except Exception:
        for hook in pending:
            if hook.always_call:
                _call_forward_hook(hook, module, args, kwargs, None)
        raise


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
        self.inputs_differentiated = False
        self.positions: list[int] = []
        self.count = 0
        self.grad_output: tuple[Any, ...] = ()

    @classmethod
    def of(cls, module: Module) -> _Backward | None:
        nodes = (global_hooks, module)
        pre_hooks = [hook for node in nodes for hook in hooks_of(node, "_backward_pre_hooks")]
        hooks = [hook for node in nodes for hook in hooks_of(node, "_backward_hooks")]
        return cls(module, pre_hooks, hooks) if pre_hooks or hooks else None

    def watch_inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.count = len(args)
        self.positions = [i for i, arg in enumerate(args) if _differentiable(arg)]
        if not self.positions or not self.hooks:
            return args

        def forward(*arrays: jax.Array) -> Any:
            self.inputs_differentiated = True
            return arrays, None

        def backward(_: None, gradients: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            return self.fire(gradients)

        identity = jax.custom_vjp(lambda *arrays: arrays)
        identity.defvjp(forward, backward)
        watched = identity(*(args[i] for i in self.positions))
        replaced = list(args)
        for position, array in zip(self.positions, watched, strict=True):
            replaced[position] = array
        return tuple(replaced)

    def watch_outputs(self, output: Any) -> Any:
        leaves, treedef = jax.tree.flatten(output)
        positions = [i for i, leaf in enumerate(leaves) if _differentiable(leaf)]

        def backward(_: None, gradients: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            for hook in self.pre_hooks:
                replaced = hook.function(self.module, gradients)
                if replaced is not None:
                    gradients = replaced if isinstance(replaced, tuple) else (replaced,)
            self.grad_output = gradients
            if self.hooks and not self.inputs_differentiated:
                self.fire(())
            return gradients

        identity = jax.custom_vjp(lambda *arrays: arrays)
        identity.defvjp(lambda *arrays: (arrays, None), backward)
        for position, array in zip(positions, identity(*(leaves[i] for i in positions)), strict=True):
            leaves[position] = array
        return jax.tree.unflatten(treedef, leaves)

    def fire(self, gradients: tuple[Any, ...]) -> tuple[Any, ...]:
        """Calls the hooks with the gradients of the inputs that are arrays; gives those that go on from here."""
        grad_input: list[Any] = [None] * self.count
        for position, gradient in zip(self.positions, gradients, strict=bool(gradients)):
            grad_input[position] = gradient
        for hook in self.hooks:
            replaced = hook.function(self.module, tuple(grad_input), self.grad_output)
            if replaced is not None:
                grad_input = list(replaced) if isinstance(replaced, tuple) else [replaced]
        return tuple(grad_input[position] for position in self.positions) if gradients else ()


def _differentiable(value: Any) -> bool:
    return isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.numpy.inexact)
