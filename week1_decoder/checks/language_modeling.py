"""What a right answer of lesson 04 shows, and the known mistakes."""

import math

import torch

from shared.checking import observes, raised


def _hugging_face_labels(token_ids, attention_mask=None):
    return token_ids if attention_mask is None else token_ids.masked_fill(attention_mask == 0, -100)


@observes(
    "next_token_targets",
    difficulty=1,
    minutes=8,
    hints=(
        "Write down by hand the targets of the row 5, 6, 7. How many positions of it can be trained?",
        "Start from a tensor of the same shape that is -100 everywhere, and copy the tokens into it one place earlier.",
        "With a mask, position t counts only if t and t + 1 are both real tokens: compare the mask with itself, "
        "shifted by one.",
    ),
    mistakes={
        "The targets are the inputs themselves, not shifted: the model is paid for copying the token it has just "
        "read, so the loss goes to zero and the text is nonsense.": (
            "targets[:, :-1] = token_ids[:, 1:]",
            "targets[:, :-1] = token_ids[:, :-1]",
        ),
        "The labels are those that Hugging Face models take, which shift them inside: here nobody does, and the "
        "model is paid for copying the token it has just read.": _hugging_face_labels,
        "The shift goes the wrong way: each position is asked for the token before it, which it can already see.": (
            "targets[:, :-1] = token_ids[:, 1:]",
            "targets[:, 1:] = token_ids[:, :-1]",
        ),
        "The row wraps around: the last position is asked for the first token, as if the text went in a circle.": (
            "torch.full_like(token_ids, -100)",
            "token_ids.roll(-1, dims=1)",
        ),
        "The attention mask is not used: the model spends its effort on predicting padding.": (
            "if attention_mask is not None:",
            "if False:",
        ),
        "The mask is not shifted with the targets: the last real token of a row is asked to predict padding.": (
            "~(real[:, :-1] & real[:, 1:])",
            "~real[:, :-1]",
        ),
        "Only the targets are masked: with padding on the left, a padded position, which has read no text, is asked "
        "for the first token.": (
            "~(real[:, :-1] & real[:, 1:])",
            "~real[:, 1:]",
        ),
        "Padding is told by token id 0 and not by the mask: where 0 is a real token too, real text is lost.": (
            "attention_mask.bool()",
            "token_ids.bool()",
        ),
        "Positions with nothing to learn get target 0 and not -100: they count, and teach the model to say token 0.": [
            ("torch.full_like(token_ids, -100)", "torch.zeros_like(token_ids)"),
            ("real[:, 1:])] = -100", "real[:, 1:])] = 0"),
        ],
        "The targets are one position shorter than the inputs: the last position is there too, though it has "
        "nothing to learn.": (
            "return targets",
            "return targets[:, :-1]",
        ),
    },
)
def check_next_token_targets(next_token_targets, rng):
    yield "one row of four tokens", next_token_targets(torch.tensor([[5, 6, 7, 8]]))
    yield (
        "padding on the right",
        next_token_targets(torch.tensor([[5, 6, 7, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]])),
    )
    yield (
        "padding on the left",
        next_token_targets(torch.tensor([[0, 0, 5, 6, 7]]), torch.tensor([[0, 0, 1, 1, 1]])),
    )
    yield (
        "token 0 is a word here, and also the padding",
        next_token_targets(torch.tensor([[0, 9, 0, 4, 0]]), torch.tensor([[1, 1, 1, 1, 0]])),
    )
    yield "a single token", next_token_targets(torch.tensor([[5]]))
    token_ids = torch.randint(0, 50, (3, 7), generator=rng)
    yield "three random rows", next_token_targets(token_ids)
    lengths = torch.tensor([[7], [4], [0]])
    attention_mask = (torch.arange(7) < lengths).long()
    yield "rows of 7, 4 and 0 real tokens", next_token_targets(token_ids, attention_mask)
    yield "the same, padded on the left", next_token_targets(token_ids, attention_mask.flip(1))


def _log_of_softmax(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    log_p = torch.softmax(logits, dim=-1).log()
    return -log_p.gather(-1, targets.masked_fill(~counts, 0)[..., None])[..., 0][counts].mean()


def _softmax_twice(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    log_p = torch.log_softmax(torch.softmax(logits, dim=-1), dim=-1)
    return -log_p.gather(-1, targets.masked_fill(~counts, 0)[..., None])[..., 0][counts].mean()


def _wrong_axis(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    log_p = torch.log_softmax(logits, dim=0)
    return -log_p.gather(-1, targets.masked_fill(~counts, 0)[..., None])[..., 0][counts].mean()


def _mean_of_row_means(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    log_p = torch.log_softmax(logits, dim=-1)
    nats = -log_p.gather(-1, targets.masked_fill(~counts, 0)[..., None])[..., 0]
    return ((nats * counts).sum(dim=-1) / counts.sum(dim=-1)).mean()


@observes(
    "cross_entropy",
    difficulty=3,
    minutes=15,
    hints=(
        "-ln softmax(z)[y] can be written as ln Σ exp(z) - z[y]. Which of the two forms survives z = 1000?",
        "`torch.logsumexp` is the first half. For the second, `gather` picks one logit for each position; it refuses "
        "-100 as an index, so put a valid token there first and leave that position out of the mean.",
        "Mark the targets that count, and put token 0 in place of the others. logsumexp over the vocabulary, less "
        "the gathered logit, is the nats of a position; average over the marked ones.",
    ),
    mistakes={
        "exp of the raw logits overflows: large logits give inf or nan instead of a loss.": (
            "torch.logsumexp(logits, dim=-1)",
            "logits.exp().sum(dim=-1).log()",
        ),
        "The logarithm is taken of a softmax: a very unlikely target has p = 0 in float32, and its loss is "
        "infinite.": _log_of_softmax,
        "The softmax is applied twice: the loss stays high and flat, however sure the model is.": _softmax_twice,
        "The softmax runs over another axis than the vocabulary: positions compete, not tokens.": _wrong_axis,
        "The sum is divided by all positions, ignored ones too: padding makes the loss look better.": (
            "nats[counts].mean()",
            "(nats * counts).mean()",
        ),
        "Ignored positions count as if their target were token 0.": ("nats[counts].mean()", "nats.mean()"),
        "The losses are summed, not averaged: the loss grows with the batch.": (
            "nats[counts].mean()",
            "nats[counts].sum()",
        ),
        "Each row is averaged first: tokens of short rows then weigh more than those of long ones.": _mean_of_row_means,
        "-100 is built in: another ignore_index is trained on as if it were text.": (
            "targets != ignore_index",
            "targets != -100",
        ),
        "The sign is wrong: training would make the right token less likely.": (
            "torch.logsumexp(logits, dim=-1) - target_logits",
            "target_logits - torch.logsumexp(logits, dim=-1)",
        ),
        "No gradient flows through the normalizer: the right logit is pushed up for ever, the others are never pushed "
        "down.": ("torch.logsumexp(logits, dim=-1)", "torch.logsumexp(logits, dim=-1).detach()"),
        "The loss is in bits (log base 2), and nats were asked for.": (
            "nats[counts].mean()",
            "nats[counts].mean() / math.log(2)",
        ),
        "A batch with nothing to learn gives loss 0, which looks like a perfect model; the mean of nothing is nan.": (
            "nats[counts].mean()",
            "nats[counts].sum() / counts.sum().clamp(min=1)",
        ),
    },
)
def check_cross_entropy(cross_entropy, rng):
    yield "one token of three", cross_entropy(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0]))
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 5.0, 1.0], [1.0, 0.0, 3.0]])
    yield "the middle one is ignored", cross_entropy(logits, torch.tensor([1, -100, 2]))
    yield "a vocabulary of one token, the second ignored", cross_entropy(logits[:2, :1], torch.tensor([0, -100]))
    yield "logits raised by 1000", cross_entropy(logits + 1000, torch.tensor([1, 2, 0]))
    yield "logits 300 apart", cross_entropy(torch.tensor([[300.0, 0.0, -300.0]]), torch.tensor([2]))
    logits = (3 * torch.randn(2, 4, 5, generator=rng)).requires_grad_()
    targets = torch.randint(0, 5, (2, 4), generator=rng)
    targets[0, 1:] = -100
    loss = cross_entropy(logits, targets)
    yield "two rows, with one and with four counted targets", loss
    flows = isinstance(loss, torch.Tensor) and loss.requires_grad
    yield "its gradient for the logits", torch.autograd.grad(loss, logits)[0] if flows else None
    targets = torch.tensor([[0, 3, 3, 1], [3, 2, 4, 3]])
    yield "ignore_index 3", cross_entropy(logits.detach(), targets, ignore_index=3)
    yield "logits in float64", cross_entropy(logits.detach().double(), targets)
    yield "no target counts", cross_entropy(logits.detach(), torch.full((2, 4), -100))


def _mean_of_perplexities(losses, counts):
    if not (counts > 0).any():
        raise ValueError
    return torch.exp(losses[counts > 0]).mean().item()


def _weighted_mean_of_perplexities(losses, counts):
    counted = counts > 0
    if not counted.any():
        raise ValueError
    return ((losses[counted].exp() * counts[counted]).sum() / counts.sum()).item()


@observes(
    "perplexity",
    difficulty=2,
    minutes=8,
    hints=(
        "Add up the nats of the whole corpus first, then divide once, then exponentiate once.",
        "The nats of a sequence are its mean loss times its number of counted tokens.",
        "Leave out the sequences without counted tokens. A mean loss times its count is the nats of a sequence; all "
        "nats over all tokens is the exponent.",
    ),
    mistakes={
        "The perplexities of the sequences are averaged: exp is convex, so the result is too high, and one bad "
        "sequence decides it.": _mean_of_perplexities,
        "The perplexities are averaged, weighted by tokens: the weights are right, but exp is convex, so the mean "
        "of its values is too high.": _weighted_mean_of_perplexities,
        "Every sequence weighs the same: the tokens of a short one count more than those of a long one.": (
            "(losses[counted] * counts[counted]).sum()",
            "losses[counted].mean() * counts[counted].sum()",
        ),
        "2 is raised to a loss in nats: 2 belongs to bits, e to nats.": (
            "torch.exp(total_nats / counts[counted].sum())",
            "2 ** (total_nats / counts[counted].sum())",
        ),
        "The mean loss in nats is returned: its exponential is missing.": (
            "torch.exp(total_nats / counts[counted].sum())",
            "(total_nats / counts[counted].sum())",
        ),
        "The total is divided by the number of sequences, not of tokens.": (
            "total_nats / counts[counted].sum()",
            "total_nats / len(losses[counted])",
        ),
        "An empty sequence, whose loss is nan, turns the whole corpus into nan.": ("counts > 0", "counts >= 0"),
    },
)
def check_perplexity(perplexity, rng):
    losses = torch.tensor([math.log(2), math.log(8)])
    yield "three tokens at ln 2, one at ln 8", perplexity(losses, torch.tensor([3, 1]))
    yield "one sequence", perplexity(torch.tensor([1.5]), torch.tensor([7]))
    yield "an empty sequence between two", perplexity(torch.tensor([0.5, math.nan, 2.5]), torch.tensor([4, 0, 1]))
    losses = 0.5 + 4 * torch.rand(9, generator=rng)
    counts = torch.randint(1, 200, (9,), generator=rng)
    yield "nine sequences of random lengths", perplexity(losses, counts)
    yield "no counted token is refused", raised(perplexity, torch.tensor([math.nan]), torch.tensor([0]))


@observes(
    "bits_per_byte",
    difficulty=1,
    minutes=5,
    hints=(
        "A nat is 1 / ln 2 = 1.4427 bits.",
        "`len(text)` counts characters. How many bytes is é, or a Chinese character, on a disk?",
        'Two divisions: by ln 2, which turns nats into bits, and by the length of what `text.encode("utf-8")` gives.',
    ),
    mistakes={
        "The text is measured in characters: outside ASCII a character has two to four bytes.": (
            'len(text.encode("utf-8"))',
            "len(text)",
        ),
        "The nats were not turned into bits: each of them is 1.44 bits.": (" / math.log(2)", ""),
        "Nats are multiplied by ln 2, where they should be divided by it: a nat is more than a bit.": (
            "/ math.log(2)",
            "* math.log(2)",
        ),
        "The text is measured in words: what a word is depends on the language.": (
            'len(text.encode("utf-8"))',
            "len(text.split())",
        ),
        "The text is encoded as UTF-16, which has two bytes or more even for ASCII.": ('"utf-8"', '"utf-16-le"'),
    },
)
def check_bits_per_byte(bits_per_byte, rng):
    yield "8 ln 2 nats for ¿no?", bits_per_byte(8 * math.log(2), "¿no?")
    nats = 20 + 100 * torch.rand(3, generator=rng, dtype=torch.float64)
    yield "plain English", bits_per_byte(nats[0].item(), "The cat sat on the mat.")
    yield "Greek, Chinese and a sign of four bytes", bits_per_byte(nats[1].item(), "λόγος 语言 𝄞")
    yield "an empty text is refused", raised(bits_per_byte, nats[2].item(), "")


def _context_counted_at_the_end_too(train_ids, test_ids, vocab_size, smoothing=0.1):
    if len(test_ids) < 2:
        raise ValueError
    pairs = train_ids[:-1] * vocab_size + train_ids[1:]
    n = torch.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size)
    contexts = torch.bincount(train_ids, minlength=vocab_size)[:, None]
    p = (n + smoothing) / (contexts + smoothing * vocab_size)
    return -p[test_ids[:-1], test_ids[1:]].log().mean().item()


@observes(
    "bigram_cross_entropy",
    difficulty=2,
    minutes=15,
    hints=(
        "Make the table of counts n(a, b) first: one row for each token a, one column for each token b that follows.",
        "A pair (a, b) has the number a · vocab_size + b; `torch.bincount(pairs, minlength=vocab_size**2)` counts all "
        "of them at once.",
        "Add the smoothing to every cell, divide each row by its own sum (+ smoothing · vocab_size), look up the pairs "
        "of test_ids, and return the mean of -ln p.",
    ),
    mistakes={
        "The table is read the wrong way round: the test text is scored as if it ran backwards.": (
            "p[test_ids[:-1], test_ids[1:]]",
            "p[test_ids[1:], test_ids[:-1]]",
        ),
        "The columns are normalized, not the rows: p(b | a) must sum to one over b.": (
            "n.sum(dim=1, keepdim=True)",
            "n.sum(dim=0, keepdim=True)",
        ),
        "The whole table is normalized: that is the joint p(a, b), which pays for guessing the context too.": (
            "(n.sum(dim=1, keepdim=True) + smoothing * vocab_size)",
            "(n.sum() + smoothing * vocab_size**2)",
        ),
        "The denominator holds the smoothing once, though every token of the vocabulary gets it: the probabilities "
        "of a row sum to more than one.": ("smoothing * vocab_size)", "smoothing)"),
        "There is no smoothing: one unseen pair, and the loss is infinite.": [
            ("(n + smoothing)", "n"),
            (" + smoothing * vocab_size)", ")"),
        ],
        "The counts come from the test text: the model has seen the exam.": (
            "train_ids[:-1] * vocab_size + train_ids[1:]",
            "test_ids[:-1] * vocab_size + test_ids[1:]",
        ),
        "The pairs do not overlap: every second transition of the training text is lost.": (
            "train_ids[:-1] * vocab_size + train_ids[1:]",
            "train_ids[:-1:2] * vocab_size + train_ids[1::2]",
        ),
        "The logarithm is taken after the mean of the probabilities: the tokens that the model found unlikely, "
        "which cost most, then hardly count.": (".log().mean()", ".mean().log()"),
        "The last training token counts as a context, though nothing follows it: its row sums to less than "
        "one.": _context_counted_at_the_end_too,
        "The loss is in bits (log base 2), and nats were asked for.": (".log()", ".log2()"),
    },
)
def check_bigram_cross_entropy(bigram_cross_entropy, rng):
    train_ids, test_ids = torch.tensor([0, 1, 0, 1, 1, 2]), torch.tensor([0, 1, 1])
    yield "six training tokens, three test tokens", bigram_cross_entropy(train_ids, test_ids, 3)
    yield "the test goes on from the last token", bigram_cross_entropy(train_ids, torch.tensor([1, 2, 0]), 3, 0.5)
    yield "a pair and a context never seen", bigram_cross_entropy(train_ids, torch.tensor([1, 0, 3, 2]), 5, 1.0)
    yield "an unseen pair without smoothing", bigram_cross_entropy(train_ids, torch.tensor([0, 2]), 3, 0.0)
    jumps = torch.randint(1, 4, (400,), generator=rng)  # a text with structure: forwards by one to three, modulo 7
    token_ids = jumps.cumsum(0) % 7
    yield "300 training and 100 test tokens", bigram_cross_entropy(token_ids[:300], token_ids[300:], 7, 0.2)
    yield "a test of one token is refused", raised(bigram_cross_entropy, train_ids, torch.tensor([1]), 3)


def _token_scored_after_it_was_read(logits, token_ids, completion_mask):
    if completion_mask[:, 0].any():
        raise ValueError
    log_probs = torch.log_softmax(logits, dim=-1)
    return (log_probs.gather(-1, token_ids[..., None])[..., 0] * completion_mask).sum(dim=-1)


@observes(
    "completion_log_prob",
    difficulty=3,
    minutes=12,
    hints=(
        "Which row of logits was computed before the model saw token_ids[:, t]?",
        "Drop the last logits and the first token: then log_probs[:, i] belongs to token_ids[:, i + 1]. The mask must "
        "move with the tokens.",
        "Take log_softmax of all logits but the last, `gather` from it the tokens from the second on, put 0 where "
        "the mask, cut like the tokens, is False, and sum along each row.",
    ),
    mistakes={
        "Each token is scored by the logits computed after it was read: the model is asked what comes after the "
        "answer.": _token_scored_after_it_was_read,
        "The mask did not move with the tokens: the completion's first token is not scored, and the token after its "
        "last one is.": (
            "completion_mask[:, 1:])",
            "completion_mask[:, :-1])",
        ),
        "The prompt and the padding are scored too: a long prompt then drowns the answer.": (
            "(chosen * completion_mask[:, 1:])",
            "chosen",
        ),
        "The mean per token is returned: a fair way to compare answers of different lengths, but not ln "
        "p(completion).": (
            "sum(dim=-1)",
            "sum(dim=-1) / completion_mask[:, 1:].sum(dim=-1)",
        ),
        "Raw logits are added up: without the softmax's normalizer they are no probabilities.": (
            "torch.log_softmax(logits[:, :-1], dim=-1)",
            "logits[:, :-1]",
        ),
        "Probabilities are added up: those of a sequence multiply, so their logarithms add.": (
            "torch.log_softmax(",
            "torch.softmax(",
        ),
        "The logarithm is taken of a softmax: a very unlikely token has p = 0 in float32, and the sum is no number "
        "any more.": (
            "torch.log_softmax(logits[:, :-1], dim=-1)",
            "torch.softmax(logits[:, :-1], dim=-1).log()",
        ),
        "The sign is that of a loss, -ln p: the best answer would get the lowest score.": (
            "return (chosen",
            "return -(chosen",
        ),
        "The rows are added up: each row of the batch is an answer with a score of its own.": (
            ".sum(dim=-1)",
            ".sum()",
        ),
    },
)
def check_completion_log_prob(completion_log_prob, rng):
    logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]])
    token_ids = torch.tensor([[0, 1, 0]])
    yield (
        "the last of three tokens",
        completion_log_prob(logits, token_ids, torch.tensor([[False, False, True]])),
    )
    yield (
        "the last two of three tokens",
        completion_log_prob(logits, token_ids, torch.tensor([[False, True, True]])),
    )
    yield (
        "a token that is 300 nats away",
        completion_log_prob(-300 * logits, token_ids, torch.tensor([[False, False, True]])),
    )
    logits = 2 * torch.randn(3, 7, 5, generator=rng)
    token_ids = torch.randint(0, 5, (3, 7), generator=rng)
    starts, ends = torch.tensor([[4], [2], [1]]), torch.tensor([[7], [5], [2]])
    mask = (torch.arange(7) >= starts) & (torch.arange(7) < ends)
    yield "prompts of 4, 2 and 1 tokens, completions of 3, 3 and 1", completion_log_prob(logits, token_ids, mask)
    mask[0] = False
    yield "nothing marked in the first row", completion_log_prob(logits, token_ids, mask)
    mask[1, 0] = True
    yield "a marked first token is refused", raised(completion_log_prob, logits, token_ids, mask)
