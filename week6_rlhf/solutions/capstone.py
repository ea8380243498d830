"""The last two parts of a model for others: a memory that fits its context, and a card that says what it is."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

Message = dict[str, str]


def fit_history(messages: Sequence[Message], count: Callable[[list[Message]], int], budget: int) -> list[Message]:
    """The newest whole turns that fit: `count(kept) <= budget`, where `count` tells the tokens of a conversation.

    The system message, if there is one, and the last message always stay. A turn (user and reply) goes as a whole,
    the oldest first. Example: budget for two turns of three -> system, turn 2, turn 3.
    Raises ValueError for messages that `check_turns` refuses, or where the least does not fit.
    """
    check_turns(messages)
    # BEGIN SOLUTION
    system = [message for message in messages[:1] if message["role"] == "system"]
    for start in range(len(system), len(messages), 2):
        kept = system + list(messages[start:])
        if (n_tokens := count(kept)) <= budget:
            return kept
    raise ValueError(f"the last message alone takes {n_tokens} tokens, and {budget} are left: make it shorter")
    # END SOLUTION


def check_turns(messages: Sequence[Message]) -> None:
    """Raise ValueError unless user and assistant take turns, after an optional system message, and the user is last."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if len(turns) % 2 == 0 or turns != [("user", "assistant")[i % 2] for i in range(len(turns))]:
        raise ValueError(
            f"user and assistant take turns, and the user speaks last; got {', '.join(roles) or 'nothing'}"
        )


@dataclass(frozen=True)
class Result:
    """A measured result in the metric's own unit, its 95 % interval, and on how many items it was measured."""

    task: str
    metric: str
    value: float
    low: float
    high: float
    n_items: int


def model_card(name: str, base_model: str, results: Sequence[Result], limits: Sequence[str]) -> str:
    """The README.md of a model folder: metadata in YAML between two lines "---", then Markdown for people.

    Metadata: `license: apache-2.0`, `language: en`, `pipeline_tag: text-generation`, `base_model`, and `model-index`,
    one entry a result in the Hub's form (task, dataset name and type, metric type and value). Text: a heading `# name`,
    a table row a result (task, metric, value, interval, items), and each limit. Mitchell et al. 2019, §4.
    Raises ValueError for what `check_results` refuses.
    """
    check_results(results, limits)
    # BEGIN SOLUTION
    quoted = partial(json.dumps, ensure_ascii=False)  # a string of JSON is one of YAML, whatever it holds
    metadata = ["---", "language: en", "license: apache-2.0", "pipeline_tag: text-generation"]
    metadata += [f"base_model: {quoted(base_model)}", "model-index:", f"- name: {quoted(name)}", "  results:"]
    for result in results:
        task, metric = quoted(result.task), quoted(result.metric)
        metadata.append(f"  - task: {{type: text-generation}}\n    dataset: {{name: {task}, type: {task}}}")
        metadata.append(f"    metrics: [{{type: {metric}, value: {result.value}}}]")
    text = [f"# {name}", f"Made from {base_model}.", "## Results", "| task | metric | value | 95 % interval | items |"]
    rows = [f"| {r.task} | {r.metric} | {r.value:.4g} | {r.low:.4g} to {r.high:.4g} | {r.n_items} |" for r in results]
    text[-1] += "\n|---|---|---|---|---|\n" + "\n".join(rows)
    text += ["## Limits", "\n".join(f"- {limit}" for limit in limits)]
    return "\n".join(metadata) + "\n---\n\n" + "\n\n".join(text) + "\n"
    # END SOLUTION


def check_results(results: Sequence[Result], limits: Sequence[str]) -> None:
    """Raise ValueError for no results, one outside its interval or measured on nothing, or no limits."""
    if not results or not limits:
        raise ValueError("a card without results, or without limits, says nothing: measure first")
    for result in results:
        if not result.low <= result.value <= result.high or result.n_items < 1:
            raise ValueError(f"{result} cannot be: the value lies in its interval, and there is at least one item")
