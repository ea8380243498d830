"""Programs chosen by tests that a model wrote, and an agent that cannot run away."""

import ast
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from week3_evaluation.solutions.qa_and_code import pass_at_k
from week5_inference.solutions.prompting import Tool, ToolError, parse_tool_call


def parse_assertion(text: str, entry_point: str) -> tuple[list[object], object] | None:
    """(arguments, expected) of `assert entry_point(arguments) == expected`, read as data: nothing of it is run.

    The arguments are by position; they and the expected value are literals (numbers, texts, lists ...). A message after
    a comma is passed over. Any other text gives None, and no text raises. Chen et al. 2022 (CodeT).
    Example: ("assert add(2, [-3]) == 5.0", "add") -> ([2, [-3]], 5.0).
    """
    # BEGIN SOLUTION
    try:
        match ast.parse(text.strip()).body:
            case [ast.Assert(ast.Compare(ast.Call(ast.Name(name), arguments, []), [ast.Eq()], [expected]))] if (
                name == entry_point
            ):
                return [ast.literal_eval(argument) for argument in arguments], ast.literal_eval(expected)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass
    return None
    # END SOLUTION


def dual_execution_agreement(
    passed: Bool[Tensor, "solution test"], power: float = 1.0
) -> list[tuple[float, list[int], list[int]]]:
    """Consensus sets (score, solutions S_x, tests S_y), best first: score = |S_x|^power · |S_y|.

    Solutions that pass exactly the same tests S_y are one set; every solution is in one, also if it passes none. Equal
    scores come in the order of their first solution; the indices of a set ascend. Chen et al. 2022 (CodeT); their
    repository has power = 0.5. Example: [[1, 1], [1, 1], [0, 1]] -> [(4.0, [0, 1], [0, 1]), (1.0, [2], [1])].
    """
    # BEGIN SOLUTION
    members: dict[tuple[int, ...], list[int]] = {}
    for solution, row in enumerate(passed):
        members.setdefault(tuple(row.nonzero().flatten().tolist()), []).append(solution)
    sets = [(len(solutions) ** power * len(tests), solutions, list(tests)) for tests, solutions in members.items()]
    return sorted(sets, key=lambda consensus: -consensus[0])  # sorted is stable, dicts keep their order
    # END SOLUTION


def ranked_pass_at_k(scores: Float[Tensor, " solution"], right: Bool[Tensor, " solution"], k: int) -> float:
    """The chance that one of the k solutions with the highest scores is right, equal scores in random order.

    1.0 where a right one is surely among the k; else only the solutions whose score equals the k-th highest are drawn,
    for the places left: `pass_at_k` of those. So with all scores equal it is Chen et al. 2021, eq. 1.
    Example: scores [3, 5, 3, 3], right [0, 0, 1, 0], k=2 -> 1/3. Raises ValueError unless 1 <= k <= solutions.
    """
    if not 1 <= k <= len(scores) or len(scores) != len(right):
        raise ValueError(
            f"k must be from 1 to the number of solutions, got k = {k}, {len(scores)} scores, {len(right)} verdicts"
        )
    # BEGIN SOLUTION
    border = scores.sort(descending=True).values[k - 1]
    above, tied = scores > border, scores == border
    if right[above].any():
        return 1.0
    return pass_at_k(int(tied.sum()), int(right[tied].sum()), k - int(above.sum()))
    # END SOLUTION


def with_retries(
    function: Callable[[], object],
    attempts: int = 3,
    base: float = 1.0,
    cap: float = 8.0,
    retryable: tuple[type[Exception], ...] = (TimeoutError, ConnectionError),
    sleep: Callable[[float], object] = time.sleep,
) -> object:
    """What function() returns, called at most `attempts` times; sleep(min(cap, base · 2^(i-1))) after the i-th failure.

    Only an error of a class in `retryable` is worth another try; any other comes out at once. After the last attempt
    its error comes out as it is, and nothing is waited for. Raises ValueError for attempts < 1.
    """
    if attempts < 1:
        raise ValueError(f"attempts must be 1 or more, got {attempts}")
    # BEGIN SOLUTION
    for attempt in range(attempts):
        try:
            return function()
        except retryable:
            if attempt == attempts - 1:
                raise
        sleep(min(cap, base * 2**attempt))
    # END SOLUTION


# --- the agent --------------------------------------------------------------------------------------------------

RESULT_TYPES = (str, int, float, bool)


@dataclass(frozen=True)
class Step:
    """One turn: what the model wrote, the call that was read from it (None if it was invalid), and what came of it."""

    reply: str
    call: dict[str, object] | None
    observation: str
    failed: bool = False


def scratchpad(question: str, steps: Sequence[Step]) -> str:
    """What the model reads before its next turn: the question, and each turn's reply and observation.

    An observation is put on one line: a tool's text must not look like another turn.
    """
    turns = [f"{step.reply.strip()}\nObservation: {' '.join(step.observation.split())}" for step in steps]
    return "\n".join([f"Question: {question}", *turns]) + "\n"


def run_agent(
    policy: Callable[[str], str],
    tools: Sequence[Tool],
    question: str,
    max_steps: int = 8,
    max_errors: int = 3,
    max_repeats: int = 1,
    max_characters: int = 4000,
    longest: int = 300,
) -> tuple[str, str | None, list[Step]]:
    """(stop reason, answer, steps). A reply of policy(scratchpad) without a call is the answer: "answered", stripped.

    Before a turn: "out of steps" after max_steps of them, then "out of room" if the scratchpad exceeds max_characters.
    A valid call that already succeeded max_repeats times is not run: "repeats itself". A ToolError, a tool's Exception,
    a result that is not of RESULT_TYPES: failed steps, observed as "error: " and the message, or the class's name
    where that is empty; after max_errors in a row "too many errors". Observations are cut to `longest` characters; no
    other end has an answer (None). Yao et al. 2022, §2.
    """
    for name, limit in (("max_steps", max_steps), ("max_errors", max_errors), ("max_repeats", max_repeats)):
        if limit < 1:
            raise ValueError(f"{name} must be 1 or more, got {limit}")
    # BEGIN SOLUTION
    functions = {tool.name: tool.function for tool in tools}
    steps: list[Step] = []
    errors = 0

    while len(steps) < max_steps:
        text = scratchpad(question, steps)
        if len(text) > max_characters:
            return "out of room", None, steps
        reply, call, failed = policy(text), None, False
        try:
            call = parse_tool_call(reply, tools)
            if call is None:
                return "answered", reply.strip(), steps
            if sum(step.call == call and not step.failed for step in steps) >= max_repeats:
                return "repeats itself", None, steps
            result = functions[call["name"]](**call["arguments"])
            if not isinstance(result, RESULT_TYPES):
                raise ToolError(f"{call['name']} returned a {type(result).__name__}, which is no text or number")
            observation = str(result)
        except Exception as error:  # whatever a tool does wrong, the model gets to read it
            observation, failed = f"error: {str(error) or type(error).__name__}", True
        steps.append(Step(reply, call, observation[:longest], failed))
        errors = errors + 1 if failed else 0
        if errors == max_errors:
            return "too many errors", None, steps
    return "out of steps", None, steps
    # END SOLUTION
