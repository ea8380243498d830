"""The rows of the course's tasks for lm-evaluation-harness: `custom_dataset: !function rows.arc`."""

from functools import partial

from datasets import Dataset

from week3_evaluation.items import tasks
from week3_evaluation.prompts import hellaswag_choices, hellaswag_question


def splits(name: str, **metadata) -> dict[str, Dataset]:
    task = tasks()[name]
    return {"test": Dataset.from_list(list(task.items)), "dev": Dataset.from_list(list(task.examples))}


mmlu = partial(splits, "mmlu")
arc = partial(splits, "arc")
hellaswag = partial(splits, "hellaswag")
truthfulqa = partial(splits, "truthfulqa_mc1")
gsm8k = partial(splits, "gsm8k")


def with_query(rows: Dataset) -> Dataset:
    """HellaSwag's preprocessing, with the column names that the harness's own task uses."""
    return rows.map(
        lambda row: {"query": hellaswag_question(row), "choices": hellaswag_choices(row), "gold": int(row["label"])}
    )


def mc2(row: dict, results: list[tuple[float, bool]]) -> dict[str, float]:
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2

    return process_results_mc2(row, results)
