"""matplotlib's SVG taken apart and put together again, fit to stand in a page.

No script, no style sheet, no address, no date; ids that are unique in the page; ink in the page's colours.
"""

from __future__ import annotations

import io
import warnings
from typing import Any
from xml.etree import ElementTree

# Placeholders that matplotlib draws with, and the page's own colours that they become (light and dark).
INK, GRID = "#010203", "#040506"
_COLOURS = {INK: "currentColor", GRID: "var(--rule)"}


def svg_of(canvas: Any, salt: str) -> str:
    """A matplotlib figure as SVG; ``salt`` makes its ids, the same each time and other than those of other drawings."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(canvas)
    out = io.StringIO()
    with warnings.catch_warnings():
        # A name in a script that matplotlib has no glyphs for is measured wrongly, and shown right: it stays text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.savefig(
            out,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return _plain_svg(out.getvalue(), salt)


def _plain_svg(text: str, prefix: str) -> str:
    """Names without namespaces, ids made unique by ``prefix``, placeholders in the page's colours; no metadata."""
    root = ElementTree.fromstring(text)
    for parent in root.iter():
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    ids = {e.get("id", "") for e in root.iter()} - {""}
    wanted = {i for i in ids if f"#{i}" in text}
    for element in root.iter():
        element.tag = _local(element.tag)
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            changed = _attribute(_local(name), value, prefix, wanted)
            if changed is not None:
                element.set(_local(name), changed)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("aria-hidden", "true")  # the panel that holds it says what it shows
    return ElementTree.tostring(root, encoding="unicode", method="xml", short_empty_elements=True)


def _attribute(name: str, value: str, prefix: str, wanted: set[str]) -> str | None:
    if name == "id":
        return f"{prefix}-{value}" if value in wanted else None
    if name == "href" and not value.startswith("data:image/png;base64,"):
        return f"#{prefix}-{value[1:]}" if value.startswith("#") else None
    if name == "clip-path":
        return value.replace("url(#", f"url(#{prefix}-")
    if name == "style":
        for placeholder, colour in _COLOURS.items():
            value = value.replace(placeholder, colour)
        return value.replace("url(#", f"url(#{prefix}-")
    return value


def _local(name: str) -> str:
    return name.rpartition("}")[2]
