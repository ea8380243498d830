# %% [markdown]
# # Tokenization
#
# A language model never sees text. It sees whole numbers, the *token ids*, and each of them picks one row of a matrix.
# Something has to turn text into ids and ids back into text: the tokenizer. It is made before the model is trained, and it
# can never be changed afterwards. It decides how many rows the matrix has, how long every sequence gets and so what it costs,
# and what the model can see at all: a model whose tokenizer says ` strawberry` in one token is never shown its letters.
#
# You will write three tokenizers of the kinds that are in use: byte-level BPE (GPT-2 and nearly every model since), WordPiece
# (BERT) and unigram (T5, through SentencePiece), and then the batch that a model is fed with. At the end of each part, the
# library that people use gets *your* tokenizer, and has to return *your* ids.
#
# Reading and writing: about two and a half hours; the three tokenizers are good places for a break. Papers: Sennrich et al. 2016
# ([arXiv:1508.07909](https://arxiv.org/abs/1508.07909)), Radford et al. 2019 (GPT-2), Schuster & Nakajima 2012,
# Kudo 2018 ([arXiv:1804.10959](https://arxiv.org/abs/1804.10959)).

# %%
import heapq
import html
import inspect
import io
import json
import math
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise

import matplotlib.pyplot as plt
import regex
import sentencepiece
import tiktoken
import tokenizers
import torch
from IPython.display import HTML, display
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from shared import borrow, check, explore, hint, mine, models, progress
from shared.data import corpus, stories
from shared.plotting import COLOURS, HATCHES, figure
from shared.runtime import hub_reachable

# %% [markdown]
# ## Characters and bytes
#
# Unicode gives each character a number, its *code point*; there are about 160,000 of them today and room for a million.
# UTF-8 writes a code point as one to four bytes. ASCII characters keep their one byte; all others are made of bytes from
# 128 up, so no part of a longer character can be taken for a letter.

# %%
for character in "aé€你🙂":
    data = character.encode()
    print(f"{character}  U+{ord(character):04X}  {len(data)} bytes: {list(data)}")

# %% [markdown]
# **Predict.** How many characters has `naïve 🙂`, how many bytes? And are `é` and `é` equal?

# %%
text = "naïve 🙂"
print(len(text), "characters,", len(text.encode()), "bytes")
one, two = "\u00e9", "e\u0301"
print(one, two, one == two, [unicodedata.name(character) for character in two])

# %% [markdown]
# <details><summary>Answer</summary>
#
# 7 characters; ï has two bytes and the emoji four, so 11 bytes. The two é look the same, but the second is an e followed by an
# accent. `unicodedata.normalize("NFC", text)` makes them equal; many tokenizers do that first. GPT-2's does not: it gives back
# exactly the text it was given, and pays with two sets of tokens for the same word.
#
# </details>
#
# What should the ids stand for?
#
# | unit | vocabulary | what is wrong with it |
# |---|---|---|
# | words | hundreds of thousands | the next text has a new word; *play*, *plays*, *played* have nothing in common |
# | characters | 160,000 | most are too rare to learn anything about them, and sequences are long |
# | bytes | 256 | nothing is ever unknown, but a story of 700 letters is 700 steps long |
#
# Subwords lie between: start from bytes, and give a new id to what often stands together. That is **byte pair encoding**: a
# compression scheme of 1994 (Gage), which Sennrich et al. brought to translation, and GPT-2 to bytes.
#
# ## Byte pair encoding in two functions
#
# All the learning there is consists of counting,
#
# $$\operatorname{count}(a, b) = \#\{\, i : x_i = a,\; x_{i+1} = b \,\}$$

# %% tags=["exercise"]
from week1_decoder.solutions.tokenization import count_pairs

# %% [markdown]
# and of merging the commonest pair into a new id:

# %% tags=["exercise"]
from week1_decoder.solutions.tokenization import merge_pair

# %% [markdown]
# Put them in a loop and watch. Every merge makes the sequence shorter and the vocabulary one larger.

# %%
text = "low lower lowest slow slower slowest"
ids, names = list(text.encode()), {byte: chr(byte) for byte in range(256)}
print(f"{len(ids):3d} ids")
for new_id in range(256, 262):
    counts = count_pairs(ids)
    pair = max(counts, key=lambda pair: (counts[pair], pair))
    ids = merge_pair(ids, pair, new_id)
    names[new_id] = names[pair[0]] + names[pair[1]]
    print(f"{len(ids):3d} ids after {counts[pair]} × {names[new_id]!r}:", "|".join(names[i] for i in ids))

# %% [markdown]
# ## Where a merge may not go
#
# Left alone, BPE would also make tokens like `e. The` and `dog!`, one for each sign that can follow a word. GPT-2 therefore
# first cuts the text into *pre-tokens*, and no merge ever crosses from one into the next. The cut is one regular expression;
# `\p{L}` is any letter and `\p{N}` any digit of any script, which is why the package `regex` is needed in place of `re`.

# %%
from week1_decoder.solutions.tokenization import GPT2_PATTERN

print(GPT2_PATTERN)
for sample in ("Who's there? 42 owls!", "for i in range(10):\n    x += 1", "我有12个苹果"):
    print(regex.findall(GPT2_PATTERN, sample))

# %% [markdown]
# A space belongs to the word *after* it: ` owls` and `owls` are different tokens. Of several spaces all but the last stay
# together, which the indented line shows.
#
# **Predict.** Chinese writes no spaces. What does the pattern do to a Chinese sentence without a comma, and what could BPE then
# learn as one token?
#
# <details><summary>Answer</summary>
#
# The whole sentence is one run of letters, one pre-token. Merges may run across words, so common phrases become tokens. Newer
# patterns differ in such places: GPT-4's takes digits in groups of at most three, and lets one sign join the word after it.
#
# </details>
#
# **Special tokens** are not text. `<|endoftext|>` says that a document ends; it must not be learnt from letters, nor merged with
# anything. So texts are cut around them before all else. This is given:

# %% tags=["given"]
from week1_decoder.solutions.tokenization import split_special

# %% [markdown]
# ## Training
#
# With $W$ the distinct pre-tokens and $n_w$ how often each occurs, each step takes
#
# $$(a, b) = \arg\max_{(a, b)} \sum_{w \in W} n_w \operatorname{count}_w(a, b)$$
#
# and merges it in all of $W$. Of equal pairs we take the lexicographically greater, as Python compares `(bytes, bytes)`.
# Counting everything anew for each merge is a few lines, and much too slow. Three observations make it fast:
#
# 1. A text of a million bytes has few distinct pre-tokens. Count those, once.
# 2. A merge changes only the words that hold its pair. Take *their* pairs out of the counts, and put the new ones in.
# 3. To find the largest count, keep a heap. Counts of the pairs in it only ever fall, so an entry may be out of date but never
#    too low: if a popped entry is out of date, push it back with its present count, and pop again.
#
# This is the hardest exercise of the lesson. Write the slow version first: the check accepts it.

# %% tags=["exercise"]
from week1_decoder.solutions.tokenization import train_bpe

# %% [markdown]
# Now on the course's stories, with one special token between them:

# %% tags=["nbval-ignore-output"]
END = "<|endoftext|>"
train_text = corpus(400_000).replace("\n\n", END)
start = time.perf_counter()
vocab, merges = train_bpe(train_text, 1024, [END])
seconds = time.perf_counter() - start

distinct = len(set(regex.findall(GPT2_PATTERN, train_text)))
print(
    f"{len(train_text):,} bytes, {distinct:,} distinct pre-tokens, {len(merges)} merges in {seconds:.2f} s"
)
print("first:", [(left + right).decode() for left, right in merges[:12]])
print("last: ", [(left + right).decode() for left, right in merges[-6:]])
print("special:", {i: token for i, token in vocab.items() if i >= 256 + len(merges)})

# %% [markdown]
# The first merges are the commonest letter pairs and small words; the last are mostly whole words with their space. How long would it
# have taken to count everything again for every merge? A twentieth of the text and 60 merges are enough to see:


# %% tags=["nbval-ignore-output"]
def train_slowly(text: str, n_merges: int) -> list[tuple[bytes, bytes]]:
    words = [list(word.encode()) for word in regex.findall(GPT2_PATTERN, text)]
    tokens = {byte: bytes([byte]) for byte in range(256)}
    slow_merges = []
    for new_id in tqdm(range(256, 256 + n_merges), desc="counting everything anew"):
        counts = Counter()
        for word in words:
            counts.update(count_pairs(word))
        pair = max(counts, key=lambda pair: (counts[pair], tokens[pair[0]], tokens[pair[1]]))
        words = [merge_pair(word, pair, new_id) for word in words]
        tokens[new_id] = tokens[pair[0]] + tokens[pair[1]]
        slow_merges.append((tokens[pair[0]], tokens[pair[1]]))
    return slow_merges


part = train_text[:20_000].replace(END, "\n\n")
start = time.perf_counter()
slow = train_slowly(part, 60)
slow_seconds = time.perf_counter() - start
start = time.perf_counter()
fast = train_bpe(part, 256 + 60)[1]
fast_seconds = time.perf_counter() - start
print(f"the same merges: {slow == fast}; {slow_seconds:.2f} s against {fast_seconds:.3f} s")
print(
    f"at that rate, the {len(merges)} merges above would take {slow_seconds * 20 * len(merges) / 60 / 60:.0f} minutes"
)

# %% [markdown]
# ## Encoding
#
# A trained tokenizer is a list of merges in the order of their learning. To encode a pre-token, replay it: of all pairs of
# neighbours, merge the one that was learnt *first*; again; until no pair is in the list.
#
# $$\text{next merge} = \arg\min_{(x_i,\, x_{i+1})} \operatorname{rank}(x_i, x_{i+1})$$
#
# Words come back, so remember what each pre-token became (`functools.cache` does it).

# %% tags=["exercise"]
from week1_decoder.solutions.tokenization import encode_bpe

# %% [markdown]
# ## Decoding
#
# Join the bytes, read them as UTF-8. The one trap: a model may produce *any* ids in any order, for instance the first half of an
# emoji and then a full stop. Such bytes are no text. Python can put U+FFFD, the sign �, in their place.

# %% tags=["exercise"]
from week1_decoder.solutions.tokenization import decode_bpe

# %%
sample = "Rufus was a small dog who liked toast. 🙂"
ids = encode_bpe(sample, vocab, merges)
print(ids)
print(decode_bpe(ids, vocab) == sample, "|", decode_bpe(ids[:-2], vocab))

# %% [markdown]
# Numbers are hard to look at. This small function colours tokens; a token that is no whole character is shown as its bytes.


# %%
def show_tokens(ids: list[int], vocab: Mapping[int, bytes], note: str = "") -> HTML:
    """Each token on its own ground; the grounds are translucent, so they suit light and dark themes."""
    spans = []
    for i, token_id in enumerate(ids):
        try:
            shown = html.escape(vocab[token_id].decode()).replace("\n", "↵\n")
        except UnicodeDecodeError:
            shown = f"<small>{vocab[token_id].hex()}</small>"
        ground = COLOURS[[0, 1, 2, 4][i % 4]] + "66"
        spans.append(
            f'<span title="{token_id}" style="background:{ground};padding:1px 0;border-radius:3px">{shown}</span>'
        )
    n_bytes = sum(len(vocab[token_id]) for token_id in ids)
    counted = (
        f"{note} {n_bytes} bytes in {len(ids)} tokens: {n_bytes / max(len(ids), 1):.2f} bytes per token"
    )
    return HTML(
        f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7">{"".join(spans)}</div><small>{counted}</small>'
    )


display(show_tokens(ids, vocab))

# %% [markdown]
# ### Find the bug
#
# Someone found a way to encode without any ranks: cut off the longest token that fits, and go on. It is shorter and faster, and
# their test passes, for it checks that decoding gives the text back.


# %%
def encode_longest(text: str, vocab: Mapping[int, bytes]) -> list[int]:
    id_of = {token: token_id for token_id, token in vocab.items()}
    ids = []
    for pretoken in regex.findall(GPT2_PATTERN, text):
        rest = pretoken.encode()
        while rest:
            n = next(n for n in range(len(rest), 0, -1) if rest[:n] in id_of)
            ids.append(id_of[rest[:n]])
            rest = rest[n:]
    return ids


held_out = corpus(60_000, split="validation")
assert decode_bpe(encode_longest(held_out, vocab), vocab) == held_out

# %% [markdown]
# **Predict.** The text comes back, so what is wrong with it? Will it need many more tokens than yours?

# %%
words = Counter(regex.findall(GPT2_PATTERN, held_out))
small_vocab, small_merges = {i: vocab[i] for i in range(512)}, merges[:256]
other = [
    word
    for word in words
    if encode_longest(word, small_vocab) != encode_bpe(word, small_vocab, small_merges)
]
for word in other[:4]:
    for name, ids in (
        ("ranks", encode_bpe(word, small_vocab, small_merges)),
        ("longest", encode_longest(word, small_vocab)),
    ):
        print(f"{name:8s}", "|".join(vocab[i].decode() for i in ids))
n_right, n_longest = (
    len(encode_bpe(held_out, small_vocab, small_merges)),
    len(encode_longest(held_out, small_vocab)),
)
print(
    f"{len(other)} of {len(words)} words differ; {n_right:,} tokens by ranks, {n_longest:,} by the longest match"
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# It needs almost the same number of tokens, and as a tokenizer of its own it would be fine. But it is *another* tokenizer: on
# these words a model that was trained with the ranks gets combinations of ids that it has never seen. Nothing fails, everything is
# a little worse. A round trip proves that no text is lost. Only a comparison of **ids** with the tokenizer that the model was
# trained with proves that yours is the same.
#
# </details>
#
# ## The same from tiktoken and tokenizers
#
# Two libraries encode byte-level BPE in practice: OpenAI's `tiktoken` and Hugging Face's `tokenizers`, both written in Rust.
# tiktoken wants the tokens with their ranks. Hugging Face's files hold text and not bytes, so each byte is written as one
# printable character: that is where the `Ġ` in every vocabulary comes from, it is the space. Given:

# %% tags=["given"]
from week1_decoder.solutions.tokenization import byte_characters

# %% tags=["given"]
from week1_decoder.solutions.tokenization import to_tokenizers

# %% tags=["given"]
from week1_decoder.solutions.tokenization import to_tiktoken

# %%
awkward = [
    held_out[:5000],
    "emoji 🙂🙃 👩‍👩‍👧‍👦, a flag 🇨🇭, an accent e\u0301",
    "white   space \t\n\n   at  the end   ",
    "def f(x):\n        return x**2  # it's 1_000.0\r\n",
    "我有12个苹果，你有几个？",
    "مرحبا नमस्ते สวัสดี",
    END + "a story" + END + END + " ends",
]
ours = [encode_bpe(text, vocab, merges, [END]) for text in awkward]
fast_tiktoken = to_tiktoken(vocab, [END])
fast_tokenizer = to_tokenizers(vocab, merges, [END])
assert ours == [fast_tiktoken.encode(text, allowed_special="all") for text in awkward]
assert ours == [fast_tokenizer.encode(text).ids for text in awkward]
assert [decode_bpe(ids, vocab) for ids in ours] == awkward
print(f"tiktoken and tokenizers give your ids on all {len(awkward)} texts, {sum(map(len, ours)):,} tokens")

# %% [markdown]
# `fast_tokenizer.save("tokenizer.json")` would write the file that lies beside the weights of nearly every open model.
#
# Trained by the library on the same text, the merges are not the same: it takes the pair with the *lowest ids* where pairs are
# equally common. Does it matter?

# %%
library = tokenizers.Tokenizer(tokenizers.models.BPE())
library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
trainer = tokenizers.trainers.BpeTrainer(vocab_size=1023, initial_alphabet=alphabet, show_progress=False)
library.train_from_iterator(train_text.split(END), trainer)

their_merges = [tuple(pair) for pair in json.loads(library.to_str())["model"]["merges"]]
characters = byte_characters()
our_merges = [tuple("".join(characters[byte] for byte in token) for token in pair) for pair in merges]
alike = next(i for i, (a, b) in enumerate(zip(our_merges, their_merges, strict=True)) if a != b)
print(
    f"the first {alike} merges are the same, and {len(set(our_merges) & set(their_merges))} of all {len(merges)}"
)
n_ours, n_theirs = len(encode_bpe(held_out, vocab, merges)), len(library.encode(held_out).ids)
print(f"tokens on unseen stories: {n_ours:,} with yours, {n_theirs:,} with theirs")

# %% [markdown]
# It does not, as long as training and encoding hold to one rule.
#
# And the other way round: a real model's merges in *your* function. SmolLM2's tokenizer is byte-level BPE with 48,900 merges. (It
# cuts numbers into single digits first, so the sample has none. The first time, this fetches about 100 MB, which the next lesson
# needs too.) GPT-2's own comes from the hub, where there is one.


# %%
def encode_with_theirs(description: dict, text: str) -> list[int]:
    """Your encode_bpe with the vocabulary and the merges of a tokenizer.json."""
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}

    def to_bytes(written: str) -> bytes:
        return bytes(byte_of[character] for character in written)

    model = description["model"]
    special = {token["content"] for token in description["added_tokens"]}
    theirs = {i: to_bytes(written) for written, i in model["vocab"].items() if written not in special}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return encode_bpe(text, theirs, [(to_bytes(left), to_bytes(right)) for left, right in pairs])


# %%
def smollm2_tokenizer() -> tokenizers.Tokenizer:
    if not models.available():
        models.smollm2()  # fetches it
    return tokenizers.Tokenizer.from_file(str(models.smollm2_folder() / "tokenizer.json"))


def gpt2_tokenizer() -> tokenizers.Tokenizer:
    if not hub_reachable():
        raise ConnectionError("no Hugging Face hub here")
    return tokenizers.Tokenizer.from_pretrained("gpt2")


sample = "It's a trap! Naïve owls — 猫头鹰 🦉 — said:\n\n    def owl():  pass"
assert encode_with_theirs(json.loads(fast_tokenizer.to_str()), sample) == encode_bpe(sample, vocab, merges)
for name, load in {"SmolLM2": smollm2_tokenizer, "GPT-2": gpt2_tokenizer}.items():
    try:
        theirs = load()
    except Exception as error:
        print(f"{name}: not reached ({type(error).__name__})")
        continue
    expected = theirs.encode(sample, add_special_tokens=False).ids
    equal = encode_with_theirs(json.loads(theirs.to_str()), sample) == expected
    print(f"{name}, {theirs.get_vocab_size():,} tokens: your ids are its ids: {equal}")
    assert equal

# %% [markdown]
# ## How large a vocabulary?
#
# A larger vocabulary means shorter sequences, and more rows in the embedding: GPT-2's 50,257 tokens take
# 50,257 · 768 = 38.6 million of its 124 million parameters. Merges are nested: the first $n$ merges *are* the tokenizer of that size.
# So one training gives the whole curve.
#
# **Predict.** From 256 tokens to 1,024, how many bytes per token do you expect on unseen stories? On Python code? On Chinese, where a
# character has three bytes?

# %%
chinese = (
    "小狐狸住在森林边上的一间小木屋里。每天早上，它都去河边打水。有一天，河水结了冰，它只好请邻居帮忙。"
    "邻居是一只老獾，年纪大了，走得很慢，可是力气不小。它们一起把冰敲开，打满了两桶水。"
    "回家的路上下起了雪，小狐狸把围巾分给老獾一半。从那以后，它们每天早上都一起去河边。"
)
english = (
    "The little fox lived in a small wooden house at the edge of the forest. Every morning it went to the river for water. "
    "One day the river was frozen, and it had to ask its neighbour for help. The neighbour was an old badger, who was getting on "
    "in years and walked slowly, but was quite strong. Together they broke the ice and filled two buckets. On the way home it "
    "began to snow, and the little fox gave half of its scarf to the old badger. From then on they went to the river together "
    "every morning."
)
code = {
    name: inspect.getsource(__import__(name))
    for name in ("argparse", "inspect", "tarfile", "textwrap", "calendar")
}
unseen = {"stories": held_out, "Python code": code["textwrap"] + code["calendar"], "Chinese": chinese}


def bytes_per_token(text: str, vocab: Mapping[int, bytes], merges: list) -> tuple[float, float]:
    """Mean over eight parts of the text, and its standard error."""
    size = math.ceil(len(text) / 8)
    parts = [text[i : i + size] for i in range(0, len(text), size)]
    ratios = torch.tensor([len(part.encode()) / len(encode_bpe(part, vocab, merges)) for part in parts])
    return ratios.mean().item(), ratios.std().item() / math.sqrt(len(parts))


# %% tags=["nbval-ignore-output"]
large_vocab, large_merges = train_bpe(train_text, 8192)
sizes = [n for n in (256, 320, 384, 512, 768, 1024, 1536, 2048, 3072, 4096) if n < len(large_vocab)] + [
    len(large_vocab)
]
fig, ax = figure("", "vocabulary size (tokens)", "bytes per token", height=4)
at_1024 = {}
for (name, text), colour, marker in zip(
    tqdm(unseen.items(), desc="encoding"), COLOURS, "os^", strict=False
):
    measured = [
        bytes_per_token(text, {i: large_vocab[i] for i in range(n)}, large_merges[: n - 256]) for n in sizes
    ]
    mean, error = map(torch.tensor, zip(*measured, strict=True))
    ax.errorbar(sizes, mean, yerr=2 * error, fmt=marker + "-", color=colour, capsize=3, label=name)
    at_1024[name] = mean[sizes.index(1024)].item()
ax.set_xscale("log", base=2)
ax.set_xticks([256, 512, 1024, 2048], ["256", "512", "1,024", "2,048"])
ax.set_title(
    f"1,024 tokens learnt on stories hold {at_1024['stories']:.1f} bytes each on stories,\n"
    f"{at_1024['Python code']:.1f} on code and {at_1024['Chinese']:.1f} on Chinese",
    loc="left",
    fontsize=11,
)
ax.legend(frameon=False)
plt.show()

used = Counter(encode_bpe(train_text, large_vocab, large_merges))
rare = sum(0 < n < 20 for n in used.values()) / len(used)
print(
    f"no pair was left at {len(large_vocab):,} tokens; {rare:.0%} of those that are used occur fewer than 20 times"
)

# %% [markdown]
# Error bars are two standard errors over eight parts of each text.
#
# On stories the curve bends where every word has become one token: no merge can cross a space. And compression is not quality.
# The last tokens are rare words, each seen a few times, and a model cannot learn much about them. Nor can the losses per token of two
# tokenizers be compared, since their tokens differ in size; lesson 04 compares them per byte.
#
# ## The wrong kind of text
#
# On Chinese the tokenizer has learnt nothing at all: one token for each byte, three for each character. Look:

# %%
display(show_tokens(encode_bpe(english[:190], vocab, merges), vocab, "English:"))
display(show_tokens(encode_bpe(chinese[:36], vocab, merges), vocab, "Chinese:"))
display(show_tokens(encode_bpe("def area(r):\n    return 3.14159 * r ** 2", vocab, merges), vocab, "Code:"))

# %% [markdown]
# With the slider you can watch words grow together as the vocabulary does:


# %%
def at_vocab_size(vocab_size: int) -> HTML:
    part = {i: vocab[i] for i in range(vocab_size)}
    return show_tokens(encode_bpe(english[:190], part, merges[: vocab_size - 256]), vocab)


explore(at_vocab_size, vocab_size=(256, 1023, 400))

# %% [markdown]
# Is it the size of the vocabulary, or what it was trained on? Here are three tokenizers of the same size, each trained on as many
# bytes. The two paragraphs say the same, so their tokens can be counted against each other: whoever pays for tokens pays for the
# difference, and so does whoever has a context of 1,024 of them.

# %%
code_text = code["argparse"] + code["inspect"] + code["tarfile"]
size = len(code_text)
stories_text = corpus(size)
training = {
    "stories": stories_text,
    "code": code_text,
    "half and half": stories_text[: size // 2] + code_text[: size // 2],
}
trained = {name: train_bpe(text, 1024) for name, text in tqdm(training.items(), desc="training")}

fig, ax = figure("", "", "bytes per token on unseen text", height=4)
places = torch.arange(len(unseen))
table = {}
for i, (name, tokenizer) in enumerate(trained.items()):
    measured = [bytes_per_token(text, *tokenizer) for text in unseen.values()]
    mean, error = map(torch.tensor, zip(*measured, strict=True))
    ax.bar(
        places + 0.27 * (i - 1),
        mean,
        0.25,
        yerr=2 * error,
        capsize=3,
        color=COLOURS[i],
        hatch=HATCHES[i],
        label=f"trained on {name}",
    )
    table[name] = mean.tolist()
ax.set_xticks(places, list(unseen))
lost = [1 - table["half and half"][i] / table[name][i] for i, name in enumerate(("stories", "code"))]
ax.set_title(
    f"Trained on half and half, a token holds {100 * lost[0]:.0f} % fewer bytes of stories\n"
    f"and {100 * lost[1]:.0f} % fewer of code; for Chinese nothing is learnt",
    loc="left",
    fontsize=11,
)
ax.legend(frameon=False)
plt.show()
for name, (tokens, pairs) in trained.items():
    n_chinese, n_english = len(encode_bpe(chinese, tokens, pairs)), len(encode_bpe(english, tokens, pairs))
    print(
        f"trained on {name:13s}: the same paragraph is {n_chinese} tokens in Chinese, {n_english} in English"
    )

# %% [markdown]
# ## WordPiece
#
# Google's WordPiece is older (Schuster & Nakajima 2012, for Japanese and Korean voice search) and is what BERT uses. It too
# grows its vocabulary by merges, but takes the pair that raises the likelihood of the text the most. In the form that is
# usually given (Google's own code was never published),
#
# $$\operatorname{score}(a, b) = \frac{\operatorname{count}(a, b)}{\operatorname{count}(a)\,\operatorname{count}(b)}$$
#
# so it prefers parts that hardly occur without each other. (The trainer in `tokenizers` keeps to BPE's plain count.) Encoding is where it really differs: merges are forgotten, and the
# longest piece in the vocabulary is cut off from the left, again and again. Pieces inside a word are written `##ing`. There are
# no bytes to fall back on: if anything does not fit, the whole word becomes `[UNK]`.

# %% tags=["exercise"]
from week1_decoder.solutions.tokenization import wordpiece_tokenize

# %% [markdown]
# The library trains a vocabulary on the stories; your function and its model cut the words of unseen stories and a few others:

# %%
library = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
library.normalizer = tokenizers.normalizers.BertNormalizer()  # lower case, no accents
library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()  # white space and punctuation
trainer = tokenizers.trainers.WordPieceTrainer(
    vocab_size=800, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
)
library.train_from_iterator(corpus(100_000).split("\n\n"), trainer)

pieces = set(library.get_vocab())
words = sorted(set(regex.findall(r"[a-z]+", held_out.lower())))
words += ["unwooded", "你", "zebras", "naive🙂", "x" * 90]
for word in words:
    assert wordpiece_tokenize(word, pieces) == [token.value for token in library.model.tokenize(word)], word
print(f"the same pieces for all {len(words):,} words")
for word in ("unwooded", "hedgehogs", "naive🙂"):
    print(word, "->", wordpiece_tokenize(word, pieces))

# %% [markdown]
# BERT's normalizer also threw away capitals and accents before any of this. That is the price of a small vocabulary: the text can
# no longer be rebuilt from the tokens, which is no loss for a classifier and out of the question for a GPT.
#
# ## Unigram
#
# Kudo's unigram model turns BPE round. It begins with far too many pieces, gives each a probability, and removes the pieces whose
# loss hurts least. A text can then be cut in many ways, and each has a probability:
#
# $$P(x_1, \dots, x_m) = \prod_{i=1}^{m} p(x_i), \qquad x^* = \arg\max_{x \,\in\, S(\text{text})} \sum_{i=1}^{m} \log p(x_i)$$
#
# where $S$ holds all ways to cut the text. There are $2^{n-1}$ of them for $n$ characters; **Viterbi's algorithm** finds the best
# in about $n$ times the length of the longest piece. The best way to cut `text[:end]` ends with some last piece
# `text[start:end]`, and before it stands the best way to cut `text[:start]`:
#
# $$\operatorname{best}(end) = \max_{start < end} \;\operatorname{best}(start) + \log p(\text{text}[start{:}end])$$
#
# A character that is no piece gets a log-probability 10 below that of the rarest piece, as in SentencePiece.

# %%
from week1_decoder.solutions.tokenization import UNKNOWN_PENALTY

print(UNKNOWN_PENALTY, "nats: a factor of", f"{math.exp(UNKNOWN_PENALTY):,.0f}")

# %% tags=["exercise"]
from week1_decoder.solutions.tokenization import unigram_tokenize

# %% [markdown]
# SentencePiece treats the text as one string: no pre-tokens by a regular expression; a space becomes the character `▁`, and one
# is put in front. Train it on the stories, take its pieces and log-probabilities, and compare:

# %%
model_file = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(corpus(300_000).split("\n\n")),
    model_writer=model_file,
    model_type="unigram",
    vocab_size=400,
    character_coverage=1.0,
    minloglevel=2,
)
processor = sentencepiece.SentencePieceProcessor(model_proto=model_file.getvalue())
log_probs = {
    processor.id_to_piece(i): processor.get_score(i)
    for i in range(processor.vocab_size())
    if not processor.is_control(i) and not processor.is_unknown(i)
}
cases = [*held_out.split("\n\n"), "Once there was a zebra 🙂 called Zoë."]
for text in cases:
    assert unigram_tokenize("▁" + text.replace(" ", "▁"), log_probs) == processor.encode(text, out_type=str)
print(f"your pieces are those of SentencePiece on {len(cases)} texts")

library = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), *log_probs.items()], unk_id=0))
for text in cases:
    written = "▁" + text.replace(" ", "▁")
    assert unigram_tokenize(written, log_probs) == library.encode(written).tokens
print("and those of the model in `tokenizers`")

# %% [markdown]
# (One difference is left: the libraries fuse unknown characters that stand together into one piece.)
#
# Which cuts does it choose? The same text by your BPE with as many merges as the unigram model has pieces of two characters and more:

# %%
sample = "The hedgehog was thankful. Unhelpful neighbours quarrelled loudly."
n_merges = sum(len(piece) > 1 for piece in log_probs)
bpe = encode_bpe(sample, {i: vocab[i] for i in range(256 + n_merges)}, merges[:n_merges])
print("BPE    ", "|".join(vocab[i].decode() for i in bpe).replace(" ", "▁"))
print("unigram", "|".join(unigram_tokenize("▁" + sample.replace(" ", "▁"), log_probs)))

# %% [markdown]
# BPE builds a long word pair by pair, and every step on the way has to be common itself. Unigram starts from whole words and drops what
# it can spare, so at the same size it often holds long common words that BPE has not come to yet.
#
# Every cut has a probability, so there is a second best and a third. Kudo lets the model see cuts *drawn* by their probabilities (raised
# to a power α, which flattens them) while it trains: *subword regularization*. BPE has nothing of that kind of its own.

# %%
for cut in processor.nbest_encode("The hedgehog was", nbest_size=4, out_type=str):
    print(f"log-probability {sum(log_probs[piece] for piece in cut):6.2f}  {'|'.join(cut)}")

# %% [markdown]
# ## Special tokens, and what goes wrong without them
#
# | token | says | without it |
# |---|---|---|
# | BOS, *beginning of sequence* | here a text begins | nothing to predict the first token from |
# | EOS, *end of sequence* | here it ends | generation never stops, and documents run into each other |
# | PAD | nothing is here | rows of different lengths cannot be one tensor |
# | CLS, *classification* | collect what the whole text says here | a classifier has no fixed place to read from |
#
# GPT-2 has a single one, `<|endoftext|>`: the EOS of one document is the BOS of the next, and a model that is shown nothing but it
# begins a new text.
#
# **EOS.** The smallest language model there is counts which token follows which. Train it on 600 stories, once with the end
# token between them and once with a blank line, then let it write: fifty texts with the one model and five with the other, of at
# most 2,000 tokens each.
#
# **Predict.** How many will end by themselves, and how long will they be?


# %%
def count_followers(ids: list[int]) -> Tensor:
    """Entry (a, b): how often b follows a."""
    counts = torch.zeros(len(vocab), len(vocab))
    return counts.index_put_(
        (torch.tensor(ids[:-1]), torch.tensor(ids[1:])), torch.tensor(1.0), accumulate=True
    )


def write(
    counts: Tensor, first: int, stop: int | None, generator: torch.Generator, most: int = 2000
) -> list[int]:
    """Draw each token by how often it followed the one before."""
    drawn = [first]
    while len(drawn) <= most and (len(drawn) == 1 or drawn[-1] != stop):
        drawn.append(torch.multinomial(counts[drawn[-1]], 1, generator=generator).item())
    return drawn[1:]


texts = [story.text for story in stories(600)]
end_id = len(vocab) - 1
with_end = encode_bpe(END + END.join(texts) + END, vocab, merges, [END])
without = encode_bpe("\n\n".join(texts), vocab, merges)
generator = torch.Generator().manual_seed(0)
counts = count_followers(with_end)
ended = [write(counts, end_id, end_id, generator) for _ in range(50)]
counts = count_followers(without)
endless = [write(counts, without[0], None, generator) for _ in range(5)]
print(
    f"with an end token: {sum(text[-1] == end_id for text in ended)} of 50 stop, after "
    f"{sum(map(len, ended)) / 50:.0f} tokens on average (real stories: {len(with_end) / len(texts):.0f})"
)
print(f"without: none can stop; they were cut off after {len(endless[0]):,} tokens")
print(decode_bpe(ended[0][:60], vocab))

# %% [markdown]
# <details><summary>Answer</summary>
#
# With the end token all of them, at about the length of real stories; without it none. A model can only produce what it was shown, and
# the same holds for the largest. The other loss is hidden in the counts: without the token, the end of a story "predicts" the
# beginning of an unrelated one.
#
# </details>
#
# **A special token in the user's text.** `<|endoftext|>` is also just thirteen letters and signs that anybody can type. Whether they become
# the end token must be *your* decision, and the libraries decide differently:

# %%
typed = "please print <|endoftext|> and go on"
print("encode_bpe, not asked for:", encode_bpe(typed, vocab, merges).count(end_id))
print("encode_bpe, asked for:    ", encode_bpe(typed, vocab, merges, [END]).count(end_id))
print("tokenizers, always:       ", fast_tokenizer.encode(typed).ids.count(end_id))
try:
    fast_tiktoken.encode(typed)
except ValueError as error:
    print("tiktoken, by default:      ValueError,", str(error).split(".")[0])

# %% [markdown]
# **CLS.** BERT puts `[CLS]` first and `[SEP]` behind each text; the classifier reads the vector at position 0. Take the template
# away and the same classifier reads the vector of whatever word comes first.

# %%
bert = tokenizers.Tokenizer(
    tokenizers.models.WordPiece({piece: i for i, piece in enumerate(sorted(pieces))}, unk_token="[UNK]")
)
bert.normalizer = tokenizers.normalizers.BertNormalizer()
bert.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
bert.post_processor = tokenizers.processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    special_tokens=[(token, bert.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
)
pair = bert.encode("Rufus was sad.", "Rufus was happy.")
print(pair.tokens)
print(pair.type_ids, "which of the two texts")
print(pair.special_tokens_mask, "what the tokenizer added")
print(
    "position 0 without the template:",
    [bert.encode(s, add_special_tokens=False).tokens[0] for s in ("Sad Rufus!", "Happy Rufus!")],
)

# %% [markdown]
# ## What the model is fed
#
# A batch is one tensor, so its rows must be equally long. Short ones are filled up with PAD, and a mask says what is real: 1 for a
# token, 0 for padding. Attention and the loss both use it.
#
# The mask has to come from the *lengths*. GPT-2 has no PAD, so people use EOS for it, and then `token_ids != pad_id` hides the real end
# tokens too: they fall out of the loss, and the model never learns to stop. That bug has been in many fine-tuning scripts.

# %% tags=["exercise"]
from week1_decoder.solutions.tokenization import pad_batch

# %%
rows = [encode_bpe(text, vocab, merges) + [end_id] for text in ("Once there was a fox.", "The end.")]
token_ids, attention_mask = pad_batch(rows, pad_id=end_id)
is_end = token_ids == end_id
print("end tokens in the loss, by the mask:           ", (is_end & attention_mask.bool()).sum().item())
print("end tokens in the loss, by token_ids != pad_id:", (is_end & (token_ids != end_id)).sum().item())

# %% [markdown]
# **Predict.** A model with two prompts continues each of them: it reads the logits at the last position, `[:, -1]`. On which side must
# the padding be?

# %%
prompts = [encode_bpe(prompt, vocab, merges) for prompt in ("Once there was", "Rufus")]
for side in ("right", "left"):
    token_ids, attention_mask = pad_batch(prompts, end_id, side)
    last = [vocab[i].decode() for i in token_ids[:, -1].tolist()]
    positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    print(f"{side:5s} {attention_mask.tolist()}  last tokens {last}  positions {positions.tolist()}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# On the left. With padding on the right the shorter prompt would be continued from a PAD. On the left, positions have to be
# counted from the mask, since *Rufus* does not come third in its text. For training, the right side is usual: the causal mask then keeps
# padding out of sight by itself.
#
# </details>
#
# A Hugging Face tokenizer does all of it in one call, and its output is what every model there takes:

# %%
from transformers import PreTrainedTokenizerFast

texts = [story.text for story in stories(5, split="validation")]
for side in ("right", "left"):
    wrapped = PreTrainedTokenizerFast(tokenizer_object=fast_tokenizer, pad_token=END, padding_side=side)
    theirs = wrapped(texts, padding=True, return_tensors="pt")
    token_ids, attention_mask = pad_batch([encode_bpe(text, vocab, merges) for text in texts], end_id, side)
    assert torch.equal(token_ids, theirs["input_ids"])
    assert torch.equal(attention_mask, theirs["attention_mask"])
    print(
        f"{side:5s} {tuple(token_ids.shape)}: your ids and mask are those of Hugging Face; "
        f"{1 - attention_mask.float().mean():.0%} of the batch is padding"
    )

# %% [markdown]
# **Truncation** cuts what is longer than the context. From the right it loses the end of a text, from the left its beginning: for a
# dialogue the left is the smaller loss. With a `stride` nothing is lost, the text becomes several overlapping windows:

# %%
wrapped = PreTrainedTokenizerFast(tokenizer_object=fast_tokenizer, pad_token=END)
story = "Once there was a little mouse called Nell."
windows = wrapped(story, max_length=6, truncation=True, stride=2, return_overflowing_tokens=True)
for ids in windows["input_ids"]:
    print([decode_bpe([i], vocab) for i in ids])

# %% [markdown]
# **Offsets** say which characters of the text each token came from. Question answering needs them to point at an answer, labelling to
# carry labels over from words to tokens. Tokens that share a character share its offsets:

# %%
text = "Nell's café 🙂"
encoding = fast_tokenizer.encode(text)
rows = "".join(
    f"<tr><td>{token_id}</td><td><code>{html.escape(str(vocab[token_id]))}</code></td><td>{start}–{end}</td>"
    f"<td><code>{html.escape(repr(text[start:end]))}</code></td></tr>"
    for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
)
display(
    HTML(f"<table><tr><th>id</th><th>bytes</th><th>offsets</th><th>text[start:end]</th></tr>{rows}</table>")
)

# %% [markdown]
# ## What to read
#
# - Sennrich et al. 2016, section 3.2 and algorithm 1: the whole method in a page of Python. Look for `</w>`, the end-of-word mark;
#   GPT-2 replaced it by the space at the start.
# - Radford et al. 2019 (GPT-2), section 2.2: why bytes, and what `dog.`, `dog!` and `dog?` have to do with the pattern.
# - Schuster & Nakajima 2012: where "word piece" comes from. Kudo 2018, section 3.2: the EM steps and the pruning that we left out;
#   table 1 cuts one short text in several ways. Kudo & Richardson 2018 ([arXiv:1808.06226](https://arxiv.org/abs/1808.06226)): SentencePiece.
# - **GPT-2**, [`src/encoder.py`](https://github.com/openai/gpt-2/blob/master/src/encoder.py): about a hundred lines. Find your `ranks`, your
#   `merge_pair` and your cache. minGPT's [`mingpt/bpe.py`](https://github.com/karpathy/minGPT/blob/master/mingpt/bpe.py) is the same
#   with comments.
# - **tiktoken**, [`src/lib.rs`](https://github.com/openai/tiktoken/blob/main/src/lib.rs), `_byte_pair_merge`: it looks up the *joined
#   bytes* of a pair and not the pair. The comment says when that is the same, which for trained merges it is. Then
#   `tiktoken/_educational.py`, which colours tokens in the terminal, and `tiktoken_ext/openai_public.py`, the patterns from GPT-2 on.
# - **Hugging Face tokenizers**, [`models/bpe/trainer.rs`](https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/models/bpe/trainer.rs),
#   `do_train`: your counts, your set of words for each pair, your heap with its late updates. Only ties go another way: to the *lowest ids*.
#   `models/unigram/model.rs`, `encode_optimized`: your Viterbi, and `K_UNK_PENALTY`.
# - **nanoGPT**, [`data/openwebtext/prepare.py`](https://github.com/karpathy/nanoGPT/blob/master/data/openwebtext/prepare.py): `encode_ordinary`,
#   then the end token. Why `encode_ordinary`, and why can the ids be stored as 16 bits?
# - **minbpe**, [`exercise.md`](https://github.com/karpathy/minbpe/blob/master/exercise.md): the same way in steps, to GPT-4's tokenizer.
#
# ## Recap
#
# - Text is bytes. BPE starts from the 256 of them, so nothing is ever unknown, and learns merges inside pre-tokens.
# - Encoding replays the merges in the order of learning. A round trip proves little; equal ids prove it.
# - WordPiece cuts off the longest piece; unigram finds the likeliest cut of all.
# - A vocabulary fits the text it was trained on. On another it is a vocabulary of bytes.
# - Special tokens carry what text cannot say, and users can type them. Masks come from lengths, and generation pads on the left.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("tokenization")

# %%
progress("week1_decoder")
