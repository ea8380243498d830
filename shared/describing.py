"""What a figure shows, in words: for a screen reader, and for whoever sees no pictures.

`import shared` in a notebook registers `show`, so each figure comes as HTML with these words as its alternative text.
"""

from __future__ import annotations

import html
import itertools

LISTED = 8  # a series of so many points is told point by point, a longer one by its ends and extremes


def register(shell) -> None:
    """Let this IPython shell show figures with their description. matplotlib is not imported for that."""
    shell.display_formatter.ipython_display_formatter.for_type_by_name("matplotlib.figure", "Figure", show)


def show(fig) -> None:
    """Display a figure as the notebook is set to draw it, with its description in the place of the alternative text."""
    from IPython import get_ipython
    from IPython.display import display

    drawn = get_ipython().display_formatter.formatters["image/png"](fig)
    picture = drawn[0] if isinstance(drawn, tuple) else drawn  # with metadata, at twice the resolution
    bundle = {"text/plain": describe(fig)}
    if picture:
        bundle |= {"image/png": picture, "text/html": image(picture, bundle["text/plain"])}
    display(bundle, raw=True)


def image(picture: str, words: str) -> str:
    """An HTML image of PNG data in base 64; `words` are its alternative text."""
    style = "max-width:100%;height:auto;background:white"
    return f'<img alt="{html.escape(words)}" style="{style}" src="data:image/png;base64,{picture.strip()}">'


def describe(fig) -> str:
    """Title, axes and the numbers of each series of a matplotlib figure, panel by panel.

    Example: "Loss falls. x: step, from 0 to 200; y: nats, from 1.5 to 6.5. train: from 6.2 at 0 to 1.9 at 200."
    """
    panels = [ax for ax in fig.axes if ax.has_data() and not ax.get_label().startswith("<colorbar>")]
    parts = [fig.get_suptitle()] if fig.get_suptitle() else []
    for number, ax in enumerate(panels, 1):
        parts += [f"Panel {number} of {len(panels)}"] if len(panels) > 1 else []
        parts += _panel(ax)
    return " ".join(_sentence(part) for part in parts if part) or "An empty figure."


def _panel(ax) -> list[str]:
    titles = [ax.get_title(where) for where in ("left", "center", "right")]
    if ax.images:
        return [*titles, *(_map(ax, one) for one in ax.images)]
    axes = [_axis(ax, "x"), _axis(ax, "y")] if ax.axison else []
    notes = [text.get_text() for text in ax.texts if text.get_text().strip()]
    return [
        *titles,
        "; ".join(axes),
        *_series(ax),
        *([f"Written in it: {'; '.join(notes[:12])}"] if notes else []),
    ]


def _axis(ax, which: str) -> str:
    axis, (low, high) = getattr(ax, f"{which}axis"), getattr(ax, f"get_{which}lim")()
    scale = ", logarithmic" if axis.get_scale() == "log" else ""
    label, names = axis.get_label_text() or which, _tick_names(axis)
    start = f"{which}: {label}".removesuffix(f": {which}")
    if names:
        return f"{start}: {', '.join(names.values())}" if len(names) <= LISTED else f"{start}, {len(names)} places"
    return f"{start}, from {_number(low)} to {_number(high)}{scale}"


def _tick_names(axis) -> dict[float, str]:
    """Position -> name, where an axis has words for ticks that its data gave; {} where it has numbers."""
    from matplotlib.category import StrCategoryFormatter
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    formatter = axis.get_major_formatter()
    if isinstance(formatter, (StrCategoryFormatter, FixedFormatter, FuncFormatter)):
        places = list(axis.get_majorticklocs())
        names = [text.replace("\n", " ") for text in formatter.format_ticks(places)]
        if any(name.strip() and not _is_number(name) for name in names):
            return {float(place): name for place, name in zip(places, names, strict=True) if name.strip()}
    return {}


def _series(ax) -> list[str]:
    """A sentence for each group of bars, points with intervals, line, cloud and band."""
    from matplotlib.collections import FillBetweenPolyCollection, LineCollection, PathCollection
    from matplotlib.container import BarContainer, ErrorbarContainer

    told, used = [], set()
    for container in ax.containers:
        if isinstance(container, BarContainer):
            told.append(_bars(ax, container))
        elif isinstance(container, ErrorbarContainer):
            line, caps, bars = container
            used.update(map(id, [line, *caps, *bars]))
            if line is not None:
                told.append(_named(container.get_label(), _points(ax, *line.get_data(), _half_widths(bars))))
    for line in ax.lines:
        if id(line) not in used:
            told.append(_line(ax, line))
    for cloud in ax.collections:
        if isinstance(cloud, PathCollection) and len(cloud.get_offsets()):
            told.append(_named(cloud.get_label(), _cloud(*cloud.get_offsets().T)))
        elif isinstance(cloud, FillBetweenPolyCollection):
            told.append(_named(cloud.get_label(), "a band"))
        elif isinstance(cloud, LineCollection) and id(cloud) not in used:
            told.append(_named(cloud.get_label(), f"{len(cloud.get_segments())} straight lines"))
    for patch in ax.patches:
        if not patch.get_label().startswith("_") and type(patch).__name__ == "Polygon":
            told.append(_named(patch.get_label(), "an outline"))
    return _once_each(told)


def _once_each(told: list[str]) -> list[str]:
    """Unnamed sentences that repeat are counted, not repeated."""
    return [
        f"{text} ({count} times)" if (count := len(list(same))) > 1 else text for text, same in itertools.groupby(told)
    ]


def _line(ax, line) -> str:
    x, y = line.get_data()
    if len(x) == 2 and line.get_transform() == ax.get_yaxis_transform(which="grid"):
        return _named(line.get_label(), f"a horizontal line at {_at(ax.yaxis, y[0])}")
    if len(x) == 2 and line.get_transform() == ax.get_xaxis_transform(which="grid"):
        return _named(line.get_label(), f"a vertical line at {_at(ax.xaxis, x[0])}")
    return _named(line.get_label(), _points(ax, x, y))


def _points(ax, x, y, half_widths=None) -> str:
    """Few points one by one, many by their ends and extremes."""
    import numpy as np

    x, y = np.asarray(ax.convert_xunits(x), float), np.asarray(ax.convert_yunits(y), float)
    kept = np.isfinite(x) & np.isfinite(y)
    if not kept.any():
        return ""
    if half_widths is None or len(half_widths) != len(x):
        half_widths = np.zeros(len(x))
    x, y, half_widths = x[kept], y[kept], np.asarray(half_widths)[kept]
    if len(x) <= LISTED:
        return _listed([_at(ax.yaxis, value) for value in y], half_widths, [_at(ax.xaxis, place) for place in x])
    low, high = y.argmin(), y.argmax()
    inside = [f"{word} {_at(ax.yaxis, y[i])} at {_at(ax.xaxis, x[i])}"
              for word, i in (("lowest", low), ("highest", high)) if 0 < i < len(y) - 1]  # fmt: skip
    ends = f"from {_at(ax.yaxis, y[0])} at {_at(ax.xaxis, x[0])} to {_at(ax.yaxis, y[-1])} at {_at(ax.xaxis, x[-1])}"
    return ", ".join([ends, *inside])


def _listed(values, half_widths, places) -> str:
    return ", ".join(
        f"{value if isinstance(value, str) else _number(value)}{f' ± {_number(half)}' if half else ''} at {place}"
        for value, half, place in zip(values, half_widths, places, strict=True)
    )


def _half_widths(bars):
    """Half the length of each interval of an error bar; None where there is none."""
    import numpy as np

    if not bars:
        return None
    ends = np.array([segment for segment in bars[-1].get_segments() if len(segment) == 2])
    return abs(ends[:, 1] - ends[:, 0]).max(axis=1) / 2 if len(ends) else None


def _bars(ax, container) -> str:
    """Bars lie along x where they are named or placed there, else along y."""
    patches = container.patches
    upright = getattr(container, "orientation", "vertical") != "horizontal"
    sizes = [patch.get_height() if upright else patch.get_width() for patch in patches]
    places = [
        patch.get_x() + patch.get_width() / 2 if upright else patch.get_y() + patch.get_height() / 2
        for patch in patches
    ]
    axis = ax.xaxis if upright else ax.yaxis
    if len(patches) <= 2 * LISTED:
        halves = None if container.errorbar is None else _half_widths(container.errorbar[2])
        found = _listed(sizes, [0] * len(sizes) if halves is None else halves, [_at(axis, place) for place in places])
    else:
        top = max(range(len(sizes)), key=sizes.__getitem__)
        found = f"{len(patches)} bars, the highest {_number(sizes[top])} at {_at(axis, places[top])}"
    return _named(container.get_label(), f"bars, {found}")


def _cloud(x, y) -> str:
    import numpy as np

    ranges = f"x from {_number(min(x))} to {_number(max(x))}, y from {_number(min(y))} to {_number(max(y))}"
    if len(x) < 3 or np.std(x) == 0 or np.std(y) == 0:
        return f"{len(x)} points, {ranges}"
    return f"{len(x)} points, {ranges}, correlation {np.corrcoef(x, y)[0, 1]:.2f}"


def _map(ax, picture) -> str:
    """A matrix drawn as a map, or a picture in colours."""
    import numpy as np

    values = np.ma.filled(np.ma.asarray(picture.get_array(), float), np.nan)
    rows, columns = values.shape[:2]
    if values.ndim == 3:
        return f"A picture of {rows} × {columns} pixels"
    if np.isnan(values).all():
        return f"An empty map of {rows} rows and {columns} columns"
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    low, high = _number(np.nanmin(values)), _number(np.nanmax(values))
    names = [_tick_names(ax.yaxis).get(float(row)), _tick_names(ax.xaxis).get(float(column))]
    place = " and ".join(repr(name) for name in names if name) or f"row {row + 1}, column {column + 1}"
    return f"A map of {rows} rows and {columns} columns, from {low} to {high}; the highest at {place}"


def _at(axis, place: float) -> str:
    """A value on an axis: its name where it stands near one, else the number."""
    names = _tick_names(axis)
    near = min(names, key=lambda tick: abs(tick - place), default=None)
    return names[near] if near is not None and abs(near - place) <= 0.45 else _number(place)


def _named(label: str, text: str) -> str:
    return f"{label}: {text}" if text and label and not label.startswith("_") else text[:1].upper() + text[1:]


def _number(value: float) -> str:
    value = float(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _is_number(text: str) -> bool:
    try:
        float(text.replace("−", "-").replace(",", "").rstrip("%kMB "))
    except ValueError:
        return False
    return True


def _sentence(text: str) -> str:
    text = " ".join(text.replace("$", "").split())
    return text if text.endswith((".", "?", "!", ":")) else f"{text}."
