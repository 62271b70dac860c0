"""The frame of the page: style, scripts, heading, contents."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from .. import __version__
from .markup import Html, element, escape, join

if TYPE_CHECKING:
    from .summaries import Quantity

SCRIPTS = ("report.js", "drawing.js", "viewer.js")  # one behind the other, in a scope of their own


@cache
def asset(name: str) -> str:
    """Text of a file in ``assets``."""
    return resources.files(__package__).joinpath(f"assets/{name}").read_text(encoding="utf-8")


def document(title: str, facts: Sequence[str], command: str, sections: Sequence[tuple[str, str, Html]]) -> str:
    """The page.

    Parameters
    ----------
    title, facts
        Its heading and what stands in one line below it.
    command
        Shown below, if any.
    sections
        Heading, identifier and content of each.
    """
    script = '(() => {\n"use strict";\n' + "".join(asset(name) for name in SCRIPTS) + "})();\n"
    links = [element("li", element("a", heading, href=f"#{name}")) for heading, name, _ in sections if heading]
    header = element(
        "header",
        element("h1", title),
        element("p", *_dotted(facts), class_="facts"),
        code(command, "command") if command else "",
        element("nav", element("ul", *links), aria_label="Contents"),
    )
    main = [
        element("section", element("h2", heading) if heading else "", content, id=name)
        for heading, name, content in sections
    ]
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    footer = element("footer", f"Written by dpa2_ase {__version__} on {when}. This file needs no network.")
    body = element("body", header, element("main", *main), footer, element("script", Html(script)))
    return "<!DOCTYPE html>\n" + element("html", _head(title, script), body, lang="en") + "\n"


def _head(title: str, script: str) -> Html:
    """Nothing is loaded from anywhere, and no script runs but ours."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content=f"dpa2_ase {__version__}"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Html(asset("report.css"))),
    )


def _dotted(facts: Iterable[str]) -> list[Html]:
    return [escape(fact) if k == 0 else join([" · ", fact]) for k, fact in enumerate(facts)]


def code(text: str, kind: str) -> Html:
    """Text to be copied."""
    return element("div", element("pre", element("code", text)), class_=f"code {kind}")


def cards(quantities: Iterable[Quantity]) -> Html:
    """The few numbers one came for."""
    return element(
        "div",
        *(
            element(
                "div",
                element("span", item.label, class_="label"),
                element(
                    "span", str(item.value), element("small", f" {item.unit}") if item.unit else "", class_="value"
                ),
                class_="card",
            )
            for item in quantities
        ),
        class_="cards",
    )
