"""Right answers of the capstone, written otherwise."""

import yaml


def fit_history__newest_first(messages, count, budget):
    system, turns = ([messages[0]], messages[1:]) if messages[0]["role"] == "system" else ([], messages)
    kept = list(turns[-1:])
    if count([*system, *kept]) > budget:
        raise ValueError("the last message does not fit")
    for end in range(len(turns) - 1, 0, -2):
        longer = [*turns[end - 2 : end], *kept]
        if count([*system, *longer]) > budget:
            break
        kept = longer
    return [*system, *kept]


def fit_history__bisection(messages, count, budget):
    first = int(messages[0]["role"] == "system")
    turns = (len(messages) - first + 1) // 2

    def newest(n):
        return tuple(messages[:first]) + tuple(messages[len(messages) - (2 * n - 1) :])

    low, high = 0, turns  # the newest `low` turns fit, more than `high` do not
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(list(newest(middle))) <= budget else (low, middle - 1)
    if not low:
        raise ValueError("nothing fits")
    return newest(low)


def model_card__yaml(name, base_model, results, limits):
    entries = [
        {
            "task": {"type": "text-generation", "name": "Text generation"},
            "dataset": {"name": r.task, "type": "course"},
            "metrics": [{"type": r.metric, "value": r.value, "name": f"{r.metric} of {r.n_items} items"}],
        }
        for r in results
    ]
    metadata = {"license": "apache-2.0", "language": "en", "pipeline_tag": "text-generation", "base_model": base_model}
    metadata["model-index"] = [{"name": name, "results": entries}]
    lines = ["task|metric|score|from|to|n", "---|---|---|---|---|---"]
    lines += ["|".join(map(str, (r.task, r.metric, r.value, r.low, r.high, r.n_items))) for r in results]
    table = "\n".join(f"|{line}|" for line in lines)
    told = "".join(f"* {limit}\n" for limit in limits)
    text = f"# {name}\n\n## What it can't do\n\n{told}\n## What was measured\n\n{table}\n"
    return f"---\n{yaml.safe_dump(metadata)}---\n{text}"


def model_card__library(name, base_model, results, limits):
    from huggingface_hub import EvalResult, ModelCardData

    data = ModelCardData(
        language="en",
        license="apache-2.0",
        pipeline_tag="text-generation",
        base_model=base_model,
        model_name=name,
        eval_results=[EvalResult("text-generation", r.task, r.task, r.metric, r.value) for r in results],
    )
    table = "| task | metric | value | interval | n |\n|:--|:--|--:|--:|--:|\n"
    for r in results:
        table += f"| {r.task} | {r.metric} | {r.value:.5f} | [{r.low:.5f}; {r.high:.5f}] | n = {r.n_items} |\n"
    return "---\n" + data.to_yaml() + "\n---\n\n" + f"# {name}\n\n{table}\n" + "\n".join(limits)
