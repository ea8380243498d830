"""What every figure of a lesson must keep to, watched while the lesson runs."""

from __future__ import annotations

import itertools

from shared.describing import label_of

FAULTS: list[str] = []


def told_by_colour_alone(fig) -> list[str]:
    """Pairs of entries of a legend that are drawn alike but for their colour."""
    faults = []
    for ax in fig.axes:
        if ax.get_legend() is None and not any(legend for legend in fig.legends):
            continue
        drawn = dict(_drawn(ax))
        for (one, looks), (other, others) in itertools.combinations(drawn.items(), 2):
            if looks == others:
                faults.append(f"{ax.get_title('left') or ax.get_title()}: {one!r} and {other!r} are both {looks}")
    return faults


def _drawn(ax):
    """(label, how it looks without its colour) for each entry of a legend."""
    from matplotlib.collections import PathCollection
    from matplotlib.container import BarContainer, ErrorbarContainer

    for container in ax.containers:
        label = label_of(container)
        if label and not label.startswith("_"):
            if isinstance(container, BarContainer):
                yield label, ("bars", container.patches[0].get_hatch(), round(container.patches[0].get_width(), 3))
            elif isinstance(container, ErrorbarContainer) and container[0] is not None:
                yield label, _of_line(container[0])
    for line in ax.lines:
        if not line.get_label().startswith("_"):
            yield line.get_label(), _of_line(line)
    for cloud in ax.collections:
        if isinstance(cloud, PathCollection) and not cloud.get_label().startswith("_"):
            yield cloud.get_label(), ("points", str(cloud.get_paths()[0].vertices.shape))


def _of_line(line):
    """Style, marker and a width that is at least twice another's."""
    style = line.get_linestyle() if line.get_linestyle() != "None" else ""
    if style == "--":  # matplotlib calls every pattern of one's own so too
        style = str(line._unscaled_dash_pattern)
    return ("line", style, str(line.get_marker()), round(line.get_linewidth()) if style else 0)


def watch() -> None:
    """From now on the faults of every figure that this kernel shows are kept for `verdict`."""
    from shared import describing, plotting

    describe = describing.describe

    def watched(fig) -> str:
        try:
            words = describe(fig)
        except Exception as error:
            FAULTS.append(f"no description: {type(error).__name__}: {error}")
            raise
        FAULTS.extend(told_by_colour_alone(fig))
        titles = [fig.get_suptitle(), *(ax.get_title(place) for ax in fig.axes for place in ("left", "center"))]
        if len(words) < 60 or not any(titles):
            FAULTS.append(f"says too little: {words}")
        return words

    describing.describe = plotting.describe = watched


def verdict() -> None:
    assert not FAULTS, "\n".join(dict.fromkeys(FAULTS))
