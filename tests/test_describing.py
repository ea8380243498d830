"""Figures in words: what a screen reader says of them, and how a notebook shows them."""

import subprocess
import sys

import matplotlib
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from shared import course
from shared.describing import describe
from shared.plotting import LINES, figure, heat_map
from tests.figures import told_by_colour_alone

matplotlib.use("agg")


def test_a_curve_is_told_by_its_ends_and_extremes():
    _, ax = figure("Loss falls", "step", "nats")
    values = 6 - 0.02 * np.arange(200)
    values[50], values[120] = 9, 0.5
    ax.plot(values, label="train")
    ax.axhline(2, label="floor")
    ax.set(xlim=(0, 200), ylim=(0, 10))
    assert describe(ax.figure) == (
        "Loss falls. x: step, from 0 to 200; y: nats, from 0 to 10. "
        "train: from 6 at 0 to 2.02 at 199, lowest 0.5 at 120, highest 9 at 50. floor: a horizontal line at 2."
    )


def test_few_points_are_told_with_their_intervals_and_names():
    _, ax = figure("Tuned is better", "", "right")
    ax.errorbar([0, 1], [0.3, 0.5], [[0.1, 0.1], [0.2, 0.3]], fmt="o")
    ax.set_xticks([0, 1], ["base", "tuned\nmodel"])
    assert "x: base, tuned model;" in describe(ax.figure)
    assert describe(ax.figure).endswith("0.3 [0.2, 0.5] at base, 0.5 [0.4, 0.8] at tuned model.")


def test_intervals_along_x_belong_to_x():
    _, ax = figure("Lying", "right", "")
    ax.errorbar([0.3, 0.5], ["base", "tuned"], xerr=0.1, fmt="o", label="models")
    assert describe(ax.figure).endswith("models: 0.3 [0.2, 0.4] at base, 0.5 [0.4, 0.6] at tuned.")


def test_bars_clouds_and_maps_are_told():
    _, ax = figure("Bars")
    ax.bar(["a", "b"], [0.1, 0.25], yerr=0.05)
    assert describe(ax.figure).endswith("Bars, 0.1 [0.05, 0.15] at a, 0.25 [0.2, 0.3] at b.")
    ax.bar(["a", "b"], [0.2, 0.2], bottom=[0.1, 0.25], yerr=0.05, label="on top")
    assert describe(ax.figure).endswith("on top: bars, 0.2 [0.15, 0.25] at a, 0.2 [0.15, 0.25] at b.")
    _, ax = figure("Histogram")
    ax.hist([1, 2, 2], bins=[0.5, 1.5, 2.5], label="lengths")
    assert describe(ax.figure).endswith("lengths: bars, 1 at 1, 2 at 2.")
    _, ax = figure("Cloud")
    ax.scatter([1, 2, 3], [2, 4, 6], label="pairs")
    assert describe(ax.figure).endswith("pairs: 3 points, x from 1 to 3, y from 2 to 6, correlation 1.00.")
    _, ax = figure("")
    heat_map(ax, [[0.1, 0.9], [0.2, 0.3]], ["the", "cat"], ["sat", "on"], "Head 1")
    ax.figure.colorbar(ax.images[0])
    assert (
        describe(ax.figure) == "Head 1. A map of 2 rows and 2 columns, from 0.1 to 0.9; the highest at 'sat' and 'cat'."
    )


def test_panels_are_counted_and_labels_may_be_numbers():
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2)
    left.plot([1, 2], [3, 4])
    left.set_xticks([1, 2], [1, 2])
    right.loglog([1, 10], [1, 100], label="slope 2")
    words = describe(fig)
    assert words.startswith("Panel 1 of 2. x, from 0.95 to 2.05;") and "Panel 2 of 2." in words
    assert "logarithmic" in words and words.endswith("slope 2: 1 at 1, 100 at 10.")


def test_what_differs_in_colour_only_is_found():
    _, ax = figure("Two alike")
    ax.plot([1, 2], label="a")
    ax.plot([2, 1], label="b")
    ax.legend()
    assert told_by_colour_alone(ax.figure) == ["Two alike: 'a' and 'b' are both ('line', '-', 'None', 2)"]
    for line, style in zip(ax.lines, LINES[1::4], strict=False):
        line.set_linestyle(style)
    assert not told_by_colour_alone(ax.figure)


@pytest.mark.parametrize("last", ["plt.show()", "fig"])
def test_a_notebook_shows_a_figure_with_its_words(last):
    code = "import shared\nimport matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([1, 2])\n"
    code += f'ax.set_title("It rises & <falls>")\n{last}'
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(course.ROOT)}}).execute()
    outputs = [output.data for output in notebook.cells[0].outputs]
    assert outputs[0]["text/plain"].startswith("It rises & <falls>. x, from")
    assert '<img alt="It rises &amp; &lt;falls&gt;. x, from' in outputs[0]["text/html"]
    assert outputs[0]["image/png"].strip()[:100] in outputs[0]["text/html"]


def test_a_figure_that_cannot_be_described_is_shown_all_the_same():
    code = "import shared\nfrom shared import describing\nimport matplotlib.pyplot as plt\n"
    code += "def broken(fig):\n    raise KeyError('odd')\n\ndescribing.describe = broken\nplt.plot([1, 2])\nplt.show()"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(course.ROOT)}}).execute()
    (output,) = notebook.cells[0].outputs
    assert "could not be described (KeyError: 'odd')" in output.data["text/plain"] and "image/png" in output.data


def test_import_shared_brings_no_matplotlib():
    code = "import sys, IPython; IPython.core.interactiveshell.InteractiveShell.instance(); import shared\n"
    code += "print('shared.describing' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=course.ROOT)
    assert done.stdout.split() == ["True", "False"]
