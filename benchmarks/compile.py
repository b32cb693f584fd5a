"""What the first training step of a deep network costs: tracing, compiling and running it once, by the number of its blocks.

    python benchmarks/compile.py                    # everything, twenty minutes
    python benchmarks/compile.py --quick            # 6 and 48 blocks, those that are scanned
    python benchmarks/compile.py --only equinox

A step is the loss of a small GPT's blocks, its gradient, and a step of gradient descent, in one row of AdamW. Blocks are
equal, so a loop over stacked weights (`scan`) is traced and compiled once; what is left to grow with the depth is the
stacking, and the update of each parameter, which takes XLA's time op by op. Without a scan, XLA's CPU compiler puts the
gradient of the residual stream into each loop that reads it, from all the blocks behind: where nothing stops it, as
flambeau's LayerNorm does, the time grows with the square of the depth. Every first step has a process of its own, in which XLA
compiled one addition before.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from measure import in_fresh_processes, seconds

DEPTHS = (6, 12, 24, 48)
HEADS = 4
RATE = 1e-3
# How much longer than with 6 blocks the first step may take with 48, where the blocks are scanned.
TARGET = 1.3

Step = Callable[[], Any]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="6 and 48 blocks, those that are scanned, one round")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contenders whose name has one of these in it")
    parser.add_argument("--width", type=int, default=64, help="width of the blocks (%(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=1, help="first steps of each, of which the median counts (%(default)s)"
    )
    return parser.parse_args()


def flambeau(depth: int, width: int, *, scanned: bool, unroll: bool = False, optimizer: str = "SGD") -> Step:
    import flambeau as fb
    from flambeau import nn
    from flambeau.nn import functional as F

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attention = nn.Linear(width, 3 * width)
            self.project = nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            q, k, v = jnp.split(self.attention(self.norm1(x)).reshape(*x.shape[:2], HEADS, -1), 3, -1)
            q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
            heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.project(heads.swapaxes(1, 2).reshape(x.shape))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    net = nn.Sequential(*(Block() for _ in range(depth))).scanned(scanned, unroll=unroll or 1)
    descent = getattr(fb.optim, optimizer)(net.parameters(), lr=RATE)
    x = jnp.ones((4, 16, width))

    @fb.jit
    def step(net: Any, descent: Any, x: Any) -> Any:
        loss, grads = fb.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
        descent.step(grads)
        return loss

    return lambda: step(net, descent, x)


def _weights(width: int) -> dict[str, Any]:
    shapes = {
        "attention": (width, 3 * width),
        "project": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    weights = {name: jnp.full(shape, 0.01) for name, shape in shapes.items()}
    biases = {f"{name}_bias": jnp.zeros(shape[1]) for name, shape in shapes.items()}
    norms = {f"norm{i}_{part}": jnp.ones(width) for i in (1, 2) for part in ("weight", "bias")}
    return {**weights, **biases, **norms}


def _block(p: dict[str, Any], x: Any) -> Any:
    def norm(i: int, x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * p[f"norm{i}_weight"] + p[f"norm{i}_bias"]

    def linear(name: str, x: Any) -> Any:
        return x @ p[name] + p[f"{name}_bias"]

    q, k, v = jnp.split(linear("attention", norm(1, x)).reshape(*x.shape[:2], HEADS, -1), 3, -1)
    heads = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    x = x + linear("project", heads.reshape(x.shape))
    return x + linear("down", jax.nn.gelu(linear("up", norm(2, x)), approximate=False))


def raw(depth: int, width: int, *, scanned: bool) -> Step:
    blocks: Any = [_weights(width) for _ in range(depth)]
    if scanned:  # the weights of all blocks live in one array each: what one writes for speed, and no state dict knows
        blocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    x = jnp.ones((4, 16, width))

    def loss(blocks: Any, x: Any) -> Any:
        if scanned:
            x, _ = jax.lax.scan(lambda x, p: (_block(p, x), None), x, blocks)
        else:
            for p in blocks:
                x = _block(p, x)
        return (x**2).mean()

    @jax.jit
    def step(blocks: Any, x: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(blocks, x)
        return jax.tree.map(lambda p, g: p - RATE * g, blocks, grads), value

    return lambda: step(blocks, x)


def equinox(depth: int, width: int) -> Step:
    import equinox as eqx

    key = jax.random.key(0)

    class Block(eqx.Module):
        layers: list[Any]

        def __init__(self) -> None:
            sizes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
            self.layers = [
                eqx.nn.LayerNorm(width),
                eqx.nn.LayerNorm(width),
                *(eqx.nn.Linear(*s, key=key) for s in sizes),
            ]

        def __call__(self, x: Any) -> Any:
            norm1, norm2, attention, project, up, down = (jax.vmap(layer) for layer in self.layers)
            q, k, v = jnp.split(attention(norm1(x)).reshape(len(x), HEADS, -1), 3, -1)
            x = x + project(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape))
            return x + down(jax.nn.gelu(up(norm2(x)), approximate=False))

    net = [Block() for _ in range(depth)]
    x = jnp.ones((4, 16, width))

    def loss(net: Any, x: Any) -> Any:
        for block in net:
            x = jax.vmap(block)(x)
        return (x**2).mean()

    @eqx.filter_jit
    def step(net: Any, x: Any) -> Any:
        value, grads = eqx.filter_value_and_grad(loss)(net, x)
        return eqx.apply_updates(net, jax.tree.map(lambda g: -RATE * g, grads)), value

    return lambda: step(net, x)


def nnx(depth: int, width: int) -> Step:
    from flax import nnx

    rngs = nnx.Rngs(0)

    class Block(nnx.Module):
        def __init__(self) -> None:
            self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
            self.attention = nnx.Linear(width, 3 * width, rngs=rngs)
            self.project = nnx.Linear(width, width, rngs=rngs)
            self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            q, k, v = jnp.split(self.attention(self.norm1(x)).reshape(*x.shape[:2], HEADS, -1), 3, -1)
            x = x + self.project(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape))
            return x + self.down(jax.nn.gelu(self.up(self.norm2(x)), approximate=False))

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.blocks = nnx.List([Block() for _ in range(depth)])

        def __call__(self, x: Any) -> Any:
            for block in self.blocks:
                x = block(x)
            return x

    net, x = Net(), jnp.ones((4, 16, width))

    @nnx.jit
    def step(net: Any, x: Any) -> Any:
        value, grads = nnx.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
        nnx.update(net, jax.tree.map(lambda p, g: p - RATE * g, nnx.state(net, nnx.Param), grads))
        return value

    return lambda: step(net, x)


def torch_compile(depth: int, width: int) -> Step:
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch._dynamo.reset()  # pyright: ignore[reportAttributeAccessIssue]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attention = nn.Linear(width, 3 * width)
            self.project = nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            q, k, v = self.attention(self.norm1(x)).reshape(*x.shape[:2], HEADS, -1).chunk(3, -1)
            heads = F.scaled_dot_product_attention(*(a.transpose(1, 2) for a in (q, k, v)), is_causal=True)
            x = x + self.project(heads.transpose(1, 2).reshape(x.shape))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    net = nn.Sequential(*(Block() for _ in range(depth)))
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    x = torch.ones(4, 16, width)
    forward = torch.compile(lambda x: (net(x) ** 2).mean())

    def step() -> Any:
        optimizer.zero_grad()
        loss = forward(x)
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


CONTENDERS: dict[str, tuple[str, Callable[[int, int], Step]]] = {
    "flambeau": ("jax", lambda depth, width: flambeau(depth, width, scanned=False)),
    "flambeau, traced once": ("jax", lambda depth, width: flambeau(depth, width, scanned=True, unroll=True)),
    "flambeau, scanned": ("jax", lambda depth, width: flambeau(depth, width, scanned=True)),
    "flambeau, scanned, AdamW": ("jax", lambda depth, width: flambeau(depth, width, scanned=True, optimizer="AdamW")),
    "hand-written JAX": ("jax", lambda depth, width: raw(depth, width, scanned=False)),
    "hand-written JAX, scanned": ("jax", lambda depth, width: raw(depth, width, scanned=True)),
    "Equinox": ("equinox", equinox),
    "Flax NNX": ("flax", nnx),
    "torch.compile": ("torch", torch_compile),
}


def first_step(name: str, depth: int, width: int) -> float:
    """Seconds of the first call, where nothing is compiled yet but an addition, with which XLA starts."""
    step = CONTENDERS[name][1](depth, width)
    jax.block_until_ready(jax.jit(lambda x: x + 1)(1))
    return seconds(step)


def main() -> None:
    """Measures in turns and prints the table."""
    given = options()
    words = [word.lower() for word in given.only or (["scanned"] if given.quick else [""])]
    names = [name for name in CONTENDERS if any(word in name.lower() for word in words)]
    depths = (DEPTHS[0], DEPTHS[-1]) if given.quick else DEPTHS
    console = Console()
    names = [name for name in names if importlib.util.find_spec(CONTENDERS[name][0]) is not None]
    times: dict[tuple[str, int], list[float]] = {(name, depth): [] for name in names for depth in depths}
    with in_fresh_processes() as processes:
        for _ in range(1 if given.quick else given.rounds):
            for depth in depths:
                for name in names:
                    with console.status(f"{name}, {depth} blocks"):
                        times[name, depth].append(processes.submit(first_step, name, depth, given.width).result())
    table = Table(*("first step", *(f"{depth} blocks" for depth in depths), f"{depths[-1]} by {depths[0]}"))
    for name in names:
        medians = [float(np.median(times[name, depth])) for depth in depths]
        table.add_row(name, *(f"{seconds:.2f} s" for seconds in medians), f"{medians[-1] / medians[0]:.2f}")
    console.print(table)
    console.print(
        f"target for flambeau, scanned: at most {TARGET} times the time of {depths[0]} blocks with {depths[-1]}"
    )


if __name__ == "__main__":
    main()
