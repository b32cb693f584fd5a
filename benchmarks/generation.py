"""How many tokens a second a GPT-2 of 124 million parameters writes, and what its cache of keys and values is worth.

    python benchmarks/generation.py                     # a few minutes on two cores
    python benchmarks/generation.py --tokens 8 --rounds 1

`generate` is one program; `step by step` calls a compiled step for each token, which overwrites its cache in place; `no cache`
looks at all tokens at each step, in one compiled loop.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rich.console import Console
from rich.table import Table

import flambeau as fb
from flambeau import models
from measure import Call, in_turns, seconds


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch", type=int, default=1, help="sequences (%(default)s)")
    parser.add_argument("--prompt", type=int, default=64, help="tokens that are given (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens that are written (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way (%(default)s)")
    parser.add_argument("--dtype", default="float32", help="of the weights (%(default)s)")
    return parser.parse_args()


@fb.jit
def step(net: Any, tokens: Any) -> Any:
    return net(tokens, logits_to_keep=1)[:, -1:].argmax(-1)


def step_by_step(net: Any, prompt: Any, count: int) -> Any:
    net.make_cache(len(prompt), prompt.shape[1] + count)
    written = [step(net, prompt)]
    while len(written) < count:
        written.append(step(net, written[-1]))
    net.drop_cache()
    return jnp.concatenate([prompt, *written], axis=1)


def without_cache(net: Any, prompt: Any, count: int) -> Any:
    batch, start = prompt.shape

    @fb.jit
    def write(net: Any, prompt: Any) -> Any:
        def body(i: Any, tokens: Any) -> Any:
            last = lax.dynamic_slice_in_dim(net.transformer(tokens), i - 1, 1, axis=1)
            return lax.dynamic_update_slice_in_dim(tokens, net.lm_head(last).argmax(-1), i, axis=1)

        tokens = jnp.zeros((batch, start + count), prompt.dtype).at[:, :start].set(prompt)
        return fb.fori_loop(start, start + count, body, tokens)

    return lambda: write(net, prompt)


def main() -> None:
    given = options()
    fb.manual_seed(0)
    with fb.init_empty():
        net: Any = models.gpt2_small().eval()
    net.materialize(dtype=jnp.dtype(given.dtype))
    prompt = jax.random.randint(jax.random.key(0), (given.batch, given.prompt), 0, 50257)
    ways: dict[str, Call] = {
        "generate, the likeliest": lambda: net.generate(prompt, given.tokens, temperature=0),
        "generate, drawn": lambda: net.generate(prompt, given.tokens, top_k=50, top_p=0.9),
        "step by step": lambda: step_by_step(net, prompt, given.tokens),
        "no cache": without_cache(net, prompt, given.tokens),
    }
    first = {name: seconds(call) for name, call in ways.items()}
    times = in_turns(ways, given.rounds, repeat=1)
    table = Table("", "first call, s", "s", "tokens/s", title=f"{jax.devices()[0].device_kind}, {given.dtype}")
    for name, measured in times.items():
        best = float(np.median(measured))
        table.add_row(name, f"{first[name]:.1f}", f"{best:.2f}", f"{given.batch * given.tokens / best:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
