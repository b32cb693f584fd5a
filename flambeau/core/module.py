"""`Module`: the building block of every network, with the attributes, the tree and the state that PyTorch's has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import jax

from flambeau._errors import ForwardMissingError, RegistrationError
from flambeau.core import hidden, meta, raw
from flambeau.core.cell import (
    Buffer,
    Parameter,
    fitting,
    keeping_dtype,
    parameter_of,
    running,
)
from flambeau.core.conversion import ConversionMethods
from flambeau.core.hooks import HookMethods, call_with_hooks, global_hooks, registered
from flambeau.core.location import locate, settle
from flambeau.core.mistakes import check_keywords, missing_forward, no_child
from flambeau.core.suggest import suggestion
from flambeau.core.transaction import transaction
from flambeau.core.tree import Node

__all__ = ["Module"]

_FORWARD_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class Module(ConversionMethods):
    """Base class of all neural network modules; subclass it, as in PyTorch.

    Attributes that hold a `Parameter`, a `Module` or a `Buffer` are registered. Reading `self.weight` gives a plain
    `jax.Array`; `get_parameter("weight")`, `parameters()` and `named_parameters()` give the `Parameter`. Any other attribute
    that holds an array, and lists and dicts of them, are state too: what a compiled function writes to them is there after.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc = nn.Linear(4, 2)
        ...     def forward(self, x):
        ...         return self.fc(x)
        >>> Net()
        Net(
          (fc): Linear(in_features=4, out_features=2, bias=True)
        )
        >>> Net()(jnp.ones((3, 4))).shape
        (3, 2)

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Module.html
    """

    _registry_names = ("_parameters", "_buffers", "_modules", "_arrays", "_containers")
    _bookkeeping = frozenset(
        {
            *_registry_names,
            *HookMethods._late_registry_names,
            "_below",
            "_warned_hidden",
            "_said_hidden",
            "_compiled_call",
        }
    )

    call_super_init: bool = False
    training: bool
    _not_persistent: frozenset[str] = frozenset()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if kwargs:
            check_keywords(cls, kwargs)
        if running.frame is None and (running.meta or kwargs.get("device") == "meta"):
            return _without_values(cls, args, kwargs)
        return super().__new__(cls)

    @classmethod
    def _bare(cls) -> Self:
        return Node.__new__(cls)  # also under `init_empty`, where `__new__` runs the whole constructor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not self.call_super_init and (args or kwargs):
            given = next(iter(kwargs), None) or f"{len(args)} positional argument(s)"
            raise TypeError(f"{type(self).__name__}.__init__() got an unexpected argument: {given}")
        self.training = True
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    # -- calling --------------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The computation of each call; every subclass defines it."""
        raise ForwardMissingError(missing_forward(type(self)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        frame = running.frame
        if raw.is_kept_function() and raw.reads_would_be_baked() and next(self.parameters(), None) is not None:
            raw.warn_baked(type(self).__name__)
        if frame is not None:
            frame.require(self)
            if frame.calling:
                return self._call_impl(*args, **kwargs)
        elif running.journal is not None:
            return self._call_impl(*args, **kwargs)
        elif raw.reads_would_be_baked() and next(self.parameters(), None) is not None:
            raw.warn_baked(type(self).__name__)
        try:
            compiled = self.__dict__.get("_compiled_call") if frame is None else None
            if compiled is not None:
                return compiled(*args, **kwargs)
            return transaction(self, lambda: self._call_impl(*args, **kwargs))
        except Exception as error:
            settle(error)
            meta.check(self, error)
            raise

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        attributes, everywhere = self.__dict__, global_hooks.__dict__
        try:
            for kind in _FORWARD_HOOKS:
                if attributes.get(kind) or everywhere.get(kind):
                    return call_with_hooks(self, args, kwargs)
            return self.forward(*args, **kwargs)
        except Exception as error:
            locate(error, self, args, kwargs)
            raise

    # -- attributes -----------------------------------------------------------------------------------------------------

    def _find(self, name: str) -> Any:
        attributes = self.__dict__
        for registry in ("_parameters", "_buffers"):
            cell = attributes[registry].get(name, self)
            if cell is not self:
                return None if cell is None else cell.get(self)
        module = attributes["_modules"].get(name, self)
        return module if module is not self or module is None else super()._find(name)

    def _missing_attribute(self, name: str) -> str:
        message = f"'{type(self).__name__}' object has no attribute '{name}'"
        if "training" not in self.__dict__ and name == "training":
            return f"{message}: call super().__init__() first in {type(self).__name__}.__init__"
        return message + suggestion(name, dir(self))

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._start("a parameter", name)
            self._check_spelling(name, "parameter")
            self._forget(name, keep="_parameters")
            self.register_parameter(name, value)
        elif name in self.__dict__["_parameters"]:
            self._set_parameter(name, value)
        elif isinstance(value, Module):
            self._start("a module", name)
            self._check_spelling(name, "module")
            self._put_module(name, value)
        elif name in self.__dict__["_modules"]:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as child module '{name}' (a Module or None expected)"
                )
            self._put_module(name, None)
        elif isinstance(value, Buffer):
            self._start("a buffer", name)
            self._check_spelling(name, "buffer")
            self._forget(name, keep="_buffers")
            self._put_buffer(name, value)
        elif name in self.__dict__["_buffers"]:
            self._set_buffer(name, value)
        elif isinstance(value, (jax.Array, meta.Meta)) and (holder := parameter_of(value)) is not None:
            # An array read from a module stands for its Parameter: assigning it to a new name ties, as in torch.
            self.__setattr__(name, holder)
        else:
            super().__setattr__(name, value)

    def _set_parameter(self, name: str, value: Any) -> None:
        cell = self._parameters[name]
        holder = parameter_of(value) if isinstance(value, (jax.Array, meta.Meta)) else None
        if value is None or holder is not None:
            self._parameters[name] = holder
        elif cell is None:
            raise TypeError(
                f"cannot assign '{type(value).__name__}' as parameter '{name}' (nn.Parameter or None expected)"
            )
        elif isinstance(value, Buffer) or not (hasattr(value, "__array__") or isinstance(value, (int, float))):
            raise TypeError(
                f"cannot assign '{type(value).__name__}' as parameter '{name}' (nn.Parameter, an array or None expected)"
            )
        else:
            cell.set(fitting(cell, value, f"{type(self).__name__}.{name}"), owner=self, name=name)

    def _set_buffer(self, name: str, value: Any) -> None:
        cell = self._buffers[name]
        if value is None:
            if cell is not None:
                self._remember_persistence(name, cell.persistent)
            self._buffers[name] = None
        elif not isinstance(value, jax.Array) and not hasattr(value, "__array__"):
            raise TypeError(f"cannot assign '{type(value).__name__}' as buffer '{name}' (an array or None expected)")
        elif cell is None:
            self._put_buffer(name, Buffer(value, persistent=name not in self._not_persistent))
        else:
            cell.set(keeping_dtype(cell, value), owner=self, name=name)

    def _start(self, what: str, name: str) -> None:
        if "training" not in self.__dict__:
            raise AttributeError(
                f"cannot assign {what} to {type(self).__name__}.{name} before Module.__init__() was called: "
                f"write super().__init__() as the first line of {type(self).__name__}.__init__"
            )

    # -- registration ---------------------------------------------------------------------------------------------------

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Registers a parameter under `name`; None reserves the name.

        Raises:
            RegistrationError: the name is empty, has a dot, or hides another attribute.
            TypeError: `param` is no Parameter.
        """
        self._start("a parameter", name)
        self._check_name(name, "parameter", "_parameters")
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot register '{type(param).__name__}' as parameter '{name}' (nn.Parameter or None expected)"
            )
        self._parameters[name] = (
            param if param is None else registered("_parameter_registration_hooks", self, name, param)
        )

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Registers an array as a buffer: state that is not learnt, such as running statistics.

        Args:
            name: the attribute's name.
            tensor: an array, or None to reserve the name.
            persistent: whether it is part of the `state_dict`.

        Raises:
            RegistrationError: the name is empty, has a dot, or hides another attribute.
            TypeError: `tensor` is no array.
        """
        self._start("a buffer", name)
        self._check_name(name, "buffer", "_buffers")
        if tensor is None:
            self._remember_persistence(name, persistent)
            self._buffers[name] = registered("_buffer_registration_hooks", self, name, None)
        elif isinstance(tensor, Buffer):
            tensor.persistent = persistent
            self._put_buffer(name, tensor)
        elif hasattr(tensor, "__array__"):
            self._put_buffer(name, Buffer(tensor, persistent=persistent))
        else:
            raise TypeError(f"cannot register '{type(tensor).__name__}' as buffer '{name}' (an array or None expected)")

    def _remember_persistence(self, name: str, persistent: bool) -> None:
        """Keeps in mind, of a buffer that is None for now, whether it will be part of the `state_dict`."""
        if persistent == (name in self._not_persistent):
            self._not_persistent ^= {name}

    def _put_buffer(self, name: str, buffer: Buffer) -> None:
        self._buffers[name] = registered("_buffer_registration_hooks", self, name, buffer)

    def register_module(self, name: str, module: Module | None) -> None:
        """Registers a child module under `name`; None reserves the name. The same as `add_module`."""
        self.add_module(name, module)

    def add_module(self, name: str, module: Module | None) -> None:
        """Registers a child module under `name`; None reserves the name.

        Raises:
            RegistrationError: the name is empty, has a dot, or hides another attribute.
            TypeError: `module` is no Module.
        """
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._start("a module", name)
        self._check_name(name, "module", "_modules")
        self._put_module(name, module)

    def _put_module(self, name: str, module: Module | None) -> None:
        module = registered("_module_registration_hooks", self, name, module)
        if module is not None and (module is self or any(inner is self for inner in module.modules())):
            raise RegistrationError(
                f"cannot register a module into itself: {type(self).__name__}.{name} would contain {type(self).__name__} "
                f"again. To keep a reference to an outer module, hold it as a weakref.ref or in a tuple."
            )
        self._forget(name, keep="_modules")
        self._modules[name] = module

    def _check_name(self, name: str, what: str, registry: str) -> None:
        self._check_spelling(name, what)
        if name not in self.__dict__[registry] and hasattr(self, name):
            raise RegistrationError(
                f"attribute {name!r} already exists: delete it first, or choose another name for the {what}"
            )

    def _check_spelling(self, name: str, what: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string, got {type(name).__name__}")
        if "." in name:
            raise RegistrationError(
                f'{what} name can\'t contain ".": got {name!r}. Register it on the module that shall hold it.'
            )
        if name == "":
            raise RegistrationError(f'{what} name can\'t be empty string "": give it a name')
        if callable(getattr(type(self), name, None)):
            raise RegistrationError(
                f"a {what} named {name!r} would hide the method {type(self).__name__}.{name}: choose another name"
            )

    # -- the tree -------------------------------------------------------------------------------------------------------

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it with their names; a shared one comes once, unless `remove_duplicate=False`."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self.__dict__["_modules"].items():
            if module is not None:
                below = f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, below, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """This module and all below it, each once unless `remove_duplicate=False`."""
        for _, module in self.named_modules(remove_duplicate=remove_duplicate):
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below this one with their names, each once."""
        seen: set[Module] = set()
        for name, module in self.__dict__["_modules"].items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules directly below this one, each once."""
        for _, module in self.named_children():
            yield module

    def _named_members(
        self,
        get_members_fn: Callable[[Module], Iterable[tuple[str, Any]]],
        prefix: str = "",
        recurse: bool = True,
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, member in get_members_fn(module):
                if member is None or id(member) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(member))
                yield (f"{path}.{name}" if path else name), member

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters with their names; a tied one comes once, under its first name, unless `remove_duplicate=False`."""
        hidden.warn_below(self)
        yield from self._named_members(
            lambda module: module.__dict__["_parameters"].items(), prefix, recurse, remove_duplicate
        )

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, each once: what an optimizer takes."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Buffer]]:
        """The buffers with their names; a shared one comes once, unless `remove_duplicate=False`."""
        yield from self._named_members(
            lambda module: module.__dict__["_buffers"].items(), prefix, recurse, remove_duplicate
        )

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        """The buffers, each once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path such as `encoder.0`; the empty path is this module.

        Raises:
            AttributeError: there is none; the message says where the path ends and what there is.
        """
        module = self
        done: list[str] = []
        for name in target.split(".") if target else ():
            child = module.__dict__["_modules"].get(name)
            if child is None:
                raise AttributeError(no_child(self, module, done, name))
            module = child
            done.append(name)
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Puts `module` at a dotted path. `strict`: only where there is one already.

        Raises:
            ValueError: the path is empty, or `module` is no Module.
            AttributeError: the path leads nowhere.
        """
        if target == "":
            raise ValueError("cannot set the submodule with an empty target: give the path of a module below this one")
        if not isinstance(module, Module):
            raise ValueError(f"`module` is not an nn.Module, found {type(module).__name__}")
        *path, name = target.split(".")
        parent = self.get_submodule(".".join(path))
        if strict and name not in parent._modules:
            raise AttributeError(no_child(self, parent, path, name))
        if name not in parent._modules and hasattr(parent, name):
            raise AttributeError(f"`{name}` of {type(parent).__name__} is not an nn.Module")
        setattr(parent, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The `Parameter` at a dotted path such as `encoder.0.weight`.

        Raises:
            AttributeError: there is none.
        """
        return self._get_cell(target, "_parameters", "parameter")

    def get_buffer(self, target: str) -> Buffer:
        """The `Buffer` at a dotted path such as `encoder.1.running_mean`.

        Raises:
            AttributeError: there is none.
        """
        return self._get_cell(target, "_buffers", "buffer")

    def _get_cell(self, target: str, registry: str, what: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        cell = module.__dict__[registry].get(name)
        if cell is None:
            names = [known for known, value in module.__dict__[registry].items() if value is not None]
            raise AttributeError(
                f"{type(module).__name__}{f' at {path!r}' if path else ''} has no {what} '{name}'; "
                f"it has {', '.join(names) or 'none'}{suggestion(name, names)}"
            )
        return cell

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Calls `fn` on every module below this one, and last on this one, as for `net.apply(init_weights)`."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # -- modes, dtypes, devices -----------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Puts this module and all below it into training mode (or, with False, evaluation mode)."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self) -> Self:
        """Puts this module and all below it into evaluation mode."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Sets for all parameters whether `fb.grad` differentiates with respect to them."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Does nothing that matters: gradients are values that `fb.grad` returns, and do not pile up on parameters.

        It is here so that a training loop written for PyTorch runs.
        """

    def compile(self, **options: Any) -> None:
        """From now on, calls of this module run compiled, as `fb.jit(module, **options)` does.

        Source: https://docs.pytorch.org/docs/2.13/generated/torch.nn.Module.html
        """
        self.__dict__["_compiled_call"] = raw.transform("jit")(self._call_impl, **options)

    # -- printing and copying -------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # A copy is not compiled, as in torch: the compiled call is bound to this module.
        return {name: value for name, value in super().__getstate__().items() if name != "_compiled_call"}

    def extra_repr(self) -> str:
        """What stands between the parentheses of the module's line in `repr`."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {_indented(repr(module))}" for name, module in self.__dict__["_modules"].items()]
        inside = lines + children
        if not inside:
            return f"{self._get_name()}()"
        if len(lines) == 1 and not children:
            return f"{self._get_name()}({lines[0]})"
        return f"{self._get_name()}(\n  " + "\n  ".join(inside) + "\n)"


def _without_values(cls: type[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A finished module on the meta device, for `__new__` to give: the `__init__` that Python calls next is none."""
    kwargs = {name: value for name, value in kwargs.items() if not (name == "device" and value == "meta")}
    made = meta.construct(lambda: cls(*args, **kwargs))

    def finish(self: Any, *args: Any, **kwargs: Any) -> None:
        object.__setattr__(self, "__class__", cls)

    object.__setattr__(made, "__class__", type(cls.__name__, (cls,), {"__init__": finish}))
    return made


def _indented(text: str) -> str:
    """`text` with its lines after the first indented, but for the blank ones."""
    first, *rest = text.split("\n")
    return "\n".join([first, *("  " + line if line.strip() else "" for line in rest)])
