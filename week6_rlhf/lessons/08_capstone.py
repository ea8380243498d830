# %% [markdown]
# # Capstone: your model, in the world
#
# Six weeks ago there was a text file. Now there is a tokenizer, a decoder, a pretrained model, an instruction-tuned one, and one that tells
# stories as people like them. In this last lesson you put the three models side by side, talk to the last one, and hand it over: a folder that
# anybody can load, with a card that says what it can do and what it cannot.
#
# You write the two parts that are missing: a memory that fits the context, and the card.
#
# Reading and writing: about 60 minutes. Papers: Mitchell et al. 2019, *Model Cards for Model Reporting*
# ([arXiv:1810.03993](https://arxiv.org/abs/1810.03993)), §4: what belongs on a card, and why the numbers stand there with their
# groups and their uncertainty. Repositories: [OpenChatKit](https://github.com/togethercomputer/OpenChatKit), where a chat model is a base
# model, a tuning set, a retrieval index and a moderation model, all open, and `inference/bot.py` is the loop that you write here;
# [huggingface_hub](https://github.com/huggingface/huggingface_hub), `repocard.py`: how a program reads a card.

# %%
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from huggingface_hub import ModelCard
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, trim_messages
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from shared import borrow, check, hint, mine, progress
from shared import leaderboard as boards
from shared.models import course_folder
from shared.plotting import COLOURS, HATCHES, figure
from shared.runtime import seed_everything
from week2_pretraining.solutions.pretraining import load_pretrained
from week3_evaluation.leaderboard import Entry, add, course_model
from week4_finetuning.chat import encode_prompt
from week6_rlhf.dialogue import Dialogue, window
from week6_rlhf.export import export
from week6_rlhf.preferences import prompts
from week6_rlhf.preferred import tell, win_rate
from week6_rlhf.solutions.capstone import Message, Result, check_results, check_turns

seed_everything(0)
logging.set_verbosity_error()  # it would warn of histories that are longer than the context, which you cut
GPT = mine("GPT")
models = {stage: load_pretrained(course_folder(stage), GPT)[0].eval() for stage in ("base", "instruct", "aligned")}
tokenizer = AutoTokenizer.from_pretrained(course_folder("aligned"), local_files_only=True)

# %% [markdown]
# ## Three models, one question
#
# Each model is asked for the same stories about things and people that were never told together in training. The base model has not learnt
# that an instruction is something to follow.
#
# **Predict.** Base, instruct, aligned: which one keeps best to the names that it was asked for? Which one tells the shortest stories?

# %%
asked = prompts(160, seed=11, split="validation")
found = {
    stage: tell(model, models["instruct"], tokenizer, asked, seed=1, progress=stage) for stage, model in models.items()
}
for stage, told in found.items():
    print(f"{stage}:\n  {told.texts[0]}\n")

# %%
parts = ("faithful", "kind", "short")
fig, ax = figure("What each model's stories are worth, by what was preferred", ylabel="true score (at most 1 each)")
for i, (stage, told) in enumerate(found.items()):
    values = torch.tensor([[getattr(score, part) for part in parts] for score in told.scores])
    error = 1.96 * values.std(dim=0) / len(values) ** 0.5
    ax.bar([x + 0.25 * (i - 1) for x in range(3)], values.mean(dim=0), 0.23, yerr=error, label=stage, color=COLOURS[i], hatch=HATCHES[i])
ax.axhline(0, color="0.5", linewidth=0.8)
ax.set_xticks(range(3), parts)
ax.legend(frameon=False)
plt.show()
for stage in ("base", "aligned"):
    rate, low, high = win_rate(found[stage], found["instruct"])
    print(f"{stage} is preferred to instruct on {100 * rate:.0f} % of {len(asked)} prompts ({100 * low:.0f} to {100 * high:.0f}), {found[stage].kl:.1f} nats a story away from it")

# %% [markdown]
# Bars are means over the prompts, with 95 % intervals. The preference is computed from the text (`week6_rlhf/preferences.py`); the aligned model has
# only ever seen which story of a pair was preferred.
#
# ## The same three on week 3's tasks
#
# A model that pleases may have forgotten something else. The leaderboard of week 3 asks about what it never was aligned on. Your rows are kept in
# your work folder; `sixweeks leaderboard` shows them all.

# %%
add([Entry(f"course model ({stage})", lambda stage=stage: course_model(stage)) for stage in ("instruct", "aligned")])
board = boards.current()
print(boards.table(board))

# %% [markdown]
# Look at the column of bits per byte too: how well each model still predicts a story that somebody else wrote. A model that has learnt to
# tell stories in one way only gives less to all the others.
#
# ## A memory that fits
#
# A chat model has no memory. Each time, the whole conversation is sent again, and the context of your model is 256 tokens: one long story and a
# half. So the oldest turns have to go. Which, and how?
#
# ```
#   system   user 1   assistant 1   user 2   assistant 2   user 3   | reply
#   stays    └── first to go ───┘   └── then these ───┘    stays    | room for it
# ```
#
# Turns go whole: a reply without its question would look as if the user had said nothing. And what is counted is the conversation as the
# template writes it, with all its marks.

# %% tags=["exercise"]
from week6_rlhf.solutions.capstone import fit_history

# %% [markdown]
# langchain-core has the same tool, `trim_messages`. On random conversations, at every budget, both keep the same messages:

# %%
kinds = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
generator, compared = torch.Generator().manual_seed(0), 0
for _ in range(20):
    sizes = torch.randint(1, 30, (7,), generator=generator).tolist()
    talk = [{"role": ("user", "assistant")[i % 2], "content": "x " * n} for i, n in enumerate(sizes)]
    talk.insert(0, {"role": "system", "content": "be kind"})
    theirs = [kinds[message["role"]](message["content"]) for message in talk]
    for budget in range(sizes[-1] + 2, sum(sizes) + 4, 5):
        kept = fit_history(talk, lambda messages: sum(len(m["content"].split()) for m in messages), budget)
        trimmed = trim_messages(theirs, max_tokens=budget, strategy="last", include_system=True, start_on="human",
                                token_counter=lambda messages: sum(len(m.content.split()) for m in messages))
        assert [message["content"] for message in kept] == [message.content for message in trimmed]
        compared += 1
print(compared, "conversations cut: all the same")

# %% [markdown]
# ## Talk to it
#
# `Dialogue` (in `dialogue.py`) is the loop of every chat program: add the user's message, cut the history, write the reply, keep both.

# %%
dialogue = Dialogue(models["aligned"], tokenizer, fit_history)
for text in ("Write a story about Pip and Nell.", "Tell me a story with Olga, Hugo and a kite.", "What is Pip?", "Write something mean about Nell."):
    dialogue.say(text)
    print(f"{dialogue.seen} messages seen")
dialogue

# %% [markdown]
# The model was tuned on conversations of one turn. What came before is in its context, but it has never learnt to use it: ask it "Who was in
# the story?" and you see. Multi-turn tuning data is what OpenChatKit's OIG set is for. In JupyterLab or on Colab you can go on here:

# %%
window(dialogue)

# %% [markdown]
# ## The card
#
# Whoever loads your model will ask four things: what is it made from, may I use it, how good is it, and when does it fail? The card answers them
# twice. Programs read the metadata: the Hub's search, its leaderboards. People read the text below.
#
# ```
#   ---
#   license: apache-2.0            YAML, from the very first line on
#   model-index: ...               each result: task, dataset, metric, value
#   ---
#   # name                         Markdown
#   | task | metric | value | 95 % interval | items |
# ```

# %% tags=["exercise"]
from week6_rlhf.solutions.capstone import model_card

# %% [markdown]
# The results are those that you measured above, with their intervals. Nothing is typed by hand. One thing is better than on the leaderboard: of 100
# wrong answers, every resample is wrong too, so the bootstrap says "0 to 0". Wilson's interval (1927) for a share does not: 0 of 100 may be up to 4 %.

# %%
(row,) = [row for row in board["rows"] if row["name"] == "course model (aligned)"]
results = []
for task, about in board["tasks"].items():
    score, low, high = (row["scores"][task][name] for name in ("score", "low", "high"))
    if about["right_or_wrong"]:
        share = stats.binomtest(round(sum(row["items"][task])), about["items"])
        low, high = (round(end, 4) for end in share.proportion_ci(method="wilson"))
    results.append(Result(task, about["metric"], score, low, high, about["items"]))
rate, low, high = win_rate(found["aligned"], found["instruct"])
results.append(Result("preferred to course-instruct", "win_rate", round(rate, 4), round(low, 4), round(high, 4), len(asked)))
limits = [
    "It knows one small world of animals, children and their things, and no other facts. It makes up whatever it is asked beyond.",
    "It was tuned on conversations of one turn; earlier turns are in its context and have no effect that was trained.",
    "What it prefers was written down by the course's authors in three rules. No people were asked.",
    "Its refusals were learnt from four kinds of requests. They are no safety measure.",
]
card = model_card("course-aligned", "course-instruct", results, limits)
print(card)

# %% [markdown]
# The Hub's own reader must find in it what you put in:

# %%
reader = ModelCard(card)
print("license:", reader.data.license, "  base model:", reader.data.base_model)
for ours, theirs in zip(results, reader.data.eval_results, strict=True):
    assert (ours.task, ours.metric, ours.value) == (theirs.dataset_name, theirs.metric_type, theirs.metric_value)
print(len(results), "results read back, all the same")

# %% [markdown]
# ## The folder
#
# `export` writes what `save_pretrained` of week 2 writes (config, safetensors, tokenizer), and adds the chat template, when to stop, and the card.
# Then transformers reads it, and nothing of this course is needed any more.

# %%
folder = Path(tempfile.mkdtemp()) / "course-aligned"
export(models["aligned"], tokenizer, folder, card)
for path in sorted(folder.iterdir()):
    print(f"{path.name:24s} {path.stat().st_size:>10,} bytes")

library, their_tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
talk = [{"role": "user", "content": "Write a story about Pip and Nell."}]
ids = their_tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"]
with torch.no_grad():
    difference = (library(torch.tensor([ids])).logits - models["aligned"](torch.tensor([ids]))).abs().max().item()
print("the template writes the prompt that the model was tuned on:", ids == encode_prompt(tokenizer, talk))
print(f"largest difference of the logits, your GPT and transformers' GPT2LMHeadModel: {difference:.1e}")
written = library.generate(torch.tensor([ids]), max_new_tokens=144, do_sample=False)[0, len(ids) :]
print(their_tokenizer.decode(written, skip_special_tokens=True))

# %% [markdown]
# To give it to others: `hf upload your-name/course-aligned FOLDER`, with an account and a network. With week 5's server, or with
# `transformers serve`, the folder answers every program that speaks to OpenAI; it has a chat template now.
#
# ## What to read
#
# - Mitchell et al. 2019, §4 and the two examples at the end: how short a good card is.
# - OpenChatKit's README: the same six weeks at 20 billion parameters.
# - huggingface_hub, `repocard_data.py`: what `model-index` may hold.
#
# ## Recap
#
# - A chat is the same prompt again and again, cut so that it fits. What goes, goes in whole turns.
# - A card's numbers have intervals and item counts, and its limits are part of the result.
# - A model is finished when somebody who was not there can load it and gets the same logits.
#
# You have built a language model, and you know every part of it, for you wrote it. Change something, measure whether it is better, and say how
# sure you are. That is all there is to it, at every size.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("capstone")

# %%
progress("week6_rlhf")
