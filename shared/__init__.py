"""LLMs in six weeks: what a learner types in a notebook."""

import sys

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
if (_shell := getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()) is not None:
    from shared import describing

    describing.register(_shell)
