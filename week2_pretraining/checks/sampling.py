"""What a right answer of lesson 05 shows, and the known mistakes."""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from shared.checking import observes, raised


def _seeded(rng):
    """A generator of its own, so that an answer's draws cannot move the inputs that come after."""
    return torch.Generator().manual_seed(int(torch.randint(0, 2**31, (), generator=rng)))


@observes(
    "greedy",
    difficulty=1,
    minutes=3,
    hints=(
        "Which token would you write if you had to take the likeliest? Its *position* in the row is its id.",
        "softmax keeps the order of the logits, so you do not need it.",
        "`logits.argmax(...)` over the vocabulary, which is the last axis.",
    ),
    mistakes={
        "The maximum itself is returned, not where it stands: a token id is a position in the vocabulary.": (
            "logits.argmax(dim=-1)",
            "logits.max(dim=-1).values",
        ),
        "The likeliest row is chosen for each token, not the likeliest token for each row.": (
            "argmax(dim=-1)",
            "argmax(dim=0)",
        ),
        "One token is chosen for the whole batch: each row is a text of its own.": ("argmax(dim=-1)", "argmax()"),
        "The smallest logit is taken: that is the least likely token.": ("logits.argmax", "logits.argmin"),
    },
)
def check_greedy(greedy, rng):
    yield "one row of three tokens", greedy(torch.tensor([[1.0, 3.0, 2.0]]))
    yield "negative logits", greedy(torch.tensor([[-5.0, -7.0, -9.0, -0.5], [-1.0, -2.0, -math.inf, -3.0]]))
    logits = torch.randn(4, 7, generator=rng)
    logits[torch.arange(4), torch.randint(7, (4,), generator=rng)] += 9
    yield "four rows of seven tokens", greedy(logits)


def _exp_without_care(logits, temperature=1.0, top_k=0, top_p=1.0):
    _refuse(logits, temperature, top_k, top_p)
    logits = logits.float()
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    weights = (logits / temperature).exp()
    if 0 < top_k < logits.shape[-1]:
        weights = weights * (weights >= weights.topk(top_k).values[:, -1:])
    probs = weights / weights.sum(dim=-1, keepdim=True)
    ordered, order = probs.sort(dim=-1, descending=True)
    keep = torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order, ordered.cumsum(dim=-1) - ordered < top_p)
    probs = probs * keep
    return probs / probs.sum(dim=-1, keepdim=True)


def _refuse(logits, temperature, top_k, top_p):
    allowed = 0 <= temperature < math.inf and top_k >= 0 and 0 < top_p <= 1
    if not allowed or logits.isnan().any() or (logits == -math.inf).all(dim=-1).any():
        raise ValueError


def _cut(order_of_cuts):
    """next_token_probs with its three steps in another order."""

    def next_token_probs(logits, temperature=1.0, top_k=0, top_p=1.0):
        _refuse(logits, temperature, top_k, top_p)
        logits = logits.float()
        vocab_size = logits.shape[-1]
        if temperature == 0:
            return F.one_hot(logits.argmax(dim=-1), vocab_size).float()
        logits = logits - logits.amax(dim=-1, keepdim=True)
        for step in order_of_cuts:
            if step == "temperature":
                logits = logits / temperature
            elif step == "top_k" and 0 < top_k < vocab_size:
                logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -math.inf)
            elif step == "top_p" and top_p < 1:
                ordered, order = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True)
                keep = torch.zeros_like(logits, dtype=torch.bool)
                keep = keep.scatter(-1, order, ordered.cumsum(dim=-1) - ordered < top_p)
                logits = logits.masked_fill(~keep, -math.inf)
        return torch.softmax(logits, dim=-1)

    return next_token_probs


@observes(
    "next_token_probs",
    difficulty=3,
    minutes=25,
    rtol=1e-3,
    hints=(
        "Three steps, in this order: divide by the temperature, cut to the top k, cut to the top p. A softmax over what is "
        "left renormalizes. Temperature 0 needs a way of its own.",
        "A token that is cut has logit -inf, or probability 0. For top k, compare with the k-th largest logit (`topk`). For "
        "top p, sort the probabilities in descending order and ask for each token: how much mass stands before it?",
        "A token stays if the mass before it is below top_p, so the first always stays, and the one that crosses "
        "the border too. `scatter`, with the order from `sort`, brings each yes and no back to its place in the "
        "vocabulary. Divide by the sum at the end. Work in float32, on logits minus their maximum.",
    ),
    mistakes={
        "The logits are multiplied by the temperature: 0.5 then makes the text wilder, and 2 tamer.": (
            "keepdim=True)) / temperature",
            "keepdim=True)) * temperature",
        ),
        "top_p is taken before the temperature: a hot distribution then keeps the few tokens of the cold one.": _cut(
            ["top_k", "top_p", "temperature"]
        ),
        "top_p is measured on all tokens, not on those that top_k left: it cuts less than was asked.": _cut(
            ["temperature", "top_p", "top_k"]
        ),
        "The token that crosses top_p is cut too: the prefix falls short of p, and a first token above p leaves "
        "nothing.": (
            "before < top_p",
            "before + ordered < top_p",
        ),
        "The token that crosses top_p is cut (only the first is spared): the prefix then has less mass than p.": (
            "before < top_p",
            "(before + ordered < top_p) | (before == 0)",
        ),
        "After the cut to top_p nothing is renormalized: the probabilities sum to less than one.": (
            "probs = probs / probs.sum(dim=-1, keepdim=True)",
            "pass",
        ),
        "The cut to top_p is made in sorted order and never brought back: other tokens than the likeliest stay.": (
            "torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order, before < top_p)",
            "before < top_p",
        ),
        "The logits are divided by a temperature of 0, and nothing but nan comes out; towards 0 all mass goes to "
        "the argmax.": (
            "if temperature == 0:",
            "if False:",
        ),
        "Temperature 0 gives the plain softmax, as if there were none: it means greedy.": (
            "F.one_hot(logits.argmax(dim=-1), vocab_size).float()",
            "torch.softmax(logits, dim=-1)",
        ),
        "A top_k above the size of the vocabulary fails: it should mean all tokens.": (
            "0 < top_k < vocab_size",
            "0 < top_k",
        ),
        "Where the prefix has just the mass top_p, one token more is kept: the smallest prefix is enough.": (
            "before < top_p",
            "before <= top_p",
        ),
        "top_p = 1 should switch the cut off: rounding brings the running sum to 1 too early, and rare tokens are lost.": (
            "if top_p < 1:",
            "if True:",
        ),
        "One token too few stays after top_k: the k-th itself belongs to the top k.": ("logits < kth", "logits <= kth"),
        "One border is used for all rows of the batch: each row has a k-th token of its own.": (
            "topk(top_k).values[:, -1:]",
            "topk(top_k).values[:, -1:].max()",
        ),
        "Tokens cut by top_k get logit 0 and not -inf: after the softmax they are still there.": (
            "logits < kth, -math.inf",
            "logits < kth, 0.0",
        ),
        "The numbers stay in half precision: a low temperature overflows, and the tail is rounded away.": (
            "logits = logits.float()\n",
            "logits = logits + 0\n",
        ),
        "exp of the raw logits overflows: large logits give nan instead of probabilities.": _exp_without_care,
        "All tokens below probability top_p are cut, one by one: top_p is about the mass of the prefix as a whole.": (
            "before < top_p",
            "(ordered >= top_p) | (before == 0)",
        ),
    },
)
def check_next_token_probs(next_token_probs, rng):
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    yield "three tokens, nothing cut", next_token_probs(logits)
    yield "temperature 0.5", next_token_probs(logits, temperature=0.5)
    yield "the top 2", next_token_probs(logits, top_k=2)
    yield "top_p = 0.6 of (0.5, 0.3, 0.2)", next_token_probs(logits, top_p=0.6)
    yield "top_p = 0.4: the first alone is enough", next_token_probs(logits, top_p=0.4)
    one_of_two = next_token_probs(torch.zeros(1, 2), top_p=0.5).sort().values
    yield "top_p = 0.5 of two equal tokens: either alone is enough (sorted)", one_of_two
    logits = torch.tensor([[0.05, 0.4, 0.1, 0.3, 0.15], [0.9, 0.01, 0.04, 0.02, 0.03]]).log()
    yield "not in order, top_p = 0.75", next_token_probs(logits, top_p=0.75)
    yield "the top 3, then top_p = 0.8 of what is left", next_token_probs(logits, top_k=3, top_p=0.8)
    yield "temperature 2, then top_p = 0.75", next_token_probs(logits, temperature=2.0, top_p=0.75)
    yield "temperature 0", next_token_probs(logits, temperature=0)
    yield "temperature 0 with cuts", next_token_probs(logits, temperature=0.0, top_k=2, top_p=0.5)
    yield "top_k = 1", next_token_probs(logits, top_k=1)
    yield "top_k of 9 with 5 tokens", next_token_probs(logits, top_k=9)
    # Logits on a grid of 0.5 in random order: no ties, and no border that is decided by rounding.
    logits = torch.stack([torch.randperm(11, generator=rng) for _ in range(4)]) / 2.0
    logits = logits * torch.tensor([[1.0], [0.6], [1.4], [0.8]])
    yield "four rows of eleven tokens", next_token_probs(logits, temperature=1.5, top_k=7, top_p=0.83)
    yield "logits raised by 1000", next_token_probs(logits + 1000, temperature=0.7, top_k=6)
    yield "logits 300 apart, temperature 0.01", next_token_probs(600 * logits, temperature=0.01, top_p=0.9)
    masked = logits.masked_fill(logits < 1.7, -math.inf)
    rare = next_token_probs(torch.tensor([[0.0, -19.0, -20.0]]))
    yield "nothing cut: may tokens of probability 6e-9 and 2e-9 be drawn?", rare > 0
    yield "forbidden tokens (-inf)", next_token_probs(masked, temperature=1.3, top_k=9, top_p=0.95)
    yield "forbidden tokens, temperature 0", next_token_probs(masked, temperature=0)
    yield "float16, temperature 0.001", next_token_probs(100 * logits.half(), temperature=0.001)
    yield "bfloat16", next_token_probs(logits.bfloat16(), temperature=2.0, top_k=8, top_p=0.83)
    yield "temperature -1 is refused", raised(next_token_probs, logits, temperature=-1.0)
    yield "top_p of 0 and of 1.2 are refused", [raised(next_token_probs, logits, top_p=p) for p in (0.0, 1.2)]
    yield "top_k of -1 is refused", raised(next_token_probs, logits, top_k=-1)
    bad = logits.clone()
    bad[1, 3] = math.nan
    yield "nan is refused", raised(next_token_probs, bad)
    bad = logits.clone()
    bad[2] = -math.inf
    yield "a row that forbids everything is refused", raised(next_token_probs, bad)


def _one_draw_for_all_rows(logits, temperature=1.0, top_k=0, top_p=1.0, generator=None):
    from week2_pretraining.solutions.sampling import next_token_probs

    probs = next_token_probs(logits, temperature, top_k, top_p)
    u = torch.rand(1, 1, generator=generator)
    return (probs.cumsum(dim=-1) < u).sum(dim=-1).clamp(max=probs.shape[-1] - 1)


def _agreement(tokens):
    """Share of rows whose token is that of the row before."""
    return (tokens[1:] == tokens[:-1]).float().mean()


def _shares(tokens, vocab_size):
    return torch.bincount(tokens, minlength=vocab_size) / len(tokens)


@observes(
    "sample_next_token",
    difficulty=2,
    minutes=8,
    rtol=0.0,
    atol=0.03,  # shares of 20,000 draws: the standard deviation of a difference is at most 0.005
    hints=(
        "You have the probabilities already: `next_token_probs`.",
        "`torch.multinomial(probs, n, generator=...)` draws n tokens for each row. What is its shape, and which is asked for?",
        "multinomial of one token for each row, with the generator that was given, then take the last axis away.",
    ),
    mistakes={
        "The likeliest token is taken: nothing is drawn.": (
            "torch.multinomial(probs, 1, generator=generator).squeeze(1)",
            "probs.argmax(dim=-1)",
        ),
        "The generator is not used: nobody can repeat this draw, and the global one is moved on.": (
            "torch.multinomial(probs, 1, generator=generator)",
            "torch.multinomial(probs, 1)",
        ),
        "A new generator with a fixed seed is made at each call: every call draws the same tokens.": (
            "torch.multinomial(probs, 1, generator=generator)",
            "torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(0))",
        ),
        "The global generator is seeded inside: all other chance in the program starts again with each token.": (
            "torch.multinomial(probs, 1, generator=generator)",
            "torch.multinomial(probs, 1, generator=torch.manual_seed(generator.initial_seed() if generator else 0))",
        ),
        "One number is drawn for the whole batch: rows with the same probabilities all write the same text.": (
            _one_draw_for_all_rows
        ),
        "The settings are not used: this draws from the plain softmax.": (
            "next_token_probs(logits, temperature, top_k, top_p)",
            "next_token_probs(logits)",
        ),
        "The temperature is applied twice.": (
            "next_token_probs(logits, temperature, top_k, top_p)",
            "next_token_probs(logits / max(temperature, 1e-3), temperature, top_k, top_p)",
        ),
        "top_k and top_p are lost on the way: the tail is drawn from after all.": (
            "next_token_probs(logits, temperature, top_k, top_p)",
            "next_token_probs(logits, temperature)",
        ),
        "The draw is made with logits for weights, not with probabilities.": (
            "probs = next_token_probs(logits, temperature, top_k, top_p)",
            "probs = next_token_probs(logits, temperature, top_k, top_p).log().clamp(min=-9) + 9.01",
        ),
        "The result has an axis too many: one token for each row, so of shape (batch,).": (".squeeze(1)", ""),
    },
)
def check_sample_next_token(sample_next_token, rng):
    logits = torch.tensor([[0.6, 0.3, 0.1]]).log().expand(20_000, 3)
    draws = sample_next_token(logits, generator=_seeded(rng))
    yield "the first three draws have one axis", list(draws[:3].shape)
    yield "shares of 20,000 draws from (0.6, 0.3, 0.1)", _shares(draws, 3)
    yield "how often a row draws what the row before drew", _agreement(draws)
    draws = sample_next_token(logits, temperature=0.5, generator=_seeded(rng))
    yield "shares at temperature 0.5", _shares(draws, 3)
    yield "temperature 0", sample_next_token(logits[:5], temperature=0.0, generator=_seeded(rng))
    rows = torch.tensor([[0.1, 0.25, 0.05, 0.4, 0.2], [0.3, 0.05, 0.05, 0.3, 0.3]])[:, torch.randperm(5, generator=rng)]
    logits = rows.log().repeat(10_000, 1)
    draws = sample_next_token(logits, 1.0, 3, 1.0, _seeded(rng))
    yield "shares of even rows, top 3", _shares(draws[::2], 5)
    yield "shares of odd rows, top 3", _shares(draws[1::2], 5)
    draws = sample_next_token(logits, 2.0, 0, 0.7, _seeded(rng))
    yield "shares of even rows, temperature 2, top_p = 0.7", _shares(draws[::2], 5)
    logits = torch.zeros(64, 50)
    seed = int(torch.randint(0, 2**31, (), generator=rng))
    draws = [sample_next_token(logits, generator=torch.Generator().manual_seed(s)) for s in (seed, seed, seed + 1)]
    yield "the same seed draws the same tokens", torch.equal(draws[0], draws[1])
    yield "another seed draws others", not torch.equal(draws[0], draws[2])
    generator = _seeded(rng)
    draws = [sample_next_token(logits, generator=generator) for _ in range(2)]
    yield "the second call with a generator goes on from the first", not torch.equal(*draws)
    before = torch.get_rng_state()
    sample_next_token(logits, generator=_seeded(rng))
    yield "the global generator is left alone", torch.equal(before, torch.get_rng_state())
    draws = [sample_next_token(logits) for _ in range(2)]
    yield "two calls without a generator draw different tokens", not torch.equal(*draws)


def _each_time_again(logits, token_ids, penalty, key_mask=None):
    if penalty <= 0:
        raise ValueError
    out = logits.clone()
    for i, row in enumerate(token_ids.tolist()):
        for j, token in enumerate(row):
            if key_mask is None or key_mask[i, j]:
                out[i, token] = out[i, token] / penalty if out[i, token] > 0 else out[i, token] * penalty
    return out


@observes(
    "repetition_penalty",
    difficulty=2,
    minutes=12,
    hints=(
        "First find out which tokens stand in each row: a table of yes and no with the shape of the logits.",
        "`seen[rows, columns] = True` with two lists of indices marks many places at once; `key_mask.nonzero()` tells where "
        "the real tokens are. Marking a place twice changes nothing.",
        "`torch.where` chooses between two tensors, place by place. Use it twice: for the two signs of a logit, and "
        "for seen or not. Both signs of a seen logit must come out smaller.",
    ),
    mistakes={
        "Negative logits are divided too: -4 becomes -2, and a seen token is rewarded (so reads the paper's formula, "
        "taken literally).": (
            "torch.where(logits > 0, logits / penalty, logits * penalty)",
            "logits / penalty",
        ),
        "The two cases are the wrong way round: seen tokens become likelier.": ("logits > 0", "logits < 0"),
        'A token is penalized once for each time it stands there: "the" soon becomes impossible.': _each_time_again,
        "The penalty is subtracted: another idea (a presence penalty), with another scale.": (
            "torch.where(logits > 0, logits / penalty, logits * penalty)",
            "logits - penalty",
        ),
        "All tokens are penalized, seen or not: a new one has no advantage over one that was seen.": (
            "torch.where(seen, penalized, logits)",
            "penalized",
        ),
        "The tokens that were not seen are penalized: the text is pushed to repeat itself.": (
            "torch.where(seen, penalized, logits)",
            "torch.where(seen, logits, penalized)",
        ),
        "Only the last token is penalized: a loop of two tokens gets away.": (
            "seen[rows, token_ids[rows, columns]] = True",
            "seen[torch.arange(len(seen)), token_ids[:, -1]] = True",
        ),
        "Rows are mixed: a token that another row has written is penalized here.": (
            "seen[rows, token_ids[rows, columns]] = True",
            "seen[:, token_ids[rows, columns]] = True",
        ),
        "Padding counts as text: the padding token is penalized in rows that do not hold it.": (
            "if key_mask is None else key_mask",
            "",
        ),
        "`key_mask` is read the wrong way round: padding counts as seen, and the text does not.": (
            "else key_mask",
            "else ~key_mask",
        ),
        "A seen token is forbidden outright: the penalty should only make it less likely.": (
            "torch.where(logits > 0, logits / penalty, logits * penalty)",
            "torch.full_like(logits, -math.inf)",
        ),
    },
)
def check_repetition_penalty(repetition_penalty, rng):
    logits = torch.tensor([[0.6, -0.4, 1.0, -1.0]])
    yield "tokens 0 and 1 were seen, penalty 2", repetition_penalty(logits, torch.tensor([[0, 1]]), 2.0)
    yield "seen three times", repetition_penalty(logits, torch.tensor([[0, 1, 0, 0, 1]]), 2.0)
    logits = 3 * torch.randn(3, 6, generator=rng)
    token_ids = torch.tensor([[0, 0, 4, 2], [0, 1, 1, 3], [5, 4, 5, 4]])
    yield "three rows, penalty 1.3", repetition_penalty(logits, token_ids, 1.3)
    yield "penalty 0.5 rewards", repetition_penalty(logits, token_ids, 0.5)
    key_mask = torch.tensor([[False, False, True, True], [False, True, True, True], [True, True, True, True]])
    yield "padding of token 0 on the left", repetition_penalty(logits, token_ids, 1.3, key_mask)
    logits[:, 4] = -math.inf
    yield "a forbidden token stays forbidden", repetition_penalty(logits, token_ids, 1.2)
    yield "penalty 0 and -1 are refused", [raised(repetition_penalty, logits, token_ids, p) for p in (0.0, -1.0)]


class _Counting:
    """After token i comes i + 1 (modulo 6), almost surely."""

    def __init__(self, context_length=None):
        self.limit = context_length or math.inf
        if context_length:
            self.config = SimpleNamespace(context_length=context_length)

    def __call__(self, token_ids, key_mask=None):
        if token_ids.shape[1] > self.limit:
            raise ValueError(f"{token_ids.shape[1]} tokens do not fit in a context of {self.limit}")
        return 9.0 * F.one_hot((token_ids + 1) % 6, 6)

    def __repr__(self):
        return "a model that counts: after i comes i + 1, after 5 comes 0"


class _Toy(nn.Module):
    """Logits from a fading sum of random embeddings: each token matters, padding does not, the context is limited."""

    def __init__(self, rng, vocab_size=12, context_length=10**6, dropout=0.0):
        super().__init__()
        self.config = SimpleNamespace(context_length=context_length)
        self.embedding = nn.Parameter(torch.randn(vocab_size, 8, generator=rng))
        self.head = nn.Parameter(torch.randn(8, vocab_size, generator=rng))
        self.dropout = nn.Dropout(dropout)
        self.calls, self.masks, self.gradients = 0, 0, 0

    def forward(self, token_ids, key_mask=None):
        seq = token_ids.shape[1]
        if seq > self.config.context_length:
            raise ValueError(f"{seq} tokens do not fit in a context of {self.config.context_length}")
        self.calls += 1
        self.masks += key_mask is not None
        self.gradients += torch.is_grad_enabled()
        x = self.embedding[token_ids]
        if key_mask is not None:
            x = x * key_mask[..., None]
        age = torch.arange(seq)[:, None] - torch.arange(seq)
        return self.dropout((0.9**age * (age >= 0)) @ x) @ self.head

    def __repr__(self):
        return f"a random model of {len(self.embedding)} tokens"


class _Table:
    """A bigram model: a row of logits for each last token."""

    def __init__(self, logits, context_length=10**6):
        self.logits = logits
        self.config = SimpleNamespace(context_length=context_length)

    def __call__(self, token_ids, key_mask=None):
        return self.logits[token_ids]

    def __repr__(self):
        return f"a bigram model of {len(self.logits)} tokens"


class _SharperTable(_Table):
    """A bigram model that is surer at each position: no two texts tie that hold the same pairs in another order."""

    def __call__(self, token_ids, key_mask=None):
        return super().__call__(token_ids) * (1 + 0.05 * torch.arange(token_ids.shape[1]))[:, None]


_LOOP = "for _ in range(max_new_tokens):"


@observes(
    "generate",
    difficulty=4,
    minutes=30,
    hints=(
        "A flat loop: ask the model, take the logits of the last position, draw, append. Get the plain case of one row right "
        "first, then the end of text, then padding.",
        "Keep a yes or no for each row: has it ended? An ended row gets eos_id, whatever was drawn. All ended: leave the "
        "loop. A key mask has to grow by one True for each new token.",
        "with inference(model): for each new token: the last context_length columns of token_ids (and of key_mask) go to the "
        "model; logits[:, -1]; repetition_penalty over the whole text; sample_next_token; masked_fill(ended, eos_id); "
        "torch.cat.",
    ),
    mistakes={
        "The first position's logits are used, not the last one's: the model is asked what follows the first token.": (
            "logits[:, -1]",
            "logits[:, 0]",
        ),
        "A row that has ended goes on writing: what comes after the end of a text is another text.": (
            "next_ids = next_ids.masked_fill(ended, eos_id)",
            "pass",
        ),
        "Everything stops when the first row ends: the other rows are cut off.": ("ended.all()", "ended.any()"),
        "It never stops early: a short answer costs as much as the longest one allowed.": (
            "if ended.all():",
            "if False:",
        ),
        "A row counts as ended where its prompt holds the end-of-text token: a prompt may begin with it.": (
            "torch.zeros(token_ids.shape[0], dtype=torch.bool, device=token_ids.device)",
            "torch.zeros(len(token_ids), dtype=torch.bool) if eos_id is None else (token_ids == eos_id).any(dim=1)",
        ),
        "The whole text is given to the model, however long: beyond the context it fails.": (
            "token_ids[:, -context_length:]",
            "token_ids",
        ),
        "Beyond the context the model sees the first tokens, not the last: it writes the same token for ever.": (
            "token_ids[:, -context_length:]",
            "token_ids[:, :context_length]",
        ),
        "The model is not switched to evaluation: dropout is on, and greedy text changes from run to run.": (
            "with inference(model):",
            "with torch.no_grad():",
        ),
        "A model in training mode comes back in evaluation mode: the training that goes on has no dropout any more.": (
            "with inference(model):\n",
            "getattr(model, 'eval', int)()\n    with torch.no_grad():\n",
        ),
        "Gradients are recorded: memory grows with each token, for a backward pass that never comes.": (
            "with inference(model):\n",
            "with inference(model), torch.enable_grad():\n",
        ),
        "The key mask is not given to the model: padding is read as if it were text.": (
            "model(window) if key_mask is None else model(window, key_mask[:, -context_length:])",
            "model(window)",
        ),
        "The key mask does not count new tokens as real: the model never sees what it has written.": (
            "value=True",
            "value=False",
        ),
        "The temperature is not handed on: whatever it is, texts are drawn at temperature 1.": (
            "sample_next_token(scores, temperature, top_k",
            "sample_next_token(scores, float(temperature > 0), top_k",
        ),
        "top_k is not handed on: unlikely tokens are drawn.": (
            "temperature, top_k, top_p, generator)\n            if",
            "temperature, 0, top_p, generator)\n            if",
        ),
        "top_p is not handed on: unlikely tokens are drawn.": (
            "temperature, top_k, top_p, generator)\n            if",
            "temperature, top_k, 1.0, generator)\n            if",
        ),
        "The repetition penalty is not applied: greedy text may fall into a loop and stay there.": (
            "repetition_penalty(logits[:, -1], token_ids, penalty, key_mask)",
            "logits[:, -1]",
        ),
        "Padding is penalized as if it had been written.": (
            "repetition_penalty(logits[:, -1], token_ids, penalty, key_mask)",
            "repetition_penalty(logits[:, -1], token_ids, penalty)",
        ),
        "The penalty forgets what has left the context: it should count the whole text.": (
            "repetition_penalty(logits[:, -1], token_ids, penalty, key_mask)",
            "repetition_penalty(\n"
            "                logits[:, -1], window, penalty, None if key_mask is None else key_mask[:, -context_length:]\n"
            "            )",
        ),
        "The generator is not handed on: the draws cannot be repeated.": (
            "top_k, top_p, generator)\n            if",
            "top_k, top_p)\n            if",
        ),
        "Only the new tokens are returned: the prompt belongs to the text.": (
            "return token_ids",
            "return token_ids[:, -max_new_tokens:] if max_new_tokens else token_ids[:, :0]",
        ),
    },
)
def check_generate(generate, rng):
    counting = _Counting()
    yield "a model that counts goes on from 2, 3", generate(counting, torch.tensor([[2, 3]]), 3, temperature=0)
    yield "the same in a context of 2", generate(_Counting(2), torch.tensor([[2, 3]]), 4, temperature=0)
    yield "no new tokens asked for", generate(counting, torch.tensor([[2, 3]]), 0)
    prompts = torch.tensor([[0, 1], [4, 2]])
    yield "two rows, end of text is 4", generate(counting, prompts, 6, temperature=0, eos_id=4)
    yield "end of text stands in a prompt", generate(counting, torch.tensor([[4, 0]]), 3, temperature=0, eos_id=4)
    model, start = _Toy(rng), torch.randint(0, 12, (3, 4), generator=rng)
    free = generate(model, start, 8, temperature=0)
    yield "three rows, greedy", free
    eos_id = int(free[0, 6])
    yield "the same, and one of its tokens ends a text", generate(model, start, 8, temperature=0, eos_id=eos_id)
    one = generate(model, start[1:2], 8, temperature=0)
    yield "the second row alone is the second row", torch.equal(one[0], free[1])
    yield "greedy with penalty 3", generate(model, start, 10, temperature=0, penalty=3.0)
    ragged = torch.cat([torch.zeros(2, 3, dtype=torch.long), torch.randint(1, 12, (2, 4), generator=rng)], dim=1)
    key_mask = torch.arange(7) >= torch.tensor([[3], [5]])
    yield "prompts of 4 and 2 tokens, padded", generate(model, ragged, 6, temperature=0, key_mask=key_mask)
    yield "the same with penalty 4", generate(model, ragged, 6, temperature=0, penalty=4.0, key_mask=key_mask)
    table = _Table(torch.tensor([[0.0, 0.0, 3.0], [1.0, -1.0, 0.6], [0.0, 1.0, 0.0]]))
    key_mask = torch.tensor([[False, True]])
    yield (
        "the padding, token 0, is not penalized",
        generate(table, torch.tensor([[0, 1]]), 1, temperature=0, penalty=4.0, key_mask=key_mask),
    )
    model = _Toy(rng, context_length=5)
    long = generate(model, start, 12, temperature=0)
    yield "text of 16 tokens in a context of 5", long
    yield "the same with penalty 1.5", generate(model, start, 20, temperature=0, penalty=1.5)
    table = _Table(torch.tensor([[3.0, 2.5, 2.0, 1.9]]).repeat(4, 1), context_length=2)
    yield (
        "token 0 has left the context of 2 and is still penalized",
        generate(table, torch.tensor([[0, 1]]), 3, temperature=0, penalty=2.0),
    )
    padded = torch.cat([torch.zeros_like(start[:, :1]), start], dim=1)
    key_mask = torch.ones(3, 5, dtype=torch.bool)
    key_mask[:2, 0] = False
    yield "padded, in a context of 5", generate(model, padded, 9, temperature=0, key_mask=key_mask)

    model = _Toy(rng, dropout=0.5)
    model.train()
    yield "a model with dropout, greedy", generate(model, start, 6, temperature=0)
    yield "a model in training mode comes back in it", model.training and model.dropout.training
    yield "no gradients were recorded", model.gradients == 0
    model.eval()
    generate(model, start, 2, temperature=0)
    yield "one that was in evaluation mode stays in it", not model.training

    table = _Table(torch.tensor([[0.5, 0.2, 0.2, 0.05, 0.05]]).log().repeat(5, 1))
    start = torch.zeros(700, 1, dtype=torch.long)
    hot = generate(table, start, 1, generator=_seeded(rng))[:, 1]
    yield "700 draws have the model's shares", bool((_shares(hot, 5) - table.logits[0].exp()).abs().max() < 0.11)
    start = start[:300]
    cold = generate(table, start, 1, temperature=0.3, generator=_seeded(rng))[:, 1]
    yield "at temperature 0.3 more than 80 % are the likeliest", bool((cold == 0).float().mean() > 0.8)
    by_k, by_p = (
        generate(table, start, 1, **cut, generator=_seeded(rng))[:, 1].unique().tolist()
        for cut in ({"top_k": 1}, {"top_p": 0.89})
    )
    yield "tokens drawn with top_k = 1", by_k
    yield "tokens drawn with top_p = 0.89", by_p
    yield "each row draws on its own", bool(_agreement(hot) < 0.5)
    seed = int(torch.randint(0, 2**31, (), generator=rng))
    texts = [generate(table, start[:20], 5, generator=torch.Generator().manual_seed(seed)) for _ in range(2)]
    yield "the same seed writes the same text", torch.equal(*texts)
    counting = _Counting()
    yield "an empty prompt is refused", raised(generate, counting, torch.zeros(1, 0, dtype=torch.long), 3)
    small = _Toy(rng, context_length=5)
    yield "six tokens in a context of 5 are refused", raised(generate, small, torch.zeros(1, 6, dtype=torch.long), 3)
    right_padded = torch.tensor([[True, True, False]])
    yield (
        "padding on the right is refused",
        raised(generate, counting, torch.tensor([[1, 2, 0]]), 3, key_mask=right_padded),
    )


def _no_competition(model, token_ids, n_beams, max_new_tokens, eos_id=None, length_penalty=1.0):
    _refuse_search(model, token_ids, n_beams, max_new_tokens)
    with torch.no_grad():
        log_probs = torch.log_softmax(model(token_ids[None])[0, -1], dim=-1)
        totals, firsts = log_probs.topk(min(n_beams, len(log_probs)))
        found = []
        for total, first in zip(totals.tolist(), firsts, strict=True):
            text = torch.cat([token_ids, first[None]])
            while len(text) - len(token_ids) < max_new_tokens and int(text[-1]) != eos_id:
                window = text[-getattr(getattr(model, "config", None), "context_length", 10**6) :]
                best = torch.log_softmax(model(window[None])[0, -1], dim=-1).max(dim=-1)
                total, text = total + best.values.item(), torch.cat([text, best.indices[None]])
            found.append((total / (len(text) - len(token_ids)) ** length_penalty, text))
    score, text = max(found, key=lambda entry: entry[0])
    return text, score


def _refuse_search(model, token_ids, n_beams, max_new_tokens):
    context_length = getattr(getattr(model, "config", None), "context_length", 10**6)
    if not 0 < len(token_ids) <= context_length or n_beams < 1 or max_new_tokens < 1:
        raise ValueError


@observes(
    "beam_search",
    difficulty=5,
    minutes=45,
    rtol=1e-3,
    hints=(
        "Begin with one beam, the prompt, and total 0. A step turns (beams, vocab) totals into candidates; flattened, "
        "candidate c comes from beam c // vocab_size and adds token c % vocab_size. `topk` ranks them all.",
        "Take twice n_beams candidates, so that n_beams are left to go on with even if half of them end. Put those of the first "
        "n_beams that end into a list of (score, text), sorted, at most n_beams long. Totals stay sums: divide only the "
        "scores by length ** length_penalty.",
        "At max_new_tokens every candidate ends. Stop early when the list holds n_beams texts and the best open total, "
        "divided by the present length ** length_penalty, is not above the worst score of the list. Return the first "
        "of the list.",
    ),
    mistakes={
        "Each beam goes on with its own best token: the beams never compete, so a bad one is never dropped.": _no_competition,
        "New tokens are appended to the wrong beams: a candidate belongs to the beam that it came from.": (
            "beams[parents]",
            "beams[torch.arange(len(parents)) % len(beams)]",
        ),
        "The end of text is a token like any other: the search goes on past it into another text.": (
            "if eos_id is not None:",
            "if False:",
        ),
        "The first text that ends is taken, though an open beam may still beat it.": (
            "len(finished) == n_beams and totals[0].item() / length**length_penalty <= finished[-1][0]",
            "finished",
        ),
        "It stops as soon as n_beams texts have ended (early_stopping=True), without a look at the open beams.": (
            "len(finished) == n_beams and totals[0].item() / length**length_penalty <= finished[-1][0]",
            "len(finished) == n_beams",
        ),
        "It goes on to the last step although no open beam could win when the rule stopped it: a longer text may "
        "still win later, by its length.": (
            "len(finished) == n_beams and totals[0].item() / length**length_penalty <= finished[-1][0]",
            "False",
        ),
        "Only n_beams candidates are ranked: each one that ends leaves one beam less to go on with.": (
            "min(2 * n_beams, len(candidates))",
            "min(n_beams, len(candidates))",
        ),
        "A candidate that ends far down the ranking is taken in too: only the first n_beams may finish.": (
            "ends[:n_beams].nonzero()",
            "ends.nonzero()",
        ),
        "The scores are not divided by the length: short texts win, for each token costs something.": (
            "scores = (totals / length**length_penalty).tolist()",
            "scores = totals.tolist()",
        ),
        "The score is divided by the length with the prompt: only the new tokens were paid for.": (
            "scores = (totals / length**length_penalty).tolist()",
            "scores = (totals / beams.shape[1] ** length_penalty).tolist()",
        ),
        "The length penalty is a factor, not an exponent of the length: any value above 0 then ranks the texts "
        "alike.": (
            "scores = (totals / length**length_penalty).tolist()",
            "scores = (totals / (length * length_penalty if length_penalty else 1)).tolist()",
        ),
        "The running totals are divided too: the next step adds ln p to an average.": (
            "totals[~ends][:n_beams]",
            "(totals / length**length_penalty)[~ends][:n_beams]",
        ),
        "Raw logits are added up: without the softmax's normalizer, beams cannot be compared.": (
            "torch.log_softmax(model(beams[:, -context_length:])[:, -1].float(), dim=-1)",
            "model(beams[:, -context_length:])[:, -1].float()",
        ),
        "Probabilities are added up: those of a text multiply, so their logarithms add.": (
            "torch.log_softmax(",
            "torch.softmax(",
        ),
        "One beam is kept, whatever n_beams says: that is greedy decoding.": (
            "    beams, totals = token_ids[None]",
            "    n_beams = 1\n    beams, totals = token_ids[None]",
        ),
        "The worst of the finished texts is returned.": ("finished[0]", "finished[-1]"),
        "The whole text is given to the model, however long: beyond the context it fails.": (
            "model(beams[:, -context_length:])",
            "model(beams)",
        ),
        "The model is not switched to evaluation: dropout disturbs the search.": (
            "with inference(model):",
            "with torch.no_grad():",
        ),
        "The sum of ln p is returned as the score, not divided by the length: texts of different lengths cannot be "
        "compared by it.": (
            "return sequence, score",
            "return sequence, score * (len(sequence) - len(token_ids)) ** length_penalty",
        ),
    },
)
def check_beam_search(beam_search, rng):
    road = _Table(torch.tensor([[0.55, 0.44, 0.01], [0.04, 0.95, 0.01], [0.6, 0.39, 0.01]]).log())
    start = torch.tensor([2])
    for n_beams in (1, 2):
        label = "0.6 then 0.55, or 0.39 then 0.95?"
        yield f"{label} With n_beams = {n_beams}", beam_search(road, start, n_beams, 2, length_penalty=0.0)
    yield "the same, score divided by the length", beam_search(road, start, 2, 2)
    table = _Table(torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.1, 0.4], [0.01, 0.01, 0.98]]).log())
    start = torch.tensor([1])
    yield "after 1 the text ends (0), or goes on with 2, 2, 2", beam_search(table, start, 1, 6, eos_id=0)
    rows = [[0.7, 0.1, 0.1, 0.1], [0.33, 0.34, 0.329, 0.001], [0.98, 0.009, 0.01, 0.001], [0.5, 0.299, 0.2, 0.001]]
    table, start = _Table(torch.tensor(rows).log()), torch.tensor([3])
    yield "one candidate of three ends, and two beams go on", beam_search(table, start, 2, 2, 0, 2.0)
    rows = [[0.7, 0.1, 0.1, 0.1], [0.2, 0.39, 0.4, 0.01], [0.7, 0.1, 0.1, 0.1], [0.398, 0.6, 0.001, 0.001]]
    table = _Table(torch.tensor(rows).log())
    yield "the second of two candidates ends, and there is one beam", beam_search(table, start, 1, 2, 0, 0.0)
    model, prompt = _Toy(rng, vocab_size=7), torch.randint(0, 7, (3,), generator=rng)
    yield "no end of text, three beams, five tokens", beam_search(model, prompt, 3, 5)
    yield "one new token", beam_search(model, prompt, 4, 1)
    yield "more beams than tokens", beam_search(model, prompt, 9, 3, eos_id=0)
    rows = [[0, 0, 0, 0, 0], [99, 0, 0, 0, 0], [0, 0, 0, 99, 0], [99, 0, 0, 0, 0], [1, 0, 0, -99, -99]]
    table, start = _Table(torch.tensor(rows).float()), torch.tensor([4])
    yield "no open text is better than the worst finished one, only as good", beam_search(table, start, 2, 4, 0)
    rows = [[0, 0, 0, 0, 0], *[[99, 0, 0, 0, 0]] * 3, [-99, 1, 1, 2, -99]]
    table = _Table(torch.tensor(rows).float())
    yield "three texts end: two are as good as each other, the third is better", beam_search(table, start, 3, 3, 0)
    for length_penalty in (1.0, 0.0, 2.0, -0.5):
        found = []
        for _ in range(8):
            table = _SharperTable(1.5 * torch.randn(6, 6, generator=rng))
            table.logits[:, 0] += 1.0  # the end of text comes often, but not at once
            start = torch.randint(1, 6, (2,), generator=rng)
            found.append(beam_search(table, start, 3, 9, eos_id=0, length_penalty=length_penalty))
        yield f"eight models, token 0 ends, length_penalty = {length_penalty}", found
    model = _Toy(rng, vocab_size=7, context_length=4)
    yield "nine tokens in a context of 4", beam_search(model, prompt, 2, 6)
    model = _Toy(rng, vocab_size=7, dropout=0.5)
    model.train()
    yield "a model with dropout", beam_search(model, prompt, 3, 4)
    yield "it comes back in training mode, without gradients", [model.training, model.gradients]
    empty = torch.zeros(0, dtype=torch.long)
    yield "an empty prompt is refused", raised(beam_search, model, empty, 2, 3)
    long = torch.zeros(9, dtype=torch.long)
    yield "nine tokens in a context of 4 are refused", raised(beam_search, _Toy(rng, 7, 4), long, 2, 3)
    yield "no beams, or no new tokens, are refused", [raised(beam_search, model, prompt, *n) for n in ((0, 3), (2, 0))]


def _absolute(expert_logits, amateur_logits, alpha=0.1, amateur_temperature=1.0):
    _refuse_contrast(expert_logits, amateur_logits, alpha, amateur_temperature)
    expert = torch.log_softmax(expert_logits.float(), dim=-1)
    amateur = torch.log_softmax(amateur_logits.float() / amateur_temperature, dim=-1)
    return (expert - amateur).masked_fill(expert < math.log(alpha), -math.inf)


def _refuse_contrast(expert_logits, amateur_logits, alpha, amateur_temperature):
    if not 0 < alpha <= 1 or amateur_temperature <= 0 or expert_logits.shape != amateur_logits.shape:
        raise ValueError


def _probabilities_subtracted(expert_logits, amateur_logits, alpha=0.1, amateur_temperature=1.0):
    _refuse_contrast(expert_logits, amateur_logits, alpha, amateur_temperature)
    expert = torch.softmax(expert_logits.float(), dim=-1)
    amateur = torch.softmax(amateur_logits.float() / amateur_temperature, dim=-1)
    plausible = expert >= alpha * expert.amax(dim=-1, keepdim=True)
    return (expert - amateur).masked_fill(~plausible, -math.inf)


def _logarithms_of_softmax(expert_logits, amateur_logits, alpha=0.1, amateur_temperature=1.0):
    _refuse_contrast(expert_logits, amateur_logits, alpha, amateur_temperature)
    expert = torch.softmax(expert_logits.float(), dim=-1)
    amateur = torch.softmax(amateur_logits.float() / amateur_temperature, dim=-1)
    plausible = expert >= alpha * expert.amax(dim=-1, keepdim=True)
    return (expert.log() - amateur.log()).masked_fill(~plausible, -math.inf)


@observes(
    "contrastive_decode",
    difficulty=3,
    minutes=15,
    rtol=1e-3,
    hints=(
        "Work the example of the docstring by hand: which tokens may be chosen, and what is the score of each?",
        "Two log-softmaxes, the amateur's after its temperature. The constraint looks at the expert alone: p >= alpha · max p "
        "is ln p >= ln max p + ln alpha.",
        "The score is a difference of logarithms; the border is each row's own maximum plus ln alpha, both the "
        "expert's. `masked_fill` puts -inf below it.",
    ),
    mistakes={
        "No token is ruled out: one that both find absurd wins, if the amateur finds it more absurd.": (
            ".masked_fill(~plausible, -math.inf)",
            "",
        ),
        "The sign is wrong: this looks for what the amateur likes and the expert does not.": (
            "(expert - amateur)",
            "(amateur - expert)",
        ),
        "alpha is taken as a probability, not as a share of the expert's best: where the expert is unsure, nothing is "
        "left.": _absolute,
        "alpha is a share of the best log-probability, not of the best probability: the less sure the expert is, "
        "the more absurd the tokens that it lets through.": (
            "expert.amax(dim=-1, keepdim=True) + math.log(alpha)",
            "expert.amax(dim=-1, keepdim=True) / alpha",
        ),
        "The amateur decides what is plausible: that is the expert's part.": (
            "plausible = expert >= expert.amax",
            "plausible = amateur >= amateur.amax",
        ),
        "One maximum is used for the whole batch: each row has a best token of its own.": (
            "expert.amax(dim=-1, keepdim=True)",
            "expert.max()",
        ),
        "The temperature is the expert's here: it belongs to the amateur.": [
            (
                "torch.log_softmax(expert_logits.float(), dim=-1)",
                "torch.log_softmax(expert_logits.float() / amateur_temperature, -1)",
            ),
            (
                "torch.log_softmax(amateur_logits.float() / amateur_temperature, dim=-1)",
                "torch.log_softmax(amateur_logits.float(), -1)",
            ),
        ],
        "The amateur's temperature is not used: it should set how strongly the amateur's taste counts.": (
            "amateur_logits.float() / amateur_temperature",
            "amateur_logits.float()",
        ),
        "Raw logits are subtracted: without the softmax's normalizer the scores are shifted from text to text.": [
            ("torch.log_softmax(expert_logits.float(), dim=-1)", "expert_logits.float()"),
            (
                "torch.log_softmax(amateur_logits.float() / amateur_temperature, dim=-1)",
                "amateur_logits.float() / amateur_temperature",
            ),
        ],
        "Probabilities are subtracted, where the paper takes their ratio.": _probabilities_subtracted,
        "The logarithm is taken of a softmax: a token that the amateur finds nearly impossible has p = 0 in float32, and its "
        "score is infinite.": _logarithms_of_softmax,
        "An implausible token gets score 0: that can be better than a plausible one's.": (
            "~plausible, -math.inf",
            "~plausible, 0.0",
        ),
    },
)
def check_contrastive_decode(contrastive_decode, rng):
    expert, amateur = torch.tensor([[0.6, 0.38, 0.02]]).log(), torch.tensor([[0.7, 0.2, 0.1]]).log()
    yield "the example of the docstring", contrastive_decode(expert, amateur)
    yield "alpha = 0.02", contrastive_decode(expert, amateur, 0.02)
    yield "alpha = 1", contrastive_decode(expert, amateur, 1.0)
    yield "the amateur at temperature 0.5", contrastive_decode(expert, amateur, 0.1, 0.5)
    # A grid in random order: no probability falls on a border.
    expert, amateur = (torch.stack([torch.randperm(9, generator=rng) for _ in range(3)]) * 0.45 + 7 for _ in range(2))
    expert = expert * torch.tensor([[1.0], [0.3], [2.0]])
    yield "three rows of nine tokens, alpha = 0.3", contrastive_decode(expert, amateur, 0.3, 1.5)
    yield "logits with one axis more", contrastive_decode(expert[:, None] + 2, amateur[:, None], 0.13)
    yield (
        "an amateur 300 nats away",
        contrastive_decode(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[300.0, -300.0, 0.0]])),
    )
    yield "float16", contrastive_decode(expert.half(), amateur.half(), 0.3, 0.01)
    yield "alpha of 0 and of 1.5 are refused", [raised(contrastive_decode, expert, amateur, a) for a in (0.0, 1.5)]
    yield "temperature 0 is refused", raised(contrastive_decode, expert, amateur, 0.1, 0.0)
    yield "another vocabulary is refused", raised(contrastive_decode, expert, amateur[:, :8])
