"""Files that want something to be called, or more memory than they have, are refused with what they wanted."""

from __future__ import annotations

import os
import pickletools
import time
import tracemalloc
from pathlib import Path

import pytest

from flambeau._errors import CheckpointError
from flambeau.io import _pickle, load
from tests.io.hostile import CALLS, DATA, HARM, legacy, pickled, tensor, watched, zipped


def test_every_opcode_is_interpreted_or_refused() -> None:
    known = {opcode.code.encode("latin1"): opcode.name for opcode in pickletools.opcodes}
    interpreted, refused = set(_pickle.INTERPRETED) | {_pickle.STOP}, set(_pickle.REFUSED)
    assert interpreted | refused == set(known) and not interpreted & refused
    assert {code: name for code, (name, _) in _pickle.REFUSED.items()} == {code: known[code] for code in refused}


@pytest.mark.parametrize("code", _pickle.REFUSED)
def test_refused_opcodes_are_named(tmp_path: Path, code: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(zipped(pickled(code)))
    with pytest.raises(CheckpointError, match=rf"a\.pt: the pickle has the opcode {_pickle.REFUSED[code][0]}, which"):
        load(tmp_path / "a.pt")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("form", [zipped, legacy])
def test_nothing_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: object) -> None:
    opcodes, wanted = CALLS[name]
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("called"))
    (tmp_path / "a.pt").write_bytes(form(pickled(opcodes), DATA))  # pyright: ignore[reportCallIssue]
    with watched() as seen, pytest.raises(CheckpointError) as caught:
        load(tmp_path / "a.pt")
    assert wanted in str(caught.value) and str(caught.value).startswith(str(tmp_path / "a.pt"))
    assert seen == []


def test_the_watch_sees() -> None:
    with watched() as seen:
        eval("1")
        os.system("true")
    assert [event.split("(")[0] for event in seen] == ["compile", "exec", "os.system"]


@pytest.mark.parametrize("name", HARM)
def test_harm(tmp_path: Path, name: str) -> None:
    content, message = HARM[name]
    (tmp_path / "a.pt").write_bytes(content)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "a.pt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message in str(caught.value) and len(str(caught.value)) < 2000
    assert peak < len(content) + (160 << 20) and time.process_time() - start < 10


def test_the_same_without_harm(tmp_path: Path) -> None:
    """The pieces that the hostile files are made of are right as such."""
    for form in (zipped, legacy):
        (tmp_path / "a.pt").write_bytes(form(pickled(b"}", b"K\x01", tensor((2, 3), (12, 2), 1), b"s"), DATA))
        assert load(tmp_path / "a.pt")[1].tolist() == [[1, 3, 5], [13, 15, 17]]
        (tmp_path / "a.pt").write_bytes(form(pickled(tensor((0, 3), (1 << 2000, 1), 1 << 99)), DATA))
        assert load(tmp_path / "a.pt").shape == (0, 3)
