"""How Sphinx builds the site. `shared.site` writes its source and runs it."""

import re
from importlib.metadata import version as version_of
from pathlib import Path

from shared import build

project = "LLMs in six weeks"
author = "the authors of the course"
release = version_of("llms-in-six-weeks")
html_title = project
html_copyright = False
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]

nb_execution_mode = "off"
nb_execution_raise_on_error = True
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 4

mathjax_path = "mathjax/tex-chtml.js"
# Only formulas of the text: a dollar sign that a program printed is no formula.
myst_mathjax_classes = "math"
mathjax3_config = {"chtml": {"mtextInheritFont": True}}

default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
maximum_signature_line_length = 88

html_theme = "sphinx_book_theme"
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "repository_url": build.repository(),
    "use_repository_button": True,
    "use_download_button": False,
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "max_navbar_depth": 2,
    "home_page_in_toc": False,
    "pygments_light_style": "a11y-light",
    "pygments_dark_style": "a11y-dark",
}


def as_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """The course's docstrings are plain text with `code` and *stress*: keep all else from being read as markup."""
    found = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        parts = paragraph.split("`")
        parts[::2] = [re.sub(r"([\\|_]|\*(?!\w[^*]*\w\*)(?<!\w\*))", r"\\\1", part) for part in parts[::2]]
        if re.search(r"^\s", paragraph, flags=re.MULTILINE):  # drawn or listed: lines stay as they are
            found += ["| " + line for line in "`".join(parts).splitlines()]
        else:
            found += "`".join(parts).splitlines()
        found.append("")
    lines[:] = found


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_rst)
