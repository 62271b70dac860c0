"""Pictures inside the page: vector graphics of matplotlib, cleaned and in the colors of the page."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from ..workflows import plots
from .markup import Html, element, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST = 600_000  # bytes of a vector graphic; beyond, the same picture in pixels is smaller
LEFT_OUT = {"metadata", "style", "title", "script", "foreignObject"}
# what matplotlib draws black on white follows the page; other colors stay, but for blue, too dark on a dark page
THEME = {"#000000": "currentColor", "#ffffff": "var(--surface)", "#e6e6e6": "var(--grid)", "#0072b2": "var(--blue)"}


def figure(draw: Axes | Callable[[], Axes], *, name: str, label: str) -> Html:
    """The picture that `draw` returns or has drawn, as an element of the page.

    Parameters
    ----------
    draw
        Axes, whose whole figure is taken, or a function that returns axes, such as a result's ``plot``.
    name
        Prefix for identifiers, unique in the page.
    label
        Read by screen readers.
    """
    axes: Callable[[], Axes] = draw if callable(draw) else lambda: draw
    vector = plots.render(axes, ("svg",))["svg"]
    if len(vector) > LARGEST:
        encoded = base64.b64encode(plots.render(axes, ("png",))["png"]).decode()
        picture = Html(f'<img src="data:image/png;base64,{encoded}" alt="{escape(label)}">')
        return element("figure", picture, class_="plot paper")
    text = inline(vector.decode(), name, label)
    return element("figure", text, class_="plot paper" if "<image" in text else "plot")


def inline(svg: str, name: str, label: str) -> Html:
    """A standalone SVG as part of a page: without namespaces, styles, links and identifiers that could meet others."""
    root = ElementTree.fromstring(svg)
    width, height = (float(x) for x in root.attrib["viewBox"].split()[2:])
    themed = next((node for node in root.iter() if _bare(node.tag) == "image"), None) is None
    _clean(root, name, themed)
    root.attrib = {
        "viewBox": f"0 0 {width:g} {height:g}",
        "role": "img",
        "aria-label": label,
        "style": f"max-width:{width * 1.5:.0f}px",
    }
    return Html(ElementTree.tostring(root, encoding="unicode"))


def _bare(tag: object) -> str:
    return str(tag).rpartition("}")[2]


def _clean(node: ElementTree.Element, name: str, themed: bool) -> None:
    node.tag = _bare(node.tag)
    for child in list(node):
        if _bare(child.tag) in LEFT_OUT:
            node.remove(child)
        else:
            _clean(child, name, themed)
    found = {_bare(key): value for key, value in node.attrib.items() if not _bare(key).lower().startswith("on")}
    if "id" in found:
        found["id"] = f"{name}-{found['id']}"
    if "href" in found:
        target = found.pop("href")
        if target.startswith("#"):
            found["href"] = f"#{name}-{target[1:]}"
        elif target.startswith("data:image/png"):
            found["href"] = target
    node.attrib = {key: _local(value, name) for key, value in found.items()}
    if themed and "style" in node.attrib:
        node.attrib["style"] = re.sub(
            "|".join(THEME), lambda match: THEME[match[0].lower()], node.attrib["style"], flags=re.IGNORECASE
        )


def _local(value: str, name: str) -> str:
    return re.sub(r"url\(#", f"url(#{name}-", value)
