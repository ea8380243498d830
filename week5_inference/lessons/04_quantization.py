# %% [markdown]
# # Quantization: a model in 8, 4, 3 and 2 bits
#
# To write one token, a model reads each of its weights once. At batch size 1 that is most of what it does: memory, not
# arithmetic, sets the pace and decides whether the model fits at all. So the weights are stored in fewer bits. Nobody trains
# for it: the model is there, and you may look at some text before you round. What should be rounded how?
#
# In this lesson you write five answers, and each is compared with a library that people use: int8 by rows, zero points and groups,
# LLM.int8() with its outliers, GPTQ and AWQ. Then you see what the bits cost: perplexity against bits and against
# megabytes, for the course model and SmolLM2.
#
# Reading and writing: about 180 minutes. Papers: Dettmers et al. 2022, *LLM.int8(): 8-bit Matrix Multiplication for Transformers at
# Scale* ([arXiv:2208.07339](https://arxiv.org/abs/2208.07339)); Frantar et al. 2022, *GPTQ: Accurate Post-Training
# Quantization for Generative Pre-trained Transformers* ([arXiv:2210.17323](https://arxiv.org/abs/2210.17323)); Lin et al. 2023,
# *AWQ: Activation-aware Weight Quantization* ([arXiv:2306.00978](https://arxiv.org/abs/2306.00978)). Repositories:
# [bitsandbytes](https://github.com/bitsandbytes-foundation/bitsandbytes), [IST-DASLab/gptq](https://github.com/IST-DASLab/gptq),
# [mit-han-lab/llm-awq](https://github.com/mit-han-lab/llm-awq), [llm-compressor](https://github.com/vllm-project/llm-compressor).

# %%
import copy
import json
import logging
import math
import timeit
import warnings

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it would note which of its kernels this CPU lacks
warnings.filterwarnings("ignore", message=".*quantize_per_channel.*")

import bitsandbytes.functional as bnb
import matplotlib.pyplot as plt
import numpy as np
import torch
from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState
from jaxtyping import Float, Int, Int8, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from shared import borrow, check, hint, mine, progress
from shared.course import ROOT
from shared.data import stories
from shared.models import course_folder, smollm2
from shared.plotting import COLOURS, MARKERS, figure
from shared.runtime import seed_everything
from week2_pretraining.solutions.pretraining import load_pretrained
from week5_inference.quantization_study import STORED, calibration, story_nats
from week5_inference.quantized import blocks_of, linears_of, quantize_model, stored_bytes

seed_everything(0)
torch.set_printoptions(precision=3, sci_mode=False)
bootstrap_interval = mine("bootstrap_interval")
COLOUR = {"nearest": COLOURS[3], "gptq": COLOURS[0], "awq": COLOURS[2]}
LABEL = {"nearest": "nearest", "gptq": "GPTQ", "awq": "AWQ"}

# %% [markdown]
# ## Eight bits, symmetric
#
# The simplest rule. Each row of a weight matrix (all weights of one output) has one scale, so that its largest magnitude becomes 127:
#
# $$s_i = \frac{\max_j |w_{ij}|}{127}, \qquad c_{ij} = \operatorname{round}\!\left(\frac{w_{ij}}{s_i}\right), \qquad \hat w_{ij} = s_i\, c_{ij}$$
#
# An int8 goes from -128 to 127, and -128 is left unused: then $-w$ has the codes $-c$. The error is at most half a step,
# $s_i / 2$. A row of zeros has the scale 0, and dividing by it must not give `nan`.
#
# These two helpers, given, refuse what cannot be quantized.

# %% tags=["given"]
from week5_inference.solutions.quantization import check_weight

# %% tags=["given"]
from week5_inference.solutions.quantization import check_grid

# %% tags=["exercise"]
from week5_inference.solutions.quantization import int8_quantize

# %% tags=["exercise"]
from week5_inference.solutions.quantization import int8_dequantize

# %% [markdown]
# Beside it two libraries: bitsandbytes (its "scale" is the row's absmax) and torch's own quantized tensors.

# %%
w = torch.randn(64, 200).half()
codes, scale = int8_quantize(w)
theirs, absmax, _ = bnb.int8_vectorwise_quant(w)
print("codes that differ from bitsandbytes:", int((codes != theirs).sum()), "of", codes.numel())
assert torch.equal(codes, theirs)
print("largest difference of the scales:   ", (scale.flatten() * 127 - absmax).abs().max().item())
w = torch.randn(64, 200)
codes, scale = int8_quantize(w)
in_torch = torch.quantize_per_channel(w, scale.flatten().double(), torch.zeros(64, dtype=torch.long), 0, torch.qint8)
print("codes that differ from torch:       ", int((codes != in_torch.int_repr()).sum()))
error = (int8_dequantize(codes, scale) - w).abs() / scale
print(f"largest error: {error.max():.3f} steps")
assert torch.equal(codes, in_torch.int_repr()) and error.max() <= 0.501

# %% [markdown]
# ## Fewer bits: zero points and groups
#
# With 4 bits there are 16 codes, and wasting some hurts. Where the weights of a row lean to one side, a symmetric grid wastes codes on
# the other. A grid from the smallest to the largest weight does not. It needs one more number, the **zero point** $z$: the
# code that stands for exactly 0 (padding and pruned weights must stay 0).
#
# $$s = \frac{\max(w, 0) - \min(w, 0)}{2^b - 1}, \qquad z = \operatorname{round}\!\left(\frac{-\min(w, 0)}{s}\right), \qquad
# c = \operatorname{clamp}\!\left(\operatorname{round}\!\left(\frac ws\right) + z,\ 0,\ 2^b - 1\right), \qquad \hat w = (c - z)\, s$$
#
# And one large weight makes the grid of its whole row coarse. So a row is cut into **groups** of, say, 128 neighbours, each with
# a scale and zero point of its own. That costs bits: a float16 scale and a byte for the zero point are $24 / 128 = 0.19$ bits a weight.

# %% tags=["exercise"]
from week5_inference.solutions.quantization import zero_point_quantize

# %% [markdown]
# The way back is given.

# %% tags=["given"]
from week5_inference.solutions.quantization import zero_point_dequantize

# %% [markdown]
# Two comparisons: torch's fake quantization, live; and torchao's `choose_qparams_affine` and `quantize_affine`, the rule that its AWQ
# rounds with. torchao is not among the course's packages, so what it gave is stored (`tests/fixtures/gptq/make.py` says how).

# %%
w = torch.randn(32, 128) + 0.3
codes, scale, zero = zero_point_quantize(w, 4)
fake = torch.fake_quantize_per_channel_affine(w, scale.flatten(), zero.flatten().int(), 0, 0, 15)
print("largest difference from torch's fake quantization:", (zero_point_dequantize(codes, scale, zero) - fake).abs().max().item())

FIXTURES = ROOT / "tests" / "fixtures" / "gptq"
stored = load_file(FIXTURES / "affine.safetensors")
for case in sorted(name.removesuffix(".codes") for name in stored if name.endswith(".codes")):
    bits, size = map(int, case.split("_"))
    codes, scale, zero = zero_point_quantize(stored["weight"], bits, size)
    differ = int((codes != stored[f"{case}.codes"]).sum()), int((zero != stored[f"{case}.zero"]).sum())
    print(f"torchao, {bits} bits, groups of {size}: {differ[0]} codes and {differ[1]} zero points differ, scales by at most "
          f"{(scale - stored[f'{case}.scale']).abs().max().item():.1e}")
    assert differ == (0, 0)

# %% [markdown]
# **Predict.** Rows of 512 weights drawn from a normal distribution, 4 bits. How much smaller does the error get when you go from one group
# a row to groups of 128, and of 32? And what if one weight in each row is 20 times as large?

# %%
fig, ax = figure("Small groups confine the damage of one large weight", "weights in a group", "relative RMS error, 4 bits", height=3.2)
sizes = (512, 256, 128, 64, 32, 16)
for label, colour, marker in (("normal weights", COLOURS[0], "o"), ("one weight a row is 20 times as large", COLOURS[3], "s")):
    w = torch.randn(256, 512, generator=torch.Generator().manual_seed(1))
    if "20" in label:
        w[:, 100] *= 20
    back = [zero_point_dequantize(*zero_point_quantize(w, 4, size)) for size in sizes]
    # of the weights that are not large
    rest = torch.arange(512) != 100
    ax.plot(sizes, [((b - w)[:, rest].square().mean() / w[:, rest].square().mean()).sqrt() for b in back], f"{marker}-", color=colour, label=label)
ax.set_xscale("log", base=2)
ax.set_xticks(sizes, sizes)
ax.set_ylim(0)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# For normal weights, not much: the largest of 512 is not much larger than the largest of 32. With a large weight the error falls several
# times, because only its own group still suffers. Trained weights lie in between.
#
# </details>
#
# ## Rounding up or down, by chance
#
# Rounding to the nearest is the best for each weight alone. Is it the best for their sum? An output adds up hundreds of products, and
# nearest rounding has a fixed error: all weights of 0.3 steps become 0, always. Stochastic rounding goes up with the probability of
# how far up the number already is, so it is right *on average*:
#
# $$\Pr[\text{up}] = x - \lfloor x \rfloor, \qquad E[\operatorname{round}(x)] = x$$
#
# Gupta et al. 2015 ([arXiv:1502.02551](https://arxiv.org/abs/1502.02551)), §3, train in 16 bits with it.

# %% tags=["exercise"]
from week5_inference.solutions.quantization import stochastic_round

# %% [markdown]
# **Predict.** Which gives the better outputs of a layer: nearest or stochastic? For a weight that is moved once? And for a weight that
# gets 1000 updates of a tenth of a step each?

# %%
generator = torch.Generator().manual_seed(0)
w = torch.randn(64, 256, generator=generator)
x = torch.randn(500, 256, generator=generator)
step = 0.2
rules = {"nearest": torch.round, "stochastic": lambda v: stochastic_round(v, generator)}
for name, rule in rules.items():
    errors = torch.tensor([(x @ (rule(w / step) * step - w).T).square().mean().sqrt() for _ in range(20)])
    total = torch.zeros(2000)
    for _ in range(1000):
        total = rule(total + 0.1)
    print(f"{name:10}  RMS error of the outputs {errors.mean():.3f} ± {errors.std():.3f}   after 1000 updates of 0.1 steps: "
          f"{total.mean():6.1f} steps (should be 100)")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Once: nearest. The variance of its error is $s^2/12$, and that of stochastic rounding $s^2/6$, so its RMS error is $\sqrt 2$ times as
# large. A thousand times: nearest loses every single update, and stochastic rounding none on average. So it is a tool for training in few
# bits.
#
# </details>
#
# ### Better than the nearest
#
# But there is a third way: choose up or down *together*, so that the errors of a row cancel in the outputs that matter. AdaRound (Nagel
# et al. 2020, [arXiv:2004.10568](https://arxiv.org/abs/2004.10568)) makes each choice a smooth number $h(V)$ between 0 and 1,
# which gradient descent can move, and pushes it to 0 or 1 by a penalty (eq. 21 to 25):
#
# $$\min_V \; \lVert x\,(\lfloor w/s \rfloor + h(V))^\top s - x w^\top \rVert^2 + \lambda \sum (1 - |2 h(V) - 1|^\beta),
# \qquad h(V) = \operatorname{clip}(1.2\,\sigma(V) - 0.1,\ 0,\ 1)$$

# %%
def smooth_rounding(w: Tensor, x: Tensor, step: float, iterations: int = 400) -> Tensor:
    """AdaRound: whole numbers for w / step, each rounded up or down, learnt for the outputs of x."""
    floor, target = torch.floor(w / step), x @ w.T
    fraction = (w / step - floor).clamp(0.01, 0.99)
    v = torch.logit((fraction + 0.1) / 1.2).requires_grad_()  # it starts at h(V) = the fraction: no error
    optimizer = torch.optim.Adam([v], lr=0.02)
    for i in range(iterations):
        h = (1.2 * torch.sigmoid(v) - 0.1).clamp(0, 1)
        beta = 20 - 18 * i / iterations  # first loose, then strict
        loss = (x @ ((floor + h) * step).T - target).square().mean()
        undecided = (1 - (2 * h - 1).abs() ** beta).mean() * 0.3 * (i > iterations // 5)
        optimizer.zero_grad()
        (loss + undecided).backward()
        optimizer.step()
    return floor + (v.detach() > 0)


generator = torch.Generator().manual_seed(0)
mixing = torch.randn(24, 96, generator=generator)
inputs = torch.randn(1000, 24, generator=generator) @ mixing / 5 + 0.2 * torch.randn(1000, 96, generator=generator)
w, step = torch.randn(32, 96, generator=generator), 0.5
learnt_on, held_out = inputs[:500], inputs[500:]
choices = {"nearest": torch.round(w / step), "stochastic": stochastic_round(w / step, generator)}
choices["smooth (AdaRound)"] = smooth_rounding(w, learnt_on, step)
for name, codes in choices.items():
    moved = (codes != torch.round(w / step)).float().mean()
    print(f"{name:18} RMS error on new inputs {(held_out @ (codes * step - w).T).square().mean().sqrt():.3f}   "
          f"{moved:.0%} not at the nearest, largest error of a weight {(codes * step - w).abs().max() / step:.2f} steps")

# %% [markdown]
# Many weights go to the farther side, and the outputs are better for it, also on inputs that were not seen. That works only because the
# inputs are correlated: an error along one weight can be made good along another. GPTQ, below, uses the same fact without any
# gradient descent.
#
# ## Outliers: why int8 fails in large models
#
# So far only weights were rounded. To *multiply* in int8, the inputs must be int8 too. LLM.int8() found what then goes wrong: a
# few features (columns of the hidden states) are much larger than all others, in nearly every token. Let us look for them in SmolLM2.

# %%
smol, smol_tokenizer = smollm2()
smol_batches = calibration(smol_tokenizer, 4)
taken: dict[str, list[Tensor]] = {}
handles = [
    linear.register_forward_pre_hook(lambda module, args, name=f"{i}.{name}": taken.setdefault(name, []).append(args[0][0]))
    for i, block in enumerate(blocks_of(smol))
    for name, linear in linears_of(block).items()
]
with torch.no_grad():
    for batch in tqdm(smol_batches, desc="SmolLM2"):
        smol(batch)
for handle in handles:
    handle.remove()
inputs_of = {name: torch.cat(parts) for name, parts in taken.items()}
rows = []
for kind in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
    found = [int((inputs_of[f"{i}.{kind}"].abs() >= 6).any(dim=0).sum()) for i in range(30)]
    width = inputs_of[f"0.{kind}"].shape[1]
    largest = max(inputs_of[f"{i}.{kind}"].abs().max().item() for i in range(30))
    rows.append((kind, width, np.mean(found), largest))
print(f"{'inputs of':18} features   of them reach 6 (mean of 30 layers)   largest magnitude")
for kind, width, count, largest in rows:
    print(f"{kind:18} {width:8} {count:12.1f} ({count / width:.1%}) {largest:32.1f}")
shares = [
    (x[:, (x.abs() >= 6).any(dim=0)].abs() >= 6).float().mean().item() for x in inputs_of.values() if (x.abs() >= 6).any()
]
print(f"a feature that reaches 6 does so in {np.median(shares):.1%} of the tokens (median of the layers that have any), at most in {max(shares):.0%}")
worst = max(inputs_of, key=lambda name: (inputs_of[name].abs().amax() / inputs_of[name].abs().mean()).item())
print("largest magnitude against the mean:", worst)

# %%
peaks = inputs_of[worst].abs().amax(dim=0).sort(descending=True).values
fig, ax = figure(
    f"{int((peaks >= 6).sum())} of {len(peaks)} features of one layer reach 6; the largest is {peaks[0]:.0f}",
    f"features of the inputs of layer {worst}, sorted", "largest |x| over tokens", height=3.2)
ax.semilogy(np.arange(1, len(peaks) + 1), peaks, color=COLOURS[0])
ax.axhline(6, color=COLOURS[3], linestyle="--", linewidth=1)
ax.text(len(peaks), 6.6, "threshold 6.0", ha="right", color=COLOURS[3])
ax.set_xscale("log")
plt.show()

# %% [markdown]
# One large feature makes the scale of its token large, and all other features of the token are then rounded to a few codes. LLM.int8()
# takes the outlier features out (§3.2, eq. 8). With $O$ the features that reach the threshold for any token:
#
# $$x w^\top \approx \sum_{h \in O} x_h w_h^\top \;+\; s_x s_w \sum_{h \notin O} c_{x,h}\, c_{w,h}^\top$$
#
# The first sum is in the input's own number format, and has few columns. The second is in int8, with **vector-wise** scales: one for each
# token of $x$ and one for each row of $w$. Products of codes are added in 32 bits. This helper, given, does that:

# %% tags=["given"]
from week5_inference.solutions.quantization import int8_product

# %% tags=["exercise"]
from week5_inference.solutions.quantization import llm_int8_matmul

# %% [markdown]
# bitsandbytes' own operation runs on a CPU too, slowly. (`bnb.matmul` would avoid it there and multiply in floats; so we call the
# operation itself.) It stores the weights in int8 for both parts, and goes through float16; with weights that both hold exactly, the
# two must agree.

# %%
generator = torch.Generator().manual_seed(0)
w8 = torch.randint(-127, 128, (48, 64), generator=generator)
w8[:, 0] = 127
w8, x8 = w8 * 2.0**-7, torch.randn(20, 64, generator=generator).half().float()
x8[:, [5, 40]] = x8[:, [5, 40]].sign() * 9
state = MatmulLtState()
state.threshold = 6.0
theirs = MatMul8bitLt.apply(x8, w8, None, None, state)
ours = llm_int8_matmul(x8, w8)
print(f"largest difference from bitsandbytes {(ours - theirs).abs().max():.1e}, from the exact product {(ours - x8 @ w8.T).abs().max():.2f}, "
      f"outputs up to {ours.abs().max():.0f}")
assert torch.allclose(ours, theirs, rtol=2e-5, atol=1e-3)

# %% [markdown]
# **Predict.** You multiply the inputs of layers in int8: with no outlier taken out, and with the threshold 6. Which tokens does the
# decomposition help, and how much?

# %%
kinds = {"self_attn.q_proj": "q", "self_attn.o_proj": "o", "mlp.gate_proj": "gate", "mlp.down_proj": "down"}
def relative_error(x: Tensor, weight: Tensor, threshold: float) -> Float[Tensor, "token"]:
    """The error of each token's output by llm_int8_matmul, divided by the output's norm."""
    exact = x @ weight.T
    return (llm_int8_matmul(x, weight, threshold) - exact).norm(dim=1) / exact.norm(dim=1)


fig, ax = figure("Only tokens with outliers gain, and they gain much", "error in int8 alone / norm of the output, tokens",
                 "error with threshold 6.0 / norm", height=3.8)
gains = {}
with torch.no_grad():
    for i, (kind, label) in enumerate(tqdm(kinds.items(), desc="layers")):
        points = []
        for layer in range(0, 30, 3):
            some, weight = inputs_of[f"{layer}.{kind}"][:128], blocks_of(smol)[layer].get_submodule(kind).weight
            plain, mixed = (relative_error(some, weight, threshold) for threshold in (0.0, 6.0))
            has = (some.abs() >= 6).any(dim=1)
            points.append(torch.stack([plain, mixed, has.float()]))
        plain, mixed, has = torch.cat(points, dim=1)
        gains[label] = [v[has == which].mean().item() for which in (1, 0) for v in (plain, mixed)] + [has.mean().item()]
        ax.loglog(plain, mixed, MARKERS[i], markersize=2.5, color=COLOURS[i], label=label)
ax.plot([0.003, 0.3], [0.003, 0.3], color="black", linewidth=0.8, linestyle="--")
ax.legend(frameon=False, markerscale=3)
plt.show()
print("inputs of   tokens with outliers: share   error int8   decomposed | other tokens: int8   decomposed")
for label, (plain, mixed, others_plain, others_mixed, share) in gains.items():
    text = f"{plain:12.4f} {mixed:12.4f}" if share else f"{'-':>12} {'-':>12}"
    print(f"{label:9} {share:29.1%} {text} {others_plain:20.4f} {others_mixed:12.4f}")

# %% [markdown]
# Each point is a token; those on the dashed line gain nothing. For q and down, the error of tokens with outliers falls to less than half; in the others it
# hardly moves. (It moves a little: a column that is an outlier for one token is taken out for all.) A token whose largest feature is 100 times as large as the rest has one or two
# codes left for the rest; take that feature out, and it has all 255 again.
#
# Two things are different from the paper. Its models, from 6.7 billion parameters on, have the *same* few outlier features in
# most tokens and all layers (§4). In SmolLM2 they are rarer, and strongest in the inputs of `down_proj`, at a few tokens:
# what Sun et al. 2024 call *massive activations* ([arXiv:2402.17762](https://arxiv.org/abs/2402.17762)). And a scale for each token
# already keeps one token's outliers from spoiling all others.

# %%
few = [name for name in inputs_of if name.split(".")[0] in ("5", "15", "25")]
inputs_of = {name: inputs_of[name][:384].clone() for name in few}  # for AWQ, below; the others' memory is free again

# %% [markdown]
# ## GPTQ: let later columns make good the error
#
# For 4 bits and less, the weights alone are quantized, and inputs stay floats. What should the codes minimize? Not the error of the
# weights, but of the outputs on real inputs $x$. For one row $w$ of the matrix:
#
# $$\lVert X\hat w - X w \rVert^2 = (\hat w - w)^\top H\, (\hat w - w) \cdot n, \qquad H = \frac1n \sum_x x\,x^\top$$
#
# $H$ is the same for all rows. GPTQ rounds column after column, and after each one moves the columns that are still free so that they make
# good the error as far as they can. The best move has a closed form (it goes back to Optimal Brain Surgeon, Hassibi and Stork 1993):
# with $U$ the upper Cholesky factor of $H^{-1} = U^\top U$,
#
# $$e = \frac{w_j - \hat w_j}{U_{jj}}, \qquad w_k \leftarrow w_k - e\, U_{jk} \quad \text{for } k > j$$
#
# - **Damping.** $H$ is often nearly singular. $0.01 \cdot \operatorname{mean}(\operatorname{diag} H)$ is added to its diagonal.
# - **Dead columns.** An input that was 0 in all calibration data has $H_{jj} = 0$. Its weights do nothing, and are set to 0 (and
#   $H_{jj}$ to 1), as in the authors' code. A Hessian that is still not positive definite is refused.
# - **act_order.** Columns with a large $H_{jj}$ first, while many others can still make good.
# - **Groups** have the scale and zero point of the *original* weights. (The authors' code computes them anew when it reaches a group, from
#   the weights already moved; llm-compressor, with which we compare, does it as we do. It makes `act_order` simple.)

# %% tags=["given"]
from week5_inference.solutions.quantization import check_hessian

# %% tags=["exercise"]
from week5_inference.solutions.quantization import gptq_quantize

# %% [markdown]
# llm-compressor is what vLLM recommends for this today. Its requirements and the course's cannot both be met, so its answers
# are stored. The inputs: 101 correlated vectors with one dead and one large feature.

# %%
stored = load_file(FIXTURES / "gptq.safetensors")
w, x = stored["weight"], stored["x"]
print("bits  group  act_order    entries that differ   output error: nearest     GPTQ")
for case in sorted(name.removesuffix(".scale") for name in stored if name.endswith(".scale")):
    bits, size, order = case.split("_")
    back = zero_point_dequantize(*gptq_quantize(w, x.T @ x / len(x), int(bits), int(size), act_order=order != "none"))
    nearest = zero_point_dequantize(*zero_point_quantize(w, int(bits), int(size)))
    differ = (back - stored[f"{case}.weight"]).abs() > 1e-5
    mse = [(x @ (v - w).T).square().mean().item() for v in (nearest, back)]
    print(f"{bits:>4}  {size:>5}  {str(order != 'none'):9} {int(differ.sum()):12} of {differ.numel()} {mse[0]:22.4f} {mse[1]:10.4f}")
    assert differ.float().mean() < 0.01

# %% [markdown]
# (On another processor a sum may end in another last bit and send an entry to the code next door. So the test allows 1 % of the entries.)
#
# How much calibration does it need? Fewer inputs than columns leave $H$ singular, and GPTQ fits what is not there. Here is one layer of
# the course model, with the error measured on other stories.

# %%
course, course_tokenizer = load_pretrained(course_folder(), mine("GPT"))
course.eval()


def inputs_of_layer(model: nn.Module, layer: nn.Module, batches: list[Tensor]) -> Float[Tensor, "n in"]:
    """What comes into one layer, as rows."""
    rows = []
    handle = layer.register_forward_pre_hook(lambda module, args: rows.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    handle.remove()
    return torch.cat(rows)


layer = list(linears_of(blocks_of(course)[2]).values())[-1]
weight = layer.weight.detach()
seen = inputs_of_layer(course, layer, calibration(course_tokenizer, 64, seed=0))
new = inputs_of_layer(course, layer, calibration(course_tokenizer, 32, seed=1))
counts = (32, 128, 512, 2048, 8192)
repeats = []
for seed in tqdm(range(4), desc="draws of calibration inputs"):
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(seed))
    back = []
    for n in counts:
        some = seen[order[:n]]
        rounded = zero_point_dequantize(*gptq_quantize(weight, some.T @ some / n, 3, 128))
        back.append([(v @ (rounded - weight).T).square().mean().item() for v in (some, new)])
    repeats.append(back)
repeats = torch.tensor(repeats)
nearest = (new @ (zero_point_dequantize(*zero_point_quantize(weight, 3, 128)) - weight).T).square().mean().item()
fig, ax = figure("With few inputs GPTQ fits them; with many it generalizes", "calibration inputs", "squared output error, 3 bits", height=3.4)
for i, label in enumerate(("on the inputs it saw", "on new stories")):
    values = repeats[..., i]
    ax.errorbar(counts, values.mean(0), values.std(0), fmt="os"[i] + "-", capsize=3, color=COLOURS[(5, 0)[i]], label=f"GPTQ, {label}")
ax.axhline(nearest, color=COLOUR["nearest"], label="nearest, on new stories")
ax.axvline(weight.shape[1], color="black", linewidth=0.8, linestyle=":")
ax.text(weight.shape[1] * 1.06, ax.get_ylim()[1] * 0.95, "columns", fontsize=8, va="top")
ax.set(xscale="log", yscale="log")
ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# Bars: standard deviation over four draws of the inputs.
#
# ## AWQ: protect what large inputs meet
#
# AWQ changes no weight to make good another. It notes that weights matter by what they are multiplied with: a column that meets large
# inputs needs a finer grid. Multiply it by $s > 1$ before rounding, and divide its input by $s$: the product is the same, and the
# column's rounding error becomes $s$ times smaller (as long as the column does not set the scale of its group). Which $s$? One
# number $\alpha$ for the layer, found on a grid (eq. 4 and 5):
#
# $$s = \overline{|x|}^{\,\alpha}, \qquad \alpha^* = \arg\min_{\alpha \in [0, 1]} \; \bigl\lVert \, Q(w \cdot \operatorname{diag}(s))\,
# \operatorname{diag}(s)^{-1} x - w x \, \bigr\rVert^2$$
#
# $\alpha = 0$ is plain rounding, so on the calibration inputs the search never makes a layer worse. As in the authors' code, $s$ is divided by
# $\sqrt{\max s \cdot \min s}$. That code also searches for weights to clip; this exercise does not.

# %% tags=["exercise"]
from week5_inference.solutions.quantization import awq_scale_search

# %%
course_inputs = {
    f"{i}.{name}": inputs_of_layer(course, linear, calibration(course_tokenizer, 3))
    for i, block in enumerate(blocks_of(course))
    for name, linear in linears_of(block).items()
}
fig, ax = figure("The scales help SmolLM2's layers; the course model's hardly", "α",
                 "output error / that of α = 0, 3 bits", height=3.6)
for model, inputs, size, colour in ((course, course_inputs, 128, COLOURS[3]), (smol, inputs_of, 64, COLOURS[0])):
    name = "course model" if model is course else "SmolLM2, three blocks"
    curves, spread = [], []
    for layer, x in tqdm(inputs.items(), desc=name):
        block, _, path = layer.partition(".")
        errors = awq_scale_search(blocks_of(model)[int(block)].get_submodule(path).weight, x, 3, size, 10)[2]
        curves.append(errors / errors[0])
        magnitudes = x.abs().mean(dim=0)
        spread.append((magnitudes.quantile(0.99) / magnitudes.median()).item())
    curves = torch.stack(curves)
    ax.plot(torch.linspace(0, 1, 11), curves.T, color=colour, alpha=0.2, linewidth=0.8)
    ax.plot(torch.linspace(0, 1, 11), curves.median(dim=0).values, "o-" if model is course else "s--", color=colour, label=f"{name} (median of {len(curves)} layers)")
    print(f"{name:22} best error / plain error: median {curves.min(dim=1).values.median():.2f};   "
          f"99th percentile of mean |x| / median: {np.median(spread):.1f}")
ax.axhline(1, color="black", linewidth=0.8)
ax.set_ylim(0.4, 2)
ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## What do the bits cost?
#
# Now the whole models. `week5_inference/quantized.py` puts a layer of packed codes in place of each linear layer of the blocks. For GPTQ and
# AWQ it goes block by block: calibration stories run through the blocks quantized so far, so each Hessian sees the inputs that its
# layer will really get. Embeddings and norms stay as they are.
#
# **Predict.** At which number of bits does nearest rounding break the model? Does the order of the three methods stay the same at 8, 4, 3
# and 2 bits?
#
# First a small part, live: the course model in 4 and 3 bits.

# %%
batches = calibration(course_tokenizer, 32)
full, tokens = story_nats(course, course_tokenizer, 24)
print(f"float32: perplexity {math.exp(full.sum() / tokens.sum()):.3f} on {len(tokens)} held-out stories")
for bits in tqdm((4, 3), desc="bits"):
    for method in LABEL:
        quantized = quantize_model(copy.deepcopy(course), bits, method, 128, batches, act_order=True)
        nats, _ = story_nats(quantized, course_tokenizer, 24)
        low, high = bootstrap_interval((nats - full) / tokens, generator=torch.Generator().manual_seed(0))
        print(f"{bits} bits, {LABEL[method]:8} {((nats - full) / tokens).mean():+.4f} nats a token [{low:+.4f}, {high:+.4f}]")

# %% [markdown]
# The whole study takes longer, so it is stored: `quantization_study.json`, made by the command inside. The intervals are of week 3's
# bootstrap, *paired*: each story is compared with itself at full precision, so the stories' own difficulty falls out.
#
# Groups are 128 for the course model, and 64 for SmolLM2, whose width 576 is no multiple of 128. Its file, as it comes from PyPI, was
# already in 4 bits once (Q4_1, blocks of 32): "full precision" here is what that left. A model from the hub would differ.

# %%
study = json.loads(STORED.read_text(encoding="utf-8"))
print(study["command"], "|", study["machine"], "|", study["threads"], "thread | seed", study["seed"])
results = {}
for run in study["runs"]:
    reference = next(r for r in study["runs"] if (r["model"], r["method"]) == (run["model"], "full"))
    tokens, nats = torch.tensor(run["tokens"]), torch.tensor(run["nats"])
    lost = (nats - torch.tensor(reference["nats"])) / tokens
    low, high = bootstrap_interval(lost, generator=torch.Generator().manual_seed(0))
    results[run["model"], run["method"], run["bits"]] = {
        "perplexity": math.exp(nats.sum() / tokens.sum()), "lost": lost.mean().item(), "low": low, "high": high,
        "per_story": lost, "MB": sum(run["bytes"].values()) / 1e6, "blocks": run["bytes"]["blocks"] / 1e6}
for model in dict.fromkeys(key[0] for key in results):
    whole = results[model, "full", 32]
    print(f"\n{model}: perplexity {whole['perplexity']:.2f} in float32, blocks {whole['blocks']:.1f} MB, all {whole['MB']:.1f} MB")
    print("bits  method    perplexity   nats a token lost, 95 % interval     blocks, MB")
    for (name, method, bits), r in sorted(results.items(), key=lambda item: (-item[0][2], list(LABEL).index(item[0][1]) if item[0][1] in LABEL else 0)):
        if name == model and method != "full":
            print(f"{bits:>4}  {LABEL[method]:8} {r['perplexity']:11.2f}   {r['lost']:+.4f} [{r['low']:+.4f}, {r['high']:+.4f}] {r['blocks']:18.2f}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
for ax, model in zip(axes, ("course model", "SmolLM2"), strict=True):
    for i, method in enumerate(LABEL):
        bits = [b for b in (8, 4, 3, 2) if (model, method, b) in results]
        points = [results[model, method, b] for b in bits]
        middle = np.array([p["lost"] for p in points])
        error = [middle - [p["low"] for p in points], [p["high"] for p in points] - middle]
        ax.errorbar(np.array(bits) * (1 + 0.02 * (i - 1)), middle, error, fmt="os^"[i] + "-", capsize=3, color=COLOUR[method], label=LABEL[method])
    ax.set_yscale("symlog", linthresh=0.01)
    ax.set_xscale("log", base=2)
    ax.set_xticks((2, 3, 4, 8), (2, 3, 4, 8))
    ax.set(xlabel="bits a weight", title=model)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("nats a token lost against float32")
axes[0].legend(frameon=False)
fig.suptitle("Below 4 bits, how you round decides whether the model survives", x=0.01, ha="left", fontsize=11)
plt.show()

# %%
fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
for ax, model in zip(axes, ("course model", "SmolLM2"), strict=True):
    for i, method in enumerate(LABEL):
        bits = [b for b in (8, 4, 3, 2) if (model, method, b) in results]
        points = [results[model, method, b] for b in bits]
        ax.plot([p["blocks"] for p in points], [p["perplexity"] for p in points], "os^"[i] + "-", color=COLOUR[method], label=LABEL[method])
        for b, p in zip(bits, points, strict=True):
            if method == "gptq":
                ax.annotate(f"{b} bits", (p["blocks"], p["perplexity"]), (4, 4), textcoords="offset points", fontsize=8)
    whole = results[model, "full", 32]
    ax.plot(whole["blocks"], whole["perplexity"], "*", color="black", markersize=10, label="float32")
    ax.axhline(whole["perplexity"], color="black", linewidth=0.8, linestyle=":")
    ax.set_ylim(whole["perplexity"] * 0.9, whole["perplexity"] * 4)  # most of what 2 bits give lies far above
    ax.set_xscale("log")
    marks = [results[model, "nearest", b]["blocks"] for b in (8, 4, 3, 2) if (model, "nearest", b) in results] + [whole["blocks"]]
    ax.set_xticks(marks, [f"{mb:.2g}" if mb < 10 else f"{mb:.0f}" for mb in marks], fontsize=8)
    ax.minorticks_off()
    ax.set(xlabel="MB of the blocks, as stored", title=model)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("perplexity, held-out stories")
axes[0].legend(frameon=False)
fig.suptitle("With GPTQ, a seventh of the bytes costs little perplexity; below 3 bits it explodes", x=0.01, ha="left", fontsize=11)
plt.show()

# %% [markdown]
# Are the methods really different, or is it chance? The same pairing, method against method: nats lost by GPTQ and AWQ minus those by
# nearest rounding, story by story. An interval below 0 means: better than nearest.

# %%
for model in dict.fromkeys(key[0] for key in results):
    for bits in (4, 3, 2):
        for method in ("gptq", "awq"):
            if (model, method, bits) in results:
                ours, theirs = results[model, method, bits]["per_story"], results[model, "nearest", bits]["per_story"]
                low, high = bootstrap_interval(ours, theirs, generator=torch.Generator().manual_seed(0))
                verdict = "better" if high < 0 else "worse" if low > 0 else "not told apart"
                print(f"{model:13} {bits} bits, {LABEL[method]:4} - nearest: {(ours - theirs).mean():+.4f} [{low:+.4f}, {high:+.4f}]  {verdict}")

# %% [markdown]
# Read the tables. In this stored study:
#
# - **8 bits** change the course model by less than 0.001 nats a token, however they are made, and SmolLM2 by 0.002 with nearest rounding.
#   There is next to nothing left to gain by care.
# - **GPTQ** is better than nearest rounding at 4 and 3 bits in both models, and no interval comes near 0. SmolLM2 loses 0.18 nats with
#   nearest at 4 bits and 0.03 with GPTQ; at 3 bits 0.95 against 0.37.
# - **AWQ** is better in three of these cases' means, and not in all: course model, 4 bits, better (as good as GPTQ); SmolLM2, 3 bits,
#   better; SmolLM2, 4 bits, the mean is better, but 24 stories cannot tell it from chance; course model, 3 bits, *no* better,
#   rather a little worse.
# - **2 bits** break both models. GPTQ breaks them less, but 1.0 nats a token more is a ruin too, and SmolLM2 loses 8.2 with it and 9.7
#   with nearest.
#
# Why does AWQ not help the course model at 3 bits? The plot before has the evidence. AWQ needs features of very different size: in SmolLM2 the
# large ones are several times the median, in this small model less so, and the best α lowers the error of its layers by
# little. And what it lowers is each layer's own error on calibration inputs; that such gains add up to a better model is a hope, which
# one interval here does not confirm. GPTQ minimizes the same errors, but with a number to move for each weight, not one for a layer.
#
# Look at the live run above too: with half the calibration text and 24 stories, AWQ's gain at 4 bits is much smaller than in the study.
# GPTQ's is not. So do not read too much into one draw of calibration text: intervals over stories do not hold that chance.
#
# This does not say that GPTQ is the better method in general. AWQ's paper compares on models of billions of parameters, where outlier
# features are large, and stresses that it fits the calibration text less; here calibration and test are stories of one small world, which
# favours GPTQ. And AWQ's clipping is left out.
#
# ## Bytes and seconds
#
# Now look at what is really in memory, and at the clock. `Int8Linear` holds int8 codes, `GroupedLinear` packed 4-bit codes.

# %%
token_ids = batches[0][:1, :32]
print(f"{'':8} blocks, MB    one pass of 32 tokens, ms (median of 15)")
with torch.no_grad():
    models = {"float32": course} | {f"{b} bits": quantize_model(copy.deepcopy(course), b) for b in (8, 4)}
    seconds = {name: [] for name in models}
    for _ in range(16):
        for name, model in models.items():  # in turns, so that a busy moment hits all
            seconds[name].append(timeit.timeit(lambda model=model: model(token_ids), number=1))
for name, model in models.items():
    print(f"{name:8} {stored_bytes(model)['blocks'] / 1e6:10.2f} {1000 * np.median(seconds[name][1:]):13.1f}")

# %% [markdown]
# Less memory, and *more* time. Our layers turn codes into floats before each product, and that is work on top of the same product.
# Where does the famous speed come from? From kernels that unpack inside the product, so that memory hands over a quarter of the bytes; that
# pays on a GPU at small batch sizes, where memory sets the pace. PyTorch on a CPU has no such kernel that we could call for these
# formats here. `benchmarks/quantization.py` measures bytes and time for SmolLM2 in the same way.
#
# ## What to read
#
# - **Dettmers et al. 2022**: §3.2 and eq. 8; figure 2 and §4: at which size do outlier features appear, and how suddenly?
# - **Frantar et al. 2022**: §3, steps 1 to 3, and figure 2: why can all rows use one order of columns? Table 2 and 3: 3 and 4 bits.
#   In [gptq.py](https://github.com/IST-DASLab/gptq/blob/main/gptq.py), `fasterquant` is the loop that you wrote.
# - **Lin et al. 2023**: §3.1 (1 % of the weights), §3.2 (why scaling helps), table on calibration data: why does AWQ need less of it?
#   In [llm-awq](https://github.com/mit-han-lab/llm-awq), `auto_scale.py` is the search.
# - **llm-compressor**, `modifiers/gptq/gptq_quantize.py`: find dead columns, damping, and the blocks of 128 columns.
#
# ## Recap
#
# - Symmetric int8 by rows loses next to nothing for *weights*. For *inputs*, a few outlier features must be taken out.
# - A zero point uses all codes; groups confine large weights; both cost bits.
# - Nearest rounding is best for each weight, and not for the outputs. GPTQ lets later columns make good the error; AWQ gives finer grids
#   where inputs are large.
# - Fewer bytes are sure. Less time needs kernels made for it.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("quantization")

# %%
progress("week5_inference")
