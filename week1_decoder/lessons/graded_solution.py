# %% [markdown]
# # Week 1, solved
#
# Every exercise of the week: the solution, why it is right, and its comparison with the library that people use for it. Try
# the lessons first; a solution that you have only read is soon forgotten. At the end the grader judges the solutions above,
# and then your own notebooks.

# %% tags=["nbval-ignore-output"]
import heapq
import io
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import regex
import sentencepiece
import tokenizers
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from shared.data import corpus
from shared.grading import grade
from week1_decoder.solutions.tokenization import (
    GPT2_PATTERN,
    UNKNOWN_PENALTY,
    split_special,
    to_tiktoken,
    to_tokenizers,
)

logging.set_verbosity_error()  # no remarks on how small some models are

# %% [markdown]
# ## 01 Tokenization

# %% [markdown]
# ### `count_pairs`
#
# n ids have n − 1 pairs of neighbours, and `pairwise` yields each of them once. Overlapping pairs count as well, so a run
# 1, 1, 1 holds (1, 1) twice: the counts are those of places, not of merges that could be made.

# %% tags=["solution"]
from week1_decoder.solutions.tokenization import count_pairs

# %%
sample_ids = list(b"a banana, a bandana")
windows = Counter(map(tuple, torch.tensor(sample_ids).unfold(0, 2, 1).tolist()))
print("equal to the windows of torch.Tensor.unfold:", count_pairs(sample_ids) == dict(windows))

# %% [markdown]
# ### `merge_pair`
#
# After a merge the walk moves on by two, so no id takes part in two merges and a run is merged from the left. `str.replace` has the
# same rule, which makes it the oracle here.

# %% tags=["solution"]
from week1_decoder.solutions.tokenization import merge_pair

# %%
written = "aaabaaaabcaa"
merged = merge_pair([ord(character) for character in written], (ord("a"), ord("a")), ord("Z"))
print("".join(map(chr, merged)), "equal to str.replace:", "".join(map(chr, merged)) == written.replace("aa", "Z"))

# %% [markdown]
# ### `train_bpe`
#
# Distinct pre-tokens are held once with their counts, so pairs cannot cross a pre-token and a repeated word costs nothing. A
# merge subtracts the old pairs of the words it changes and adds their new ones, so the counts are always those of the present words.
# A count in the heap can be too high but never too low, because only the pairs with the new id are new and they are pushed with their
# full count: the first entry that is up to date is the largest.

# %% tags=["solution"]
from week1_decoder.solutions.tokenization import train_bpe

# %%
END = "<|endoftext|>"
text = corpus(50_000).replace("\n\n", END)
vocab, merges = train_bpe(text, 600, [END])
library = tokenizers.Tokenizer(tokenizers.models.BPE())
library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
trainer = tokenizers.trainers.BpeTrainer(vocab_size=599, initial_alphabet=alphabet, show_progress=False)
library.train_from_iterator(text.split(END), trainer)
ours = sum(len(to_tiktoken(vocab).encode_ordinary(story)) for story in text.split(END))
theirs = sum(len(library.encode(story).ids) for story in text.split(END))
print(f"{len(vocab)} tokens: 256 bytes, {len(merges)} merges, last {vocab[599]}")
print("tokens within 1 % of the trainer in tokenizers (its ties fall otherwise):", abs(ours - theirs) < 0.01 * theirs)

# %% [markdown]
# ### `encode_bpe`
#
# A merge can only join tokens that earlier merges have made, so replaying them in the order of learning, the lowest rank first,
# gives each pre-token just the tokens that it had at the end of training. Special tokens are cut out before anything else and never
# merged.

# %% tags=["solution"]
from week1_decoder.solutions.tokenization import encode_bpe

# %%
samples = ["Who's there? 🙂 👩‍👩‍👧", "  def f(x):\n        return x**2", "我有12个苹果 \t\n ", f"the end{END}Once", corpus(20_000, seed=1)]
ours = [encode_bpe(sample, vocab, merges, [END]) for sample in samples]
fast = to_tokenizers(vocab, merges, [END])
print("equal to tiktoken:  ", ours == [to_tiktoken(vocab, [END]).encode(sample, allowed_special="all") for sample in samples])
print("equal to tokenizers:", ours == [fast.encode(sample).ids for sample in samples])

# %% [markdown]
# ### `decode_bpe`
#
# A character's bytes may lie in several tokens, so all bytes are joined before anything is decoded. What is still no valid UTF-8
# becomes U+FFFD, because a model may produce any ids.

# %% tags=["solution"]
from week1_decoder.solutions.tokenization import decode_bpe

# %%
generator = torch.Generator().manual_seed(0)
random_ids = [torch.randint(600, (30,), generator=generator).tolist() for _ in range(50)]
theirs = to_tiktoken(vocab, [END])
print("every sample comes back:", [decode_bpe(ids, vocab) for ids in ours] == samples)
print("equal to tiktoken on random ids:", all(decode_bpe(ids, vocab) == theirs.decode(ids) for ids in random_ids))

# %% [markdown]
# ### `wordpiece_tokenize`
#
# From each place the longest piece in the vocabulary is taken, and never given back. Inside a word only pieces with `##` count.
# One place where nothing fits makes the whole word `[UNK]`, since BERT has no bytes to fall back on.

# %% tags=["solution"]
from week1_decoder.solutions.tokenization import wordpiece_tokenize

# %%
library = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
library.train_from_iterator(text.split(END), trainer)
pieces = set(library.get_vocab())
words = sorted(set(regex.findall(r"\w+", corpus(20_000, seed=1)))) + ["naïve", "你好", "unwooded"]
equal = all(wordpiece_tokenize(word, pieces) == [token.value for token in library.model.tokenize(word)] for word in words)
print("equal to WordPiece in tokenizers:", equal)

# %% [markdown]
# ### `unigram_tokenize`
#
# The last piece of the best cut of `text[:end]` starts somewhere, and what stands before it must be cut in the best way too, or it
# could be improved. So one pass over all ends, trying all starts, finds the best of exponentially many cuts. Starts go up and a later one
# must be strictly better, so of equal cuts the one with the longer last piece stays.

# %% tags=["solution"]
from week1_decoder.solutions.tokenization import unigram_tokenize

# %%
model_file = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(text.split(END)), model_writer=model_file, model_type="unigram", vocab_size=300,
    character_coverage=1.0, minloglevel=2,
)
processor = sentencepiece.SentencePieceProcessor(model_proto=model_file.getvalue())
log_probs = {processor.id_to_piece(i): processor.get_score(i) for i in range(3, processor.vocab_size())}
library = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), *log_probs.items()], unk_id=0))
cases = [*corpus(20_000, seed=1).split("\n\n"), "a zebra 🙂 called Zoë"]
marked = ["▁" + case.replace(" ", "▁") for case in cases]
ours = [unigram_tokenize(case, log_probs) for case in marked]
print("equal to sentencepiece:         ", ours == [processor.encode(case, out_type=str) for case in cases])
print("equal to Unigram in tokenizers: ", ours == [library.encode(case).tokens for case in marked])

# %% [markdown]
# ### `pad_batch`
#
# The mask is filled in together with the ids, from the length of each sequence. It cannot be read off the ids afterwards, because a
# sequence may hold `pad_id` itself (GPT-2 pads with its end token).

# %% tags=["solution"]
from week1_decoder.solutions.tokenization import pad_batch

# %%
ragged = [[5, 6, 7], [8], [], [9, 0]]
for side in ("right", "left"):
    token_ids, attention_mask = pad_batch(ragged, 0, side)
    rows = [torch.tensor(row, dtype=torch.long) for row in ragged]
    theirs = pad_sequence(rows, batch_first=True, padding_value=0, padding_side=side)
    lengths = attention_mask.sum(dim=1).tolist()
    print(f"{side:5s} equal to pad_sequence: {torch.equal(token_ids, theirs)}; real tokens by row: {lengths}")

# %% [markdown]
# ## 02 Attention
#
# ### `softmax`
#
# Softmax does not change when one number is taken from all scores of a row. Taking the largest makes every exponent 0 or
# less, so nothing overflows; and one exponent is exactly 0, so the sum is at least 1 and the division is safe.

# %% tags=["solution"]
from week1_decoder.solutions.attention import softmax

# %%
generator = torch.Generator().manual_seed(0)
x = 50 * torch.randn(4, 7, 5, generator=generator)
for dim in (0, 1, -1):
    difference = (softmax(x, dim) - torch.softmax(x, dim)).abs().max().item()
    print(f"softmax along {dim}: within 1e-6 of torch.softmax: {difference < 1e-6}")

# %% [markdown]
# ### `causal_mask`
#
# The queries are the *last* positions. Query i stands at position i + (n_key − n_query), and sees every key up to there. For as
# many queries as keys this is the lower triangle; for one query it is a row of True, which is one step of generation.

# %% tags=["solution"]
from week1_decoder.solutions.attention import causal_mask

# %%
from transformers.masking_utils import causal_mask_function

for n_query, n_key in ((4, 4), (2, 5), (1, 5)):
    theirs = [
        [bool(causal_mask_function(0, 0, i + n_key - n_query, j)) for j in range(n_key)] for i in range(n_query)
    ]
    print(f"{n_query} on {n_key}: equal to transformers' rule: {causal_mask(n_query, n_key).tolist() == theirs}")

# %% [markdown]
# ### `attention`
#
# The scale keeps the variance of the scores at 1 whatever the width of the head. The mask goes in before the softmax, as
# −∞, so that hidden keys get weight 0 *and* the others still sum to 1.

# %% tags=["solution"]
from week1_decoder.solutions.attention import attention

# %%
q, k, v = (torch.randn(2, 3, 6, 8, generator=generator) for _ in range(3))
for name, queries, causal in (("square", q, True), ("4 queries on 6 keys", q[..., -4:, :], True), ("not causal", q, False)):
    mask = causal_mask(queries.shape[-2], 6) if causal else None
    theirs = F.scaled_dot_product_attention(queries, k, v, attn_mask=mask)
    difference = (attention(queries, k, v, causal) - theirs).abs().max().item()
    print(f"{name}: within 1e-5 of scaled_dot_product_attention: {difference < 1e-5}")

# %% [markdown]
# ### `multi_head_attention`
#
# Once a head is a batch axis, all heads are one matrix product. The causal mask has shape (query, key), the padding mask
# (batch, 1, 1, key); broadcasting makes of their "and" one mask for each row of the batch.

# %% tags=["solution"]
from week1_decoder.solutions.attention import multi_head_attention

# %%
d_model, n_heads = 24, 4
x = torch.randn(2, 6, d_model, generator=generator)
weights = [torch.randn(d_model, d_model, generator=generator) / math.sqrt(d_model) for _ in range(4)]
key_mask = torch.tensor([[True] * 6, [True, True, True, True, False, False]])
library = nn.MultiheadAttention(d_model, n_heads, bias=False, batch_first=True)
with torch.no_grad():
    library.in_proj_weight.copy_(torch.cat([w.T for w in weights[:3]]))
    library.out_proj.weight.copy_(weights[3].T)
    theirs, _ = library(x, x, x, key_padding_mask=~key_mask, attn_mask=~causal_mask(6, 6), need_weights=False)
ours = multi_head_attention(x, *weights, n_heads, key_mask)
print(f"within 1e-5 of nn.MultiheadAttention: {(ours - theirs).abs().max().item() < 1e-5}")

# %% [markdown]
# ### `MultiHeadAttention`
#
# The same, with layers. Hidden scores get the lowest finite number: where a real key is visible it is as good as −∞, for
# its exponential is 0 all the same; where nothing is visible the row becomes an even average and stays finite.

# %% tags=["solution"]
from week1_decoder.solutions.attention import MultiHeadAttention

# %%
module = MultiHeadAttention(d_model, n_heads, bias=False)
with torch.no_grad():
    for layer, weight in zip((module.w_q, module.w_k, module.w_v, module.w_o), weights, strict=True):
        layer.weight.copy_(weight.T)
print(f"within 1e-5 of nn.MultiheadAttention: {(module(x, key_mask) - theirs).abs().max().item() < 1e-5}")
left = torch.tensor([[True] * 6, [False, False, True, True, True, True]])
print(f"left padding leaves everything finite: {bool(module(x, left).isfinite().all())}")

# %% [markdown]
# ## 03 The decoder

# %% [markdown]
# ### `sinusoidal_positions`
#
# A pair of columns is one frequency, read as sine and cosine. With both, a shift by $k$ positions is a rotation of each
# pair, so the dot product of two rows depends on their distance alone. No library has this table as a function, so it
# is held against that invariant and against the formula at single entries.

# %% tags=["solution"]
from week1_decoder.solutions.decoder import sinusoidal_positions

# %%
table = sinusoidal_positions(100, 16)
same_distance = table[7:] @ table.T  # entry (i, j): rows i + 7 and j
print("rows 7 apart have one dot product:", torch.allclose(same_distance.diagonal(), same_distance[0, 0].expand(93), atol=1e-4))
print("entries by the formula:", all(
    abs(table[t, 2 * i].item() - math.sin(t / 10000 ** (2 * i / 16))) < 1e-5 for t in (0, 1, 42) for i in range(8)
))

# %% [markdown]
# ### `LayerNorm`
#
# The mean is subtracted before squaring, which keeps the digits that mean(x²) - mean(x)² loses; eps sits inside the root,
# so the gradient stays finite where all values are equal.

# %% tags=["solution"]
from week1_decoder.solutions.decoder import LayerNorm

# %%
x = 5 + 3 * torch.randn(4, 7, 32, generator=torch.Generator().manual_seed(0))
print("LayerNorm = nn.LayerNorm to 1e-5:", (LayerNorm(32)(x) - nn.LayerNorm(32)(x)).abs().max().item() < 1e-5)

# %% [markdown]
# ### `FeedForward`
#
# The formula is GPT-2's tanh form of GELU, not the exact one. The factor 0.5 and the square root are what the check
# looks at first.

# %% tags=["solution"]
from week1_decoder.solutions.decoder import FeedForward

# %%
net = FeedForward(32, 80)
library = nn.Sequential(net.w_in, nn.GELU(approximate="tanh"), net.w_out)
print("FeedForward = nn.GELU(approximate='tanh') to 1e-6:", (net(x) - library(x)).abs().max().item() < 1e-6)

# %% tags=["given"]
from week1_decoder.solutions.decoder import GPTConfig

# %% tags=["given"]
from week1_decoder.solutions.decoder import make_norm

# %% [markdown]
# ### `Block`
#
# In a pre-norm block the sum takes the x from *before* the norm; in a post-norm block the norm takes the sum. `x = x + …` and
# not `x += …`, because the caller still owns x.

# %% tags=["solution"]
from week1_decoder.solutions.decoder import Block

# %%
x = torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(1))
causal = nn.Transformer.generate_square_subsequent_mask(16)
for placement in ("pre", "post"):
    block = Block(GPTConfig(d_model=48, n_heads=4, norm_placement=placement))
    library = nn.TransformerEncoderLayer(
        48, 4, 192, dropout=0.0, batch_first=True, norm_first=placement == "pre",
        activation=lambda h: F.gelu(h, approximate="tanh"),
    )
    qkv = (block.attention.w_q, block.attention.w_k, block.attention.w_v)
    with torch.no_grad():
        library.self_attn.in_proj_weight.copy_(torch.cat([w.weight for w in qkv]))
        library.self_attn.in_proj_bias.copy_(torch.cat([w.bias for w in qkv]))
    library.self_attn.out_proj.load_state_dict(block.attention.w_o.state_dict())
    library.linear1.load_state_dict(block.feed_forward.w_in.state_dict())
    library.linear2.load_state_dict(block.feed_forward.w_out.state_dict())
    gap = (block(x) - library(x, src_mask=causal, is_causal=True)).abs().max().item()
    print(f"{placement}-norm Block = nn.TransformerEncoderLayer to 1e-5:", gap < 1e-5)

# %% [markdown]
# ### `init_weights`
#
# A number of axes tells matrices from vectors, and the end of a name tells the rest. Only `w_o` and `w_out` write into the
# stream, $2L$ times in all, and variances add.

# %% tags=["solution"]
from week1_decoder.solutions.decoder import init_weights

# %% [markdown]
# ### `GPT`
#
# The head is `F.linear` with the embedding's own matrix: no second matrix to train, count or save. Positions count real
# tokens only, so a row keeps its logits whatever padding stands before it.

# %% tags=["solution"]
from week1_decoder.solutions.decoder import GPT

# %%
torch.manual_seed(0)  # for transformers, whose initialisation takes no generator
start = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=64, n_layer=8, n_head=4, bos_token_id=0, eos_token_id=0))
model = GPT(GPTConfig(vocab_size=300, context_length=64, d_model=64, n_heads=4, n_layers=8), torch.Generator().manual_seed(0))
for part in ("w_in", "w_out"):
    ours = torch.cat([getattr(block.feed_forward, part).weight.flatten() for block in model.blocks]).std().item()
    theirs = torch.cat([
        (block.mlp.c_fc if part == "w_in" else block.mlp.c_proj).weight.flatten() for block in start.transformer.h
    ]).std().item()
    print(f"{part:5s} starts with standard deviation {ours:.3f}, in transformers with {theirs:.3f}")

token_ids = torch.randint(300, (1, 10), generator=torch.Generator().manual_seed(2))
padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), token_ids], dim=1)
real = torch.arange(13)[None] >= 3
with torch.no_grad():
    gap = (model(padded, real)[:, 3:] - model(token_ids)).abs().max().item()
print("padding on the left changes no logit:", gap < 1e-5)

# %% [markdown]
# ### `count_parameters`
#
# Once through the modules. The two places to slip are the head, which is free, and the final norm, which a post-norm model does
# not have.

# %% tags=["solution"]
from week1_decoder.solutions.decoder import count_parameters

# %%
with torch.device("meta"):
    by_module = sum(parameter.numel() for parameter in GPT(GPTConfig()).parameters())
    by_transformers = GPT2LMHeadModel(GPT2Config()).num_parameters()
print(f"formula {count_parameters(GPTConfig()):,}, module {by_module:,}, transformers {by_transformers:,}")

# %% [markdown]
# ### `transformer_flops`
#
# Every product once, $2\,m\,k\,n$ each. The number of heads drops out: $h$ heads of width $d/h$ do as much as one of width $d$.

# %% tags=["solution"]
from week1_decoder.solutions.decoder import transformer_flops

# %%
for n_tokens in (1024, 16_384):
    config = GPTConfig(context_length=n_tokens)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        GPT(config)(torch.zeros(1, n_tokens, dtype=torch.long))
    parts = transformer_flops(config, n_tokens)
    total = sum(parts.values())
    print(f"{n_tokens:6,} tokens: {total:,} FLOPs, PyTorch counts {counter.get_total_flops():,}; "
          f"attention's share {parts['attention'] / total:.0%}")

# %% [markdown]
# ### `from_gpt2_state_dict`
#
# Names are compared as sets before anything is converted, so nothing is dropped or missed in silence. The layout is read off
# `c_attn`, the one matrix that is never square, and holds for the whole file.

# %% tags=["solution"]
from week1_decoder.solutions.decoder import from_gpt2_state_dict

# %%
gpt2 = GPT2LMHeadModel(
    GPT2Config(vocab_size=311, n_positions=64, n_embd=96, n_layer=4, n_head=6, bos_token_id=0, eos_token_id=0)
).eval()
generator = torch.Generator().manual_seed(4)
with torch.no_grad():
    for parameter in gpt2.parameters():
        parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
published = gpt2.state_dict()
linear = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
as_nanogpt = {name: value.T if name.endswith(linear) else value for name, value in published.items()}
as_mingpt = as_nanogpt | {f"transformer.h.{i}.attn.bias": torch.ones(64, 64).tril()[None, None] for i in range(4)}

config = GPTConfig(vocab_size=311, context_length=64, d_model=96, n_heads=6, n_layers=4)
token_ids = torch.randint(311, (2, 64), generator=generator)
for label, state_dict in (("Hugging Face", published), ("nanoGPT", as_nanogpt), ("minGPT", as_mingpt)):
    model = GPT(config)
    model.load_state_dict(from_gpt2_state_dict(state_dict, config))
    with torch.no_grad():
        gap = (model(token_ids) - gpt2(token_ids).logits).abs().max().item()
    print(f"{label}: logits equal to 1e-4:", gap < 1e-4)

# %% [markdown]
# ## 04 Language modelling

# %%
_ = torch.manual_seed(0)  # for transformers, whose initialisation takes no generator
small = {"vocab_size": 97, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
small_gpt2 = GPT2LMHeadModel(GPT2Config(**small)).eval()
attention_mask = (torch.arange(12) < torch.tensor([[12], [7], [2]])).long()  # three rows, padded on the right
token_ids = torch.randint(1, 97, (3, 12)) * attention_mask
labels = token_ids.masked_fill(attention_mask == 0, -100)  # as transformers takes them: not shifted
with torch.no_grad():
    small_gpt2_output = small_gpt2(token_ids, attention_mask=attention_mask, labels=labels)

# %% [markdown]
# ### `next_token_targets`
#
# The logits at position t have seen the tokens up to t, so the target there is token t + 1. The last position has no next
# token. A position counts only if it and its target are real: the mask has to be compared with itself, shifted by one.

# %% tags=["solution"]
from week1_decoder.solutions.language_modeling import next_token_targets

# %%
targets = next_token_targets(token_ids, attention_mask)
shifted_by_transformers = F.pad(labels, (0, 1), value=-100)[:, 1:]
print("next_token_targets: equal to the labels that transformers shifts inside:", torch.equal(targets, shifted_by_transformers))

# %% [markdown]
# ### `cross_entropy`
#
# -ln softmax(z)[y] is rewritten as logsumexp(z) - z[y]: no exponential can overflow, and no probability is rounded to zero before
# its logarithm. Ignored targets are given a valid index for the look-up and are left out of the mean, so neither their loss
# nor their gradient counts. The mean over no targets is nan, as in PyTorch.

# %% tags=["solution"]
from week1_decoder.solutions.language_modeling import cross_entropy

# %%
logits = (5 * torch.randn(3, 8, 11)).requires_grad_()
some_targets = torch.randint(0, 11, (3, 8)).masked_fill(torch.rand(3, 8) < 0.4, -100)
ours, theirs = cross_entropy(logits, some_targets), F.cross_entropy(logits.flatten(0, 1), some_targets.flatten())
(our_gradient,), (their_gradient,) = torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits)
model_loss = cross_entropy(small_gpt2_output.logits, targets)
far = torch.tensor([[300.0, 0.0, -300.0]])
print("cross_entropy: F.cross_entropy, difference below 1e-5:", (ours - theirs).abs().item() < 1e-5)
print("cross_entropy: its gradient, difference below 1e-6:", (our_gradient - their_gradient).abs().max().item() < 1e-6)
print("cross_entropy: loss of GPT2LMHeadModel, difference below 1e-5:", (model_loss - small_gpt2_output.loss).abs().item() < 1e-5)
print("cross_entropy: logits 600 apart:", round(cross_entropy(far, torch.tensor([2])).item(), 3))

# %% [markdown]
# ### `perplexity`
#
# Adding up nats before dividing gives every token the same weight, however the corpus is cut. Averaging perplexities would not:
# exp is convex, so one bad sequence would decide the result. Empty sequences are left out before the product, since 0 · nan is nan.

# %% tags=["solution"]
from week1_decoder.solutions.language_modeling import perplexity

# %%
parts = (1, 25, 14)
logits, some_targets = 2 * torch.randn(40, 13), torch.randint(0, 13, (40,))
losses = torch.stack([F.cross_entropy(z, y) for z, y in zip(logits.split(parts), some_targets.split(parts), strict=True)])
whole = F.cross_entropy(logits, some_targets).exp().item()
print("perplexity: three parts give that of the whole to 1e-5:", abs(perplexity(losses, torch.tensor(parts)) / whole - 1) < 1e-5)
print("perplexity: three tokens at ln 2 and one at ln 8:", round(perplexity(torch.tensor([2.0, 8.0]).log(), torch.tensor([3, 1])), 4))

# %% [markdown]
# ### `bits_per_byte`
#
# The probability of the whole text and its length in bytes do not depend on the tokenizer; everything per token does. Bytes are
# counted in UTF-8, for a character outside ASCII has two to four of them.

# %% tags=["solution"]
from week1_decoder.solutions.language_modeling import bits_per_byte

# %%
text = "sixteen bytes ok"
for bytes_per_token in (1, 2, 4):
    nats = len(text) // bytes_per_token * math.log(256**bytes_per_token)
    print(f"bits_per_byte: random bytes, {bytes_per_token} per token: {bits_per_byte(nats, text):.6f}")
print(f"bits_per_byte: 8 bits for the 5 bytes of ¿no?: {bits_per_byte(8 * math.log(2), '¿no?'):.6f}")

# %% [markdown]
# ### `bigram_cross_entropy`
#
# A pair gets one number, so a single `bincount` makes the whole table. Each row is divided by its own sum: p(b | a) sums to one
# over b. The smoothing enters the denominator once for each token of the vocabulary; without it one unseen pair would make
# the loss infinite.

# %% tags=["solution"]
from week1_decoder.solutions.language_modeling import bigram_cross_entropy

# %%
walk = torch.randint(1, 4, (400,)).cumsum(0) % 7  # a text with structure: forwards by one to three, modulo 7
train_ids, test_ids = walk[:300], walk[300:]
table = torch.full((7, 7), 0.2)
table.index_put_((train_ids[:-1], train_ids[1:]), torch.tensor(1.0), accumulate=True)
theirs = F.cross_entropy(table.log()[test_ids[:-1]], test_ids[1:]).item()  # it normalizes each row itself
difference = abs(bigram_cross_entropy(train_ids, test_ids, 7, smoothing=0.2) - theirs)
print("bigram_cross_entropy: F.cross_entropy on the logarithm of the counts, difference below 1e-5:", difference < 1e-5)
row = [math.exp(-bigram_cross_entropy(train_ids, torch.tensor([0, b]), 9)) for b in range(9)]
print("bigram_cross_entropy: one row of probabilities sums to", round(sum(row), 4))

# %% [markdown]
# ### `completion_log_prob`
#
# The same shift once more: `logits[:, t]` scores token t + 1, so logits lose their last position, tokens and mask their first.
# The sum, not the mean, is ln p(completion | prompt), for probabilities of a sequence multiply.

# %% tags=["solution"]
from week1_decoder.solutions.language_modeling import completion_log_prob

# %%
starts, ends = torch.tensor([[3], [4], [1]]), torch.tensor([[12], [7], [2]])
mask = (torch.arange(12) >= starts) & (torch.arange(12) < ends)
ours = completion_log_prob(small_gpt2_output.logits, token_ids, mask)
with torch.no_grad():
    losses = [small_gpt2(token_ids[i : i + 1], labels=token_ids.masked_fill(~mask, -100)[i : i + 1]).loss for i in range(3)]
theirs = -torch.stack(losses) * mask.sum(dim=1)
print("completion_log_prob: GPT2LMHeadModel, difference below 1e-4:", (ours - theirs).abs().max().item() < 1e-4)

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
grade("week1_decoder")
