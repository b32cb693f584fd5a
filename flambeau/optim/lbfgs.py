"""L-BFGS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flambeau._errors import StateDictError, StateError
from flambeau.core.cell import Parameter, running
from flambeau.core.transaction import transaction
from flambeau.optim._gradients import sort_gradients
from flambeau.optim._line_search import Point, strong_wolfe
from flambeau.optim._options import number
from flambeau.optim.optimizer import Optimizer, Params

__all__ = ["LBFGS"]

_HOW_TO_STEP = (
    "a closure that gives the loss and its gradients, and is called several times. Write\n"
    "    closure = fb.jit(lambda: fb.value_and_grad(loss_of)(net))\n"
    "    loss = optimizer.step(closure)"
)


class LBFGS(Optimizer):
    """L-BFGS: Newton's method with a curvature that is estimated from the last steps. For losses of all data, without noise.

    One `step` makes up to `max_iter` iterations `p = p + t d` with `d = −H g`, where `H` fits `H y = s` for the last
    `history_size` differences `s` of the parameters and `y` of their gradients. Where PyTorch's closure fills `.grad` and
    returns the loss, this one returns both, as `fb.value_and_grad` gives them. How often it is called depends on what it gives,
    so `step` stands outside of compiled functions; compile the closure.

    Args:
        params: see `Optimizer`; all in one group.
        lr: the step length t, or with a line search the first that is tried.
        max_iter: the most iterations of one `step`.
        max_eval: the most calls of the closure of one `step`, if not 5/4 of `max_iter`.
        tolerance_grad: how small the largest element of the gradient is when all is done.
        tolerance_change: how small the change of the loss, or of the parameters, is when all is done.
        history_size: how many differences are kept.
        line_search_fn: "strong_wolfe", or None for steps of fixed length.

    Raises:
        ValueError: an option makes no sense, or there are several groups.
        StateError: `step` is called inside of a transform.

    Example:
        >>> import jax.numpy as jnp
        >>> import flambeau as fb
        >>> from flambeau import nn
        >>> net = nn.Linear(2, 1)
        >>> x, y = jnp.array([[1.0, 2.0], [3.0, 5.0], [2.0, 1.0]]), jnp.array([[5.0], [12.0], [5.0]])
        >>> closure = fb.jit(lambda: fb.value_and_grad(lambda net: ((net(x) - y) ** 2).mean())(net))
        >>> optimizer = fb.optim.LBFGS(net.parameters(), line_search_fn="strong_wolfe")
        >>> before = optimizer.step(closure)
        >>> after, _ = closure()
        >>> bool(after < 1e-6)
        True

    Source: https://doi.org/10.1007/BF01589116, https://docs.pytorch.org/docs/2.13/generated/torch.optim.LBFGS.html
    """

    def __init__(
        self,
        params: Params,
        lr: float | jax.Array = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        # By PyTorch's names. Nothing is known before the first step, and no direction before the first iteration.
        self._memory: dict[str, Any] = {}
        super().__init__(
            params,
            _no_transformation,
            lr=lr,
            max_iter=max_iter,
            max_eval=max_iter * 5 // 4 if max_eval is None else max_eval,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            history_size=history_size,
            line_search_fn=line_search_fn,
        )

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        if options["line_search_fn"] not in (None, "strong_wolfe"):
            raise ValueError(f"only 'strong_wolfe' is supported, got line_search_fn={options['line_search_fn']!r}")
        tolerances = {name: number(name, options[name]) for name in ("tolerance_grad", "tolerance_change")}
        return {**options, **tolerances, "lr": number("learning rate", options["lr"], low=0)}

    def _check_new(self, names: list[str], params: list[Parameter]) -> None:
        super()._check_new(names, params)
        if self.param_groups:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    # -- the step -------------------------------------------------------------------------------------------------------

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Callable[[], Any] | None = None, **extra: Any
    ) -> Any:
        """Makes up to `max_iter` iterations.

        Args:
            closure: gives the loss (or the loss and anything else, as with `has_aux`) and its gradients, in any form that
                `Optimizer.step` takes. A parameter without one stays.
            extra: nothing.

        Returns:
            What the closure's first call gave as the loss.

        Raises:
            TypeError: the closure is none, or gives something else.
            StateError: this is inside of a transform.
        """
        if not callable(closure) or extra:
            raise TypeError(f"LBFGS.step takes {_HOW_TO_STEP}")
        if running.frame is not None:
            raise StateError(
                f"LBFGS.step decides by the losses how to go on, which a transform cannot follow: call it outside. It takes "
                f"{_HOW_TO_STEP}"
            )
        return transaction(self, lambda: self._descend(closure))

    def _was_never_stepped(self) -> bool:
        return not self._memory

    def _descend(self, closure: Callable[[], Any]) -> Any:
        memory, group = self._memory, self.param_groups[0]
        memory.setdefault("func_evals", 0)
        memory.setdefault("n_iter", 0)
        value, loss, gradient = self._evaluate(closure)
        evaluations = 1
        for iteration in range(1, group["max_iter"] + 1):
            if float(_largest(gradient)) <= group["tolerance_grad"]:
                break
            length = self._turn(loss, gradient)
            slope = float(_dot(gradient, memory["d"]))
            if slope > -group["tolerance_change"]:
                break
            start = Point(0.0, loss, gradient, slope)
            if group["line_search_fn"] is not None:
                loss, gradient, calls = self._search(closure, start, length, group["max_eval"] - evaluations)
            else:
                self._move(self._values(), length)
                # The last point is not evaluated: the next step does it, perhaps on other data.
                calls = int(iteration < group["max_iter"])
                loss, gradient = self._evaluate(closure)[1:] if calls else (loss, gradient)
            evaluations += calls
            moved = abs(memory["t"]) * float(_largest(memory["d"]))
            small = moved <= group["tolerance_change"] or abs(loss - start.loss) < group["tolerance_change"]
            if evaluations >= group["max_eval"] or small:
                break
        return value

    def _evaluate(self, closure: Callable[[], Any]) -> tuple[Any, float, jax.Array]:
        """What the closure gave as the loss, the loss as a number, and the gradient in one vector."""
        result = closure()
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"the closure gave a {type(result).__name__}; LBFGS.step takes {_HOW_TO_STEP}")
        value, grads = result
        loss = value[0] if isinstance(value, tuple) else value
        (found,) = sort_gradients(self.param_groups, grads)
        parameters = self._parameters()
        gradient = _joined([found.get(i, jnp.zeros(p.shape, p.dtype)) for i, p in enumerate(parameters)])
        self._memory["func_evals"] += 1
        return value, float(loss), gradient

    def _turn(self, loss: float, gradient: jax.Array) -> float:
        """Takes the last difference into the memory, and sets the new direction; gives the first step length to try."""
        memory, group = self._memory, self.param_groups[0]
        memory["n_iter"] += 1
        if memory["n_iter"] == 1:
            memory.update(d=-gradient, old_dirs=[], old_stps=[], ro=[], H_diag=1.0)
            memory["t"] = min(1.0, 1.0 / float(jnp.abs(gradient).sum())) * float(group["lr"])
        else:
            y, s, ys, yy = _difference(gradient, memory["prev_flat_grad"], memory["d"], memory["t"])
            if float(ys) > 1e-10:
                if len(memory["old_dirs"]) == group["history_size"]:
                    for name in ("old_dirs", "old_stps", "ro"):
                        memory[name].pop(0)
                memory["old_dirs"].append(y)
                memory["old_stps"].append(s)
                memory["ro"].append(1.0 / float(ys))
                memory["H_diag"] = float(ys) / float(yy)
            memory["d"] = self._direction(gradient)
            memory["t"] = float(group["lr"])
        memory.update(prev_flat_grad=gradient, prev_loss=loss)
        return memory["t"]

    def _direction(self, gradient: jax.Array) -> jax.Array:
        """`−H g` by the two loops over the memory."""
        memory = self._memory
        pairs = list(zip(memory["old_dirs"], memory["old_stps"], memory["ro"], strict=True))
        d, shares = -gradient, []
        for y, s, ro in reversed(pairs):
            d, share = _unwind(d, y, s, ro)
            shares.append(share)
        d = memory["H_diag"] * d
        for (y, s, ro), share in zip(pairs, reversed(shares), strict=True):
            d = _rewind(d, y, s, ro, share)
        return d

    def _search(
        self, closure: Callable[[], Any], start: Point, length: float, most: int
    ) -> tuple[float, jax.Array, int]:
        """Moves to the point that the line search finds."""
        values, direction = self._values(), self._memory["d"]

        def evaluate(length: float) -> Point:
            self._move(values, length)
            _, loss, gradient = self._evaluate(closure)
            return Point(length, loss, gradient, float(_dot(gradient, direction)))

        tolerance = self.param_groups[0]["tolerance_change"]
        found, calls = strong_wolfe(evaluate, start, length, float(_largest(direction)), tolerance, most)
        self._memory["t"] = found.length
        self._move(values, found.length)
        return found.loss, found.gradient, calls

    # -- parameters -----------------------------------------------------------------------------------------------------

    def _parameters(self) -> list[Parameter]:
        return self.param_groups[0]["params"]

    def _values(self) -> list[jax.Array]:
        return [parameter.get(self) for parameter in self._parameters()]

    def _move(self, values: Sequence[jax.Array], length: float) -> None:
        """Puts the parameters `length` along the direction from `values`."""
        moved = _moved(values, length, self._memory["d"])
        for parameter, value in zip(self._parameters(), moved, strict=True):
            parameter.set(value, owner=self, exposed=False)

    # -- state ----------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> Mapping[Parameter, Mapping[str, Any]]:
        """What is kept for all parameters together, under the first one as in PyTorch."""
        return {self._parameters()[0]: dict(self._memory)} if self._memory else {}

    def state_dict(self) -> dict[str, Any]:
        lists = {name: list(value) for name, value in self._memory.items() if isinstance(value, list)}
        return {**super().state_dict(), "state": {0: {**self._memory, **lists}} if self._memory else {}}

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        super()._load({**state_dict, "state": {}})
        size = sum(parameter.numel() for parameter in self._parameters())
        memory, wrong = _read_memory(state_dict["state"].get(0, {}), size, jnp.result_type(*self._values()))
        if wrong:
            raise StateDictError("Error(s) in loading state_dict for LBFGS:\n\t" + "\n\t".join(wrong))
        self._memory = memory


def _no_transformation(**_: Any) -> optax.GradientTransformation:
    """The update is not a function of the gradients: the group has options and parameters only."""
    return optax.identity()


_PLAIN = {"func_evals": int, "n_iter": int, "t": float, "H_diag": float, "prev_loss": float}
_VECTORS = ("d", "prev_flat_grad")
_LISTS = ("old_dirs", "old_stps", "ro")


def _read_memory(saved: Mapping[str, Any], size: int, dtype: Any) -> tuple[dict[str, Any], list[str]]:
    """The memory as it is kept, of ours or of PyTorch's state, and a line for each thing that does not fit."""
    given = {name: value for name, value in saved.items() if value is not None and name != "al"}  # al: a scratchpad
    expected = {*_PLAIN, *_VECTORS, *_LISTS} if given.get("n_iter") else {"func_evals", "n_iter"} if given else set()
    wrong = [f"state[0] lacks {name!r}" for name in sorted(expected - given.keys())]
    wrong += [f"state[0] has {name!r}, which this optimizer does not keep" for name in sorted(given.keys() - expected)]
    vectors = [(name, [given[name]]) for name in _VECTORS if name in given]
    vectors += [(name, given[name]) for name in ("old_dirs", "old_stps") if name in given]
    for name, values in vectors:
        for value in values:
            if np.shape(value) != (size,):
                wrong.append(f"state[0]: expected {name!r} of shape {(size,)}, got {np.shape(value)}")
    lengths = {len(given[name]) for name in _LISTS if name in given}
    if len(lengths) > 1:
        wrong.append(f"state[0]: old_dirs, old_stps and ro are lists of one length, got {sorted(lengths)}")
    if wrong:
        return {}, wrong

    def read(name: str, value: Any) -> Any:
        if name in _PLAIN:
            return _PLAIN[name](value)
        if name in _VECTORS:
            return jnp.asarray(np.asarray(value), dtype)
        return [float(item) if name == "ro" else jnp.asarray(np.asarray(item), dtype) for item in value]

    return {name: read(name, value) for name, value in given.items()}, []


@jax.jit
def _joined(arrays: Sequence[jax.Array]) -> jax.Array:
    return jnp.concatenate([array.reshape(-1) for array in arrays])


@jax.jit
def _moved(values: Sequence[jax.Array], length: Any, direction: jax.Array) -> list[jax.Array]:
    ends = np.cumsum([value.size for value in values])[:-1]
    parts = jnp.split(direction, ends)
    return [
        (value + length * part.reshape(value.shape)).astype(value.dtype)
        for value, part in zip(values, parts, strict=True)
    ]


def _inner(a: jax.Array, b: jax.Array) -> jax.Array:
    # Not `jnp.dot`, which on accelerators rounds its factors.
    return (a * b).sum()


@jax.jit
def _difference(gradient: jax.Array, before: jax.Array, direction: jax.Array, length: Any) -> tuple[Any, ...]:
    y, s = gradient - before, length * direction
    return y, s, _inner(y, s), _inner(y, y)


@jax.jit
def _unwind(d: jax.Array, y: jax.Array, s: jax.Array, ro: Any) -> tuple[jax.Array, jax.Array]:
    share = _inner(s, d) * ro
    return d - share * y, share


@jax.jit
def _rewind(d: jax.Array, y: jax.Array, s: jax.Array, ro: Any, share: jax.Array) -> jax.Array:
    return d + (share - _inner(y, d) * ro) * s


@jax.jit
def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return _inner(a, b)


@jax.jit
def _largest(a: jax.Array) -> jax.Array:
    return jnp.abs(a).max()
