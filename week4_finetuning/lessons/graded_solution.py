# %% [markdown]
# # Week 4, solved
#
# Every exercise of the week: the solution, why it is right, and its comparison with the library that people use for it. Try
# the lessons first; a solution that you have only read is soon forgotten. At the end the grader judges the solutions above,
# and then your own notebooks.
#
# Everything from outside is imported here, once. The grader puts what an answer needs back in the notebook's order, so a name
# that is imported again further down would come too late for the answers above.

# %% tags=["nbval-ignore-output"]
import copy
import logging
import math
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import bitsandbytes.functional as BF
import peft
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from shared.grading import grade
from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week3_evaluation.solutions.ngram_metrics import rouge_l
from week4_finetuning.chat import STOP, conversation, encode, encode_prompt
from week4_finetuning.instructions import instructions
from week4_finetuning.solutions.instruction_data import (
    ALPACA_WITH_INPUT,
    ALPACA_WITHOUT_INPUT,
    KEYWORDS,
    Pair,
    check_messages,
    check_pairs_fit,
    document_mask,
)
from week4_finetuning.solutions.lora import check_base, find_factors, linear_names, lora_layers, save_adapter
from week4_finetuning.solutions.other_peft import check_prefix, check_sizes
from week4_finetuning.solutions.qlora import (
    FrozenProduct,
    check_finite,
    dequantize_packed,
    double_dequantize,
    dynamic_codebook,
    pack_codes,
)
from week4_finetuning.solutions.sft import check_micro_batches

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


gpt, tokenizer = load_pretrained(course_folder("base"), GPT)
examples = instructions(12)
pairs = [encode(tokenizer, example) for example in examples]

# %% [markdown]
# ## 01 Instruction data

# %% [markdown]
# ### `format_alpaca`
#
# The text is fixed to the letter, blank lines included: a model tuned on one template has never seen another. It ends right after
# "### Response:" and its line break, where the reply begins.

# %% tags=["solution"]
from week4_finetuning.solutions.instruction_data import format_alpaca

# %%
print(format_alpaca("Name a colour.").endswith("### Instruction:\nName a colour.\n\n### Response:\n"))
print("an empty input has no section:", "### Input" not in format_alpaca("Name a colour.", ""))

# %% [markdown]
# ### `format_chatml`
#
# One line of code for each message. What matters is outside it: roles that alternate, no marker inside a content, and the open turn of the
# assistant only where a reply is wanted.

# %% tags=["solution"]
from week4_finetuning.solutions.instruction_data import format_chatml

# %%
chatml = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who is Nell?"}]
same = []
for add in (False, True):
    theirs = tokenizer.apply_chat_template(talk, chat_template=chatml, tokenize=False, add_generation_prompt=add)
    same.append(format_chatml(talk, add) == theirs)
print("equal to apply_chat_template, closed and open:", same)

# %% [markdown]
# ### `mask_prompt_labels`
#
# By place, not by token: where padding is made of the EOS token, a comparison of tokens would mask the EOS that ends the reply, and the
# model would never learn to stop.

# %% tags=["solution"]
from week4_finetuning.solutions.instruction_data import mask_prompt_labels

# %%
print(mask_prompt_labels(torch.tensor([[5, 6, 7, 0, 0]]), torch.tensor([2]), torch.tensor([4])).tolist())

# %% [markdown]
# ### `collate_sft`
#
# First which examples share a row, then one pass that fills all tensors. The first token of an example gets no label: in a packed row
# the example before it would have to predict it.

# %% tags=["solution"]
from week4_finetuning.solutions.instruction_data import collate_sft

# %%
loose, packed = (collate_sft(pairs, tokenizer.pad_token_id, 256, pack=pack) for pack in (False, True))
counted = [int((batch["labels"] != -100).sum()) for batch in (loose, packed)]
print(f"{len(pairs)} examples in {len(loose['token_ids'])} rows, packed in {len(packed['token_ids'])}; the same labels count: {len(set(counted)) == 1}")
alone = document_mask(packed["document_ids"])
print("a query sees no other example:", bool((packed["document_ids"][:, None, :, None] == packed["document_ids"][:, None, None, :])[alone].all()))

# %% [markdown]
# ### `sft_loss`
#
# The sum over what counts, divided by how many count, once for the whole batch. `clamp(min=1)` is for the batch in which nothing does: 0 / 1
# is 0, with a gradient of 0, and 0 / 0 would be nan in every weight.

# %% tags=["solution"]
from week4_finetuning.solutions.instruction_data import sft_loss

# %%
theirs = AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()
with torch.no_grad():
    ours = sft_loss(gpt(loose["token_ids"]), loose["labels"])
    library = theirs(loose["token_ids"], labels=loose["labels"]).loss
print("equal to transformers' loss to 1e-5:", bool(abs(ours - library) < 1e-5))
print("where nothing counts:", sft_loss(torch.randn(1, 3, 5), torch.full((1, 3), -100)).item())

# %% [markdown]
# ### `keep_instruction`
#
# Length and keywords are cheap, so they come first; ROUGE-L against the whole pool is the expensive test, and `all` stops at the first instruction
# that is too close.

# %% tags=["solution"]
from week4_finetuning.solutions.instruction_data import keep_instruction

# %%
pool = ["Write a story about a kite."]
for new in ("Write a short story about a kite.", "Explain why the sky is blue.", "Draw a picture of a house."):
    print(keep_instruction(new, pool), new)

# %% [markdown]
# ## 02 Supervised fine-tuning

# %% [markdown]
# ### `accumulate_sft`
#
# The number that divides must be known before the first backward pass, and it can be: labels are there without the model. So each
# micro-batch adds its sum divided by that number, and its graph is freed at once.

# %% tags=["solution"]
from week4_finetuning.solutions.sft import accumulate_sft

# %%
whole = copy.deepcopy(gpt)
sft_loss(whole(loose["token_ids"]), loose["labels"]).backward()
parts_of = copy.deepcopy(gpt)
accumulate_sft(parts_of, [{name: loose[name][i : i + 5] for name in ("token_ids", "labels")} for i in (0, 5, 10)])
one, other = (torch.cat([p.grad.flatten() for p in model.parameters()]) for model in (whole, parts_of))
print("parts of 5, 5 and 2 give the gradient of all 12 to 1e-5 of its length:", bool((one - other).norm() < 1e-5 * one.norm()))

# %% [markdown]
# ### `replies`
#
# Padded on the left, every prompt ends in the last column, so the new tokens begin at the same place in each row. Prompts of like length share
# a batch: less padding, the same replies. The end token is the template's, not the model's.

# %% tags=["solution"]
from week4_finetuning.solutions.sft import replies

# %%
instruct = AutoModelForCausalLM.from_pretrained(course_folder("instruct")).eval()
asked = [conversation(example) for example in examples]
together = replies(instruct, tokenizer, asked, max_new_tokens=16)
print("twelve replies, each as when asked alone:", together == [replies(instruct, tokenizer, [one], 16)[0] for one in asked])

# %% [markdown]
# ## 03 LoRA

# %% [markdown]
# ### `LoRALinear`
#
# With B at 0 the layer begins as its base. The update is a product of two thin matrices and never formed in forward, only in `merge`. That either
# may be called twice is a matter of one flag.

# %% tags=["solution"]
from week4_finetuning.solutions.lora import LoRALinear

# %%
class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x):
        return self.down(self.up(x).tanh())


torch.manual_seed(0)
small, x = Small(), torch.randn(4, 6)
layer = LoRALinear(copy.deepcopy(small.up), rank=2, alpha=8)
print("at the start equal to its base:", torch.equal(layer(x), small.up(x)))
with torch.no_grad():
    find_factors(layer)[1].normal_(generator=seeded(1))
apart = layer(x)
layer.merge()
layer.merge()
print("merged twice, the same to 1e-6:", torch.allclose(layer(x), apart, atol=1e-6))

# %% [markdown]
# ### `inject_lora`
#
# All targets are looked up, and all layers checked, before the first is replaced: an error leaves the model as it was.

# %% tags=["solution"]
from week4_finetuning.solutions.lora import inject_lora

# %%
adapted = inject_lora(copy.deepcopy(small), ["up", "down"], rank=2, alpha=8)
with torch.no_grad():
    for layer in lora_layers(adapted).values():
        find_factors(layer)[1].normal_(generator=seeded(2))
with tempfile.TemporaryDirectory() as folder:
    save_adapter(adapted, folder)
    library = peft.PeftModel.from_pretrained(copy.deepcopy(small), folder)
print("our adapter, read by PEFT, gives the same to 1e-6:", torch.allclose(adapted(x), library(x), atol=1e-6))

# %% [markdown]
# ### `lora_state_dict`
#
# What is inside a LoRA layer and not inside its base. Copies, so that a stored adapter does not change under further training.

# %% tags=["solution"]
from week4_finetuning.solutions.lora import lora_state_dict

# %%
factors = lora_state_dict(adapted)
print(f"{sum(t.numel() for t in factors.values())} of {sum(p.numel() for p in adapted.parameters())} numbers")

# %% [markdown]
# ### `merge_all`
#
# After merging, the base layer holds all, and takes its old place: what comes out is the architecture that went in.

# %% tags=["solution"]
from week4_finetuning.solutions.lora import merge_all

# %%
before = adapted(x)
merged, theirs_merged = merge_all(adapted), library.merge_and_unload()
print("plain again:", merged.state_dict().keys() == small.state_dict().keys())
print("the same output, and PEFT's merged weights, to 1e-6:",
      torch.allclose(merged(x), before, atol=1e-6),
      all(torch.allclose(merged.state_dict()[name], value, atol=1e-6) for name, value in theirs_merged.state_dict().items()))

# %% [markdown]
# ## 04 QLoRA

# %% [markdown]
# ### `nf4_codebook`
#
# Sixteen values cannot be symmetric and hold 0. So the positive half has eight steps and the negative seven, each even in probability, and 0 stands
# between them.

# %% tags=["solution"]
from week4_finetuning.solutions.qlora import nf4_codebook

# %%
print("bitsandbytes' table:", torch.equal(nf4_codebook(), BF.get_4bit_type("nf4", device="cpu")))

# %% [markdown]
# ### `nf4_quantize`
#
# The nearest of ascending values is found by the borders half-way between neighbours: one search for all entries, no 16 distances each.

# %% tags=["solution"]
from week4_finetuning.solutions.qlora import nf4_quantize

# %%
w = torch.randn(48, 50, generator=seeded(3))
library_codes, state = BF.quantize_4bit(w, blocksize=64, quant_type="nf4")
codes, absmax = nf4_quantize(w)
print("codes and scales equal bitsandbytes':", torch.equal(pack_codes(codes), library_codes.flatten()), torch.equal(absmax, state.absmax))

# %% [markdown]
# ### `nf4_dequantize`
#
# A table look-up and one product for each block.

# %% tags=["solution"]
from week4_finetuning.solutions.qlora import nf4_dequantize

# %%
back = nf4_dequantize(codes, absmax, w.shape)
print("equal to bitsandbytes' to 1e-6:", torch.allclose(back, BF.dequantize_4bit(library_codes, state), atol=1e-6))

# %% [markdown]
# ### `double_quantize`
#
# Scales are all positive and much alike. Without their mean they are small numbers around 0, for which the dynamic type has most of its values.

# %% tags=["solution"]
from week4_finetuning.solutions.qlora import double_quantize

# %%
_, nested = BF.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)
scale_codes, second_absmax, offset = double_quantize(absmax)
print("codes equal bitsandbytes':", torch.equal(scale_codes, nested.absmax.flatten()), "offset to 1e-6:", bool(abs(offset - nested.offset) < 1e-6))

# %% [markdown]
# ### `bits_per_parameter`
#
# Each scale is shared by a block, each second scale by a block of blocks.

# %% tags=["solution"]
from week4_finetuning.solutions.qlora import bits_per_parameter

# %%
print(f"{bits_per_parameter()} and, doubly quantized, {bits_per_parameter(second_block=256):.3f} bits")

# %% [markdown]
# ### `QLoRALinear`
#
# The frozen weight is made anew in each pass, in an autograd function of its own, so that it is never kept. Gradients go through it to the input, and
# into A and B.

# %% tags=["solution"]
from week4_finetuning.solutions.qlora import QLoRALinear

# %%
layer = QLoRALinear(nn.Linear(64, 32), rank=4, alpha=8, generator=seeded(4))
frozen = sum(buffer.numel() * buffer.element_size() for name, buffer in layer.named_buffers() if name != "bias")
print(f"{64 * 32} frozen weights in {frozen} bytes; trained: {sorted(name for name, _ in layer.named_parameters())}")
x = torch.randn(3, 64, generator=seeded(5))
expected = F.linear(x, layer.dequantized(), layer.bias)
print("at the start the dequantized layer, to 1e-5:", torch.allclose(layer(x), expected, atol=1e-5))

# %% [markdown]
# ## 05 Other ways to tune

# %% [markdown]
# ### `PrefixTuning`
#
# The table goes through the MLP in every forward pass while it learns. Once it has learnt, what the MLP gives is a constant, so `fold` keeps that
# and lets the MLP go.

# %% tags=["solution"]
from week4_finetuning.solutions.other_peft import PrefixTuning

# %%
torch.manual_seed(6)
prefix = PrefixTuning(n_prefix=3, n_layers=4, n_heads=4, d_head=32, d_hidden=8)
before = prefix(2)
print(f"{len(before)} layers of keys and values {tuple(before[0][0].shape)}; {sum(p.numel() for p in prefix.parameters()):,} numbers learn")
prefix.fold()
same = all(torch.allclose(x, y, atol=1e-6) for old, new in zip(before, prefix(2), strict=True) for x, y in zip(old, new, strict=True))
print(f"folded: {sum(p.numel() for p in prefix.parameters()):,} numbers, the same output to 1e-6: {same}")

# %% [markdown]
# ### `prefix_attention`
#
# The causal triangle is shifted by the length of the prefix: query i sees the whole prefix and its own past. One softmax over both, so that the
# prefix takes weight away from the text.

# %% tags=["solution"]
from week4_finetuning.solutions.other_peft import prefix_attention

# %%
q, k, v = (torch.randn(2, 4, 5, 8, generator=seeded(7 + i)) for i in range(3))
prefix_k, prefix_v = (torch.randn(2, 4, 3, 8, generator=seeded(10 + i)) for i in range(2))
visible = torch.cat([torch.ones(5, 3), torch.ones(5, 5).tril()], dim=1).bool()
library = F.scaled_dot_product_attention(q, torch.cat([prefix_k, k], 2), torch.cat([prefix_v, v], 2), attn_mask=visible)
print("equal to PyTorch's with an explicit mask, to 1e-5:", torch.allclose(prefix_attention(q, k, v, prefix_k, prefix_v), library, atol=1e-5))

# %% [markdown]
# ### `bitfit_parameters`
#
# By name, and from `named_parameters`, which tells each parameter once and no buffer. Nothing is frozen before it is known that something is
# left to learn.

# %% tags=["solution"]
from week4_finetuning.solutions.other_peft import bitfit_parameters

# %%
biased = copy.deepcopy(theirs)
chosen = bitfit_parameters(biased)
learning = [name for name, parameter in biased.named_parameters() if parameter.requires_grad]
print(f"{sum(p.numel() for _, p in chosen):,} of {sum(p.numel() for p in biased.parameters()):,} numbers learn, all of them biases:",
      learning == [name for name, _ in chosen] and all(name.endswith("bias") for name in learning))

# %% [markdown]
# ## The grade
#
# The grader takes the answers out of a notebook by name, each with just what it needs, and runs each alone in a process of
# its own, on numbers that no lesson has shown. First this notebook:

# %%
grade()

# %% [markdown]
# And yours: the lesson notebooks of this week as they are saved on the disk. (Save them first: Ctrl-S.)

# %% tags=["nbval-ignore-output"]
grade("week4_finetuning")
