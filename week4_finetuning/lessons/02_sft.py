# %% [markdown]
# # Supervised fine-tuning
#
# The base model of week 2 tells stories. Ask it something, and it tells a story that begins with your question. Nothing is wrong with
# it: it goes on with text, and that is all it was trained for. *Supervised fine-tuning* (SFT) goes on with the same training, on
# other text: instructions, each with the reply that we want. It is the first of the three steps of InstructGPT (Ouyang et al. 2022,
# figure 2), and for most models in use it is the largest part of what makes them answer.
#
# In this lesson you write the two pieces that are most often got wrong, the gradient of a batch that is taken in parts, and the code that asks a
# tuned model. Then you tune the course model on lesson 01's instructions and measure three things: what it can do afterwards, what it has
# forgotten, and which settings matter.
#
# Reading and writing: about 100 minutes. Papers: Ouyang et al. 2022, *InstructGPT* ([arXiv:2203.02155](https://arxiv.org/abs/2203.02155));
# Zhou et al. 2023, *LIMA* ([arXiv:2305.11206](https://arxiv.org/abs/2305.11206)); Akiba et al. 2019, *Optuna*
# ([arXiv:1907.10902](https://arxiv.org/abs/1907.10902)). Repositories: [TRL](https://github.com/huggingface/trl),
# [FastChat](https://github.com/lm-sys/FastChat).

# %%
import contextlib
import copy
import io
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import optuna
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from torch.utils.data import SequentialSampler
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging
from trl import SFTConfig as TRLConfig
from trl import SFTTrainer

from shared import borrow, check, hint, mine, progress
from shared.checking import run_check
from shared.data import stories
from shared.models import course_folder, smollm2
from shared.plotting import COLOURS, figure
from shared.runtime import pick_device, preset, seed_everything
from week2_pretraining.solutions.pretraining import load_pretrained
from week3_evaluation.solutions.benchmarks import multiple_choice_loglikelihood
from week3_evaluation.solutions.leaderboard import bootstrap_interval
from week3_evaluation.solutions.perplexity import bits_per_byte_interval
from week4_finetuning.chat import OPEN_KINDS, STOP, conversation, encode_prompt, score
from week4_finetuning.instructions import KINDS, Example, instructions
from week4_finetuning.sft import SFTConfig, as_transformers, encoded, tune
from week4_finetuning.solutions.instruction_data import collate_sft, sft_loss
from week4_finetuning.study import load_study

seed_everything(0)
warnings.filterwarnings("ignore")
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
device = pick_device()
base, tokenizer = load_pretrained(course_folder("base"), mine("GPT"))
base = base.to(device)
print(device)

# %% [markdown]
# ## Asking
#
# A prompt in ChatML ends in `<|im_start|>assistant`, and a tuned model writes its reply and then `<|im_end|>`. To ask two hundred questions
# one by one would waste most of the machine, so they go in batches. And there, four things can go wrong, none of which raises an
# error:
#
# ```
#   padded on the right                      padded on the left
#   Who  ?   -   -   │ ✗ goes on here        -   -   Who  ?   │ goes on here
#   What is  Nell ?  │                       What is  Nell ?  │
# ```
#
# 1. **The side.** The model goes on after the last column. That must be the end of the prompt, in every row.
# 2. **The mask.** The padding must not be read, else a reply depends on who else is in the batch.
# 3. **The begin.** `generate` gives back the prompt too.
# 4. **The end.** The model's configuration knows one token that ends a text. Here another one ends a reply.
#
# **Predict.** What would you see of each, if you only looked at a few replies?

# %% tags=["exercise"]
from week4_finetuning.solutions.sft import replies

# %%
tuned = AutoModelForCausalLM.from_pretrained(course_folder("instruct")).to(device).eval()
theirs = AutoModelForCausalLM.from_pretrained(course_folder("base")).to(device).eval()
asked = ["Where does Pip live?", "Write a story about Nell and a kite.", "Pip had five nuts and found two more. How many did Pip have then?"]
chats = [[{"role": "user", "content": text}] for text in asked]
for name, model in (("base", theirs), ("instruct", tuned)):
    for text, reply in zip(asked, replies(model, tokenizer, chats, max_new_tokens=40), strict=True):
        print(f"{name:8} {text}\n         {reply!r}")

# %% [markdown]
# The instruct model is the one that comes with the course; you train one like it below. In a batch each must reply as it does alone,
# and transformers' own text-generation pipeline must give the same:

# %%
some = instructions(24, seed=3, split="validation")
together = replies(tuned, tokenizer, [conversation(example) for example in some], max_new_tokens=30)
alone = [replies(tuned, tokenizer, [conversation(example)], max_new_tokens=30)[0] for example in some]
library = []
for example in some:
    token_ids = torch.tensor([encode_prompt(tokenizer, conversation(example))], device=device)
    written = tuned.generate(token_ids, attention_mask=torch.ones_like(token_ids), max_new_tokens=30, do_sample=False,
                             stop_strings=STOP, tokenizer=tokenizer, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    library.append(tokenizer.decode(written[0, token_ids.shape[1] :], skip_special_tokens=True).strip())
print(f"{sum(a == b for a, b in zip(together, alone, strict=True))} of {len(some)} the same alone, "
      f"{sum(a == b for a, b in zip(together, library, strict=True))} the same by transformers' stop_strings")
assert together == alone == library

# %% [markdown]
# ## A score for replies
#
# The course's instructions come in ten kinds. For seven of them a reply is right or wrong: it is compared with the gold answer by week
# 3's `exact_match` (for arithmetic: the last number of the reply; for a refusal: its first words). Three are open, and get ROUGE-L against
# the course's own output. No story of these was in the training set. But an instruction without a story (*Where does Pip live?*) can have been
# there word for word, and then a right reply only shows memory. So count these, and keep them apart.

# %%
held_out = instructions(240, seed=1, split="validation")
closed = [example for example in held_out if example.kind not in OPEN_KINDS]
trained_on = {(example.instruction, example.input) for example in instructions(SFTConfig().n_examples)}
new = torch.tensor([(example.instruction, example.input) not in trained_on for example in closed])
repeated = Counter(example.kind for example, is_new in zip(closed, new, strict=True) if not is_new)
print(f"{len(closed)} closed instructions; {int((~new).sum())} of them were also trained on: {dict(repeated)}")


def measure(model: PreTrainedModel, examples: Sequence[Example], max_new_tokens: int = 32) -> Tensor:
    """The score of each example."""
    found = replies(model, tokenizer, [conversation(example) for example in examples], max_new_tokens, batch_size=64)
    return torch.tensor([score(example, reply) for example, reply in zip(examples, found, strict=True)], dtype=torch.float64)


def with_interval(values: Tensor) -> tuple[float, float, float]:
    low, high = bootstrap_interval(values, generator=torch.Generator().manual_seed(0))
    return values.mean().item(), low, high


before = measure(theirs, closed)
print("base model, new instructions: {:.0%} right (95 % interval {:.0%} to {:.0%})".format(*with_interval(before[new])))

# %% [markdown]
# ## A batch in parts
#
# A batch that does not fit the memory is taken in *micro-batches*, whose gradients add up (week 2). In pretraining every row has the same number
# of tokens, and the mean of the micro-batches' means is the mean. In tuning it is not: what counts are the tokens of the replies, and one
# micro-batch has a story to learn while another has *Calm.* With $\ell_t$ the loss of a counted token and $B$ the batch,
#
# $$L = \frac{1}{\sum_{m} |T_m|} \sum_{m} \sum_{t \in T_m} \ell_t \qquad \text{not} \qquad \frac{1}{M} \sum_m \frac{1}{|T_m|} \sum_{t \in T_m} \ell_t$$
#
# where $T_m$ are the counted tokens of micro-batch $m$. Hugging Face's Trainer and others computed the right-hand side until October 2024
# ([their account](https://huggingface.co/blog/gradient_accumulation)).
#
# **Predict.** Two micro-batches, one with a reply of 60 tokens, one with a reply of 3. By the right-hand side, how much more does a token of
# the short reply weigh than one of the long?

# %% tags=["given"]
from week4_finetuning.solutions.sft import check_micro_batches

# %% tags=["exercise"]
from week4_finetuning.solutions.sft import accumulate_sft

# %%
pairs = encoded(tokenizer, replace(SFTConfig(), n_examples=4000), base.config.context_length)
rows = collate_sft(pairs[:16], tokenizer.pad_token_id, base.config.context_length)


def gradient(run: Callable) -> Tensor:
    """All gradients of the base model after `run(model)`, in one row."""
    model = copy.deepcopy(base)
    run(model)
    return torch.cat([p.grad.flatten() for p in model.parameters()])


parts = [{name: rows[name][i : i + 4].to(device) for name in ("token_ids", "labels")} for i in range(0, 16, 4)]
whole = {name: rows[name].to(device) for name in ("token_ids", "labels")}
exact = gradient(lambda model: sft_loss(model(whole["token_ids"]), whole["labels"]).backward())
yours = gradient(lambda model: accumulate_sft(model, parts))


def mean_of_means(model):
    for part in parts:
        (sft_loss(model(part["token_ids"]), part["labels"]) / len(parts)).backward()


before_2024 = gradient(mean_of_means)
print("counted labels of the micro-batches:", [int((part["labels"][:, 1:] != -100).sum()) for part in parts])
for name, found in (("yours", yours), ("mean of means", before_2024)):
    print(f"{name:14} differs from the whole batch's gradient by {(found - exact).norm() / exact.norm():.1e} of its length")
assert (yours - exact).norm() / exact.norm() < 1e-5 < (before_2024 - exact).norm() / exact.norm()

# %% [markdown]
# <details><summary>Answer</summary>
#
# Twenty times as much: each has weight $1/2$ divided by its number of tokens. A model tuned so learns to be brief.
#
# </details>
#
# ## Against TRL
#
# [TRL](https://huggingface.co/docs/trl/sft_trainer)'s `SFTTrainer` is what most people tune with. It gets the same model, the same examples in the
# same order, AdamW with the same settings; then its losses must be ours.

# %%
n_steps, batch_size, learning_rate = 6, 8, 1e-3
data = Dataset.from_list([
    {"input_ids": [*prompt, *response], "labels": [-100] * len(prompt) + response}
    for prompt, response in pairs[: n_steps * batch_size]
])  # fmt: skip


class InOrder(SFTTrainer):
    """The examples as they come, not shuffled."""

    def _get_train_sampler(self, *args):
        return SequentialSampler(self.train_dataset)


with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    settings = TRLConfig(
        folder, max_steps=n_steps, per_device_train_batch_size=batch_size, learning_rate=learning_rate, lr_scheduler_type="constant",
        logging_steps=1, report_to="none", save_strategy="no", bf16=False, use_cpu=device.type == "cpu", max_length=None,
        gradient_checkpointing=False, disable_tqdm=True, eos_token=STOP, dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = InOrder(copy.deepcopy(theirs), settings, train_dataset=data, processing_class=tokenizer)
    trainer.train()
library = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

model, ours = copy.deepcopy(base).train(), []
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
for step in range(n_steps):
    batch = collate_sft(pairs[step * batch_size : (step + 1) * batch_size], tokenizer.pad_token_id, base.config.context_length)
    parts = [{name: batch[name][i : i + 4].to(device) for name in ("token_ids", "labels")} for i in (0, 4)]
    optimizer.zero_grad()
    ours.append(accumulate_sft(model, parts))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
for step, (a, b) in enumerate(zip(ours, library, strict=True), 1):
    print(f"step {step}: ours {a:.4f}, TRL {b:.4f}")
assert all(abs(a - b) < 2e-3 for a, b in zip(ours, library, strict=True))

# %% [markdown]
# (Yours in two micro-batches, TRL's in one.)
#
# ## Tuning
#
# Now the run. `tune` in `week4_finetuning/sft.py` is the loop of week 2 with other batches, and fits one screen: read it. The course's instruct model is
# that loop with `SFTConfig()`, some minutes on two cores; here is a short one.
#
# **Predict.** Which of the seven kinds will be learnt first? Which needs more than this model has?

# %%
quick = replace(SFTConfig(), n_examples=4000, steps=75)
model = copy.deepcopy(base)
losses = list(tune(model, pairs, quick, tokenizer.pad_token_id))
print(f"loss of the first 10 steps {sum(losses[:10]) / 10:.2f}, of the last 10 {sum(losses[-10:]) / 10:.2f} nats a reply token")

# %%
short_run = as_transformers(model, tokenizer)
by_model = {"base": before, f"{quick.steps} steps": measure(short_run, closed), "instruct": measure(tuned, closed)}
for name, values in by_model.items():
    print("{:12} new instructions {:.0%} right (95 % interval {:.0%} to {:.0%}); ".format(name, *with_interval(values[new])), end="")
    print("those trained on {:.0%} ({:.0%} to {:.0%})".format(*with_interval(values[~new])))
kinds = [kind for kind in KINDS if kind not in OPEN_KINDS]
fig, ax = figure("What tuning teaches, by kind of instruction", ylabel="right (95 % interval)", width=8.5, height=3.6)
for i, (name, values) in enumerate(by_model.items()):
    points = [with_interval(values[torch.tensor([e.kind == kind for e in closed])]) for kind in kinds]
    middle, low, high = (torch.tensor(column) for column in zip(*points, strict=True))
    x = torch.arange(len(kinds)) + 0.2 * (i - 1)
    ax.errorbar(x, middle, torch.stack([middle - low, high - middle]).numpy(), fmt="os^"[i], color=COLOURS[i], capsize=3, label=name)
ax.set_xticks(range(len(kinds)), kinds)
ax.set_ylim(-0.03, 1.03)
ax.legend(frameon=False, fontsize=8)
plt.show()
assert with_interval(by_model["base"][new])[2] < with_interval(by_model["instruct"][new])[1]

# %% [markdown]
# First comes what needs no looking up: the form, the refusal, *The story does not say.* Facts that hold in all stories follow. Last comes copying:
# a name or a colour of this very prompt. Compare with week 2, where copying a name out of the story came late too: tuning
# brings out what the base model can do, it does not add much in a few hundred steps.
#
# And read the replies, not only the scores:

# %%
shown = {example.kind: example for example in held_out}
told = replies(tuned, tokenizer, [conversation(example) for example in shown.values()], max_new_tokens=44)
for example, reply in zip(shown.values(), told, strict=True):
    print(f"[{example.kind}] {example.instruction}\n   {reply}\n   (course: {example.output[:110]})")

# %% [markdown]
# ## What should count?
#
# The loss of lesson 01 counts the reply only. If it counts the prompts too, the model also learns to write questions.
#
# **Predict.** Most tokens of the training set are prompts. Is the model better or worse for learning them too, with the same number of steps?

# %%
everything = copy.deepcopy(base)
for _ in tune(everything, pairs, replace(quick, on_prompts=True), tokenizer.pad_token_id):
    pass
counted = {"replies only": by_model[f"{quick.steps} steps"], "everything": measure(as_transformers(everything, tokenizer), closed)}
for name, values in counted.items():
    print("loss on {:13} {:.0%} right ({:.0%} to {:.0%})".format(name, *with_interval(values)))
low, high = bootstrap_interval(counted["replies only"], counted["everything"], generator=torch.Generator().manual_seed(1))
print(f"replies only minus everything, on the same items: {low:+.0%} to {high:+.0%}")

# %% [markdown]
# One run each, so the interval is over items, not over runs: train with two more seeds before you believe a small difference. Shi et al. 2024
# ([arXiv:2405.14394](https://arxiv.org/abs/2405.14394)) find that the prompts help where replies are short and examples few.
#
# ## What is forgotten
#
# Each step on instructions is a step away from the stories. Week 3's bits per byte tell how far.

# %%
texts = [story.text for story in stories(40, seed=5, split="validation")]
n_bytes = torch.tensor([len(text.encode()) for text in texts])


def nats_of(model) -> Tensor:
    start = [tokenizer.eos_token_id]
    rows = [[(start, tokenizer(text).input_ids)] for text in texts]
    return -torch.stack(multiple_choice_loglikelihood(model, rows)).squeeze(1)


story_nats = {name: nats_of(m) for name, m in (("base", theirs), (f"{quick.steps} steps", short_run), ("instruct", tuned))}
for name, nats in story_nats.items():
    r, low, high = bits_per_byte_interval(nats, n_bytes)
    more, more_low, more_high = bits_per_byte_interval(nats - story_nats["base"], n_bytes)
    print(f"{name:12} {r:.3f} bits per byte ({low:.3f} to {high:.3f}), {more:+.3f} ({more_low:+.3f} to {more_high:+.3f}) against base")

# %% [markdown]
# The model still tells stories, since some instructions ask for them, and pays a little more for each byte. With data that hold none of the old
# task the price is higher: try `instructions` without the kinds `story` and `continuation`. Remedies are those that you can guess: mix
# old data in, take smaller steps, change fewer weights (lesson 03).
#
# ## Which settings matter?
#
# A learning rate, a batch size, a number of steps: three numbers, and runs that cost minutes. Searching by hand wastes them. [Optuna](https://optuna.org)
# draws settings, learns from the results which regions are worth more trials (by default a tree-structured Parzen estimator), and stores
# the rest. The course's study is stored in `week4_finetuning/study.json`; `python -m week4_finetuning.study` made it: each trial tunes the base
# model and measures the loss on the replies of 200 held-out examples.
#
# **Predict.** Put the three in order: learning rate, batch size, steps. Which explains most of the differences between trials?

# %%
study = load_study()
table = study.trials_dataframe(attrs=("value", "params"))
print(f"{len(study.trials)} trials; the best: {study.best_value:.3f} nats a reply token with {study.best_params}")
importance = optuna.importance.get_param_importances(study)
print("share of the differences that each explains (fANOVA):", {name: f"{value:.0%}" for name, value in importance.items()})

fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained", sharey=True)
for ax, (name, label) in zip(axes, (("max_lr", "learning rate"), ("batch_size", "rows in a batch"), ("steps", "steps")), strict=True):
    points = ax.scatter(table[f"params_{name}"], table["value"], c=table["params_steps"], cmap="cividis", s=28)
    ax.set_xscale("log")
    ax.set_xlabel(label)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("held-out loss (nats a reply token)")
axes[0].set_title(f"Best: {study.best_value:.2f} nats", loc="left", fontsize=11)
fig.colorbar(points, label="steps")
plt.show()

# %% [markdown]
# Which rule of thumb do these data support? Ask them, not a blog: fit the logarithm of the loss above the best by each setting.

# %%
x = torch.tensor(table[["params_max_lr", "params_batch_size", "params_steps"]].to_numpy(), dtype=torch.float64).log()
y = torch.tensor(table["value"].to_numpy(), dtype=torch.float64)
rows_seen = (x[:, 1] + x[:, 2]).exp()
best_half = y <= y.median()
print(f"learning rates of the better half of the trials: {x[best_half, 0].exp().min():.1e} to {x[best_half, 0].exp().max():.1e}, "
      f"of the worse half: {x[~best_half, 0].exp().min():.1e} to {x[~best_half, 0].exp().max():.1e}")  # fmt: skip
for name, column in (("log learning rate", x[:, 0]), ("log batch size", x[:, 1]), ("log steps", x[:, 2]), ("log rows seen", rows_seen.log())):
    ranks = [values.argsort().argsort().double() for values in (column, y)]
    draws = torch.randint(len(y), (2000, len(y)), generator=torch.Generator().manual_seed(0))
    correlations = torch.stack([torch.corrcoef(torch.stack([ranks[0][i], ranks[1][i]]))[0, 1] for i in draws])
    low, high = correlations.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    print(f"rank correlation of the loss with {name:18} {torch.corrcoef(torch.stack(ranks))[0, 1]:+.2f} ({low:+.2f} to {high:+.2f})")

# %% [markdown]
# (Bootstrap over trials. TPE draws more trials where it is good, so this is no fair sample of the whole range.) What such a study is good for:
# it tells which setting is worth your time. What it is not good for: its best value is the best of many, measured on the examples that chose it.
#
# ## The same on SmolLM2
#
# Nothing here is special to the small model. On a laptop a step of SmolLM2 takes seconds, so we take three short ones; with a GPU,
# raise `n_steps`, and use the LoRA of lesson 03 where memory is short.

# %% tags=["nbval-ignore-output"]
smol, smol_tokenizer = smollm2(device=device)
smol_pairs = []
for example in instructions(60):
    if len(example.input) < 120:
        text = smol_tokenizer.apply_chat_template(conversation(example), tokenize=False, add_generation_prompt=True)
        response = smol_tokenizer(example.output + STOP, add_special_tokens=False).input_ids
        smol_pairs.append((smol_tokenizer(text, add_special_tokens=False).input_ids, response[:60]))
optimizer = torch.optim.AdamW(smol.parameters(), lr=2e-5, weight_decay=0.0)
smol.train()
for step in tqdm(range(preset(laptop=3, gpu=200)), desc="SmolLM2"):
    picked = [smol_pairs[i % len(smol_pairs)] for i in range(2 * step, 2 * step + 2)]
    batch = collate_sft(picked, smol_tokenizer.pad_token_id, 512)
    optimizer.zero_grad()
    loss = accumulate_sft(lambda token_ids: smol(token_ids).logits, [{name: batch[name].to(device) for name in ("token_ids", "labels")}])
    torch.nn.utils.clip_grad_norm_(smol.parameters(), 1.0)
    optimizer.step()
    tqdm.write(f"step {step + 1}: {loss:.3f} nats a reply token")
del smol, optimizer

# %% [markdown]
# ## Find the bug
#
# A colleague's tuned model answers well when she asks one question at a time. In a batch of many its replies get worse, and each time she changes the
# batch they are others.

# %%
def colleagues_replies(model, tokenizer, conversations, max_new_tokens=64, batch_size=32):
    if any(len(encode_prompt(tokenizer, c)) + max_new_tokens > model.config.max_position_embeddings for c in conversations):
        raise ValueError("too long")
    stop, found = tokenizer.convert_tokens_to_ids(STOP), []
    for start in range(0, len(conversations), batch_size):
        prompts = [encode_prompt(tokenizer, c) for c in conversations[start : start + batch_size]]
        width = max(map(len, prompts))
        token_ids = torch.tensor([[stop] * (width - len(p)) + p for p in prompts])
        with torch.no_grad():
            written = model.generate(
                token_ids, attention_mask=torch.ones_like(token_ids), max_new_tokens=max_new_tokens, do_sample=False,
                eos_token_id=stop, pad_token_id=stop,
            )  # fmt: skip
        found += tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
    return found


print(run_check("replies", colleagues_replies).card)

# %% [markdown]
# ## What to read
#
# - **Ouyang et al. 2022** (InstructGPT): §3.2 for where the prompts came from, §3.5 for the settings of SFT (16 epochs: what did they see
#   after the first?), and table 1 for the kinds of prompts. Which of the ten kinds here has no counterpart there?
# - **Zhou et al. 2023** (LIMA): a thousand good examples against many. What is their evidence, and which intervals do you miss?
# - **TRL**, [`trainer/sft_trainer.py`](https://github.com/huggingface/trl/blob/main/trl/trainer/sft_trainer.py): find where `completion_mask`
#   becomes labels, and where the number of counted tokens of all micro-batches is found.
# - **Optuna**, Akiba et al. 2019, §3: what can be pruned, and why not by hand?
#
# ## Recap
#
# - Tuning is the same loop on other text; what changes are the template, the labels and the end token.
# - The mean is over counted tokens of the whole batch, however it is cut up.
# - Pad on the left, mask the padding, stop at the template's end token; and compare a batch with each prompt alone.
# - Measure on stories that were not trained on, with intervals, beside what was there before.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("sft")

# %%
progress("week4_finetuning")
