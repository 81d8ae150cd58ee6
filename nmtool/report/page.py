"""The page: the only file that makes HTML. The template escapes everything but the drawings of ``figures``.

The page loads nothing, runs nothing, and says so to the browser (Content-Security-Policy).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from nmtool.report.section import Section
from nmtool.report.table import shown


def page(title: str, lead: str, sections: Sequence[Section]) -> bytes:
    """``report.html``: one file, complete in itself."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Drawings are rebuilt element by element from matplotlib's output (figures._plain_svg), which escaped their text.
    environment.filters["drawing"] = lambda panel: Markup(panel.svg)
    environment.filters["data_uri"] = _data_uri
    template = environment.get_template("page.html.j2")
    return template.render(title=shown(title, 200), lead=shown(lead, 1000), sections=sections).encode()


def _data_uri(picture: bytes) -> str:
    """A small image file as a URI; empty for what is neither JPEG nor PNG."""
    kind = "jpeg" if picture.startswith(b"\xff\xd8\xff") else "png" if picture.startswith(b"\x89PNG\r\n") else ""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}" if kind else ""
