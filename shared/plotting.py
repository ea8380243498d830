"""Colours and figures used in more than one lesson, and sliders with a picture where there are none."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable

from shared.cards import widget_view
from shared.describing import describe, image

# Okabe and Ito (2008): told apart by colour-blind readers and in grey print.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442"]

# What has a colour has one of these too: nothing is told by colour alone.
LINES = ["-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (9, 3)), (0, (1, 3))]
MARKERS = "os^DvPX"
HATCHES = ["", "///", "...", "xxx", "---"]


def figure(title: str, xlabel: str = "", ylabel: str = "", width: float = 6.4, height: float = 3.6):
    """One titled figure with axes; the title says the finding. Returns `(figure, axes)`."""
    import matplotlib.pyplot as plt
    from cycler import cycler

    fig, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.set_prop_cycle(cycler(color=COLOURS[:7]))
    ax.set_title(title, loc="left", fontsize=11)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    return fig, ax


def heat_map(ax, weights, x_labels=None, y_labels=None, title: str = ""):
    """A matrix of values from 0 to 1 as a map on `ax`, with tokens as labels where given."""
    image = ax.imshow(weights, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    if x_labels is not None:
        ax.set_xticks(range(len(x_labels)), x_labels, rotation=60, ha="right", fontsize=8)
    if y_labels is not None:
        ax.set_yticks(range(len(y_labels)), y_labels, fontsize=8)
    ax.set_title(title, loc="left", fontsize=10)
    return image


def png(fig) -> bytes:
    """A figure as PNG; the figure is closed, so that it is not shown twice."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=80)
    plt.close(fig)
    return buffer.getvalue()


def explore(function: Callable, **sliders) -> Explorer:
    """Live sliders over `function` in JupyterLab and Colab; its picture or text at the starting values elsewhere.

    Each slider is `name=(low, high, start)` (whole numbers give whole steps) or `name=[choices]`, and is passed to
    `function` by name. The function returns a matplotlib figure, a string, or what a notebook can show as HTML.
    Example: explore(draw, temperature=(0.1, 2.0, 1.0), top_k=[0, 10, 50])
    """
    for name, setting in sliders.items():
        if isinstance(setting, list):
            if not setting:
                raise ValueError(f"The slider {name!r} has no choices.")
        elif not (isinstance(setting, tuple) and len(setting) == 3 and setting[0] <= setting[2] <= setting[1]):
            raise ValueError(f"The slider {name!r} takes (low, high, start) or a list of choices, not {setting!r}.")
    return Explorer(function, sliders)


class Explorer:
    """What `explore` shows: a widget view, and a still picture for whoever cannot show widgets."""

    def __init__(self, function: Callable, sliders: dict):
        self.function = function
        self.sliders = sliders
        self._widget = None

    def render(self, **values) -> dict[str, object]:
        """The result for these values as a mime bundle: a picture, HTML or text."""
        result = self.function(**values)
        settings = ", ".join(f"{name} = {value}" for name, value in values.items())
        if hasattr(result, "savefig"):
            words = f"At {settings}: {describe(result)}"
            picture = base64.b64encode(png(result)).decode()
            return {"image/png": picture, "text/html": image(picture, words), "text/plain": words}
        if hasattr(result, "_repr_html_"):
            return {"text/html": result._repr_html_(), "text/plain": f"[at {settings}]"}
        return {"text/plain": str(result)}

    @property
    def start(self) -> dict[str, object]:
        return {name: s[0] if isinstance(s, list) else s[2] for name, s in self.sliders.items()}

    def widget(self):
        """The sliders with their live view; None where ipywidgets is not installed."""
        if self._widget is not None:
            return self._widget
        try:
            import ipywidgets as widgets
        except ImportError:
            return None
        controls, rows = {}, []
        for name, setting in self.sliders.items():
            label = name.replace("_", " ")
            if isinstance(setting, list):
                controls[name] = widgets.Dropdown(options=setting, description=label)
                controls[name].style.description_width = "initial"
                rows.append(controls[name])
            else:
                controls[name], row = _slider(label, *setting)
                rows.append(row)
        view = widgets.HTML()

        def update(change=None):
            try:
                bundle = self.render(**{name: control.value for name, control in controls.items()})
            except Exception as error:
                bundle = {"text/plain": f"{type(error).__name__}: {error}"}
            view.value = _as_html(bundle)

        for control in controls.values():
            control.observe(update, names="value")
        update()
        self._widget = widgets.VBox([*rows, view])
        return self._widget

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, object]:
        bundle = self.render(**self.start)
        widget = self.widget()
        return bundle if widget is None else bundle | widget_view(widget)


def _slider(label: str, low: float, high: float, start: float):
    """A slider, and the row that it stands in, with a field of that name for the exact number.

    A screen reader does not say a slider's name (ipywidgets 8.1 gives it none); it says the field's.
    """
    import ipywidgets as widgets

    whole = all(isinstance(number, int) for number in (low, high, start))
    step = 1 if whole else _even((high - low) / 100)
    kinds = (widgets.BoundedIntText, widgets.IntSlider) if whole else (widgets.BoundedFloatText, widgets.FloatSlider)
    field, slider = (kind(value=start, min=low, max=high, step=step) for kind in kinds)
    field.description, field.style.description_width = label, "initial"
    field.layout.width, slider.layout.width = f"{len(label) + 12}ch", "20em"
    slider.readout = False
    widgets.jslink((slider, "value"), (field, "value"))
    return slider, widgets.HBox([field, slider])


def _even(step: float) -> float:
    """The nearest of 1, 2 and 5 times a power of ten."""
    tens = [m * 10.0**power for power in range(-9, 9) for m in (1, 2, 5)]
    return float(f"{min(tens, key=lambda even: abs(math.log(even / step))):g}")


def _as_html(bundle: dict[str, object]) -> str:
    if "text/html" in bundle:
        return str(bundle["text/html"])
    return f'<pre style="white-space:pre-wrap">{html.escape(str(bundle["text/plain"]))}</pre>'
