"""Week 3's 05_benchmarks: items in the real schemas, and scores that equal lm-evaluation-harness item by item."""

import logging
import math
import random
from collections import Counter
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.filters.extraction import RegexFilter
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks.hellaswag.utils import preprocess
from lm_eval.tasks.truthfulqa.utils import process_results_mc2
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from shared import course
from shared.data import stories
from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week3_evaluation import items
from week3_evaluation.harness import prompt_of, score_task
from week3_evaluation.items import HUB, benchmark_rows, tasks
from week3_evaluation.prompts import hellaswag_text
from week3_evaluation.solutions.benchmarks import (
    encode_pair,
    extract_number,
    few_shot_prompt,
    multiple_choice_loglikelihood,
    normalized_scores,
    truthfulqa_mc2,
)

NAMES = list(tasks())
SCHEMAS = {  # as the datasets' own cards give them
    "mmlu": {"question": str, "subject": str, "choices": [str], "answer": int},
    "arc": {"id": str, "question": str, "choices": {"text": [str], "label": [str]}, "answerKey": str},
    "hellaswag": {
        "ind": int, "activity_label": str, "ctx_a": str, "ctx_b": str, "ctx": str, "endings": [str], "source_id": str,
        "split": str, "split_type": str, "label": str,
    },
    "truthfulqa_mc1": {
        "question": str,
        "mc1_targets": {"choices": [str], "labels": [int]},
        "mc2_targets": {"choices": [str], "labels": [int]},
    },
    "gsm8k": {"question": str, "answer": str},
}  # fmt: skip
SCHEMAS["truthfulqa_mc2"] = SCHEMAS["truthfulqa_mc1"]


@pytest.fixture(scope="module")
def course_model():
    return load_pretrained(course_folder("base"), GPT)


def harness(model, tokenizer) -> HFLM:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16, device="cpu")


def fits(value, schema) -> bool:
    if isinstance(schema, dict):
        return list(value) == list(schema) and all(fits(value[key], schema[key]) for key in schema)
    if isinstance(schema, list):
        return isinstance(value, list) and all(fits(entry, schema[0]) for entry in value)
    return type(value) is schema


@pytest.mark.parametrize("name", NAMES)
def test_rows_have_the_fields_and_types_of_the_real_benchmark(name):
    task = tasks()[name]
    assert len(task.items) >= 100 and len(task.items) == len(task.origins) and len(task.examples) == 5
    assert all(fits(row, SCHEMAS[name]) for row in task.items + task.examples)
    questions = [task.question(row) for row in task.items + task.examples]
    assert len(set(questions)) == len(questions)  # no example is asked, no item twice


@pytest.mark.parametrize("name", NAMES)
def test_each_item_has_one_right_answer(name):
    task = tasks()[name]
    for row in task.items:
        if task.choices is None:
            assert extract_number(task.answer(row), strict=True) is not None
            continue
        choices = task.choices(row)
        assert len(set(choices)) == len(choices) >= 3
        assert task.answer(row) == choices[task.gold(row)]


@pytest.mark.parametrize("name", ["mmlu", "arc", "hellaswag"])
def test_the_right_answer_has_no_favourite_place(name):
    task = tasks()[name]
    counts = Counter(task.gold(row) for row in task.items)
    assert max(counts.values()) < 0.4 * len(task.items)


def test_short_answers_are_no_truer_than_long_ones():
    """Else a model that has learnt nothing but that each token costs something would look truthful."""
    shortest_true = share_true = 0.0
    for row in tasks()["truthfulqa_mc2"].items:
        targets = row["mc2_targets"]
        labels = {len(c): [] for c in targets["choices"]}
        for choice, label in zip(targets["choices"], targets["labels"], strict=True):
            labels[len(choice)].append(label)
        shortest_true += fmean(labels[min(labels)])
        share_true += fmean(targets["labels"])
    assert abs(shortest_true - share_true) < 0.1 * len(tasks()["truthfulqa_mc2"].items)


def test_the_worked_answers_of_the_word_problems_are_right():
    for row in tasks()["gsm8k"].items:
        notes = [part.split(">>")[0] for part in row["answer"].split("<<")[1:]]
        for note in notes:
            left, right = note.split("=")
            assert eval(left, {}) == int(right)
        assert extract_number(row["answer"], strict=True) == float(notes[-1].split("=")[1])


def test_story_endings_come_from_held_out_stories_and_are_what_the_story_says():
    told = {i: story for i, story in enumerate(stories(150, seed=3, split="validation"))}
    for row in tasks()["hellaswag"].items:
        story = told[row["ind"]]
        assert story.text.startswith(f"{row['ctx']} {row['endings'][int(row['label'])]}")
        assert story.facts.hero in row["ctx"] and story.facts.friend in row["ctx"]


def test_the_real_sets_need_the_hub_and_take_the_place_of_the_items(monkeypatch):
    monkeypatch.setattr(items, "hub_reachable", lambda: False)
    for name in NAMES:
        with pytest.raises(ConnectionError, match=HUB[name][0]):
            benchmark_rows(name, 3)


@pytest.mark.parametrize("n_shot", [0, 2])
def test_scores_equal_lm_evaluation_harness_item_by_item(course_model, n_shot, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    n_items = 20 if n_shot == 0 else 6
    model, tokenizer = course_model
    theirs = AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()
    folder = course.ROOT / "week3_evaluation" / "lm_eval_tasks"
    found = simple_evaluate(
        model=harness(theirs, tokenizer), tasks=[f"course_{name}" for name in NAMES], num_fewshot=n_shot, limit=n_items,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False), bootstrap_iters=0,
    )["samples"]  # fmt: skip
    for name, task in tasks().items():
        samples = found[f"course_{name}"]
        results = score_task(model, tokenizer, task, n_shot, limit=n_items)
        assert len(results) == n_items
        for result in results:
            for sample in (s for s in samples if s["doc_id"] == result.index):
                context = sample["arguments"][0][0]
                assert context == prompt_of(task, task.items[result.index], n_shot)
                if task.choices is None:
                    assert result.output.strip() == sample["resps"][0][0].strip()
                    metric = "exact_match_strict" if sample["filter"] == "strict-match" else "exact_match"
                    assert result.scores[metric] == sample["exact_match"]
                    continue
                library = [response[0][0] for response in sample["resps"]]
                assert result.loglikelihoods == pytest.approx(
                    library, abs=1e-3
                )  # two models in float32, sums of ~30 nats
                for metric in set(sample["metrics"]) & set(result.scores):
                    assert result.scores[metric] == sample[metric]
                if name == "truthfulqa_mc2":
                    assert result.score == pytest.approx(sample["acc"], abs=1e-4)


def test_a_thousand_random_pairs_have_the_harness_loglikelihoods():
    _, tokenizer = load_pretrained(course_folder("base"), GPT)
    torch.manual_seed(0)
    shape = {"n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **shape)).eval()
    dice = random.Random(0)
    words = [word for story in stories(40, seed=9) for word in story.text.split()]
    ends = ["", "", " ", "\n", ":\n\n"]

    def text(low: int, high: int) -> str:
        return " ".join(dice.choices(words, k=dice.randint(low, high)))

    pairs = [(text(0, 9) + dice.choice(ends), dice.choice(["", " "]) + text(1, 4)) for _ in range(1000)]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    for request in requests:
        request.arguments = request.arguments if request.arguments[0].strip() else ("", request.arguments[1])
    asked = [request.arguments for request in requests]
    library = [score for score, _ in harness(model, tokenizer).loglikelihood(requests, disable_tqdm=True)]
    ours = multiple_choice_loglikelihood(model, [[encode_pair(tokenizer, *pair)] for pair in asked], 32)
    assert torch.cat(ours).tolist() == pytest.approx(library, rel=1e-4, abs=1e-3)


def test_choices_of_one_token_cost_one_row_a_question(course_model):
    model, tokenizer = course_model
    read = []
    hook = model.register_forward_pre_hook(lambda module, inputs: read.append(len(inputs[0])))
    score_task(model, tokenizer, tasks()["mmlu"], limit=10)
    hook.remove()
    assert sum(read) == 10


@pytest.mark.parametrize("name", ["mmlu", "arc", "truthfulqa_mc2"])
@pytest.mark.parametrize("n_shot", [0, 3])  # with three examples, some prompts are longer than the context
def test_prompts_read_once_give_the_same_loglikelihoods(course_model, name, n_shot):
    model, tokenizer = course_model
    theirs = AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()
    ours, cached = (score_task(m, tokenizer, tasks()[name], n_shot, limit=5) for m in (model, theirs))
    for a, b in zip(ours, cached, strict=True):
        assert a.loglikelihoods == pytest.approx(b.loglikelihoods, abs=1e-3)


def test_the_score_does_not_depend_on_the_batch(course_model):
    model, tokenizer = course_model
    one, many = (score_task(model, tokenizer, tasks()["arc"], limit=8, batch_size=size) for size in (1, 32))
    for a, b in zip(one, many, strict=True):
        assert a.loglikelihoods == pytest.approx(b.loglikelihoods, abs=1e-4)


def test_truthfulqa_mc2_equals_the_harness_and_holds_where_it_does_not():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        n = int(rng.integers(2, 12))
        scores, labels = -60 * rng.random(n), [1, 0, *rng.integers(0, 2, n - 2).tolist()]
        library = process_results_mc2({"mc2_targets": {"labels": labels}}, [(score, False) for score in scores])["acc"]
        assert truthfulqa_mc2(torch.tensor(scores), labels) == pytest.approx(library, rel=1e-9)
    with np.errstate(invalid="ignore"):
        library = process_results_mc2({"mc2_targets": {"labels": [1, 0]}}, [(-2000.0, False), (-2001.0, False)])["acc"]
    assert math.isnan(library)
    assert truthfulqa_mc2(torch.tensor([-2000.0, -2001.0]), [1, 0]) == pytest.approx(math.e / (1 + math.e))


@pytest.mark.parametrize("strict", [True, False])
def test_extract_number_equals_the_harness_filters_on_a_thousand_answers(strict):
    """Where the harness reads a number at all; "$", signs before it and decimals are written as GSM8K writes them."""
    pattern = r"#### (\-?[0-9\.\,]+)" if strict else r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
    library = RegexFilter(pattern, group_select=0 if strict else -1)
    dice = random.Random(1)
    for _ in range(1000):
        size = dice.choice([10, 1000, 10**6])
        number = dice.choice([dice.randint(0, size), -dice.randint(10, size), round(dice.uniform(0, size), 2)])
        written = f"{number:,}"
        steps = f"First {dice.randint(2, 50)} * {dice.randint(2, 50)} nuts."
        marked = f"{steps}\n#### {written}"
        text = marked if strict else dice.choice([marked, f"{steps} So it is {written} nuts", f"{steps} {written}"])
        read = library.apply([[text]], [{}])[0][0]
        assert extract_number(text, strict) == float(read.replace(",", "").rstrip(".")) == float(number)
    assert library.apply([["no number"]], [{}])[0][0] == "[invalid]" and extract_number("no number", strict) is None


def test_an_answer_that_cannot_be_read_is_told_apart_from_a_wrong_one():
    _, tokenizer = load_pretrained(course_folder("base"), GPT)
    task = replace(tasks()["gsm8k"], items=tasks()["gsm8k"].items[:2])

    class Writer(torch.nn.Module):
        """Says `text`, token by token, whatever it is asked."""

        def __init__(self, text):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.ids = tokenizer(text, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]

        def generate(self, token_ids, **settings):
            return torch.cat([token_ids, torch.tensor([self.ids] * len(token_ids))], dim=1)

    for text, parsed in (("I do not know.", False), ("It is 99999.", True)):
        results = score_task(Writer(text), tokenizer, task)
        assert [(r.score, r.parsed, r.output) for r in results] == [(0.0, parsed, text)] * 2
    right = [task.answer(row) for row in task.items]
    assert score_task(Writer(f"{right[0]}\nQuestion: #### 5"), tokenizer, task)[0].score == 1.0


def test_hellaswag_text_equals_the_harness_preprocessing():
    for text in ("  How to sit [title] Find a chair. [step] Sit  down. ", "A [header] b [title]", "plain"):
        assert hellaswag_text(text) == preprocess(text)


def test_a_question_among_its_own_examples_is_refused(course_model):
    task = tasks()["arc"]
    leaking = replace(task, examples=(task.items[0],))
    with pytest.raises(ValueError, match="among its own examples"):
        score_task(*course_model, leaking, n_shot=1, limit=1)
    with pytest.raises(ValueError, match="n_shot=6"):
        score_task(*course_model, task, n_shot=6)
    with pytest.raises(ValueError, match="white space"):
        few_shot_prompt([], "Q: ")


def test_the_ways_to_divide_can_disagree():
    scores = normalized_scores(torch.tensor([-6.0, -9.0, -7.0]), ["no", "never", "ééé"], [1, 9, 1])
    picked = {name: values.argmax().item() for name, values in scores.items()}
    assert picked == {"acc": 0, "acc_norm": 1, "acc_bytes": 2, "acc_tokens": 1}
