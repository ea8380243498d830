"""LLMs in six weeks: what a learner types in a notebook."""

import sys

# What follows does not run on an old Python: this file has to, and says what to do.
if sys.version_info < (3, 11):  # noqa: UP036
    raise SystemExit(
        "The course needs Python 3.11 to 3.13, and this is {}.{} ({}). Make an environment with a newer one and "
        "install there: python3.12 -m venv .venv, then .venv/bin/pip install -e . (on Windows: py -3.12 -m venv .venv, "
        "then .venv\\Scripts\\pip install -e .)".format(*sys.version_info[:2], sys.executable)
    )

_NAMES = {
    "check": "learner",
    "hint": "learner",
    "borrow": "learner",
    "mine": "learner",
    "progress": "learner",
    "explore": "plotting",
    "home": "homepage",
    "quiz": "quizzes",
    "answer": "quizzes",
}
__all__ = ["answer", "borrow", "check", "explore", "hint", "home", "mine", "progress", "quiz"]


def __getattr__(name: str):
    """Import on first use, so that `import shared` takes no time."""
    if name not in _NAMES:
        raise AttributeError(f"module 'shared' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"shared.{_NAMES[name]}"), name)


# In a notebook, figures come with a description. Nothing of IPython or matplotlib is imported for that.
_shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
if _shell is not None:
    from shared import describing

    describing.register(_shell)
