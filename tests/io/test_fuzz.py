"""Thousands of damaged files: each is read, or refused with a `CheckpointError`; nothing is called, nothing hangs.

`FLAMBEAU_FUZZ=100000` (`make fuzz`) tries as many.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.io.fuzz import Fuzzer

CASES = int(os.environ.get("FLAMBEAU_FUZZ", "5000"))
GROUPS = 10


@pytest.mark.parametrize("group", range(GROUPS))
def test_damaged_files(tmp_path: Path, group: int) -> None:
    fuzzer = Fuzzer(tmp_path)
    read = 0
    for number in range(group, CASES, GROUPS):
        try:
            read += fuzzer.check(number)
        except BaseException as error:
            error.add_note(f"in the file of Fuzzer(folder).check({number})")
            raise
    assert 0.01 < read / (CASES / GROUPS) < 0.9, "so much is read or refused that little is tried"
