"""LLMs in six weeks: what a learner types in a notebook."""

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
