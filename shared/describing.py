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
    try:
        words = describe(fig)
    except Exception as error:  # a kind of figure that nobody thought of is still shown
        words = f"A figure that could not be described ({type(error).__name__}: {error})."
    bundle = {"text/plain": words}
    if picture:
        bundle |= {"image/png": picture, "text/html": image(picture, words)}
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
        names = [str(text).replace("\n", " ") for text in formatter.format_ticks(places)]  # a label may be a number
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
                told.append(_named(container.get_label(), _points(ax, *line.get_data(), _intervals(container))))
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


def _points(ax, x, y, intervals=None) -> str:
    """Few points one by one, many by their ends and extremes. Intervals along x mean that x is the value."""
    import numpy as np

    x, y = np.asarray(ax.convert_xunits(x), float), np.asarray(ax.convert_yunits(y), float)
    upright, ends = intervals or (True, None)
    (values, value_axis), (places, place_axis) = ((y, ax.yaxis), (x, ax.xaxis))[:: 1 if upright else -1]
    kept = np.isfinite(values) & np.isfinite(places)
    if not kept.any():
        return ""
    ends = ends[kept] if ends is not None and len(ends) == len(kept) else None
    numbers = [_at(value_axis, value) for value in values[kept]]
    names = [_at(place_axis, place) for place in places[kept]]
    if len(numbers) <= LISTED:
        return _listed(numbers, ends, names)
    told = [f"from {numbers[0]} at {names[0]} to {numbers[-1]} at {names[-1]}"]
    for word, i in (("lowest", values[kept].argmin()), ("highest", values[kept].argmax())):
        told += [f"{word} {numbers[i]} at {names[i]}"] if 0 < i < len(numbers) - 1 else []
    return ", ".join(told)


def _listed(values: list[str], ends, places: list[str]) -> str:
    """Example: "0.35 [0.31, 0.4] at base, 0.5 at tuned"."""
    told = []
    for i, (value, place) in enumerate(zip(values, places, strict=True)):
        wide = ends is not None and ends[i][1] > ends[i][0]
        interval = f" [{_number(ends[i][0])}, {_number(ends[i][1])}]" if wide else ""
        told.append(f"{value}{interval} at {place}")
    return ", ".join(told)


def _intervals(container):
    """(whether they stand upright, low and high end of each) of an error bar; None where it has none."""
    import numpy as np

    bars = container[2]
    if not bars:
        return None
    upright = container.has_yerr
    segments = [segment for segment in bars[-1].get_segments() if len(segment) == 2]
    return upright, np.array([sorted(segment[:, int(upright)]) for segment in segments])


def _bars(ax, container) -> str:
    """Bars lie along x where they are named or placed there, else along y."""
    patches = container.patches
    upright = getattr(container, "orientation", "vertical") != "horizontal"
    sizes = [patch.get_height() if upright else patch.get_width() for patch in patches]
    corners = [(p.get_x(), p.get_width()) if upright else (p.get_y(), p.get_height()) for p in patches]
    axis = ax.xaxis if upright else ax.yaxis
    places = [_at(axis, corner + width / 2) for corner, width in corners]
    if len(patches) <= 2 * LISTED:
        intervals = None if container.errorbar is None else _intervals(container.errorbar)
        base = [[patch.get_y() if upright else patch.get_x()] for patch in patches]  # of a bar on top of another
        ends = intervals[1] - base if intervals and len(intervals[1]) == len(sizes) else None
        found = _listed(list(map(_number, sizes)), ends, places)
    else:
        top = max(range(len(sizes)), key=sizes.__getitem__)
        found = f"{len(patches)} bars, the highest {_number(sizes[top])} at {places[top]}"
    return _named(label_of(container), f"bars, {found}")


def label_of(container) -> str:
    """The label of bars or of points with intervals; a histogram gives its own to the first bar."""
    label = container.get_label()
    patches = getattr(container, "patches", ())
    return patches[0].get_label() if label.startswith("_") and patches else label


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
