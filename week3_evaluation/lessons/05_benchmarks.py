# %% [markdown]
# # Benchmarks
#
# "62.4 on MMLU" is a number about a model, a set of questions, and a way to ask and to score them. The third part is the one that
# papers leave out. A language model does not tick a box: somebody has written the question into a prompt, somebody has decided
# what counts as its answer. In this lesson that somebody is you.
#
# You write what stands behind the scores of MMLU, ARC, HellaSwag, TruthfulQA and GSM8K: the few-shot prompt, the log-likelihood of
# each choice, the ways to divide it by its length, TruthfulQA's mass of truth, and the number that is read from a worked answer. Item by
# item, your scores equal those of lm-evaluation-harness. Then you measure how much of a score is the model: the same
# questions in another prompt, the same answers divided by another length, and a model that has seen the test.
#
# Reading and writing: about 130 minutes. Papers: Hendrycks et al. 2021 (MMLU, [arXiv:2009.03300](https://arxiv.org/abs/2009.03300)),
# Clark et al. 2018 (ARC, [arXiv:1803.05457](https://arxiv.org/abs/1803.05457)), Zellers et al. 2019 (HellaSwag,
# [arXiv:1905.07830](https://arxiv.org/abs/1905.07830)), Lin et al. 2022 (TruthfulQA,
# [arXiv:2109.07958](https://arxiv.org/abs/2109.07958)), Cobbe et al. 2021 (GSM8K,
# [arXiv:2110.14168](https://arxiv.org/abs/2110.14168)), Biderman et al. 2024, *Lessons from the Trenches on Reproducible Evaluation of
# Language Models* ([arXiv:2405.14782](https://arxiv.org/abs/2405.14782)). Repository:
# [lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness).

# %%
import copy
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, Int
from lm_eval import simple_evaluate
from lm_eval.filters.extraction import RegexFilter
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks.truthfulqa.utils import process_results_mc2
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from shared import borrow, check, hint, mine, progress
from shared.checking import run_check
from shared.course import ROOT
from shared.models import course_folder, smollm2
from shared.plotting import COLOURS, figure
from shared.runtime import pick_device, seed_everything
from shared.training import train
from week2_pretraining.solutions.pretraining import load_pretrained
from week2_pretraining.solutions.sampling import inference
from week3_evaluation.harness import prompt_of, score_task
from week3_evaluation.items import benchmark_rows, tasks
from week3_evaluation.prompts import question_and_answer
from week3_evaluation.solutions.leaderboard import bootstrap_interval

seed_everything(0)
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
logging.getLogger("lm_eval").setLevel(logging.ERROR)
device = pick_device()
model, tokenizer = load_pretrained(course_folder("base"), mine("GPT"))
model = model.to(device)
print(device)

# %% [markdown]
# ## The questions
#
# Five benchmarks, each with another idea of what to ask:
#
# | | what is asked | what is scored |
# |---|---|---|
# | MMLU | exam questions in 57 subjects, four options in the prompt | the letter |
# | ARC | school science, options *not* in the prompt | the text of each option |
# | HellaSwag | a beginning, four ways to go on | the text of each ending |
# | TruthfulQA | questions that people answer wrongly | MC1: the best answer; MC2: the mass on all true ones |
# | GSM8K | word problems | the number after `####` in an answer that the model writes |
#
# The real sets lie on the Hugging Face hub. So that this lesson runs without it, the course has **items of its own in exactly
# their schemas**: the same fields, the same types, other contents. They come from two places. *course*: made from
# the facts of the small world that the course model was trained on. *hand*: written by hand, about the real world. No item is from the
# real benchmarks, so do not compare a score here with a published one.

# %%
for name, task in tasks().items():
    origins = {origin: task.origins.count(origin) for origin in ("course", "hand") if origin in task.origins}
    print(f"{name:15} {len(task.items)} items {origins}, reported: {task.metric}")
for name in ("mmlu", "arc", "hellaswag", "truthfulqa_mc2", "gsm8k"):
    print(f"\n{name}: {tasks()[name].items[1]}")

# %% [markdown]
# Where the hub is reached, the real rows take the place of ours, and all that follows can be run on them.

# %% tags=["nbval-ignore-output"]
try:
    real_arc = replace(tasks()["arc"], items=benchmark_rows("arc", 20))
    print(real_arc.items[0])
except ConnectionError as error:
    print(error)

# %% [markdown]
# ## The prompt
#
# A base model does not answer questions, it goes on with text. So the prompt is the beginning of a text in which an answer
# comes next; and a few examples show what an answer looks like here (Brown et al. 2020, §2.4):
#
# ```
#   description         The following are multiple choice questions (with answers) about biology.
#
#   example             question␣answer
#                       (an empty line)
#   example             question␣answer
#                       (an empty line)
#   question            Question: Who barks?
#                       Answer:          ◀── ends here, without a space
# ```
#
# The Open LLM Leaderboard used 25 examples for ARC, 10 for HellaSwag and 5 for MMLU
# ([its documentation](https://huggingface.co/docs/leaderboards/en/open_llm_leaderboard/archive)). A score without the number of examples is
# half a score.
#
# Two things go wrong in silence, so your function refuses them. The question may be among its own examples, with the answer. And a space
# at the end looks harmless, but GPT-2's kind of tokenizer puts the space *before* a word into the word's token: after a lone space, the
# model has rarely seen a word begin.

# %% tags=["exercise"]
from week3_evaluation.solutions.benchmarks import few_shot_prompt

# %%
shots = [("Question: What is 1 + 1?\nAnswer:", "2"), ("Question: What do cows eat?\nAnswer:", "grass")]
print(few_shot_prompt(shots, "Question: Who barks?\nAnswer:", "Easy questions.\n\n"))

# %% [markdown]
# ## From text to tokens
#
# The model will be asked how likely the choice is after the prompt. For that we need to know which tokens are the choice's. Where tokens
# can reach over the border between the two, there is no clean answer; the convention of the harness is: encode the whole text, and
# call what comes after the prompt's own number of tokens the choice.
#
# **Predict.** The prompt is `Answer:` and the choice ` a rabbit`. Does it matter whether the space belongs to the prompt or to the
# choice?

# %% tags=["exercise"]
from week3_evaluation.solutions.benchmarks import encode_pair

# %%
for prompt, choice in (("Pip was", " a rabbit"), ("Pip was ", "a rabbit")):
    pair = encode_pair(tokenizer, prompt, choice)
    alone = tokenizer(prompt).input_ids, tokenizer(choice).input_ids
    for how, ids in (("yours", pair), ("each part alone", alone)):
        print(f"{how:16}", " + ".join(str([tokenizer.decode([i]) for i in part]) for part in ids))

# %% [markdown]
# <details><summary>Answer</summary>
#
# To the harness and to you it does not: the space moves to the choice, and the tokens are the same. To someone who encodes both parts
# alone it does: a lone space is a token of its own, and `a` without a space is another token than ` a`.
#
# </details>
#
# ## The likelihood of a choice
#
# $$\ln p(\text{choice} \mid \text{prompt}) = \sum_{t} \ln p(x_t \mid \text{prompt}, x_{<t}) \qquad x_1 \dots x_n \text{ the choice's tokens}$$
#
# ```
#   read      Q   :   ..  A   :  ␣a  ␣rab            the last token is not read
#   logits    ·   ·   ·   ·   ▼   ▼   ▼
#   scored                    ␣a ␣rab bit            the last n places predict the n tokens
# ```
#
# The model is right where the right choice has the highest score. Nobody asked it to choose.
#
# What makes it work on real questions:
#
# - **Batches.** Rows of different length are padded on the right. The model is causal, so the padding changes nothing before it, but the
#   choice no longer ends where the padded row ends.
# - **Shared rows.** After one MMLU prompt, ` A`, ` B`, ` C`, ` D` all need the *same* row: the prompt. And a row that is the beginning of
#   another one is read along with it. MMLU then takes a quarter of the rows.
# - **Too long.** The prompt loses its beginning. Then the first examples are gone, and nothing tells you: the harness only writes a
#   warning.

# %% tags=["given"]
from week3_evaluation.solutions.benchmarks import next_token_logits

# %% tags=["given"]
from week3_evaluation.solutions.benchmarks import context_length_of

# %% tags=["exercise"]
from week3_evaluation.solutions.benchmarks import multiple_choice_loglikelihood

# %%
choices = ["a rabbit", "a mouse", "a boy", "a hedgehog"]
pairs = [encode_pair(tokenizer, "Early one morning, Pip the", f" {choice.split()[1]}") for choice in choices]
for choice, score in zip(choices, multiple_choice_loglikelihood(model, [pairs])[0].tolist(), strict=True):
    print(f"{choice:12} ln p = {score:6.2f} nats")

# %% [markdown]
# ## Divided by what?
#
# A long choice costs more nats than a short one, because each token costs some. Should it be punished for that? There are four
# customs, and papers do not always say which one they follow:
#
# | | score | who |
# |---|---|---|
# | `acc` | $\ln p$ | the harness, for all of these tasks |
# | `acc_norm` | $\ln p$ / characters | the harness, for ARC and HellaSwag |
# | `acc_bytes` | $\ln p$ / bytes in UTF-8 | the harness, where a task asks for it |
# | `acc_tokens` | $\ln p$ / tokens | GPT-3 (Brown et al. 2020, §2.4) |
#
# The last one depends on the tokenizer: two models that find every text equally likely can get different scores. (The
# [post that describes them](https://blog.eleuther.ai/multiple-choice-normalization/) says bytes for `acc_norm`; in the harness's code
# of version 0.4.13, in `process_results`, it is `len` of a Python string: characters. Read the code.)

# %% tags=["exercise"]
from week3_evaluation.solutions.benchmarks import normalized_scores

# %%
scores = normalized_scores(torch.tensor([-6.0, -9.0, -7.0]), ["no", "never", "ééé"], [1, 9, 1])
for name, values in scores.items():
    print(f"{name:10}", [f"{value:6.2f}" for value in values.tolist()], "picks", ["no", "never", "ééé"][values.argmax()])

# %% [markdown]
# ## The mass of truth
#
# TruthfulQA has several true and several false answers to a question. MC1 asks whether the best true answer beats the
# false ones. MC2 asks how much of the probability is on true ones:
#
# $$\text{MC2} = \frac{\sum_{\text{true}} p_i}{\sum_{\text{all}} p_i} \qquad p_i = e^{\ln p_i}$$
#
# It is a score from 0 to 1 even where the first choice is wrong. Look out for long answers: $e^{-2000}$ is 0 on every computer.

# %% tags=["exercise"]
from week3_evaluation.solutions.benchmarks import truthfulqa_mc2

# %%
labels = [1, 1, 0]
for scores in ([-3.0, -4.0, -2.5], [-2000.0, -2001.0, -1999.5]):
    with np.errstate(invalid="ignore"):  # 0 / 0
        library = process_results_mc2({"mc2_targets": {"labels": labels}}, [(score, False) for score in scores])["acc"]
    print(f"ln p = {scores}: yours {truthfulqa_mc2(torch.tensor(scores), labels):.6f}, the harness {library:.6f}")

# %% [markdown]
# (Equal, and where the harness divides 0 by 0 yours still has an answer.)
#
# ## A number from a text
#
# GSM8K's answers are written, and end with `#### 42`. Models write `#### 1,234`, `#### $18.`, `#### 42 apples`; or they
# never write `####`. So there are two readings: *strict* takes only the number after `####`, *flexible* falls back on the last
# number of the text. An answer in which neither is found is not just wrong: report the **share of unreadable answers**
# apart, because it tells whether the model cannot calculate, or was not understood.

# %% tags=["exercise"]
from week3_evaluation.solutions.benchmarks import extract_number

# %%
filters = {
    "strict": RegexFilter(r"#### (\-?[0-9\.\,]+)"),
    "flexible": RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1),
}
texts = ["8 - 3 = <<8-3=5>>5 nuts.\n#### 5", "#### 1,234", "#### $18", "so 5 nuts are left", "9-4", "many", "#### 5\n\nQuestion: 1+1?\n#### 2"]
print(f"{'':46} {'yours':16} harness (strict, flexible)")
for text in texts:
    ours = [extract_number(text, strict) for strict in (True, False)]
    library = [f.apply([[text]], [{}])[0][0] for f in filters.values()]
    print(f"{text!r:46} {ours!s:16} {library}")

# %% [markdown]
# Where they differ, look who is right. The harness's strict filter stops at the $; its flexible one takes `9-4` for -4 and, if the model
# goes on to ask itself another question, takes that one's answer (its tasks cut the text at `Question:` first, and so does ours).
#
# ## Against the real library
#
# `score_task` puts your pieces together: prompts, pairs, scores, one result for each item. lm-evaluation-harness reads a task from a
# YAML file; the same tasks lie in `week3_evaluation/lm_eval_tasks`. This is the whole of ARC:

# %%
lm_eval_tasks = ROOT / "week3_evaluation" / "lm_eval_tasks"
print((lm_eval_tasks / "course_arc.yaml").read_text())

# %%
theirs = AutoModelForCausalLM.from_pretrained(course_folder("base")).to(device).eval()
compared = {"mmlu": 20, "arc": 20, "hellaswag": 8, "truthfulqa_mc2": 12}
library = {}
for name, limit in compared.items():
    library |= simple_evaluate(
        model=HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=8), tasks=[f"course_{name}"], limit=limit, num_fewshot=0,
        task_manager=TaskManager(include_path=str(lm_eval_tasks), include_defaults=False), bootstrap_iters=0,
    )["samples"]  # fmt: skip

# %%
for name, limit in compared.items():
    ours = score_task(model, tokenizer, tasks()[name], limit=limit)
    samples = sorted(library[f"course_{name}"], key=lambda sample: sample["doc_id"])
    apart = max(
        abs(a - response[0][0])
        for result, sample in zip(ours, samples, strict=True)
        for a, response in zip(result.loglikelihoods, sample["resps"], strict=True)
    )
    metrics = sorted(set(samples[0]["metrics"]) & set(ours[0].scores)) or ["mc2"]
    for metric in metrics:
        key = "acc" if metric == "mc2" else metric
        assert all(abs(r.scores[metric] - s[key]) < 1e-4 for r, s in zip(ours, samples, strict=True))
    print(f"{name:15} {limit} items: log-likelihoods equal to {max(apart, 1e-4):.0e} nats, {', '.join(metrics)} equal on every item")
    assert apart < 1e-3

# %% [markdown]
# ## Find the bug
#
# A colleague scores the course model on a question of its own world: *"Pip lived ..."*, four homes to choose from. He knows that a prompt
# must not end with a space, and takes it away. His accuracy is lower than yours, on the same prompts and choices.

# %%
def colleagues_pair(tokenizer, prompt, choice):
    prompt = prompt.rstrip()
    if not prompt:
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        prompt_ids, choice_ids = [start], tokenizer(choice, add_special_tokens=False).input_ids
    else:
        prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
        choice_ids = tokenizer(prompt + choice, add_special_tokens=False).input_ids[len(prompt_ids) :]
    if not choice_ids:
        raise ValueError("an empty choice")
    return prompt_ids, choice_ids


people = [row for row in tasks()["mmlu"].items if row["subject"] == "people_of_the_course"]
homes = [row for row in people if row["question"].startswith("Where")]
for name, make in (("yours", encode_pair), ("his", colleagues_pair)):
    prompts = [row["question"].removeprefix("Where does ").removesuffix("live?") + "lived " for row in homes]
    pairs = [[make(tokenizer, p, choice) for choice in row["choices"]] for p, row in zip(prompts, homes, strict=True)]
    found = multiple_choice_loglikelihood(model, pairs)
    right = [int(scores.argmax() == row["answer"]) for scores, row in zip(found, homes, strict=True)]
    best = sum(scores.max().item() for scores in found) / len(found)
    print(f"{name:6} {sum(right)} of {len(homes)} right; the best choice has {best:.1f} nats on average")

# %% [markdown]
# **Predict.** Where did the space go? Then ask the check.

# %%
print(run_check("encode_pair", colleagues_pair).card)

# %% [markdown]
# <details><summary>Answer</summary>
#
# He takes the space away and does not give it to the choice: the text that he scores is `Pip livedin a burrow`. Every choice becomes unlikely,
# the right one too, and what orders them is how bad each looks after `lived`. Nothing crashes, and the score looks like that of a weaker model.
#
# </details>
#
# ## What is the model, and what is the prompt?
#
# First experiment. The course model knows its world: where each character lives, what they like to eat. So ask it, in three ways,
# with the same options:
#
# - **letters**, as MMLU does: the options in the prompt, ` A` to ` D` scored;
# - **question and answer**, as ARC does: `Question: Where does Pip live?\nAnswer:`, the text of the options scored;
# - **its own words**: `Pip lived`, the same text scored.
#
# **Predict.** It is the same knowledge. Which way gives how much? (A guess gives 25 %.)

# %%
def own_words(row: dict) -> str:
    """The question as the beginning of a sentence of the stories."""
    name = row["question"].split()[2]
    return f"{name} lived" if row["question"].startswith("Where") else f"{name} was very fond of"


def score_with_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean with its 95 % interval over items, in percent; lesson 06 builds the bootstrap."""
    values = 100 * torch.tensor(values, dtype=torch.float64)
    low, high = bootstrap_interval(values, generator=torch.Generator().manual_seed(0))
    return values.mean().item(), low, high


def show_scores(ax, rows: dict[str, tuple[float, float, float]], colour: str) -> None:
    mean, low, high = (torch.tensor(column) for column in zip(*rows.values(), strict=True))
    ax.errorbar(mean, range(len(rows)), xerr=torch.stack([mean - low, high - mean]).numpy(), fmt="o", color=colour, capsize=4)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xlim(0, 101)
    ax.invert_yaxis()


known = tuple(row for row in people if not row["question"].startswith("What is"))
by_letter = replace(tasks()["mmlu"], items=known)
by_text = replace(
    by_letter, question=question_and_answer, description=lambda row: "", choices=lambda row: row["choices"],
    answer=lambda row: row["choices"][row["answer"]],
)  # fmt: skip
ways = {"letters": by_letter, "question and answer": by_text, "its own words": replace(by_text, question=own_words)}
course_ways = {}
for name, task in ways.items():
    print(f"{name}: {prompt_of(task, known[0])!r}, scored: {task.choices(known[0])}")
    course_ways[name] = score_with_interval([result.score for result in score_task(model, tokenizer, task)])
    print("   {:.0f} % right (95 % interval {:.0f} to {:.0f})".format(*course_ways[name]))

# %% [markdown]
# The first two find little or nothing of what the third finds. That is an extreme case, for this model has read few questions and no
# exam. So ask a model that was tuned to answer questions: SmolLM2, with 40 of the school questions that were written by hand.

# %%
smol, smol_tokenizer = smollm2(device=device)
arc = tasks()["arc"]
school = tuple(row for row, origin in zip(arc.items, arc.origins, strict=True) if origin == "hand")[:40]


def with_options(row: dict) -> str:
    options = [f"{label}. {text}" for label, text in zip(row["choices"]["label"], row["choices"]["text"], strict=True)]
    return "\n".join([row["question"], *options, "Answer:"])


by_text = replace(arc, items=school, metric="acc")
by_letter = replace(by_text, question=with_options, choices=lambda row: row["choices"]["label"], answer=lambda row: row["answerKey"])
smol_results = {"text": score_task(smol, smol_tokenizer, by_text), "letters": score_task(smol, smol_tokenizer, by_letter)}

# %%
smol_results["text, 2 examples"] = score_task(smol, smol_tokenizer, by_text, n_shot=2)
smol_ways = {name: score_with_interval([r.score for r in found]) for name, found in smol_results.items()}
fig, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
show_scores(axes[0], course_ways, COLOURS[0])
show_scores(axes[1], smol_ways, COLOURS[1])
axes[0].set_title(f"Course model: {course_ways['letters'][0]:.0f} % to {course_ways['its own words'][0]:.0f} %", loc="left", fontsize=11)
axes[1].set_title(f"SmolLM2: {smol_ways['letters'][0]:.0f} % to {smol_ways['text, 2 examples'][0]:.0f} %", loc="left", fontsize=11)
for ax in axes:
    ax.axvline(25, color="grey", linestyle=":", label="a guess")
    ax.set_xlabel("right, % (95 % interval over items)")
    ax.spines[["top", "right"]].set_visible(False)
axes[1].legend(frameon=False)
plt.show()
difference = [a.score - b.score for a, b in zip(smol_results["text"], smol_results["letters"], strict=True)]
print("SmolLM2, text minus letters on the same items: {:.0f} points (95 % interval {:.0f} to {:.0f})".format(*score_with_interval(difference)))

# %% [markdown]
# The questions are the same and the model is the same. With letters SmolLM2 cannot be told from a guess; with the text of the options it
# is right most of the time. To answer with a letter a model has to bind the letter to its option, and this small one has not learnt to. So
# two models can only be compared in the same prompt, and a score near 25 % with letters says little about what a model knows.
#
# ## What is the model, and what is the division?
#
# Second experiment: the same log-likelihoods, divided in four ways, for two models on the endings of stories and for SmolLM2 on the
# school questions. The last column tells what the division does: how long, on average, the chosen text is.

# %%
n_stories = 16
stories_task = replace(tasks()["hellaswag"], items=tasks()["hellaswag"].items[:n_stories])
scored = {
    "course model, endings": (stories_task, score_task(model, tokenizer, tasks()["hellaswag"]), tokenizer),
    "SmolLM2, endings": (stories_task, score_task(smol, smol_tokenizer, stories_task), smol_tokenizer),
    "SmolLM2, school": (by_text, smol_results["text"], smol_tokenizer),
}

# %%
print(f"{'':24} {'':10} {'right, % (95 % interval)':>26} {'characters of the pick':>24}")
for name, (task, results, its_tokenizer) in scored.items():
    whole = tasks()["hellaswag"].items if name == "course model, endings" else task.items
    picks = {metric: [] for metric in results[0].scores}
    for row, result in zip(whole, results, strict=True):
        texts = task.choices(row)
        n_tokens = [len(encode_pair(its_tokenizer, task.question(row), f" {text}")[1]) for text in texts]
        for metric, values in normalized_scores(torch.tensor(result.loglikelihoods), texts, n_tokens).items():
            picks[metric].append(len(texts[values.argmax()]))
    right_length = sum(len(task.answer(row)) for row in whole) / len(whole)
    print(f"{name}, {len(whole)} items; the right ones have {right_length:.1f} characters")
    for metric, lengths in picks.items():
        mean, low, high = score_with_interval([result.scores[metric] for result in results])
        print(f"{'':24} {metric:10} {mean:12.0f} ({low:.0f} to {high:.0f}){'':6} {sum(lengths) / len(lengths):14.1f}")

# %% [markdown]
# Look at the last column: in each block the undivided score picks the shortest texts. The divided ones pick longer texts, right or wrong. None
# of the four is neutral, and the best one is not the same in each block; the intervals tell how little of that can be seen on so few
# items. So fix the division before you look, and never report the best of four. (All texts here are ASCII, so a character is a byte.)
#
# ## Written answers
#
# Third experiment: SmolLM2 solves word problems, without an example and with two.
#
# **Predict.** Without an example, has it a chance to end with `#### 42`?

# %%
problems = tasks()["gsm8k"]
written = {n_shot: score_task(smol, smol_tokenizer, problems, n_shot=n_shot, limit=12) for n_shot in (0, 2)}

# %%
print(f"{'':14} {'strict: right, unreadable':>28} {'flexible: right, unreadable':>30}")
for n_shot, results in written.items():
    cells = []
    for strict, metric in ((True, "exact_match_strict"), (False, "exact_match")):
        right = sum(result.scores[metric] for result in results)
        unread = sum(extract_number(result.output, strict) is None for result in results)
        cells.append(f"{right:.0f}, {unread} of {len(results)}")
    print(f"{n_shot} examples {cells[0]:>30} {cells[1]:>30}")
for n_shot, results in written.items():
    print(f"\n{n_shot} examples: {problems.items[1]['question']}\n{results[1].output.strip()}")

# %% [markdown]
# Without an example nothing can be read strictly: the model does not know the format. A score of 0 there is about the format. With two
# examples all can be read, and what is still wrong is the calculation, or a step that is left out. That is why the unreadable ones are
# counted apart.
#
# ## A model that has seen the test
#
# Last experiment. Benchmarks are on the web, and models are trained on the web. What does a score say then? We take 80 story endings, and
# train the course model a little on 40 of them, *with* the right endings, as a crawl would. The 40 others come from the same generator, and
# it never sees them.
#
# **Predict.** After 20 small steps, what happens to the score on the 40 that it saw, and what on the 40 others?

# %%
endings = tasks()["hellaswag"]
seen, fresh = (replace(endings, items=endings.items[start : start + 40]) for start in (0, 40))
leaked = [[tokenizer.eos_token_id, *tokenizer(f"{seen.question(row)} {seen.answer(row)}").input_ids] for row in seen.items]


def leaked_batch(step: int) -> tuple[Tensor, Tensor]:
    """Ten leaked items as (token_ids, targets); -100 where a row is padding."""
    picked = torch.randint(len(leaked), (10,), generator=torch.Generator().manual_seed(step)).tolist()
    longest = max(len(leaked[i]) for i in picked)
    padded = torch.tensor([leaked[i] + [-100] * (longest - len(leaked[i])) for i in picked], device=device)
    return padded[:, :-1].clamp(min=0), padded[:, 1:]


contaminated = copy.deepcopy(model)
steps = [0, 5, 10, 20]
curves = {"seen in training": [], "fresh": []}
for before, step in zip([0, *steps], steps, strict=False):
    if step:
        train(contaminated, lambda i, start=before: leaked_batch(start + i), step - before, 1e-3, description="leaking")
    for curve, task in zip(curves.values(), (seen, fresh), strict=True):
        curve.append([result.score for result in score_task(contaminated, tokenizer, task)])

# %% tags=["nbval-ignore-output"]
rise = {name: score_with_interval([b - a for a, b in zip(curve[0], curve[-1], strict=True)]) for name, curve in curves.items()}
fig, ax = figure(
    f"20 steps on the test: {rise['seen in training'][0]:+.0f} points on what was seen, {rise['fresh'][0]:+.0f} on what was not",
    "training steps on the leaked items", "right, % (95 % interval)",
)  # fmt: skip
for (name, curve), shift, marker in zip(curves.items(), (-0.2, 0.2), "os", strict=True):
    mean, low, high = (torch.tensor(column) for column in zip(*map(score_with_interval, curve), strict=True))
    error = torch.stack([mean - low, high - mean]).numpy()
    ax.errorbar(torch.tensor(steps) + shift, mean, yerr=error, fmt=f"{marker}-", capsize=4, label=name)
ax.axhline(25, color="grey", linestyle=":", label="a guess")
ax.set_ylim(0, 102)
ax.legend(frameon=False, loc="lower right")
plt.show()
for name, (mean, low, high) in rise.items():
    print(f"{name}: {mean:+.0f} points (95 % interval {low:+.0f} to {high:+.0f})")

# %% [markdown]
# On the items that it saw the model becomes nearly perfect, and it has not become better at stories by as much: on the fresh ones the
# gain, if there is any, is small. From the score alone you cannot tell which of the two happened. What helps: items made after
# the model was trained, a search for the items in the training data (Brown et al. 2020, §4, did that for GPT-3), and fresh items of the
# same kind beside the old ones, as here.
#
# ## What to read
#
# - **MMLU 2021**, the prompt in figure 1 and §4.1: how the answer is read off the model, and where the few examples come from.
# - **HellaSwag 2019**, adversarial filtering: wrong endings are written by a model and kept if they fool another one. Our wrong endings are
#   true stories with a wrong name or thing. Which of the two ages faster as models improve?
# - **TruthfulQA 2022**: why do larger models do *worse* on it? And which of the prompt's six examples has "I have no comment"?
# - **GSM8K 2021**: what are the notes in `<< >>` for?
# - **Biderman et al. 2024**: what they ask to be reported with every score. Check one paper of your choice against it.
# - **lm-evaluation-harness**, [`api/task.py`](https://github.com/EleutherAI/lm-evaluation-harness/blob/main/lm_eval/api/task.py):
#   `process_results` of `ConfigurableTask` is your `normalized_scores`;
#   [`models/huggingface.py`](https://github.com/EleutherAI/lm-evaluation-harness/blob/main/lm_eval/models/huggingface.py): the drawing in
#   `_loglikelihood_tokens`; [`tasks/`](https://github.com/EleutherAI/lm-evaluation-harness/tree/main/lm_eval/tasks): open `mmlu`, `arc`,
#   `hellaswag`, `truthfulqa` and `gsm8k` and find the lines that you have written today.
#
# ## Recap
#
# - A score belongs to a model, a set of items, a prompt, a number of examples, and a division by length. Report all five.
# - Multiple choice is scored by ln p of each choice; nobody asks the model to choose.
# - The border between prompt and choice is a matter of tokens: a space that is lost costs points, and no error tells you.
# - Letters need a model that can bind them; the text of the options asks for knowledge more directly.
# - Count what cannot be read apart from what is wrong.
# - A model that has seen the test is good at the test.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("benchmarks")

# %%
progress("week3_evaluation")
