"""What the documentation site does besides what mkdocs does: names of Sphinx roles become the names alone."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(
    r":(?:class|meth|func|mod|data|attr):(?:<code>)?`?(?:[^<`]*&lt;)?(~?)([\w.]+)(?:&gt;)?`?(?:</code>)?"
)


def on_page_content(html: str, **_: Any) -> str:
    """Turn ``:meth:`~package.Class.method``` of a docstring into ``method``."""
    return _ROLE.sub(lambda role: f"<code>{role[2].rpartition('.')[2] if role[1] else role[2]}</code>", html)
