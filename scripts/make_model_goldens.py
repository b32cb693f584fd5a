"""Runs the networks of other packages and writes what `flambeau.models` is compared with.

python -m scripts.make_model_goldens vision      # needs torch, torchvision and timm; writes tests/models/golden
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator
from typing import Any

import torch

from tests.models.goldens import GOLDEN, LEARNING_RATE, Spec, digest, filling, images, settings, write_golden


def specs(net: Any) -> list[Spec]:
    return [
        Spec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in net.state_dict().items()
    ]


def per_tensor(values: Iterator[Any]) -> Any:
    return torch.stack([value.detach().double() for value in values]).numpy()


def record(case: str, net: Any, x: Any) -> None:
    """Output, how large the initial values are, and loss, gradients and the state after one step of training."""
    net = net.double()
    parameters = list(net.parameters())
    arrays = {
        "initial_deviation": per_tensor(p.std(unbiased=False) for p in parameters),
        "initial_size": per_tensor(p.abs().mean() for p in parameters),
        "initial_mean": per_tensor(p.mean() for p in parameters),
    }
    net.load_state_dict({s.name: torch.from_numpy(filling(*s)) for s in specs(net)})
    with torch.no_grad():
        arrays["eval"] = net.eval()(x).numpy()
    write_golden(case, specs(net), arrays | trained(net, parameters, x))


def trained(net: Any, parameters: list[Any], x: Any) -> dict[str, Any]:
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE)
    out = net.train()(x)
    loss = (out**2).mean()
    loss.backward()
    optimizer.step()
    return {
        "train": out.detach().numpy(),
        "loss": loss.detach().numpy(),
        "gradient_norms": per_tensor(p.grad.norm() for p in parameters),
        "sums_after_step": per_tensor(t.double().sum() for t in net.state_dict().values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("family", help="a file of scripts/model_goldens, such as vision")
    family = parser.parse_args().family
    found = importlib.import_module(f"scripts.model_goldens.{family}")
    torch.manual_seed(0)
    for case, (make, shape) in found.SMALL.items():
        record(case, make(), torch.from_numpy(images(*shape)))
    with torch.device("meta"):
        nets = ((name, make()) for name, make in found.names().items())
        digests = {name: {**digest(specs(net)), "settings": settings(net)} for name, net in nets}
    text = json.dumps(digests, indent=1)
    (GOLDEN / f"{family}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
