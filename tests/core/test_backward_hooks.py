"""Backward hooks: the gradients that they see and replace, eager and compiled, held against torch's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flambeau as fb
from flambeau import nn
from tests.core.twins import Library, Log, agree, ours, plain, same, theirs


def shapes(lib: Library) -> dict[str, Any]:
    """Modules that take and give their arrays in different ways."""

    class Product(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = lib.nn.Parameter(lib.array([[2.0, -1.0, 0.5]]))

    class Two(Product):
        def forward(self, x: Any, y: Any = None) -> Any:
            return x * self.weight * (1 if y is None else y)

    class Tuple(Product):
        def forward(self, x: Any, *others: Any) -> Any:
            return x * self.weight, None, lib.array([1, 2]), [x * 3], x**2 + self.weight

    class Dict(Product):
        def forward(self, x: Any) -> Any:
            return {"out": x * self.weight}

    class Keyword(Product):
        def forward(self, *, x: Any) -> Any:
            return x * self.weight

    class Unrelated(Product):
        def forward(self, x: Any) -> Any:
            return self.weight * 2

    class Around(Product):
        def forward(self, x: Any) -> Any:
            self.aside = x * 5
            return x * self.weight

    made = {cls.__name__.lower(): cls() for cls in (Two, Tuple, Dict, Keyword, Unrelated, Around)}
    return {**made, "net": lib.filled(lib.Net()), "linear": lib.filled(lib.nn.Linear(3, 2))}


def first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


# The module, its call on the differentiated x and on constants, what of the output is summed up, and which answers hooks give.
X = np.array([[1.0, -2.0, 3.0], [0.5, 0.25, -1.0]])
Y = np.array([[0.5, 1.5, -1.0], [1.0, 2.0, 3.0]])
CALLS: dict[str, tuple[str, Any, Any]] = {
    "linear": ("linear", lambda m, x, y: m(x), lambda m, out: (out**2).sum()),
    "network": ("net", lambda m, x, y: m(x), lambda m, out: (out**2).sum()),
    "two arguments": ("two", lambda m, x, y: m(x, x * 2), lambda m, out: (out**2).sum()),
    "a constant": ("two", lambda m, x, y: m(x, y), lambda m, out: (out**2).sum()),
    "a number": ("two", lambda m, x, y: m(x, 3.0), lambda m, out: (out**2).sum()),
    "nothing differentiated": ("two", lambda m, x, y: m(y), lambda m, out: (out**2).sum()),
    "only the second": ("two", lambda m, x, y: m(y, x), lambda m, out: (out**2).sum()),
    "first of a tuple": ("tuple", lambda m, x, y: m(x, None, "text"), lambda m, out: (out[0] ** 2).sum()),
    "last of a tuple": ("tuple", lambda m, x, y: m(x), lambda m, out: (out[4] ** 2).sum()),
    "two of a tuple": ("tuple", lambda m, x, y: m(x), lambda m, out: (out[4] ** 2 * out[0]).sum()),
    "inside a list": ("tuple", lambda m, x, y: m(x), lambda m, out: (out[3][0] ** 2).sum()),
    "keyword": ("keyword", lambda m, x, y: m(x=x), lambda m, out: (out**2).sum()),
    "unrelated": ("unrelated", lambda m, x, y: m(x), lambda m, out: (out**2).sum()),
    "around the output": ("around", lambda m, x, y: m(x), lambda m, out: (m.aside**2).sum()),
    "around and through": ("around", lambda m, x, y: m(x), lambda m, out: (m.aside * out).sum()),
    "called twice": ("two", lambda m, x, y: m(m(x)), lambda m, out: (out**2).sum()),
}


def torch_gradients(torch: Any, call: Any, loss: Any, module: Any) -> list[Any]:
    x, y = torch.tensor(X, requires_grad=True), torch.tensor(Y)
    loss(module, call(module, x, y)).backward()
    gradients = [x, *(p for p in module.parameters() if p.requires_grad)]
    return [np.zeros(g.shape) if g.grad is None else g.grad.numpy() for g in gradients]


def our_gradients(call: Any, loss: Any, module: Any, compiled: bool) -> list[Any]:
    differentiate = fb.grad(lambda x, module: loss(module, call(module, x, jnp.asarray(Y))), argnums=(0, 1))
    x, of_module = (fb.jit(differentiate) if compiled else differentiate)(jnp.asarray(X), module)
    return [x, *(of_module[name] for name, p in module.named_parameters() if p.requires_grad)]


def watch(lib: Library, module: Any, seen: Any, answer: Any = None, pre_answer: Any = None) -> None:
    """Adds backward hooks to the module and, in a network, to one inside."""
    for inner in {module, *([module.layers[0], module.again] if hasattr(module, "again") else [])}:
        inner.register_full_backward_pre_hook(lambda m, g: seen(m, "pre", g) or (pre_answer and pre_answer(g)))
        inner.register_full_backward_hook(lambda m, i, o: seen(m, "full", i, o) or (answer and answer(i)))


def scaled(factor: float) -> Any:
    return lambda gradients: tuple(None if g is None else g * factor for g in gradients)


ANSWERS: dict[str, tuple[Any, Any]] = {
    "seen": (None, None),
    "grad_input replaced": (scaled(3.0), None),
    "grad_output replaced": (None, scaled(-2.0)),
    "both replaced": (scaled(3.0), scaled(-2.0)),
    "nothing let through": (lambda gradients: (None,) * len(gradients), None),
}
# Where no input is differentiated, a hook may not answer: torch's own rule, tested below.
SILENT = {"nothing differentiated", "keyword"}
CASES = [(call, answer) for call in CALLS for answer in ANSWERS if call not in SILENT or "input" not in answer]
CASES = [
    (call, answer) for call, answer in CASES if call in ("linear", "a constant", "two of a tuple") or answer == "seen"
]


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("case", "answer"), CASES, ids=[" · ".join(case) for case in CASES])
def test_backward_hooks(torch: Any, case: str, answer: str, compiled: bool) -> None:
    """What they see, and what comes of their answers."""
    name, call, loss = CALLS[case]
    lib = theirs(torch)
    module, expected = shapes(lib)[name], []
    watch(lib, module, lambda m, *given: expected.append(plain(given)), *ANSWERS[answer])
    gradients = torch_gradients(torch, call, loss, module)

    lib = ours()
    module = shapes(lib)[name]
    # A list of a module is state, so what is appended is there after a compiled call too.
    module.seen = []
    watch(lib, module, lambda m, *given: module.seen.append(given), *ANSWERS[answer])
    found = our_gradients(call, loss, module, compiled)
    for mine, its in zip(found, gradients, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-9, atol=1e-9)
    same(plain(module.seen), expected)


def one_input(lib: Library) -> Any:
    class Scale(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = lib.nn.Parameter(lib.array([2.0, 3.0]))
            self.seen: list[Any] = []
            self.register_buffer("steps", lib.array(0.0))

        def forward(self, x: Any) -> Any:
            return x * self.weight

    return Scale()


def gradient(lib: Library, module: Any, x: Any, loss: Any = lambda out: (out**2).sum()) -> Any:
    """Of a loss with respect to the input; the torch way or ours."""
    if isinstance(module, nn.Module):
        return fb.grad(lambda x, module: loss(module(x)), argnums=(0, 1))(x, module)[0]
    x.requires_grad_(True)
    loss(module(x)).backward()
    return x.grad


ORDER: dict[str, Any] = {
    "full": lambda lib, m, log: [
        m.register_full_backward_hook(log("a")),
        m.register_full_backward_hook(log("b"), prepend=True),
        lib.hooks.register_module_full_backward_hook(log("global")),
    ],
    "pre": lambda lib, m, log: [
        m.register_full_backward_pre_hook(log("a")),
        m.register_full_backward_pre_hook(log("b", lambda g: (g[0] * 2,)), prepend=True),
        lib.hooks.register_module_full_backward_pre_hook(log("global", lambda g: g[0] + 1)),
    ],
    "both": lambda lib, m, log: [
        m.register_full_backward_hook(log("a", lambda i, o: (i[0] * 2,))),
        m.register_full_backward_hook(log("b", lambda i, o: (i[0] + 1,))),
        m.register_full_backward_pre_hook(log("c")),
    ],
    "the forward hook's output": lambda lib, m, log: [
        m.register_forward_hook(lambda m, args, out: out * 5),
        m.register_full_backward_hook(log("a")),
    ],
    "the pre-hook's input": lambda lib, m, log: [
        m.register_forward_pre_hook(lambda m, args: args[0] * 5),
        m.register_full_backward_hook(log("a")),
    ],
}


@pytest.mark.parametrize("name", ORDER)
def test_order_of_backward_hooks(torch: Any, name: str) -> None:
    def run(lib: Library) -> Any:
        module, log = one_input(lib), Log()
        if name == "pre" and not isinstance(module, nn.Module):
            # torch takes the length of what is no tuple: there a hook gives a tuple.
            handles = ORDER[name](lib, module, lambda n, answer=None: tupled(log(n, answer)))
        else:
            handles = ORDER[name](lib, module, log)
        result = gradient(lib, module, lib.array([1.0, -1.0]))
        for handle in handles:
            handle.remove()
        return result, gradient(lib, module, lib.array([1.0, -1.0])), log

    agree(torch, run)


def tupled(hook: Any) -> Any:
    def wrapped(*given: Any) -> Any:
        answer = hook(*given)
        return answer if answer is None or isinstance(answer, tuple) else (answer,)

    return wrapped


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("answer", [(), (1, 2), "constant"], ids=str)
def test_answers_that_backward_hooks_may_not_give(torch: Any, answer: Any) -> None:
    def run(lib: Library, register: str) -> Any:
        module, x = one_input(lib), lib.array([1.0, -1.0])
        if answer == "constant":
            # No input is differentiated here, so there is no gradient to replace.
            module.register_full_backward_hook(lambda m, i, o: (lib.array([1.0, 1.0]),))
            if isinstance(module, nn.Module):
                return fb.grad(lambda module: module(x).sum())(module)
            return module(x).sum().backward()
        getattr(module, register)(lambda *given: answer)
        return gradient(lib, module, x)

    for register in ("register_full_backward_hook", "register_full_backward_pre_hook"):
        agree(torch, lambda lib, register=register: run(lib, register))


def test_outputs_that_hold_no_arrays_warn(torch: Any) -> None:
    """A dict hides its arrays from backward hooks; torch warns, and so do we."""
    for lib in (theirs(torch), ours()):
        module, seen = shapes(lib)["dict"], []
        module.register_full_backward_hook(lambda *given, seen=seen: seen.append(given))
        with pytest.warns(UserWarning, match="For backward hooks to be called, module output should be") as caught:
            gradient(lib, module, lib.array(X), lambda out: out["out"].sum())
        assert not seen
    assert caught[0].filename == __file__


@pytest.mark.parametrize("wrap", [lambda f: f, fb.jit], ids=["eager", "compiled"])
def test_values_and_gradients_are_those_without_hooks(wrap: Any) -> None:
    """Hooks that only look change nothing, also where JAX differentiates twice, maps or scans."""
    lib = ours()
    net, x = nn.Sequential(lib.filled(nn.Linear(3, 2))), jnp.asarray(X)

    def everything(net: Any, x: Any) -> Any:
        first, second = fb.grad(lambda x: (net(x) ** 2).sum()), fb.grad(lambda x: (fb.grad(loss)(x) ** 3).sum())
        by_row = jax.vmap(lambda row: jax.grad(loss)(row[None])[0])(x)
        scanned = fb.grad(lambda x: fb.scan(lambda total, row: (total + loss(row[None]), None), 0.0, x)[0])(x)
        remat = fb.grad(fb.checkpoint(loss))(x)
        return [first(x), second(x), by_row, scanned, remat]

    def loss(x: Any) -> Any:
        return (net(x) ** 2).sum()

    expected = everything(net, x)
    for module in net.modules():
        module.register_full_backward_hook(lambda *given: None)
        module.register_full_backward_pre_hook(lambda *given: None)
    for one, other in zip(wrap(everything)(net, x), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("wrap", [lambda f: f, fb.jit], ids=["eager", "compiled"])
def test_forward_and_backward_write_the_same_state(torch: Any, wrap: Any) -> None:
    def run(lib: Library) -> Any:
        module = one_input(lib)
        module.forward = lambda x: note("forward", 1)(module) or x * module.weight
        module.register_full_backward_hook(note("backward", 10))
        if isinstance(module, nn.Module):
            step = wrap(fb.grad(lambda module, x: module(x).sum()))
        else:
            step = lambda module, x: module(x).sum().backward()  # noqa: E731
        for _ in range(2):
            step(module, lib.array([1.0, 1.0]))
        return module.seen, module.steps

    def note(name: str, number: int) -> Any:
        def write(module: Any, *given: Any) -> None:
            module.seen.append(name)
            module.steps = module.steps * 2 + number

        return write

    agree(torch, run)
