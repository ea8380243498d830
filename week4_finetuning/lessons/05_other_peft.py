# %% [markdown]
# # Prefixes, prompts, scales and biases
#
# LoRA is one answer to one question: which few numbers should learn, if the model's own are to stay? There are others, and some need a
# hundred times fewer. *Prefix tuning* puts keys and values in front of the sequence. *Prompt tuning* puts embeddings there. *IA3*
# rescales what is there already. *BitFit* lets the biases learn, and nothing else.
#
# In this lesson you write prefix tuning and BitFit, and compare with PEFT. Then all of them learn one task, beside LoRA and full tuning,
# and you see what each parameter buys. The last part asks how to tell whether a tuned model is better: win rate, regression, leaderboard.
#
# Reading and writing: about 100 minutes. Papers: Li and Liang 2021, *Prefix-Tuning*
# ([arXiv:2101.00190](https://arxiv.org/abs/2101.00190)); Lester et al. 2021, *The Power of Scale for Parameter-Efficient Prompt Tuning*
# ([arXiv:2104.08691](https://arxiv.org/abs/2104.08691)); Ben Zaken et al. 2022, *BitFit*
# ([arXiv:2106.10199](https://arxiv.org/abs/2106.10199)); Liu et al. 2022, *Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper
# than In-Context Learning* ([arXiv:2205.05638](https://arxiv.org/abs/2205.05638)). Repository:
# [huggingface/peft](https://github.com/huggingface/peft).

# %%
import math
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import peft
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from shared import borrow, check, hint, mine, progress
from shared import leaderboard as boards
from shared.checking import run_check
from shared.data import stories
from shared.models import course_folder
from shared.plotting import COLOURS, figure
from shared.runtime import pick_device, preset, seed_everything
from shared.stories import Dice
from week2_pretraining.solutions.pretraining import load_pretrained
from week3_evaluation.leaderboard import REFERENCE, Entry, add, course_model
from week3_evaluation.solutions.leaderboard import pairwise_judge
from week3_evaluation.solutions.perplexity import bits_per_byte_interval
from week3_evaluation.trial import bootstrap
from week4_finetuning.chat import OPEN_KINDS, START, conversation, encode, score
from week4_finetuning.instructions import Example, instructions
from week4_finetuning.solutions.instruction_data import collate_sft, sft_loss
from week4_finetuning.solutions.sft import replies

seed_everything(0)
warnings.filterwarnings("ignore")
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
device = pick_device()
tokenizer = AutoTokenizer.from_pretrained(course_folder("base"))


def fresh(stage: str = "base") -> nn.Module:
    """The course model, as transformers reads it."""
    return AutoModelForCausalLM.from_pretrained(course_folder(stage)).to(device).eval()


base = fresh()
N_LAYERS, N_HEADS, D_MODEL = base.config.n_layer, base.config.n_head, base.config.n_embd
D_HEAD, D_FF = D_MODEL // N_HEADS, base.config.n_inner
n_parameters = sum(p.numel() for p in base.parameters())
print(f"the course model: {n_parameters:,} parameters, {N_LAYERS} layers, {N_HEADS} heads of {D_HEAD}")

# %% [markdown]
# ## A prefix that nobody wrote
#
# A good prompt changes what a model does. In each layer all that later tokens see of the prompt are its keys and values. So why look for
# words? Prefix tuning looks for keys and values directly, $n$ of each in every layer and head, by gradient descent. The model is frozen.
# Attention becomes
#
# $$\mathrm{softmax}\left(\frac{q\,[P_k; K]^\top}{\sqrt{d_{head}}}\right) [P_v; V]$$
#
# with one softmax over both, and query $i$ sees all of the prefix and the keys 0 to $i$. It can be written in another way (He et al. 2022,
# *Towards a Unified View of Parameter-Efficient Transfer Learning*, §3.1):
#
# $$(1 - \lambda)\; \mathrm{attention}(q, K, V) \;+\; \lambda\; \mathrm{attention}(q, P_k, P_v), \qquad
#   \lambda = \frac{\sum_j e^{q \cdot P_{k,j} / \sqrt{d_{head}}}}{\text{the same sum over } P_k \text{ and the visible } K}$$
#
# So a prefix adds a term to the output, by a gate that each query sets for itself.
#
# **Predict.** Draw the mask for a sequence of 3 and a prefix of 2. Week 1's `attention(..., causal=True)` aligns the *last* query with
# the *last* key. Given the concatenated keys, is its mask the right one? And that of PyTorch's `is_causal=True`, which aligns the first
# with the first?
#
# <details><summary>Answer</summary>
#
# ```
#              prefix   sequence
#   query 0    1  1     1  0  0
#   query 1    1  1     1  1  0
#   query 2    1  1     1  1  1
# ```
#
# Week 1's is this mask. PyTorch's is not: by it query 0 sees one virtual token and nothing else.
#
# </details>
#
# This check of the shapes is given:

# %% tags=["given"]
from week4_finetuning.solutions.other_peft import check_prefix

# %% tags=["exercise"]
from week4_finetuning.solutions.other_peft import prefix_attention

# %%
generator = torch.Generator().manual_seed(0)
q, k, v = (torch.randn(2, 4, 6, 8, generator=generator) for _ in range(3))
prefix_k, prefix_v = (torch.randn(2, 4, 3, 8, generator=generator) for _ in range(2))
yours = prefix_attention(q, k, v, prefix_k, prefix_v)
keys, values = torch.cat([prefix_k, k], dim=2), torch.cat([prefix_v, v], dim=2)
visible = torch.cat([torch.ones(6, 3), torch.ones(6, 6).tril()], dim=1).bool()
others = {
    "PyTorch's SDPA with that mask": F.scaled_dot_product_attention(q, keys, values, attn_mask=visible),
    "week 1's attention": mine("attention")(q, keys, values, causal=True),
}
for name, other in others.items():
    print(f"{name:30s} differs by {(yours - other).abs().max():.0e}")
    torch.testing.assert_close(yours, other, rtol=1e-5, atol=1e-6)
top_left = F.scaled_dot_product_attention(q, keys, values, is_causal=True)
print(f"{'SDPA with is_causal=True':30s} differs by {(yours - top_left).abs().max():.1f}")

# %% [markdown]
# ## The table and the MLP
#
# Li and Liang found that to learn the keys and values directly is unstable and a little worse. So they come from a smaller table, through
# an MLP that all virtual tokens share (§4.3, *reparameterisation*):
#
# $$[\,k;\,v\,]_{\text{all layers}} = W_2 \tanh(W_1\, p_j + b_1) + b_2, \qquad p_j \in \mathbb{R}^{d_{model}},\; j = 1 \dots n$$
#
# Once training is over, table and MLP have done their work. You keep what they make of each $p_j$: $n \cdot n_{layers} \cdot 2 \cdot
# d_{model}$ numbers. That is `fold()`.
#
# **Predict.** $n = 10$, $d_{hidden} = 64$, and the course model (4 layers, $d_{model} = 128$). How many numbers learn? How many are kept?
#
# A model of transformers reads the pairs as a *cache*, as if the virtual tokens had been read before. The helper is given:

# %% tags=["given"]
from week4_finetuning.solutions.other_peft import as_cache, check_sizes

# %% tags=["exercise"]
from week4_finetuning.solutions.other_peft import PrefixTuning

# %%
prefix = PrefixTuning(10, N_LAYERS, N_HEADS, D_HEAD, d_hidden=64)
before = prefix(batch=2)
print(f"{len(before)} pairs of {tuple(before[0][0].shape)}; {sum(p.numel() for p in prefix.parameters()):,} numbers learn")
prefix.fold()
after = prefix(batch=2)
assert all(torch.allclose(a, b, atol=1e-6) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True))
print(f"folded: the same output from {sum(p.numel() for p in prefix.parameters()):,} numbers")

# %% [markdown]
# ## The same with PEFT
#
# PEFT's `PrefixTuningConfig` has both forms: `prefix_projection=True` is table and MLP, `False` a plain table of keys and values. In its
# plain table a row is one virtual token: layer by layer, keys then values, head by head. We put your folded numbers there, and compare
# the logits.
#
# *The positions.* GPT-2 adds an embedding of the position to each token. With a cache of $n$ entries, transformers numbers the tokens
# from $n$ on: the first real token stands at position $n$, and a context of 256 has room for $256 - n$ tokens. PEFT does the same (and
# adds $n$ to `position_ids`, if you pass any). The alternative, numbering from 0 as if there were no prefix, gives another model. The
# attention mask must cover the prefix too. (transformers 5.24 also calls the argument `cache`, and says that the name `past_key_values`
# will go in 5.40.)

# %%
class WithPrefix(nn.Module):
    """A frozen model with a prefix in front of each sequence."""

    def __init__(self, model: nn.Module, prefix: nn.Module):
        super().__init__()
        self.model, self.prefix = model.requires_grad_(False), prefix

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options):
        pairs = self.prefix(len(input_ids))
        covered = attention_mask.new_ones(len(input_ids), pairs[0][0].shape[2])
        mask = torch.cat([covered, attention_mask], dim=1)
        return self.model(input_ids, attention_mask=mask, past_key_values=as_cache(pairs), **options)


def peft_prefix(projection: bool) -> nn.Module:
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=10, prefix_projection=projection, encoder_hidden_size=64
    )
    return peft.get_peft_model(fresh(), config)


token_ids = torch.randint(0, 2000, (2, 24), generator=generator).to(device)
mask = torch.ones_like(token_ids)
mask[1, 18:] = 0  # a row that is padded on the right
ours, theirs = WithPrefix(fresh(), prefix.to(device)).eval(), peft_prefix(projection=False).eval()
encoder = next(module for module in theirs.modules() if type(module).__name__ == "PrefixEncoder")
with torch.no_grad():
    pairs = torch.stack([torch.stack(pair)[:, 0] for pair in prefix(1)])  # layer, k or v, head, virtual token, d_head
    encoder.embedding.weight.copy_(pairs.permute(3, 0, 1, 2, 4).flatten(1))
    logits, expected = ours(token_ids, mask).logits, theirs(input_ids=token_ids, attention_mask=mask).logits
    positions = torch.arange(24, device=device)[None]
    shifted = ours(token_ids, mask, position_ids=positions + 10).logits
    from_zero = ours(token_ids, mask, position_ids=positions).logits
    moved = (logits - base(token_ids, attention_mask=mask).logits).abs().max()
real = mask.bool()
print(f"the prefix moves the logits by up to {moved:.1f}")
print(f"largest difference from PEFT: {(logits - expected)[real].abs().max():.0e}")
print(f"from positions that begin at 10: {(logits - shifted)[real].abs().max():.0e}; at 0: {(logits - from_zero)[real].abs().max():.1f}")
torch.testing.assert_close(logits[real], expected[real], rtol=1e-4, atol=1e-4)
torch.testing.assert_close(logits[real], shifted[real], rtol=1e-4, atol=1e-4)
assert moved > 0.1

# %% [markdown]
# And the form with the MLP. Your parameters have names and an order of your own, so we make all parameters the same number, in yours and
# in PEFT's. Then what comes out is one number, whatever the order, and both must have it.

# %%
yours, encoder = PrefixTuning(10, N_LAYERS, N_HEADS, D_HEAD, d_hidden=64), peft_prefix(projection=True)
learning = [p for p in encoder.parameters() if p.requires_grad]
with torch.no_grad():
    for parameter in (*yours.parameters(), *learning):
        parameter.fill_(0.03)
    found, expected = torch.stack([torch.stack(pair) for pair in yours(1)]), encoder.get_prompt(1)
    expected = torch.stack([expected.layers[i].values for i in range(N_LAYERS)]).cpu()
print(f"numbers that learn: {sum(p.numel() for p in yours.parameters()):,}, PEFT: {sum(p.numel() for p in learning):,}")
print(f"keys and values: {found.min():.6f} to {found.max():.6f}, PEFT: {expected.min():.6f} to {expected.max():.6f}")
assert sum(p.numel() for p in yours.parameters()) == sum(p.numel() for p in learning)
torch.testing.assert_close(found[:, 1], expected, rtol=1e-5, atol=1e-6)

# %% [markdown]
# ## Prompt tuning and IA3
#
# **Prompt tuning** (Lester et al. 2021, §2) learns the embeddings of $n$ virtual tokens, and nothing in the layers above: the model reads
# $[P; E(x)]$, and makes keys and values of $P$ as of any token. That is $n \cdot d_{model}$ numbers. Their figure 1 is the paper's
# message: far behind full tuning for T5 Small, level with it for the 11-billion-parameter model.
#
# **IA3** (Liu et al. 2022, §3.3) puts nothing in front. Three vectors a layer rescale the keys, the values and the inner activations of
# the feed-forward network. They start at 1:
#
# $$\mathrm{softmax}\left(\frac{Q\,(\ell_k \odot K)^\top}{\sqrt{d_{head}}}\right)(\ell_v \odot V), \qquad W_2\,(\ell_{ff} \odot \mathrm{gelu}(W_1 x))$$
#
# That is $2\, d_{model} + d_{ff}$ numbers a layer. Like LoRA's, they can be multiplied into the weights for good.
#
# **Predict.** GPT-2 in transformers has one matrix `c_attn` for queries, keys and values together. PEFT rescales whole outputs of layers.
# How many numbers does its IA3 have here, and which of them are not in the paper?

# %%
def lora() -> nn.Module:
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)  # Conv1D
    return peft.get_peft_model(fresh(), config)


def prompt_tuning() -> nn.Module:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=10)
    return peft.get_peft_model(fresh(), config)


def ia3() -> nn.Module:
    targets = {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]}
    config = peft.IA3Config(task_type="CAUSAL_LM", fan_in_fan_out=True, **targets)
    return peft.get_peft_model(fresh(), config)


def n_learning(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


formulas = {
    "prefix, n = 10, plain": (peft_prefix(False), 10 * N_LAYERS * 2 * D_MODEL),
    "prefix, n = 10, MLP of 64": (
        peft_prefix(True), 10 * D_MODEL + (D_MODEL + 1) * 64 + (64 + 1) * N_LAYERS * 2 * D_MODEL,
    ),
    "prompt tuning, n = 10": (prompt_tuning(), 10 * D_MODEL),
    "IA3, c_attn whole": (ia3(), N_LAYERS * (3 * D_MODEL + D_FF)),
    "LoRA, r = 8": (lora(), 8 * N_LAYERS * (D_MODEL + 3 * D_MODEL + 2 * D_MODEL + 2 * (D_MODEL + D_FF))),
}  # fmt: skip
print(f"{'':28s}{'formula':>10s}{'PEFT':>10s}{'of the model':>14s}")
for name, (model, formula) in formulas.items():
    print(f"{name:28s}{formula:10,d}{n_learning(model):10,d}{n_learning(model) / n_parameters:14.2%}")
    assert formula == n_learning(model)
print(f"{'IA3 by the paper':28s}{N_LAYERS * (2 * D_MODEL + D_FF):10,d}")
with torch.no_grad():
    for name, model in (("IA3", ia3()), ("LoRA", lora())):
        start = (model.eval()(input_ids=token_ids).logits - base(token_ids).logits).abs().max()
        print(f"{name} starts as the base model: logits differ by {start:.0e}")
        assert start < 1e-4

# %% [markdown]
# The answer: PEFT's IA3 has $d_{model}$ more a layer than the paper's, for it rescales the queries too.
#
# **Predict.** Does a model with a fresh *prefix*, or a fresh *prompt*, start as the base model too?
#
# <details><summary>Answer</summary>
#
# No. Random virtual tokens draw attention from the first step on, and all positions move by $n$. So training first has to undo the harm.
# (Lester et al. start from embeddings of real words, §2.1; Li and Liang from the activations of real words, §7.4.)
#
# </details>
#
# ## Biases alone
#
# BitFit is the shortest of all: freeze the model, let the biases learn. A bias is a parameter; what could go wrong? Four things did, in
# real code:
#
# - old GPT-2 code keeps its causal mask in a *buffer* called `bias`, and T5 has an *embedding* called `relative_attention_bias`;
# - some parameters are shared, and a list that holds one twice makes an optimizer warn or step twice;
# - the biases of a model that was frozen before stay frozen;
# - and Llama, SmolLM2 and their family have no biases. Then nothing would learn, and no error would come. Yours raises one, and says
#   what to do instead: `norms_too=True` lets the gains of the norms learn.

# %% tags=["exercise"]
from week4_finetuning.solutions.other_peft import bitfit_parameters

# %%
for name, model in (("your GPT", load_pretrained(course_folder("base"), mine("GPT"))[0]), ("transformers' GPT-2", fresh())):
    for norms_too in (False, True):
        found = bitfit_parameters(model, norms_too)
        numbers = sum(p.numel() for _, p in found)
        print(f"{name:20s} norms_too={norms_too!s:6s}{len(found):3d} parameters, {numbers:,} numbers, {numbers / n_parameters:.2%}")

# %% [markdown]
# Now a model of SmolLM2-135M's sizes. It stands on PyTorch's *meta* device: shapes without numbers, which is enough to count. PEFT has no
# BitFit. One more way out, where you can choose: give the model biases of zero (`attention_bias`, `mlp_bias`). That leaves its function
# as it was.

# %%
sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
sizes |= {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
with torch.device("meta"):
    plain = LlamaForCausalLM(LlamaConfig(**sizes))
    with_biases = LlamaForCausalLM(LlamaConfig(**sizes, attention_bias=True, mlp_bias=True))
try:
    bitfit_parameters(plain)
except ValueError as error:
    print(f"ValueError: {error}")
for name, found in (("gains of the norms", bitfit_parameters(plain, norms_too=True)), ("added biases", bitfit_parameters(with_biases))):
    numbers = sum(p.numel() for _, p in found)
    print(f"{name:20s}{len(found):4d} parameters, {numbers:,} numbers, {numbers / sum(p.numel() for p in plain.parameters()):.3%}")
    assert numbers

# %% [markdown]
# ## All of them on one task
#
# The task: four kinds of lesson 01's instructions that have one right reply (recolour, who, arithmetic, refusal). The model: the base
# model, which has never seen an instruction, nor the tokens that mark a conversation. Each method gets the same batches in the same
# order, and the best of four to six learning rates that we tried for it in as many steps, on other held-out examples. (The fewer
# numbers learn, the larger it is.) The loss is that of the reply, on held-out stories. *Right* is the share of replies that are right to
# the last token: greedy writing then gives just the expected reply.
#
# **Predict.** Rank them: full tuning (1,088,256 numbers), LoRA (65,536), prefix (76,096; 10,240 are kept), BitFit (5,760), IA3 (3,584),
# prompt tuning (1,280). Is it the order of their sizes? Remember figure 1 of Lester et al.: this model has a million parameters.

# %%
KINDS = ("recolour", "who", "arithmetic", "refusal")
STEPS, BATCH = preset(laptop=80, gpu=400), 8


def of_task(n: int, seed: int, split: str) -> list[Example]:
    return [example for example in instructions(n, seed=seed, split=split) if example.kind in KINDS]


train_pairs = [encode(tokenizer, example) for example in of_task(6000, 7, "train")]
held_out = of_task(1200, 8, "validation")[:200]
held_out_pairs = [encode(tokenizer, example) for example in held_out]
texts = [story.text for story in stories(40, seed=51, split="validation")]
n_bytes = torch.tensor([len(text.encode()) for text in texts])
story_rows = [tokenizer(START + text, add_special_tokens=False).input_ids[:240] for text in texts]
story_pairs = [(row[:1], row[1:]) for row in story_rows]
print(f"{len(train_pairs)} examples to learn from, {len(held_out)} held out; one: {held_out[0].instruction!r} -> {held_out[0].output!r}")


def collated(pairs: list) -> dict[str, Tensor]:
    batch = collate_sft(pairs, tokenizer.pad_token_id, max_length=base.config.n_positions)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def logits_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """(batch, seq, vocab): of the real tokens only, where PEFT gives those of virtual tokens too."""
    logits = model(input_ids=batch["token_ids"], attention_mask=batch["attention_mask"].long()).logits
    return logits[:, -batch["token_ids"].shape[1] :]


@torch.no_grad()
def measure(model: nn.Module, pairs: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pair: nats of the reply, its number of tokens, and whether each of them is the likeliest."""
    rows = []
    for start in range(0, len(pairs), 40):
        batch = collated(pairs[start : start + 40])
        logits, labels = logits_of(model.eval(), batch)[:, :-1], batch["labels"][:, 1:]
        nats = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(dim=1)
        right = ((logits.argmax(dim=-1) == labels) | (labels == -100)).all(dim=1)
        rows.append(torch.stack([nats, (labels != -100).sum(dim=1), right], dim=1).double().cpu())
    return tuple(torch.cat(rows).T.numpy())


def tuned(make: Callable[[], nn.Module], max_lr: float, description: str) -> nn.Module:
    """A model that has learnt for STEPS steps: AdamW, 8 steps of warm-up, then down to 0."""
    torch.manual_seed(0)
    model = make().train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, dice = torch.optim.AdamW(parameters, lr=max_lr, weight_decay=0.0), random.Random(0)
    for step in tqdm(range(STEPS), desc=description, leave=False):
        batch = collated(dice.sample(train_pairs, BATCH))
        loss = sft_loss(logits_of(model, batch), batch["labels"])
        for group in optimizer.param_groups:
            group["lr"] = max_lr * min(1, (step + 1) / 8) * (1 - step / STEPS)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return model.eval()


def with_prefix() -> nn.Module:
    return WithPrefix(fresh(), PrefixTuning(10, N_LAYERS, N_HEADS, D_HEAD, d_hidden=64).to(device))


def bitfit(norms_too: bool = False) -> nn.Module:
    model = fresh()
    bitfit_parameters(model, norms_too)
    return model


METHODS = {
    "full": (fresh, 4e-3),
    "LoRA, r = 8": (lora, 1e-2),
    "prefix": (with_prefix, 3e-2),
    "BitFit": (bitfit, 1e-1),
    "BitFit + gains": (lambda: bitfit(norms_too=True), 1e-1),
    "IA3": (ia3, 2e-1),
    "prompt tuning": (prompt_tuning, 3e-1),
    "full, rate / 4": (fresh, 1e-3),  # for the question what is forgotten
}
models = {}
for name in list(METHODS)[:3]:
    models[name] = tuned(*METHODS[name], name)

# %%
for name in list(METHODS)[3:]:
    models[name] = tuned(*METHODS[name], name)

# %% tags=["nbval-ignore-output"]
def per_token(nats: np.ndarray, counted: np.ndarray) -> float:
    return nats.sum() / counted.sum()


nats_base, counted, right = measure(base, held_out_pairs)
print(f"the base model: {per_token(nats_base, counted):.2f} nats a token of the reply, {right.mean():.0%} right")
print(f"{'':16s}{'learn':>10s}{'nats a token [95 % interval]':>31s}{'above full':>24s}{'right':>20s}")
results, nats_full = {}, measure(models["full"], held_out_pairs)[0]
for name, model in models.items():
    nats, counted, right = measure(model, held_out_pairs)
    loss, above, share = bootstrap(per_token, nats, counted), bootstrap(per_token, nats - nats_full, counted), bootstrap(np.mean, right)
    results[name] = (n_learning(model), loss, share)
    print(f"{name:16s}{n_learning(model):10,d}{'{:.2f} [{:.2f}, {:.2f}]'.format(*loss):>31s}"
          f"{'{:+.2f} [{:+.2f}, {:+.2f}]'.format(*above):>24s}{'{:.0%} [{:.0%}, {:.0%}]'.format(*share):>20s}")  # fmt: skip

# %%
fig, ax = figure("Where the numbers are matters as much as how many", "numbers that learn", "nats a token of the reply, held out", width=7.5)
for i, (name, (count, (loss, low, high), _)) in enumerate(list(results.items())[:-1]):  # the last is full tuning again
    ax.errorbar(count, loss, [[loss - low], [high - loss]], fmt="o", color=COLOURS[i], capsize=3)
    ax.annotate(name, (count, loss), xytext=(7, 4), textcoords="offset points", fontsize=9)
ax.set_xscale("log")
ax.set_xlim(700, 5e6)
plt.show()

# %% [markdown]
# The intervals are over held-out examples. They do not say how another seed or another learning rate would come out, so do not read small
# gaps.
#
# The large ones are plain. When we measured it (2 CPU cores, 80 steps), full tuning was first and LoRA second, and only these two wrote
# any reply right, about one in four. Prefix, IA3, BitFit and prompt tuning lowered the loss a lot and got no reply right. Call it a
# negative result, and a fair one. The task needs *new* knowledge: what the markers of a conversation mean, how to add. These methods turn
# up and down what a model has already, and a model of a million parameters that only ever read stories has little. The papers' models are
# a hundred to ten thousand times as large. And the order is not that of the sizes: the prefix has more numbers to learn than LoRA and was
# well behind it, and IA3 was ahead of BitFit with fewer.
#
# Try `STEPS = 400`: which of them are only slow? Now the prefix is folded, and what is kept is small:

# %%
nats, counted, _ = measure(models["prefix"], held_out_pairs)
models["prefix"].prefix.fold()
folded, _, _ = measure(models["prefix"], held_out_pairs)
print(f"folded: {n_learning(models['prefix']):,} numbers are kept; the loss of an example changes by {np.abs(folded - nats).max():.0e} nats at most")
assert np.allclose(folded, nats, atol=1e-2)

# %% [markdown]
# ## Is the tuned model better? First: what did it lose
#
# *Regression on the old task.* The base model's task was to tell stories. Bits per byte of held-out stories, with each method switched
# on. (Stories are cut at 240 tokens, so that the prefix has room. The difference is paired: same stories.)
#
# **Predict.** Which method forgets most? And which can forget *nothing*, if you switch it off?

# %% tags=["nbval-ignore-output"]
stories_base = torch.from_numpy(measure(base, story_pairs)[0])
print(f"{'bits a byte':16s}{'[95 % interval]':>24s}{'more than the base':>28s}")
for name, model in {"base": base, **models}.items():
    nats = torch.from_numpy(measure(model, story_pairs)[0])
    values, above = bits_per_byte_interval(nats, n_bytes), bits_per_byte_interval(nats - stories_base, n_bytes)
    print(f"{name:16s}{'{:.3f} [{:.3f}, {:.3f}]'.format(*values):>24s}{'{:+.3f} [{:+.3f}, {:+.3f}]'.format(*above):>28s}")

# %%
with torch.no_grad(), models["LoRA, r = 8"].disable_adapter():
    off = models["LoRA, r = 8"](input_ids=token_ids).logits
print(f"LoRA switched off: the logits differ from the base model's by {(off - base(token_ids).logits).abs().max():.0e}")
assert torch.equal(off, base(token_ids).logits)

# %% [markdown]
# All but full tuning and BitFit can be switched off, and the base model is there again, to the bit. (BitFit needs a copy of the old
# biases, which is small.) Switched on, none is harmless: a model that answers has to stop telling. But compare the two rows of full tuning.
# With a quarter of the learning rate its loss on the task is the same (the interval of the difference holds 0), and it forgets a tenth as
# much when we measure it, less than any other method. So "LoRA forgets less" or "full tuning forgets most" can be a statement about a
# learning rate. Whoever tunes the rate for the new task alone does not see it.
#
# ## Second: win rate
#
# Where replies cannot be marked right or wrong, a judge compares two. Week 3's `pairwise_judge` asks it twice, with the places exchanged.
# Here the truth is known, for `score` marks each reply. So we can judge the judges. Three of them compare the course's instruct model
# with its base, and LoRA with full tuning:
#
# - *truth* prefers the reply with the higher score, else it says "tie";
# - *often wrong* is truth, but in 3 of 10 answers it says something at random;
# - *longer* prefers the longer reply.
#
# **Predict.** The base model never stops telling stories. What will *longer* find?

# %% tags=["nbval-ignore-output"]
closed = [example for example in instructions(150, seed=9, split="validation") if example.kind not in OPEN_KINDS][:60]
of_ours = held_out[:100]


def asked(model: nn.Module, examples: list[Example]) -> list[str]:
    return replies(model, tokenizer, [conversation(example) for example in examples], max_new_tokens=30, batch_size=50)


def judge_by(value: Callable[[str, str], float]) -> Callable[[str, str, str], str]:
    def judge(question: str, first: str, second: str) -> str:
        a, b = value(question, first), value(question, second)
        return "tie" if a == b else "first" if a > b else "second"

    return judge


by_question = {conversation(example)[0]["content"]: example for example in (*closed, *of_ours)}
truth = judge_by(lambda question, reply: score(by_question[question], reply))
dice = Dice(0)


def often_wrong(question: str, first: str, second: str) -> str:
    return dice.pick(["first", "second"]) if dice.happens(0.3) else truth(question, first, second)


judges = {"truth": truth, "often wrong": often_wrong, "longer": judge_by(lambda question, reply: len(reply))}
comparisons = {
    "instruct against base": (closed, asked(fresh("instruct"), closed), asked(base, closed)),
    "LoRA against full": (of_ours, asked(models["LoRA, r = 8"], of_ours), asked(models["full"], of_ours)),
}
points = {"a": 1.0, "tie": 0.5, "b": 0.0}
print(f"{'':24s}{'judge':14s}{'win rate [95 % interval]':>26s}{'won':>6s}{'tie':>6s}{'lost':>6s}{'consistent':>12s}")
for name, (examples, first, second) in comparisons.items():
    questions = [conversation(example)[0]["content"] for example in examples]
    for label, judge in judges.items():
        found = pairwise_judge(judge, questions, first, second)
        rate = bootstrap(np.mean, np.array([points[verdict] for verdict in found["verdicts"]]))
        assert abs(rate[0] - found["win_rate"]) < 1e-9
        counts = [found["verdicts"].count(verdict) for verdict in ("a", "tie", "b")]
        print(f"{name:24s}{label:14s}{'{:.0%} [{:.0%}, {:.0%}]'.format(*rate):>26s}" + "".join(f"{n:6d}" for n in counts) + f"{found['consistent']:12.0%}")

# %% [markdown]
# Four lessons. `score` marks a refusal by its first words and a sum by its last number, so it calls a tie where the table above, which
# wants every token, saw a difference: a judge knows only what it looks at. A model that wins forty times, ties sixty times and never
# loses has a win rate of 70 %: ties count half, so print them. A judge that is often wrong pulls the rate towards a half, and it shows as inconsistency. And a judge
# with a taste for length is perfectly consistent, and names the wrong winner: no interval tells you. Only replies whose quality is known
# do. Before you believe a judge, judge it.
#
# ## Third: the leaderboard row
#
# Week 3's board, with the instruct model's row on the same items as the others'. It goes to a temporary file here; `add([...])` without a
# path puts yours into your work folder, and `sixweeks leaderboard` shows it.
#
# **Predict.** The tasks of the board are not asked as conversations. Will instruction tuning help there?

# %% tags=["nbval-ignore-output"]
start = time.perf_counter()
own = Path(tempfile.mkdtemp()) / "leaderboard.json"
add([Entry("course model (instruct)", lambda: course_model("instruct"))], own)
board = boards.merged([boards.read(REFERENCE), boards.read(own)])
for title, *values in zip(*boards.cells(board), strict=True):
    print(f"{title:16}", *(f"{value[:24]:>25}" for value in values))
print(f"± is half of a 95 % interval; the row took {time.perf_counter() - start:.0f} s")

# %% [markdown]
# Compare the two course models: the board's tasks (100 items each, so a task's interval is nearly 10 points to each side), and the bits
# per byte, where the difference is far larger than its interval. One number would hide both.
#
# ## Find the bug
#
# A colleague's prefix changes the model from the first token on, but generation has got worse, the more so the longer the prefix. She
# says that a prefix is a part of the sequence, so the usual mask will do.

# %%
def colleagues_attention(q, k, v, prefix_k, prefix_v):
    check_prefix(q, k, v, prefix_k, prefix_v)
    keys, values = torch.cat([prefix_k, k], dim=-2), torch.cat([prefix_v, v], dim=-2)
    return F.scaled_dot_product_attention(q, keys, values, is_causal=True)


print(run_check("prefix_attention", colleagues_attention).card)

# %% [markdown]
# ## What to read
#
# - **Li and Liang 2021**: §4.3 for the reparameterisation, figure 4 for the length of the prefix, §7.2 for embeddings alone against all
#   layers, §7.4 for how to start. Which of their models is the smallest, and how does it compare with ours?
# - **Lester et al. 2021**: figure 1, and figure 3 for length, start and what the model was trained on before. Which of these can you
#   change here?
# - **Ben Zaken et al. 2022**: which biases move most, and what if only those learn?
# - **Liu et al. 2022**: §3.3. Why do vectors, unlike prefixes, allow examples of different tasks in one batch at no cost?
# - **He et al. 2022** ([arXiv:2110.04366](https://arxiv.org/abs/2110.04366)), §3: prefix tuning, adapters and LoRA as one formula.
# - **PEFT**: `tuners/prefix_tuning/model.py` (where are the two linear layers?), and `get_prompt` in `peft_model.py`: find the `view`
#   and the `permute` that you wrote.
#
# ## Recap
#
# - Prefix tuning learns keys and values; positions move by its length, and the mask must cover it. The MLP that made them is dropped at
#   the end.
# - Prompt tuning learns embeddings, IA3 scales, BitFit biases: ever fewer numbers, which turn up what a model has. They need a model
#   that has much.
# - Count what learns, by a formula and by the model. Models without biases, shared parameters and names that mislead are why.
# - A tuned model is compared three ways: win rate with ties, interval and a judged judge; regression on the old task; a row on the same
#   board.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("other_peft")

# %%
progress("week4_finetuning")
