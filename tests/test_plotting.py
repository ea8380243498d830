"""Sliders where a notebook has them, a picture or text where it has not."""

import base64

import pytest

from shared import explore
from shared.plotting import figure

VIEW = "application/vnd.jupyter.widget-view+json"


def draw(temperature, top_k):
    fig, ax = figure(f"{temperature} {top_k}", "x", "y")
    ax.plot([0, temperature], [0, top_k])
    return fig


def test_a_figure_comes_with_a_picture_words_and_live_sliders():
    bundle = explore(draw, temperature=(0.1, 2.0, 1.0), top_k=[5, 10])._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"].startswith("At temperature = 1.0, top_k = 5: 1.0 5. x, from")
    assert f'alt="{bundle["text/plain"]}"' in bundle["text/html"]
    assert VIEW in bundle


def test_moving_a_slider_calls_the_function_with_the_new_value():
    seen = []
    explorer = explore(lambda n: seen.append(n) or f"n is {n}", n=(0, 10, 3))
    box = explorer.widget()
    row, view = box.children
    slider = row.children[1]
    assert "n is 3" in view.value
    slider.value = 7
    assert seen[-1] == 7 and "n is 7" in view.value


def test_whole_numbers_give_whole_steps_and_lists_give_choices():
    a, b, c, _ = explore(lambda a, b, c: "", a=(0, 5, 1), b=(0.05, 1.0, 0.95), c=["x", "y"]).widget().children
    names = [[type(part).__name__ for part in row.children] for row in (a, b)]
    assert names == [["BoundedIntText", "IntSlider"], ["BoundedFloatText", "FloatSlider"]]
    assert type(c).__name__ == "Dropdown"
    assert (a.children[1].step, b.children[1].step) == (1, 0.01)
    assert [field.description for field in (a.children[0], b.children[0], c)] == ["a", "b", "c"]


def test_text_is_escaped_and_an_error_is_shown_in_the_view():
    def text(n):
        if n > 3:
            raise ValueError("too <much>")
        return "<b>plain</b>"

    explorer = explore(text, n=(0, 9, 1))
    row, view = explorer.widget().children
    slider = row.children[1]
    assert "&lt;b&gt;plain" in view.value
    slider.value = 5
    assert "ValueError: too &lt;much&gt;" in view.value


def test_without_widgets_the_picture_stays(monkeypatch):
    explorer = explore(draw, temperature=(0.1, 2.0, 1.0), top_k=[5])
    monkeypatch.setattr(type(explorer), "widget", lambda self: None)
    assert set(explorer._repr_mimebundle_()) == {"image/png", "text/html", "text/plain"}


@pytest.mark.parametrize("setting", [(1, 2), (0, 1, 5), [], "x", 3])
def test_a_slider_that_makes_no_sense_is_refused(setting):
    with pytest.raises(ValueError, match="slider 'n'"):
        explore(draw, n=setting)
