"""Work files belong to their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from allpacs.study.work_files import WorkFiles


def test_crops_can_be_read_by_their_owner_only_in_an_open_store_too(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    before = os.umask(0o022)
    try:
        WorkFiles(tmp_path / "work").save_sample("1.2", 1, np.zeros(3, np.int64))
    finally:
        os.umask(before)
    made = [tmp_path / "work", *(tmp_path / "work").rglob("*")]
    assert len(made) == 3
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in made if path.is_dir()} == {
        "work": "0o700",
        "1.2@1": "0o700",
    }
    assert {oct(path.stat().st_mode & 0o777) for path in made if path.is_file()} == {"0o600"}
