"""What MkDocs does besides: lists the decision records, and names files of the repository that are not on the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

DECISIONS = Path(__file__).parent / "decisions"
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page's text for the site."""
    source = page.file.src_uri
    if source == "decisions/index.md":
        markdown += "".join(
            f"\n- [{record.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}]({record.name})"
            for record in sorted(DECISIONS.glob("[0-9]*.md"))
        )

    def of_the_repository(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(source), link[2]))
        if target.startswith("docs/"):
            return link[0]
        named = f"`{target}`"
        return named if link[1].strip("`") in (target, posixpath.basename(target)) else f"{link[1]} ({named})"

    return _LINK.sub(of_the_repository, markdown)
