"""What a check found of an answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.observations import Difference, Observation
from shared.values import size


@dataclass
class Result:
    """What a check found. The card, the grade and the tests are all made from it."""

    name: str
    status: str  # passed, failed, todo, error, timeout
    seconds: float = 0.0
    proved: tuple[str, ...] = ()  # the labels of all observations
    differing: list[tuple[Observation, Observation | None, Difference]] = field(default_factory=list)
    mistake: str | None = None  # a known mistake with just these observations
    resembles: str | None = None  # or one that gives the same where the first difference is
    error: str | None = None  # the learner's own frames and the exception, ready to print
    printed: str = ""
    notes: tuple[str, ...] = ()
    hint_for: str | None = None  # another exercise in which the fault lies
    waits_for: str | None = None  # another exercise that this answer calls and that is still to do

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def observation(self) -> str | None:
        """The label of the first observation that differs."""
        return self.differing[0][0].label if self.differing else None

    @property
    def smallest(self) -> tuple[Observation, Observation | None, Difference] | None:
        """The observation that differs on the least input, where the first one's is too large to read."""
        shown = [entry for entry in self.differing if entry[1] is not None and entry[0].inputs]
        if not shown or size(self.differing[0][0].inputs) <= 64:
            return None
        least = min(shown, key=lambda entry: size(entry[0].inputs))
        return least if 2 * size(least[0].inputs) < size(self.differing[0][0].inputs) else None

    @property
    def card(self):
        from shared.cards import ResultCard

        return ResultCard(self)
