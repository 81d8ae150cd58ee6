"""The report for papers and for programs: Markdown, LaTeX, CSV and JSON.

Markdown and LaTeX print the page's tables, with every character that means something there escaped: names are data. CSV
and JSON hold the result rows, one a line, in full precision and unrounded; CSV cells of text that a spreadsheet would
take for a formula get a leading apostrophe, numbers are left alone.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nmtool.report.section import Section
from nmtool.report.table import Table, shown

_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|&~$])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
    "–": "--",
    "σ": r"$\sigma$",
    "…": r"\ldots{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "]": "{]}",
}


def markdown(title: str, lead: str, sections: Sequence[Section]) -> bytes:
    """Every table of the report as Markdown (pipe tables)."""
    out = [f"# {_md(title)}", "", _md(lead), ""]
    for section in sections:
        if not section.tables:
            continue
        out += [f"## {_md(section.title)}", "", _md(section.intro), ""]
        for table in section.tables:
            out += [f"**{_md(table.caption)}**", "", *_md_table(table), ""]
            if table.note:
                out += [_md(table.note), ""]
    return ("\n".join(out).rstrip("\n") + "\n").encode()


def _md(text: str) -> str:
    """Text with every Markdown and HTML character escaped; addresses are no links."""
    escaped = _MARKDOWN.sub(r"\\\1", shown(text, 2000))
    return escaped.replace("://", ":\\//").replace("www.", "www\\.")


def _md_table(table: Table) -> list[str]:
    rows = [[f"**{_md(c.text)}**" if c.best else _md(c.text) for c in row] for row in table.rows]
    lines = [[_md(column.title) for column in table.columns]]
    lines.append(["---:" if column.number else ":---" for column in table.columns])
    return ["| " + " | ".join(line) + " |" for line in [*lines, *rows]]


def latex(title: str, sections: Sequence[Section]) -> bytes:
    """Every table of the report as a LaTeX ``table`` (needs booktabs and textcomp), to be ``\\input`` into a paper."""
    out = [f"% {_one_line(title)}", "% \\usepackage{booktabs,textcomp}"]
    for section in sections:
        out += [_latex_table(table) for table in section.tables]
    return ("\n".join(out) + "\n").encode()


def _one_line(text: str) -> str:
    return shown(text, 200).replace("%", "")


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in shown(text, 2000))


def _latex_table(table: Table) -> str:
    layout = "".join("r" if column.number else "l" for column in table.columns)
    rows = [" & ".join(rf"\textbf{{{_tex(c.text)}}}" if c.best else _tex(c.text) for c in row) for row in table.rows]
    head = " & ".join(_tex(column.title) for column in table.columns)
    body = "\n".join(f"{row} \\\\" for row in rows)
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{_tex(table.caption)}}}\n\\begin{{tabular}}{{{layout}}}\n\\toprule\n"
        f"{head} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def comma_separated(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """Result rows as CSV (RFC 4180, UTF-8): the union of their columns, floats by ``repr``, empty for nothing."""
    columns = list(dict.fromkeys(name for line in lines for name in line))
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\r\n")
    writer.writerow([_csv(name) for name in columns])
    for line in lines:
        writer.writerow([_csv(line.get(name)) for name in columns])
    return sink.getvalue().encode()


def _csv(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value)
    # before control characters are made visible: a tab or a line break begins a formula in some spreadsheets
    risky = text.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "|")
    return ("'" if risky else "") + shown(text, 32_000)


def json_text(title: str, lines: Sequence[Mapping[str, Any]], sections: Sequence[Section]) -> bytes:
    """Result rows in full precision under ``results``, and the report's tables as text under ``tables``."""
    tables = [_json_table(section, table) for section in sections for table in section.tables]
    body = {"title": title, "results": [dict(line) for line in lines], "tables": tables}
    return (json.dumps(body, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()


def _json_table(section: Section, table: Table) -> dict[str, object]:
    return {
        "section": section.anchor,
        "caption": table.caption,
        "columns": [column.title for column in table.columns],
        "rows": [[cell.text for cell in row] for row in table.rows],
    }
