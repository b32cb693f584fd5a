"""`LRScheduler`: the base of all schedulers, and the counters and learning rates that they keep."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import jax

from flambeau._errors import StateDictError, StateError
from flambeau.core.cell import running
from flambeau.core.transaction import transaction
from flambeau.core.tree import Node, Registry
from flambeau.optim._number import Number
from flambeau.optim.optimizer import Optimizer

__all__ = ["LRScheduler"]

# What PyTorch's state dicts hold besides, of which nothing depends.
_VOID = frozenset({"_get_lr_called_within_step", "_is_initial", "verbose"})

EPOCH_IS_DEPRECATED = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where possible. Please use "
    "`scheduler.step()` to step the scheduler. During the deprecation, if epoch is different from None, the closed form is used "
    "instead of the new chainable form, where available."
)


class numeric(property):
    """An attribute of a scheduler that is a number, or a list of numbers, and changes from step to step.

    Outside of compiled functions it is Python's; inside it is an array, and an input and output of the compiled code, which
    therefore does not depend on its value.
    """

    def __init__(self, name: str) -> None:
        def read(scheduler: LRScheduler) -> Any:
            entry = scheduler._numbers.get(name)
            if entry is None:
                raise AttributeError(f"{type(scheduler).__name__} has no attribute {name!r} yet")
            return [n.read(scheduler) for n in entry] if isinstance(entry, tuple) else entry.read(scheduler)

        def write(scheduler: LRScheduler, value: Any) -> None:
            entry = scheduler._numbers.get(name)
            several = isinstance(value, (list, tuple))
            if several and isinstance(entry, tuple) and len(entry) == len(value):
                for number, new in zip(entry, value, strict=True):
                    number.write(new, scheduler, name)
            elif isinstance(entry, Number) and not several and not (entry.whole and isinstance(value, float)):
                entry.write(value, scheduler, name)
            else:
                scheduler._numbers[name] = tuple(map(Number.of, value)) if several else Number.of(value)

        super().__init__(read, write)


class LRScheduler(Node):
    """Base class of all schedulers. A subclass defines `get_lr`, from `last_epoch`, `base_lrs` and the optimizer's groups.

    Schedulers work on `group["lr"]` as PyTorch's do, in double precision, and nothing is compiled for it. `step` may stand in a
    compiled function too: there `last_epoch` and the learning rates are arrays of JAX's precision, so a `get_lr` of your own has
    to do with `jnp.where` what it would do with `if`.

    Args:
        optimizer: whose learning rates are set.
        last_epoch: the number of the last epoch, if training is resumed; its groups then have an "initial_lr".

    Raises:
        TypeError: `optimizer` is none.
        KeyError: training is resumed, and a group has no "initial_lr".

    Example:
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> class Halving(fb.optim.lr_scheduler.LRScheduler):
        ...     def get_lr(self):
        ...         return [lr * 0.5**self.last_epoch for lr in self.base_lrs]
        >>> optimizer = fb.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.8)
        >>> scheduler = Halving(optimizer)
        >>> for epoch in range(2):
        ...     scheduler.step()
        >>> optimizer.param_groups[0]["lr"], scheduler.get_last_lr()
        (0.2, [0.2])

    Source: https://docs.pytorch.org/docs/2.13/generated/torch.optim.lr_scheduler.LRScheduler.html
    """

    _registry_names = (*Node._registry_names, "_numbers")
    # The flags hold only while `step` runs, so they are no part of the structure.
    _bookkeeping = Node._bookkeeping | {"_numbers", "_get_lr_called_within_step", "_is_initial", "_is_part"}
    _numbers: Registry

    _get_lr_called_within_step: bool = False
    _is_initial: bool = False
    _is_part: bool = False  # of a scheduler of schedulers, which looks after the order itself

    last_epoch: Any = numeric("last_epoch")
    base_lrs: Any = numeric("base_lrs")
    _step_count: Any = numeric("_step_count")
    _last_lr: Any = numeric("_last_lr")

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = checked(optimizer)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming scheduler with last_epoch >= 0: "
                    f"load the optimizer's state first, or leave last_epoch out for a fresh training run"
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._initial_step()

    def _initial_step(self) -> None:
        """Sets the learning rates of epoch 0, or keeps those of the epoch that training is resumed at."""
        self._step_count = 0
        with self._flag("_is_initial"):
            self.step()

    # -- the schedule ---------------------------------------------------------------------------------------------------

    def get_lr(self) -> Sequence[Any]:
        """The next learning rate of each group: what a subclass defines, and `step` calls."""
        raise TypeError(f"{type(self).__name__} defines no get_lr, which says what the learning rates are")

    def get_last_lr(self) -> list[Any]:
        """The learning rate of each group that this scheduler set last."""
        return self._last_lr

    def step(self, epoch: Any = None) -> None:
        """Goes on to the next epoch. Call it after the optimizer's `step`.

        Args:
            epoch: deprecated in PyTorch too: the epoch to go to, by the closed form of the schedule where there is one.
        """
        self._as_a_whole(lambda: self._step(epoch))

    def _step(self, epoch: Any) -> None:
        by_the_user = running.frame is None and not self._is_initial and not self._is_part
        if by_the_user and self._steps_first() and self.optimizer._was_never_stepped():
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: call them in the opposite order, else the "
                "first value of the learning rate schedule is skipped.",
                stacklevel=6,
            )
        self._go_on(epoch)

    def _steps_first(self) -> bool:
        """Whether this is the first step after the one that is made with the scheduler."""
        return self._step_count == 1

    def _go_on(self, epoch: Any) -> None:
        self._step_count = self._step_count + 1
        if epoch is not None:
            warnings.warn(EPOCH_IS_DEPRECATED, stacklevel=7)
        self._update_lr(epoch)

    def _update_lr(self, epoch: Any = None) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        closed = None if epoch is None else getattr(self, "_get_closed_form_lr", None)
        with self._flag("_get_lr_called_within_step"):
            self._set_lrs(self.get_lr() if closed is None else closed())

    def _set_lrs(self, values: Sequence[Any]) -> None:
        groups = self.optimizer.param_groups
        if len(values) != len(groups):
            raise ValueError(
                f"{type(self).__name__} was made for {len(values)} parameter groups, and the optimizer has {len(groups)} by now: "
                f"make the scheduler after the last add_param_group"
            )
        for group, value in zip(groups, values, strict=True):
            group["lr"] = value
        self._last_lr = self._current()

    def _current(self) -> list[Any]:
        """The present learning rates."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def _warn_outside_of_step(self) -> None:
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use `get_last_lr()`.", stacklevel=3
            )

    @contextmanager
    def _flag(self, name: str) -> Iterator[None]:
        self.__dict__[name] = True
        try:
            yield
        finally:
            self.__dict__.pop(name, None)

    def _as_a_whole(self, act: Any) -> None:
        """Makes a change of the scheduler and its optimizer: all of it, or with an exception none."""
        if running.frame is None:
            transaction(self, act)
            return
        running.frame.require(self)
        try:
            act()
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.TracerArrayConversionError,
            jax.errors.TracerIntegerConversionError,
        ) as error:
            raise StateError(
                f"{type(self).__name__}.step: inside of a compiled function the epoch is an array, and the schedule is made with "
                f"Python's `if`, `math` or an index, which need its value. Use jnp.where and the like there, or call "
                f"scheduler.step() outside of the compiled function, where it costs no compilation"
            ) from error

    # -- state ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The attributes of the scheduler but for the optimizer, by PyTorch's names."""
        numbers = {name: getattr(self, name) for name in self._numbers}
        statics = {name: value for name, value in self._statics() if name != "optimizer"}
        return {**statics, **{name: copy(getattr(self, name)) for name in self._containers_now()}, **numbers}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave, or that of PyTorch's scheduler of the same name.

        Raises:
            StateDictError: it has attributes that this scheduler does not have; nothing is changed then.
        """
        self._as_a_whole(lambda: self._load(state_dict))

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        known = LRScheduler.state_dict(self)
        given = {name: value for name, value in state_dict.items() if name not in _VOID}
        wrong = sorted(given.keys() - known.keys())
        if wrong:
            raise StateDictError(
                f"{type(self).__name__} has no {', '.join(wrong)}: it is the state of another scheduler"
            )
        for name, value in given.items():
            setattr(self, name, value)


def checked(optimizer: Any) -> Optimizer:
    """`optimizer`, if it is one whose groups have a learning rate "lr".

    Raises:
        TypeError: it is none.
        ValueError: its groups call the learning rate otherwise.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
    if any("lr" not in group for group in optimizer.param_groups):
        raise ValueError(
            'a scheduler sets group["lr"], which the groups of this optimizer do not have; name the learning rate so, as in '
            "Optimizer(params, lambda lr: optax.lion(lr), lr=1e-3)"
        )
    return optimizer


def of_each_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """The value of an argument for each group: a list has one for each, anything else holds for all."""
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has {len(value)} values, param_groups has "
            f"{count}."
        )
    return list(value)
