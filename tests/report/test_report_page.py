"""The page and its siblings: hostile names stay text, the page loads nothing, every format says the same."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nmtool.report.figures import Plot, Point, Series, figure
from nmtool.report.plain import comma_separated, latex, markdown
from nmtool.report.section import Section
from nmtool.report.table import Cell, Column, Table

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "=cmd()|'/c calc'!A1",
    "[x](javascript:alert(1))",
    r"$\frac{1}{2}$ & 50% #_^~",
    "esc\x1b[31mred\x07\u202egnp",
    'quote" onmouseover="alert(1)',
    "pipe | back`tick` <b>",
    "]]></style><svg onload=alert(1)>",
    "https://evil.example/x",
)
PAGE = {"html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "details", "summary"}
TEXT = {"h1", "h2", "p", "ul", "li", "a", "div", "span", "figure", "figcaption"}
GRID = {"table", "caption", "thead", "tbody", "tr", "th", "td"}
DRAWING = {"svg", "g", "path", "use", "defs", "clippath", "rect", "line", "text", "tspan", "image"}
ALLOWED = PAGE | TEXT | GRID | DRAWING


class Reader(HTMLParser):
    """Elements, attributes and the text of a page, as a browser's parser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._inside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_data(self, data: str) -> None:
        if not self._inside or self._inside[-1] != "style":
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass


@pytest.fixture(scope="module")
def full(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nmtool.artifact.stage import Session
    from nmtool.report.config import Config
    from nmtool.report.run import run

    store, _ = pipeline
    formats = ("html", "markdown", "csv", "json", "latex")
    session = Session(store=tmp_path_factory.mktemp("full"))
    made = run(Config(artifacts=(str(store),), format=formats, title=f"Study {HOSTILE[0]}"), session)
    return made.path / "data"


def test_hostile_names_make_no_element_no_handler_no_address(full: Path) -> None:
    text = (full / "report.html").read_text()
    page = Reader(text)
    assert {tag for tag, _ in page.elements} <= ALLOWED
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert "javascript:" not in (value or "") or name == "aria-label", (tag, name, value)
            if name in ("href", "src", "xlink:href", "action", "srcset", "data"):
                assert (value or "").startswith(("#", "data:image/png;base64,")), (tag, name, value)
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text.lower()
    seen = "".join(page.text)
    for name in HOSTILE[:3]:
        assert name in seen, "names are shown as they are"
    assert "esc\\x1b[31mred\\x07\\u202egnp" in seen
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)


def test_policy_and_ids(full: Path) -> None:
    page = Reader((full / "report.html").read_text())
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids)), "ids are unique in the page"
    targets = {(a.get("href") or "")[1:] for t, a in page.elements if t in ("a", "use")}
    assert targets <= set(ids)
    assert all(a.get("aria-label") for _, a in page.elements if a.get("role") == "img")


def test_no_path_and_no_time_in_the_payload(full: Path) -> None:
    for file in full.iterdir():
        text = file.read_text()
        assert "/secret/place" not in text, file.name
        assert str(full.parents[3]) not in text, file.name
        assert not re.search(r"20\d\d-\d\d-\d\dT", text), file.name


def test_sections_there_are(full: Path) -> None:
    page = Reader((full / "report.html").read_text())
    anchors = [a["id"] for t, a in page.elements if t == "section"]
    assert anchors == [
        "results",
        "noise-in-pretraining",
        "spectrum",
        "label-noise",
        "cleansing",
        "fractions",
        "backbones",
        "provenance",
    ]


def test_csv_holds_every_row_in_full_precision(full: Path, pipeline: Any) -> None:
    from nmtool.artifact.open import open_artifact
    from nmtool.artifact.typed import read_parquet

    wanted = []
    for made in pipeline[1]:
        if made.kind == "heads":
            columns = read_parquet(open_artifact(made.path), "results.parquet")
            wanted += list(
                zip(
                    columns["method"],
                    columns["seed"],
                    columns["split"],
                    columns["accuracy"],
                    columns["sve"],
                    strict=True,
                )
            )
    rows = list(csv.DictReader(io.StringIO((full / "report.csv").read_text(), newline="")))
    got = [(r["method"], int(r["seed"]), r["split"], float(r["accuracy"]), float(r["sve"])) for r in rows]
    assert sorted(got) == sorted(wanted)
    assert {r["pretrain_noise"] for r in rows} == {"0.0", "0.1", "0.3"}, "lineage is joined"
    body = json.loads((full / "report.json").read_text())
    assert sorted((r["method"], r["seed"], r["split"], r["accuracy"], r["sve"]) for r in body["results"]) == sorted(
        wanted
    )


def _table(*names: str) -> Section:
    columns = (Column(title="name"), Column(title="pipe | <b> title", number=True))
    rows = tuple((Cell(text=name), Cell(text="1.00 ± 0.10", best=True)) for name in names)
    table = Table(caption=f"of {names[0]}", columns=columns, rows=rows, note=names[-1])
    return Section(anchor="x", title=names[0], intro=names[1], tables=(table,))


def test_markdown_escapes_and_keeps_its_columns() -> None:
    text = markdown(HOSTILE[0], HOSTILE[2], [_table(*HOSTILE)]).decode()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(HOSTILE)
    for line in lines:
        assert len(re.findall(r"(?<!\\)\|", line)) == 3, line
    for dangerous in ("<", "`", "[", "]", "$"):
        assert not re.search(r"(?<!\\)" + re.escape(dangerous), text), dangerous
    assert "https://" not in text, "no address becomes a link by itself"
    assert "\x1b" not in text


def test_markdown_tables_of_a_whole_report_have_equal_columns(full: Path) -> None:
    block: list[int] = []
    for line in (full / "report.md").read_text().splitlines():
        if line.startswith("|"):
            block.append(len(re.findall(r"(?<!\\)\|", line)))
        else:
            assert len(set(block)) <= 1
            block = []


def test_latex_is_balanced_and_escaped(full: Path) -> None:
    for text in ((full / "report.tex").read_text(), latex("t", [_table(*HOSTILE)]).decode()):
        begins, ends = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
        assert sorted(begins) == sorted(ends)
        assert begins
        bare = re.sub(r"\\[\\{}$&%#_]", "", text)
        depth = 0
        for character in bare:
            depth += {"{": 1, "}": -1}.get(character, 0)
            assert depth >= 0
        assert depth == 0
        assert bare.replace(r"$\pm$", "").replace(r"$\sigma$", "").count("$") == 0
        body = "\n".join(line for line in bare.splitlines() if not line.startswith("%"))
        for character in "#_^~<>|":
            assert character not in body, character
        assert not re.search(r"\\(frac|input|write)", body.replace(r"\textbackslash{}frac", ""))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " ="])
def test_csv_text_is_no_formula_and_numbers_are_untouched(start: str) -> None:
    data = comma_separated([{"name": f"{start}1+1", "value": -0.1, "big": 1e-17, "none": None, "yes": True, "n": -3}])
    row = next(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert row["name"].startswith("'")
    assert float(row["value"]) == -0.1
    assert float(row["big"]) == 1e-17
    assert (row["none"], row["yes"], row["n"]) == ("", "true", "-3")


def test_figures_are_the_same_bytes_and_parse_no_mathematics() -> None:
    points = (Point(x=0.0, y=1.0, spread=0.1, text=HOSTILE[3]), Point(x=1.0, y=2.0))
    plot = Plot(
        title=HOSTILE[0], x=HOSTILE[3], y=HOSTILE[4], series=(Series(label=HOSTILE[5], style=0, points=points),)
    )
    first, again = figure("c", [plot], salt="a"), figure("c", [plot], salt="a")
    assert first == again
    svg = first.panels[0].svg
    assert r"$\frac{1}{2}$" in svg, "text as it is, not set as a formula"
    assert "<img" not in svg
    assert "\x1b" not in svg
    page = Reader(svg)
    assert {tag for tag, _ in page.elements} <= ALLOWED
    other = figure("c", [plot], salt="b").panels[0].svg
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (svg, other)]
    assert ids[0]
    assert not ids[0] & ids[1]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [400, 1280])
def test_chromium_shows_it_without_a_complaint(full: Path, tmp_path: Path, width: int) -> None:
    probe = tmp_path / "probe.html"
    page = (full / "report.html").read_text()
    # A copy with a ruler: what the page itself forbids (scripts) the probe allows, to measure the layout.
    ruler = (
        "<script>addEventListener('load',()=>{const w=document.documentElement.clientWidth;"
        "const wide=[...document.querySelectorAll('main > section, figure, .panel svg, header')]"
        ".filter(e=>e.getBoundingClientRect().right>w+1).length;"
        "const small=[...document.querySelectorAll('.panel svg text')]"
        ".filter(e=>e.getBoundingClientRect().height<7&&e.getBoundingClientRect().width<7).length;"
        "document.title=`w=${w} scroll=${document.documentElement.scrollWidth} wide=${wide} small=${small}`})</script>"
    )
    probe.write_text(page.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';") + ruler)

    def chromium(file: Path) -> subprocess.CompletedProcess[str]:
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            "--disable-component-update --disable-sync --enable-logging=stderr --v=0 --virtual-time-budget=2000"
        )
        command = [
            str(CHROMIUM),
            *flags.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},2000",
        ]
        return subprocess.run(
            [*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )

    real = chromium(full / "report.html")
    assert "CONSOLE" not in real.stderr
    assert "Refused" not in real.stderr
    assert "Noise in pre-training" in real.stdout
    measured = re.search(r"<title>w=(\d+) scroll=(\d+) wide=(\d+) small=(\d+)</title>", chromium(probe).stdout)
    assert measured is not None
    shown_width, scroll, wide, small = (int(n) for n in measured.groups())
    assert scroll <= shown_width, "the page itself never scrolls sideways"
    assert (wide, small) == (0, 0)
