"""An analysis as one HTML page that needs nothing else: it opens offline, in light and in dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from plotly.offline import get_plotlyjs

from stress.analysis.charts import Chart, charts
from stress.analysis.grids import Grid, differences, different_params, grids
from stress.analysis.summary import Summary, shown_params

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #fff; --ink: #1d2330; --soft: #5c6675; --rule: #e2e5ea;
  --good: #1f7a4a; --bad: #b3263e; --unsure: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --page: #14171d; --card: #1b2028; --ink: #e8ebf0; --soft: #9aa5b4;
  --rule: #323a46; --good: #5cc98d; --bad: #ff7d91; --unsure: #e9b44c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 24px 64px; max-width: 1240px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 40px 0 8px; } h3 { font-size: 17px; margin: 0; }
.path, .about, .note, dt { color: var(--soft); } .about, .note { margin: 2px 0 6px; font-size: 14px; }
.verdict { font-weight: 700; } .SUCCESS { color: var(--good); } .FAILURE { color: var(--bad); }
.none { color: var(--unsure); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px 18px; margin: 16px 0;
  overflow-x: auto; }
.lead li { margin: 6px 0; } .lead { padding-left: 20px; margin: 10px 0 0; font-size: 17px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 8px 18px; margin: 0; }
dl div { min-width: 0; overflow-wrap: anywhere; } dt { font-size: 12px; } dd { margin: 0; font-size: 14px; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 0 16px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; min-width: 50%; }
th, td { padding: 4px 12px; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child { text-align: left; white-space: normal;
  padding-left: 0; }
.js-plotly-plot :is([class$="tick"] text, [class$="title"], .legendtext, .annotation-text, .bartext-outside)
  { fill: var(--ink) !important; }
.js-plotly-plot .gridlayer path { stroke: var(--rule) !important; }
"""

CONFIG = {"displaylogo": False, "responsive": True, "displayModeBar": False}


def write_report(path: Path, summaries: Sequence[Summary]) -> None:
    """Write the page for one run, or for two side by side. Raises OSError."""
    names = " against ".join(Path(summary.run).name for summary in summaries)
    letters = ["A: ", "B: "] if len(summaries) > 1 else [""]
    cards = [_head(summary, letter) for summary, letter in zip(summaries, letters, strict=True)]
    cards += map(_facts, summaries)
    if len(summaries) == 1:
        before: list[Grid] = []
        after = grids(summaries[0])
    else:
        first, second = summaries
        before, after = [different_params(first, second), differences(first, second)], []
    parts = [
        f'<div class="{"two" if len(summaries) > 1 else "one"}">{"".join(cards)}</div>',
        *(table_card(grid) for grid in before if grid.rows),
        *(chart_card(chart) for chart in charts(summaries)),
        *(table_card(grid) for grid in after),
    ]
    write_page(path, f"{names}: free page reporting", f"Run {names}", parts)


def write_page(path: Path, title: str, heading: str, parts: Sequence[str]) -> None:
    """Write a page of parts that needs nothing else. Raises OSError."""
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body>\n<h1>{escape(heading)}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _head(summary: Summary, letter: str) -> str:
    """Say what happened."""
    verdict = summary.verdict or "no verdict"
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in summary.sentences)
    return (
        f'<div class="card"><div><span class="verdict {summary.verdict or "none"}">{letter}{verdict}</span> '
        f'<span class="path">{escape(summary.run)}</span></div><ol class="lead">{sentences}</ol></div>'
    )


def _facts(summary: Summary) -> str:
    """Say with which parameters, and where."""
    versions = {name: summary.versions.get(name) for name in ("pagealloc", "python", "platform", "cpus")}
    facts = {**shown_params(summary.params), **versions, "records": f"{summary.records:,}"}
    pairs = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items()
    )
    return f'<div class="card"><dl>{pairs}</dl></div>'


def chart_card(chart: Chart) -> str:
    """Return a picture with its title and how to read it."""
    drawn = chart.figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)
    return f'<div class="card"><h3>{escape(chart.title)}</h3><p class="about">{escape(chart.about)}</p>{drawn}</div>'


def table_card(grid: Grid) -> str:
    """Return a table with its title."""
    head = "".join(f"<th>{escape(name)}</th>" for name in grid.columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in grid.rows)
    note = f'<p class="note">{escape(grid.note)}</p>' if grid.note else ""
    return (
        f'<div class="card"><h3>{escape(grid.title)}</h3>{note}<table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
