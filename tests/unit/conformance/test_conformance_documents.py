"""The conformance documents are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.documents import DOCUMENTS


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_no_document_is_stale(file: Path) -> None:
    assert file.read_text(encoding="utf-8") == DOCUMENTS[file](), "run `make docs`"
