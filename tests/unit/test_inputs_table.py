"""The page that says what can be sent is what comes of sending it."""

from __future__ import annotations

import os
from pathlib import Path

from support.inputs_table import document

PAGE = Path(__file__).resolve().parents[2] / "docs" / "inputs.md"


def test_every_kind_of_input_and_the_page_about_it() -> None:
    made = document()
    assert "WRONG" not in made
    assert made.count("decoded |") > 500
    if os.environ.get("ALLPACS_WRITE_DOCS"):
        PAGE.write_text(made, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == made, "docs/inputs.md is stale: ALLPACS_WRITE_DOCS=1 writes it"
