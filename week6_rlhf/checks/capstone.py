"""What right answers of the capstone show, and the known mistakes. A card is judged by what the Hub's own reader finds."""

import re

import torch
from huggingface_hub import ModelCard

from shared.checking import observes, raised
from week6_rlhf.solutions.capstone import Result


def words(messages):
    """A template of two tokens around each message, and two where the reply begins: more than the sum of the contents."""
    return sum(len(message["content"].split()) + 2 for message in messages) + 2


def conversation(*lengths, system=None):
    """Contents of so many words, user and assistant in turn, each with words of its own."""
    roles = ("user", "assistant")
    turns = [
        {"role": roles[i % 2], "content": " ".join(f"{'ua'[i % 2]}{i}" for _ in range(n))}
        for i, n in enumerate(lengths)
    ]
    return ([{"role": "system", "content": system}] if system else []) + turns


def _size(rng, low, high):
    return int(torch.randint(low, high, (), generator=rng))


def told(messages):
    """The conversation in short: role and first word of each message."""
    return [f"{message['role']}: {message['content'].split()[0]}" for message in messages]


@observes(
    "fit_history",
    difficulty=2,
    minutes=15,
    hints=(
        "Try the longest history first, and go on to shorter ones: the first that fits is the answer.",
        "A history begins at a user's message. Those are every second message, after the system message if there is one.",
        "From one try to the next the start moves on by two messages, and the system message stays in front. Count "
        "each history whole, not message by message. If the last message alone does not fit, nothing does: "
        "ValueError.",
    ),
    mistakes={
        "The oldest turns are kept and the newest are dropped, so the model does not see what was just said.": (
            "kept = system + list(messages[start:])",
            "kept = system + list(messages[len(system) : len(messages) - start + len(system)])",
        ),
        "The system message goes with the oldest turn. It holds for the whole conversation, so it stays.": (
            "kept = system + list(messages[start:])",
            "kept = list(messages[start if start > len(system) else 0 :])",
        ),
        "Half a turn is kept: the history begins with a reply to a question that is gone.": (
            "range(len(system), len(messages), 2)",
            "range(len(system), len(messages))",
        ),
        "A history that fills the budget exactly is refused: budget tokens are allowed.": (
            "(n_tokens := count(kept)) <= budget",
            "(n_tokens := count(kept)) < budget",
        ),
        "Tokens are counted message by message, so what the template adds around the whole is forgotten.": (
            "(n_tokens := count(kept)) <= budget",
            "(n_tokens := sum(count([one]) - count([]) for one in kept)) <= budget",
        ),
        "Where not even the last message fits, it is given back all the same: the model would cut it, or fail.": (
            'raise ValueError(f"the last message alone takes {n_tokens} tokens, and {budget} are left: make it shorter")',
            "return kept",
        ),
        "The system message is not counted, so with it the prompt is longer than the budget.": (
            "(n_tokens := count(kept)) <= budget",
            "(n_tokens := count(kept[len(system) :])) <= budget",
        ),
    },
)
def check_fit_history(fit_history, rng):
    three = conversation(4, 6, 3, 5, 2)
    with_system = conversation(4, 6, 3, 5, 2, system="be kind")
    for label, messages, budgets in (
        ("three turns", three, (32, 31, 30, 18, 17, 6)),
        ("with a system message", with_system, (36, 35, 34, 22, 21, 10)),
    ):
        for budget in budgets:
            shown = {"words a message": [len(m["content"].split()) for m in messages], "budget": budget}
            yield f"{label}, {budget} tokens", told(fit_history(messages, words, budget)), shown
    # A long turn in the middle: what is older than it must not slip in behind it.
    gap = conversation(1, 1, 30, 1, 2)
    yield (
        "a long turn in the middle",
        told(fit_history(gap, words, 20)),
        {"words a message": [1, 1, 30, 1, 2], "budget": 20},
    )
    lengths = torch.randint(1, 9, (9,), generator=rng).tolist()
    drawn = conversation(*lengths, system="be kind")
    for budget in torch.randint(words(drawn[:1] + drawn[-1:]), words(drawn) + 3, (4,), generator=rng).tolist():
        shown = {"words a message, after a system message of two": lengths, "budget": budget}
        yield "lengths at random", told(fit_history(drawn, words, budget)), shown
    alone = conversation(5)
    yield "one message", told(fit_history(alone, words, 9)), {"words a message": [5], "budget": 9}
    yield (
        "a message too long even alone is refused",
        raised(fit_history, alone, words, 8),
        {"words a message": [5], "budget": 8},
    )
    yield (
        "a message too long with the system message is refused",
        raised(fit_history, with_system, words, 9),
        {"budget": 9},
    )


RESULTS = [
    Result("course_arc", "acc_norm", 0.61, 0.52, 0.7, 100),
    Result("course_gsm8k", "exact_match", 0.0, 0.0, 0.037, 100),
    Result("stories: held out", "bits_per_byte", 0.3142, 0.3051, 0.3239, 40),
    Result("preference", "win_rate", 0.6875, 0.6341, 0.7372, 320),
]
LIMITS = ["It knows one small world, and nothing else.", "It tells what is not so: check it."]


def read(card, limits=LIMITS):
    """What the Hub's reader finds in the metadata, and what a person finds in the text."""
    if not isinstance(card, str):
        return card
    if not card.startswith("---\n"):
        return {"the first line": card.split("\n", 1)[0]}
    found = ModelCard(card)
    data = found.data.to_dict()
    numbers = {
        line.split("|")[1].strip(): [
            float(x) for x in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*%)", line.split("|", 2)[2])
        ]
        for line in found.text.splitlines()
        if line.startswith("|") and line.split("|")[1].strip() in {r.task for r in RESULTS}
    }
    lines = found.text.splitlines()
    rows = [i for i, line in enumerate(lines) if line.startswith("|") and line.split("|")[1].strip() in numbers]
    return {
        "license": data.get("license"),
        "language": data.get("language"),
        "pipeline tag": data.get("pipeline_tag"),
        "base model": data.get("base_model"),
        "name in the metadata": found.data.model_name,
        "results in the metadata": [
            [r.task_type, r.dataset_name, r.metric_type, r.metric_value] for r in found.data.eval_results or []
        ],
        "heading": next((line for line in found.text.splitlines() if line.startswith("# ")), None),
        "numbers in the table, by task": {task: [round(x, 3) for x in row] for task, row in numbers.items()},
        "one table: a head, a line of dashes, the rows": bool(rows)
        and rows == list(range(rows[0], rows[0] + len(rows)))
        and set(lines[rows[0] - 1]) <= set("|-: ")
        and lines[rows[0] - 2].count("|") == lines[rows[0] - 1].count("|"),
        "limits": [limit in found.text for limit in limits],
        "list items without text": sum(line.strip() in ("-", "*") for line in found.text.splitlines()),
    }


@observes(
    "model_card",
    difficulty=2,
    minutes=20,
    hints=(
        "Two readers: a program reads the YAML between the two lines `---`, which must stand at the very beginning; people read the "
        "Markdown below.",
        "`yaml.safe_dump` writes a nested dict as YAML and quotes what needs it. model-index is a list with one entry: its name and "
        "its `results`, each with `task: {type}`, `dataset: {name, type}` and `metrics: [{type, value}]`.",
        "Three parts, joined: the metadata between its two lines `---`; an empty line; the Markdown, which is a "
        "heading with the name, a table (a head, a line of dashes, a row a result) and the limits as a list. Four "
        "significant digits tell 0.3142 and its interval from others.",
    ),
    mistakes={
        "The metadata does not begin on the first line, so no program finds it: the Hub shows a card without data.": (
            'return "\\n".join(metadata)',
            'return f"# {name}\\n\\n" + "\\n".join(metadata)',
        ),
        "A result of 0 is left out, for 0 is false. That the model can't do a task is a result too.": (
            "    for result in results:\n        task, metric",
            "    for result in (r for r in results if r.value):\n        task, metric",
        ),
        "Values are rounded to two places: a loss of 0.3142 and its interval can't be told from others any more.": (
            "{r.value:.4g} | {r.low:.4g} to {r.high:.4g}",
            "{r.value:.2f} | {r.low:.2f} to {r.high:.2f}",
        ),
        "Beyond ASCII a name is written in JSON's escapes, two for one picture, and YAML does not put the two together.": (
            "partial(json.dumps, ensure_ascii=False)",
            "json.dumps",
        ),
        "The table gives no intervals. A reader can't tell whether another model is better.": (
            "{r.low:.4g} to {r.high:.4g}",
            "",
        ),
        "The number of items is missing: 0.61 of 100 and 0.61 of 10,000 are not the same claim.": (
            "{r.high:.4g} | {r.n_items} |",
            "{r.high:.4g} | |",
        ),
        "The metadata has percent where the metric's own unit is a share: on the Hub 0.61 would stand as 61, a hundred times too good.": (
            "value: {result.value}",
            "value: {100 * result.value}",
        ),
        "The limits are left out. What a model can't do is the part that its user needs most.": (
            '"\\n".join(f"- {limit}" for limit in limits)',
            '""',
        ),
    },
)
def check_model_card(model_card, rng):
    n_items = _size(rng, 50, 400)
    middle = [_size(rng, 200, 800) for _ in RESULTS]
    drawn = [
        Result(r.task, r.metric, x / 1000, (x - _size(rng, 9, 99)) / 1000, (x + _size(rng, 9, 99)) / 1000, n_items + x)
        for r, x in zip(RESULTS, middle, strict=True)
    ]
    yield "a card, as the Hub's reader sees it", read(model_card("course-aligned", "course-instruct", RESULTS, LIMITS))
    limits = [f"It has read {n_items} stories.", LIMITS[1]]
    yield (
        "another card, as the Hub's reader sees it",
        read(model_card(f"course-{n_items}", f"base-{middle[0]}", drawn, limits), limits),
    )
    awkward = model_card('Pip: a "small" model 🦊', "work/instruct: mine", RESULTS[2:3], LIMITS[:1])
    yield (
        "names with a colon, quotes and a picture",
        read(awkward),
        {"name": 'Pip: a "small" model 🦊', "base_model": "work/instruct: mine"},
    )
