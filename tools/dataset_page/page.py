"""One self-contained web page about a data set: findings with their fixes, classes, histograms. Needs no JavaScript."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.findings import LEVELS, Finding
from data.inspection import ClassRow, Inspection, class_rows

_STYLE = Path(__file__).resolve().parents[2] / "utils" / "report_page" / "style.css"
_MORE_STYLE = """
.findings td, .findings th { text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.findings td:nth-child(2) { width: 36%; } .findings td:nth-child(4) { width: 28%; }
.findings td:first-child { white-space: nowrap; overflow-wrap: normal; }
.level { display: inline-block; padding: 1px 9px; border-radius: 9px; font-size: 12px; font-weight: 600; color: #fff; }
.error { background: #b3261e; } .warning { background: #a85b00; } .note { max-width: none; }
.level.note { margin: 0; background: #56708c; }
.fine { color: var(--third); font-weight: 600; }
.classes td:first-child { overflow-wrap: anywhere; min-width: 8em; }
img { display: block; max-width: 100%; height: auto; border-radius: 8px; background: #fff; }
@media (max-width: 700px) { .findings thead { display: none; } .findings td { display: block; width: auto !important;
  border: 0; padding: 2px 0; } .findings tr { display: block; padding: 8px 0; border-bottom: 1px solid var(--line); } }
"""


def page_html(title: str, inspections: Mapping[str, Inspection], charts: bytes, max_size: int,
              preserve_aspect_ratio: bool = False) -> str:
    """The whole page as text.

    Args:
        title: of the data set. inspections: {name of the split: what was found}. charts: the PNG of
            charts.py. max_size, preserve_aspect_ratio: of the network's input.
    """
    rows = {name: class_rows(inspection, max_size, preserve_aspect_ratio)
            for name, inspection in inspections.items()}
    sections = [_split_section(name, inspection) for name, inspection in inspections.items()]
    sections += [_chart_section(inspections, charts), _class_section(rows, max_size)]
    links = [(_anchor(name), name) for name in inspections] + [("charts", "distributions"), ("classes", "classes")]
    navigation = "".join(f'<a href="#{anchor}">{_text(words)}</a>' for anchor, words in links)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="color-scheme" content="light dark">\n<title>{_text(title)}</title>\n'
            f'<link rel="icon" href="data:,">\n<style>\n{_STYLE.read_text(encoding="utf-8")}{_MORE_STYLE}</style>\n'
            f'</head>\n<body>\n<header class="page-head"><p class="kicker">Data set</p><h1>{_text(title)}</h1>'
            f'<p class="muted">Sizes are of a network with {max_size} pixels as max_size</p>'
            f'<nav aria-label="Sections">{navigation}</nav></header>\n<main>\n{chr(10).join(sections)}\n</main>\n'
            f'</body>\n</html>\n')


def _chart_section(inspections: Mapping[str, Inspection], charts: bytes) -> str:
    if any((inspection.table.label >= 0).any() for inspection in inspections.values()):
        picture = base64.b64encode(charts).decode("ascii")
        alternative = "Histograms of objects per image, sizes, shapes and classes, and maps of where objects are"
        content = f'<img src="data:image/png;base64,{picture}" alt="{alternative}">'
    else:
        content = '<p class="muted">There are no objects.</p>'
    return f'<section id="charts"><h2>Distributions</h2>{content}</section>'


def _text(value: Any) -> str:
    """Foreign text for the page; what no file can hold as UTF-8 becomes a question mark."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def _anchor(name: str) -> str:
    return "split-" + _text(name.replace(" ", "-"))


def _split_section(name: str, inspection: Inspection) -> str:
    crowds = int((inspection.table.label == -1).sum())
    numbers = [(len(inspection.images), "images"), (len(inspection.table.ids) - crowds, "objects"), (crowds, "crowds"),
               (len(inspection.class_names), "classes"),
               *((len(inspection.of_level(level)), f"{level}s") for level in LEVELS)]
    tiles = "".join(f'<div class="tile"><b>{number:,}</b><span>{words}</span></div>' for number, words in numbers)
    return (f'<section id="{_anchor(name)}"><h2>{_text(name.capitalize())}</h2><div class="tiles">{tiles}</div>'
            f'<p class="muted">{_text(inspection.info_file)}<br>{_text(inspection.image_folder)}</p>'
            f'{_findings_table(inspection.findings)}</section>')


def _findings_table(findings: list[Finding]) -> str:
    if not findings:
        return '<p class="fine">Nothing is wrong.</p>'
    rows = []
    for finding in findings:
        more = ", ..." if finding.examples and len(finding.examples) < finding.count else ""
        rows.append(f'<tr><td><span class="level {finding.level}">{finding.level}</span></td>'
                    f'<td>{_text(finding.what)}</td><td>{_text(", ".join(finding.examples))}{more}</td>'
                    f'<td>{_text(finding.fix)}</td></tr>')
    return ('<div class="scroll"><table class="findings"><thead><tr><th>Level</th><th>What</th><th>Examples</th>'
            f'<th>What to do</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>')


def _class_section(rows: Mapping[str, list[ClassRow]], max_size: int) -> str:
    """A table with a line for each class of any split, in the order of the labels."""
    by_name = {split: {row.name: row for row in of_split} for split, of_split in rows.items()}
    names = list(dict.fromkeys(row.name for of_split in rows.values() for row in of_split))
    if not names:
        return '<section id="classes"><h2>Classes</h2><p class="muted">No class is known.</p></section>'
    most = {split: max((row.objects for row in of_split), default=0) for split, of_split in rows.items()}
    head = "".join(f"<th>{_text(split)}: objects</th><th></th><th>images</th><th>median side</th>" for split in rows)
    body = "".join(f"<tr><td>{_text(name)}</td>" + "".join(_class_cells(by_name[split].get(name), most[split])
                                                           for split in rows) + "</tr>" for name in names)
    return (f'<section id="classes"><h2>Classes</h2><div class="scroll"><table class="classes"><thead><tr>'
            f'<th>Class</th>{head}</tr></thead><tbody>{body}</tbody></table></div><p class="note">'
            f'Median side: of the roots of the boxes\' areas, in pixels of the network\'s input ({max_size}). '
            f'Crowds are not counted.</p></section>')


def _class_cells(row: ClassRow | None, most: int) -> str:
    if row is None:
        return "<td>-</td><td></td><td>-</td><td>-</td>"
    share = 100 * row.objects / most if most else 0
    side = "-" if math.isnan(row.median_side) else f"{row.median_side:.0f}"
    return (f'<td>{row.objects:,}</td><td class="track-cell"><span class="track"><span style="width:{share:.2f}%">'
            f'</span></span></td><td>{row.images:,}</td><td>{side}</td>')
