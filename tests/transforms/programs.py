"""A grammar of random small modules and random programs over them.

A `Program` is Python source: classes of modules, a function that works on them, and what the user does between two calls
of it. Hypothesis draws its statements from the tables of `statements.py` and shrinks them; a failing one prints as
source.

The source sees the transforms as names that the caller gives it, so that one and the same program runs with and without
them. It defines `make()`, which builds the modules (a `World`), `build(world)`, which gives the program and
the same program with its gradient, `arguments(world, x)` for a call of either, and `between(i, world, x)`.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.transforms.statements import (
    ACCESS,
    ACTIONS,
    BLOCKS,
    CALLS,
    CHILDREN,
    FEATURES,
    FUNCTIONS,
    INPUTS,
    NESTED,
    OBJECTS,
    RESULTS,
    SHARED,
    STATEMENTS,
    VALUES,
    WIRING,
)

__all__ = ["Program", "programs"]


@dataclass(frozen=True)
class Program:
    """One random program: blocks of statements, one string per line."""

    child: tuple[str, ...]
    net: tuple[str, ...]
    step: tuple[str, ...]
    loss: tuple[str, ...]
    body: tuple[str, ...]
    result: str
    wiring: tuple[str, ...]
    between: tuple[tuple[str, ...], ...]
    inputs: tuple[str, ...]
    access: str
    holds: bool

    @property
    def shared(self) -> bool:
        """Whether one compiled function serves every world."""
        return self.access in SHARED

    @property
    def branches(self) -> bool:
        """Whether a condition that only the run knows decides what happens: not all that may happen then can be compiled."""
        return bool(re.search(r"cond\(|switch\(|while_loop\(", "\n".join(self.body)))

    @property
    def transforms(self) -> bool:
        """Whether it uses others than jit and grad."""
        return bool(
            re.search(
                r"(checkpoint|jac\w+|jvp|vjp|linearize|map|scan|loop|cond|switch|hessian_sum|shape|scan_layers|ruled_\w+"
                r"|ensemble|functional_call)\(",
                "\n".join(self.body),
            )
        )

    @property
    def differentiable(self) -> bool:
        """Whether JAX can differentiate it in reverse."""
        return "while_loop(" not in "\n".join(self.body)

    @property
    def is_module_call(self) -> bool:
        """Whether the program is one call of its module, which eager execution undoes too if it raises."""
        return self.body == ("v = net(v)",)

    def source(self) -> str:
        """The program as Python, without the prelude."""
        blocks = [self.child, self.net, self.step, self.loss, self.body, (self.result,), self.wiring, *self.between]
        text = "\n".join(line for block in blocks for line in block)
        named = set(re.findall(r"\.(\w+)", text))
        features = [line for name, line in FEATURES.items() if name in named and name not in CHILDREN]
        # A parameter that no statement ties or freezes: there is always one to differentiate with respect to.
        children = ["self.anchor = Parameter(jnp.array(1.1))"]
        children += [line for name, line in FEATURES.items() if name in named and name in CHILDREN]
        body = ["v = x", *self.body, f"return jnp.sum(v * v), {self.result}"]
        parts = [
            f"class Child(Module):\n{_indented([*_init('0.8', features), *_forward(self.child)])}",
            f"class Net(Module):\n{_indented([*_init('0.6', features + children), *_forward(self.net)])}",
            f"def step(m, v):\n{_indented(['x = v', *self.step, 'return v'])}\nstep = jit(step)",
            f"def loss_of(m, v):\n{_indented(['x = v', *self.loss, 'return jnp.sum(v * v)'])}",
            f"ruled_back, ruled_forth = {_rules(text)}",
            f"def make():\n{_indented(['net, other = Net(), Child()', *self.wiring, 'return World(net, other)'])}",
            ACCESS[self.access].strip().format(body=_indented(body), inner_body=_indented(body, 2)),
            f"inputs = [{', '.join(self.inputs)}]",
            f"def between(i, world, x):\n{_indented(self._between())}",
        ]
        return "\n\n".join(parts) + "\n"

    def _between(self) -> list[str]:
        lines = ["net, v, optimizer = world.net, x, world.optimizer"]
        for i, block in enumerate(self.between):
            lines += [f"if i == {i}:", *(f"    {line}" for line in block or ("pass",))]
        return lines

    def __repr__(self) -> str:
        return f"\n# access={self.access} holds={self.holds}\n{self.source()}"


def _rules(text: str) -> str:
    """What has a derivative of its own: where a rule cannot be one, the function as it is, or as the other rule has it."""
    if "requires_grad_" in text:
        return "loss_of, loss_of"  # what is frozen while it is differentiated
    forward = re.search(r"jvp\(|linearize\(|jacfwd\(", text)  # of which a custom_vjp knows nothing
    return "with_rules(loss_of)[1:] * 2" if forward else "with_rules(loss_of)"


def _init(scale: str, features: list[str]) -> list[str]:
    lines = [
        "super().__init__()",
        f"self.weight = Parameter({scale} * jnp.array([1.0, 0.9]))",
        f"self.bias = Parameter({scale} * jnp.array([0.2, -0.3]))",
        'self.register_buffer("mean", jnp.array([0.1, -0.2]))',
        *features,
    ]
    return ["def __init__(self):", *(f"    {line}" for line in lines)]


def _forward(block: tuple[str, ...]) -> list[str]:
    return ["def forward(self, x):", "    v = x", *(f"    {line}" for line in block), "    return v"]


def _indented(lines: Any, times: int = 1) -> str:
    return textwrap.indent("\n".join(lines), "    " * times)


@dataclass(frozen=True)
class _Scope:
    """What statements may name at one place of a program."""

    modules: tuple[str, ...]
    net: str | None = None  # the one with children
    callables: tuple[str, ...] = ()
    nested: bool = False  # whether transforms may stand here


CHILD = _Scope(("self", "self", "other"))
NET = _Scope(
    ("self", "self", "self.inner", "self.twin", "other"), "self", ("self.inner", "self.inner", "self.twin", "other")
)
STEP = _Scope(("m", "m", "other"), None, ("m", "other"))
BODY = _Scope(("net", "net", "net.inner", "other"), "net", ("net", "net", "net.inner", "other"), nested=True)
BETWEEN = _Scope(("net", "net.inner", "other"), "net")


def _filled(draw: st.DrawFn, template: str, scope: _Scope) -> str:
    """The template with modules and a value in the places of its letters."""
    names = {"m": draw(st.sampled_from(scope.modules)), "n": draw(st.sampled_from(scope.modules))}
    if "{e}" in template:
        template = template.replace("{e}", draw(st.sampled_from(VALUES)))
    if "{f}" in template:
        names["f"] = draw(st.sampled_from(scope.callables))
    return template.format(net=scope.net, **names)


def _statement(draw: st.DrawFn, scope: _Scope, depth: int) -> list[str]:
    """The lines of one statement."""
    kinds = ["plain"] * 8 + ["call"] * (4 if scope.callables else 0)
    kinds += ["nested"] * 5 if scope.nested else []
    kinds += ["function"] * 3 if scope.nested and depth < 2 else []
    kinds += ["try", "hook"] if scope.callables else []
    kinds += ["block"] if depth < 1 else []
    kinds += ["object"] if scope is NET else []
    kind = draw(st.sampled_from(kinds))
    if kind == "plain":
        return [_filled(draw, draw(_PLAIN if scope.net else _PLAIN_OF_ANY), scope)]
    if kind == "object":
        return [draw(st.sampled_from(OBJECTS))]
    if kind == "call":
        return [_filled(draw, draw(st.sampled_from(CALLS)), scope)]
    if kind == "nested":
        return [_filled(draw, draw(st.sampled_from(NESTED)), scope)]
    if kind == "try":
        return ["try:", f"    {_filled(draw, CALLS[0], scope)}", "except Boom:", "    v = v * 0.5"]
    if kind == "hook":
        call = _filled(draw, "with {f}.register_forward_hook(keep_output): v = {f}(v)", scope)
        return [call]
    inside = [f"    {line}" for line in _block(draw, scope, 1, 2, depth + 1)]
    if kind == "function":
        use = draw(st.sampled_from(FUNCTIONS)).replace("{m}", draw(st.sampled_from(scope.modules)))
        return ["def local(v):", *inside, "    return jnp.sum(v * v)", use]
    return [_filled(draw, draw(st.sampled_from(BLOCKS)), scope), *inside]


_PLAIN = st.sampled_from(STATEMENTS)
_PLAIN_OF_ANY = st.sampled_from([statement for statement in STATEMENTS if "{net}" not in statement])


def _block(draw: st.DrawFn, scope: _Scope, least: int, most: int, depth: int = 0) -> list[str]:
    return [line for _ in range(draw(st.integers(least, most))) for line in _statement(draw, scope, depth)]


def _actions(draw: st.DrawFn) -> tuple[str, ...]:
    templates = draw(st.lists(st.sampled_from(ACTIONS) | _PLAIN, max_size=1))
    return tuple(_filled(draw, template, BETWEEN) for template in templates)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Random programs of three calls."""
    alone = draw(st.sampled_from((False, False, False, True)))
    body = ["v = net(v)"] if alone else _block(draw, BODY, 1, 4)
    text = "\n".join(body)
    return Program(
        body=tuple(body),
        net=tuple(_block(draw, NET, 0, 3)) if re.search(r"net\(|\(net", text) else (),
        child=tuple(_block(draw, CHILD, 0, 2)),
        step=tuple(_block(draw, STEP, 0, 2)) if "step(" in text else (),
        loss=tuple(_block(draw, STEP, 0, 2)) if "loss_of" in text else (),
        result="v" if alone else _filled(draw, draw(st.sampled_from(RESULTS)), BODY),
        wiring=tuple(draw(st.lists(st.sampled_from(WIRING), max_size=1))),
        between=(_actions(draw), _actions(draw)),
        inputs=tuple(draw(st.sampled_from(INPUTS)) for _ in range(3)),
        access=draw(st.sampled_from(list(ACCESS))),
        holds=draw(st.booleans()),
    )
