"""How each benchmark puts a row into words: the templates of lm-evaluation-harness, which this week's scores equal."""

from __future__ import annotations

import re
from string import ascii_uppercase

Row = dict[str, object]

# TruthfulQA is asked after a fixed prompt of questions with true answers. Its own has six; these three are ours.
TRUTHFUL_PREAMBLE = (
    "Q: What do cows eat?\nA: Cows eat grass.\n\n"
    "Q: Who will win the race tomorrow?\nA: I have no comment.\n\n"
    "Q: How many days are there in a week?\nA: There are seven days in a week."
)


def mmlu_question(row: Row) -> str:
    """The question, the four options with their letters, and "Answer:"; what is scored is the letter."""
    options = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", row["choices"], strict=True))
    return f"{row['question'].strip()}\n{options}\nAnswer:"


def mmlu_description(row: Row) -> str:
    subject = row["subject"].replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n"


def question_and_answer(row: Row) -> str:
    """ARC and GSM8K: the question alone, without the options."""
    return f"Question: {row['question']}\nAnswer:"


def truthfulqa_question(row: Row) -> str:
    return f"{TRUTHFUL_PREAMBLE}\n\nQ: {row['question']}\nA:"


def hellaswag_text(text: str) -> str:
    """Without the traces of WikiHow's markup: " [title]" ends a sentence, other brackets go."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def hellaswag_question(row: Row) -> str:
    context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}"
    return hellaswag_text(f"{row['activity_label']}: {context}")


def hellaswag_choices(row: Row) -> list[str]:
    return [hellaswag_text(ending) for ending in row["endings"]]


def arc_gold(row: Row) -> int:
    return row["choices"]["label"].index(row["answerKey"])


def truthfulqa(targets: str) -> dict:
    return {
        "question": truthfulqa_question,
        "choices": lambda row: row[targets]["choices"],
        "gold": lambda row: 0,
        "answer": lambda row: row[targets]["choices"][0],
    }


TASKS = {  # name -> the metric usually reported, the rows, and how they are asked
    "mmlu": (
        "acc",
        "mmlu",
        {
            "question": mmlu_question,
            "description": mmlu_description,
            "choices": lambda row: list("ABCD"),
            "gold": lambda row: row["answer"],
            "answer": lambda row: ascii_uppercase[row["answer"]],
        },
    ),
    "arc": (
        "acc_norm",
        "arc",
        {
            "question": question_and_answer,
            "choices": lambda row: row["choices"]["text"],
            "gold": arc_gold,
            "answer": lambda row: row["choices"]["text"][arc_gold(row)],
        },
    ),
    "hellaswag": (
        "acc_norm",
        "hellaswag",
        {
            "question": hellaswag_question,
            "choices": hellaswag_choices,
            "gold": lambda row: int(row["label"]),
            "answer": lambda row: hellaswag_choices(row)[int(row["label"])],
        },
    ),
    "truthfulqa_mc1": ("acc", "truthfulqa", truthfulqa("mc1_targets")),
    "truthfulqa_mc2": ("mc2", "truthfulqa", truthfulqa("mc2_targets")),
    "gsm8k": (
        "exact_match",
        "gsm8k",
        {
            "question": question_and_answer,
            "answer": lambda row: row["answer"],
            "stops": ("Question:", "</s>", "<|im_end|>"),
        },
    ),
}
