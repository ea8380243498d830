"""Two values as tables of HTML, expected beside got, for the cards of a notebook."""

from __future__ import annotations

import html

from shared.observations import compare
from shared.values import SMALL, brief, is_tensor

MONO = "font-family:monospace;white-space:pre-wrap;overflow-wrap:anywhere"
ROW = '<tr style="background:transparent">'  # JupyterLab paints stripes and boxes behind the rows of tables


def side_by_side(expected: object, got: object, rtol: float, atol: float) -> str:
    """Expected beside got (below it where they are wide), differing cells marked by bold, a border and a sign."""
    wide = max((len(row) for value in (expected, got) for row in _rows(value) or ()), default=0) > 5
    cells = [
        f'<td style="vertical-align:top;text-align:left;padding-right:2em"><b>{title}</b><br>{grid}</td>'
        for title, grid in (
            ("expected", _grid(expected, None, rtol, atol)),
            ("got", _grid(got, expected, rtol, atol)),
        )
    ]
    between = f"</tr>{ROW}" if wide else ""
    table = f'<table style="border:none;margin:0.3em 0">{ROW}{between.join(cells)}</tr></table>'
    return f'<div style="overflow-x:auto">{table}</div>'


def _grid(value: object, other: object, rtol: float, atol: float) -> str:
    rows, others = _rows(value), _rows(other)
    if rows is None:
        return f'<span style="{MONO}">{html.escape(brief(value))}</span>'
    same_shape = others is not None and [len(r) for r in rows] == [len(r) for r in others]
    out = []
    for i, row in enumerate(rows):
        tds = []
        for j, item in enumerate(row):
            differs = same_shape and compare(others[i][j], item, rtol, atol) is not None
            mark = "font-weight:bold;border:1px solid #D55E00" if differs else "border:1px solid transparent"
            style = f"font-family:monospace;white-space:nowrap;text-align:right;padding:1px 6px;{mark}"
            sign = "≠&nbsp;" if differs else ""
            tds.append(f'<td style="{style}">{sign}{html.escape(brief(item, 24))}</td>')
        out.append(f"{ROW}{''.join(tds)}</tr>")
    return f'<table style="border-collapse:separate;border-spacing:0;margin:0.2em 0">{"".join(out)}</table>'


def _rows(value: object) -> list[list] | None:
    """A small tensor or flat list as rows of a table; None where one line says it better."""
    if is_tensor(value):
        if value.is_meta or value.numel() > SMALL or value.numel() == 0:
            return None
        flat = value.detach()
        flat = flat.reshape(1, -1) if flat.dim() < 2 else flat.reshape(-1, flat.shape[-1])
        return flat.tolist()
    if isinstance(value, (list, tuple)) and 0 < len(value) <= 12:
        nested = any(isinstance(item, (list, tuple, dict, set)) or is_tensor(item) for item in value)
        return None if nested else [list(value)]
    return None
