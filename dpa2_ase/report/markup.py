"""Markup that is safe by construction: what is not `Html` already is escaped."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Any

# what no HTML document may hold: control characters, and the halves of characters that file names can contain
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
VOID = {"br", "input", "link", "meta"}


class Html(str):
    """A piece of finished markup."""

    __slots__ = ()


def escape(text: object) -> Html:
    """`text` as it is read, never as markup."""
    return text if isinstance(text, Html) else Html(html.escape(FORBIDDEN.sub("\ufffd", str(text))))


def join(parts: Iterable[object]) -> Html:
    """All parts behind each other, escaped where they are not `Html`."""
    return Html("".join(escape(part) for part in parts))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """An element with its children.

    Names of attributes are written with underscores for hyphens, and `class_` for ``class``; those that are ``None``
    or ``False`` are left out, ``True`` has no value.
    """
    named = [(name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items()]
    text = "".join(
        f" {name}" if value is True else f' {name}="{escape(value)}"'
        for name, value in named
        if value is not None and value is not False
    )
    return Html(f"<{tag}{text}>" if tag in VOID else f"<{tag}{text}>{join(children)}</{tag}>")


def data_block(data: Any, **attributes: object) -> Html:
    """Data for scripts, as JSON that cannot end its element."""
    text = FORBIDDEN.sub("\ufffd", json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return element("script", Html(text), type="application/json", **attributes)
