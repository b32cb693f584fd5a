"""Writes the small checkpoints of torch and safetensors that the tests read where torch is not installed.

python scripts/make_checkpoints.py        # needs torch; writes tests/io/golden
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

GOLDEN = Path(__file__).parent.parent / "tests" / "io" / "golden"

DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex128 complex64".split()
NEWER = "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu uint16 uint32 uint64".split()
NOT_IN_SAFETENSORS = {"complex128"}


def dtypes(names: list[str]) -> dict[str, torch.Tensor]:
    """The numbers 1 to 6 of each dtype."""
    return {name: torch.arange(1.0, 7.0).reshape(2, 3).to(getattr(torch, name)) for name in names}


def layouts() -> dict[str, Any]:
    """Ways to look at the numbers 0 to 11."""
    x = torch.arange(12.0).reshape(3, 4)
    return {
        "plain": x,
        "tied": x,
        "transposed": x.T,
        "column": x[:, 1],
        "corner": x[1:, 2:],
        "repeated": x[:1].expand(2, 4),
        "scalar": x[1, 1],
        "empty": x[:0],
        "parameter": torch.nn.Parameter(x),
    }


def training() -> dict[str, Any]:
    """What one saves while training."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(net.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])
    net(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    return {**state, "epoch": 3, "best": 0.5, "note": "a"}


def refused() -> dict[str, Any]:
    """What is not read."""
    return {
        "sparse": torch.eye(2).to_sparse(),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "module": torch.nn.Linear(1, 1),
    }


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    torch.save(dtypes(DTYPES + NEWER), GOLDEN / "dtypes.pt")
    torch.save(dtypes(DTYPES + NEWER), GOLDEN / "dtypes_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(layouts(), GOLDEN / "layouts.pt")
    torch.save(layouts(), GOLDEN / "layouts_protocol_5.pt", pickle_protocol=5)
    torch.save(layouts(), GOLDEN / "layouts_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(training(), GOLDEN / "training.pt")
    torch.save(training(), GOLDEN / "training_legacy.pt", _use_new_zipfile_serialization=False)
    for name, value in refused().items():
        torch.save(value, GOLDEN / f"refused_{name}.pt")
    weights = {name: tensor for name, tensor in dtypes(DTYPES + NEWER).items() if name not in NOT_IN_SAFETENSORS}
    safetensors.torch.save_file(weights, GOLDEN / "dtypes.safetensors", metadata={"format": "pt"})
    size = sum(path.stat().st_size for path in GOLDEN.iterdir())
    print(f"wrote {size:,} bytes into {GOLDEN.relative_to(GOLDEN.parents[2])}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # quantized and sparse tensors are deprecated or experimental
    main()
