"""What a right answer of lesson 01 shows, and the known mistakes."""

import math

import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from shared.checking import observes, raised
from week2_pretraining.solutions.sampling import inference
from week3_evaluation.solutions import perplexity as reference


def _refuse(n_tokens, window, stride):
    if n_tokens < 2 or not 1 <= stride <= window:
        raise ValueError


def _as_labels_are_shifted(n_tokens, window, stride):
    """A window of `window` tokens with its own last token as the last target: it predicts one fewer than it could."""
    _refuse(n_tokens, window, stride)
    end = min(max(window - 1, 1), n_tokens - 1)
    windows = [(0, end, end)]
    while end < n_tokens - 1:
        n_scored = min(stride, n_tokens - 1 - end)
        end += n_scored
        windows.append((max(end - window + 1, 0), end, n_scored))
    return windows


def _from_multiples_of_the_stride(n_tokens, window, stride):
    _refuse(n_tokens, window, stride)
    windows, done = [], 0
    for begin in range(0, n_tokens, stride):
        end = min(begin + window, n_tokens - 1)
        windows.append((begin, end, end - done))
        done = end
        if end == n_tokens - 1:
            return windows


@observes(
    "rolling_windows",
    difficulty=2,
    minutes=15,
    hints=(
        "Keep one number: `end`, the last token that has been scored so far. A window that reads up to end - 1 predicts it.",
        "First window: end = min(window, n_tokens - 1), all of it scored. Each later one moves `end` on by the stride, or "
        "by what is left, and begins `window` tokens before `end`.",
        "n_tokens - 1 - end tokens are still to be scored; when none are left you are done. Refuse what is out of "
        "range before the first window, and follow your steps through the example of the docstring.",
    ),
    mistakes={
        "The first window scores only `stride` tokens: the text's first tokens are never scored.": (
            "windows = [(0, end, end)]",
            "windows = [(0, end, min(stride, end))]",
        ),
        "Each window scores all that it predicts: tokens where windows overlap are counted twice.": (
            "windows.append((end - window, end, n_scored))",
            "windows.append((end - window, end, window))",
        ),
        "A later window begins where the scored tokens begin: they are read without the context that the overlap is for.": (
            "windows.append((end - window, end, n_scored))",
            "windows.append((end - n_scored, end, n_scored))",
        ),
        "Windows begin at multiples of the stride, the last one too: its tokens see less than a full window before them.": (
            _from_multiples_of_the_stride
        ),
        "A window of `window` tokens holds its own last target, as with `labels=` in transformers: each prediction "
        "rests on one token fewer than it could.": _as_labels_are_shifted,
        "The last piece is dropped, for it is shorter than the stride: the text's end is never scored.": (
            "while end < n_tokens - 1:",
            "while end + stride <= n_tokens - 1:",
        ),
        "The last window goes on to token n_tokens, which does not exist: the last token has no successor to "
        "predict.": [
            ("end = min(window, n_tokens - 1)", "end = min(window, n_tokens)"),
            ("while end < n_tokens - 1:", "while end < n_tokens:"),
            ("min(stride, n_tokens - 1 - end)", "min(stride, n_tokens - end)"),
        ],
        "A stride greater than the window is accepted: some tokens then fall between two windows, and what stands "
        "right before them is read by none.": ("if not 1 <= stride <= window:", "if not 1 <= stride:"),
        "A text of one token is accepted: it leaves nothing to predict, and a perplexity of nothing is no number.": (
            "if n_tokens < 2:",
            "if n_tokens < 1:",
        ),
    },
)
def check_rolling_windows(rolling_windows, rng):
    yield "8 tokens, window 4, stride 2", rolling_windows(8, 4, 2)
    yield "disjoint windows, the last one shorter", rolling_windows(12, 4, 4)
    yield "one token at a time", rolling_windows(7, 3, 1)
    yield "a text shorter than the window", rolling_windows(5, 9, 3)
    yield "a text that just fits", rolling_windows(5, 4, 2)
    yield "two tokens: one is scored", rolling_windows(2, 4, 2)
    n, window, part = (int(torch.randint(low, high, (), generator=rng)) for low, high in ((150, 190), (12, 21), (3, 6)))
    yield "a long text", rolling_windows(n, window, window // part)
    for label, arguments in (
        ("a start token but an empty text is refused", (1, 4, 2)),
        ("no token is refused", (0, 4, 2)),
        ("a stride of 0 is refused", (8, 4, 0)),
        ("a stride greater than the window is refused", (8, 4, 5)),
        ("a window of 0 is refused", (8, 0, 1)),
    ):
        yield label, raised(rolling_windows, *arguments)


class Rememberer(nn.Module):
    """Logits from all that it has read, the latest most, and from how much that was; louder in training mode."""

    def __init__(self, rng, vocab_size=5, dtype=torch.float32):
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocab_size, vocab_size, generator=rng).to(dtype))
        self.places = torch.randn(64, vocab_size, generator=rng).to(dtype)
        self.calls = []  # rows, tokens, training mode, gradients

    def forward(self, token_ids):
        self.calls.append((*token_ids.shape, self.training, torch.is_grad_enabled()))
        told = self.table[token_ids]
        memory = [told[:, 0]]
        for t in range(1, token_ids.shape[1]):
            memory.append(0.8 * memory[-1] + told[:, t])
        logits = torch.stack(memory, dim=1) + self.places[: token_ids.shape[1]]
        return logits * (3.0 if self.training else 1.0)

    def most(self):
        """The most rows and tokens of any call; whether any was in training mode, or with gradients."""
        return [max(call[i] for call in self.calls) for i in range(4)] if self.calls else []


def _modules_modes(model):
    return [module.training for module in model.modules()]


def _with_loss_of_labels(model, token_ids, window, stride, batch_size=8):
    """The mean of each window, given to each of its tokens."""
    nats = []
    with inference(model):
        for begin, end, n_scored in reference.rolling_windows(len(token_ids), window, stride):
            logits = model(token_ids[None, begin:end])[0, -n_scored:].float()
            nats.append(F.cross_entropy(logits, token_ids[end - n_scored + 1 : end + 1]).expand(n_scored))
    return torch.cat(nats)


def _left_in_evaluation_mode(model, token_ids, window, stride, batch_size=8):
    nats = reference.sliding_window_nll(model, token_ids, window, stride, batch_size)
    if isinstance(model, nn.Module):
        model.eval()
    return nats


@observes(
    "sliding_window_nll",
    difficulty=3,
    minutes=25,
    hints=(
        "All windows of a text have the same length, so some of them can be stacked to a batch: (batch, window). Which of "
        "a window's predictions are scored? The last n_scored.",
        "logits[:, t] predicts the token after position t. A window that reads token_ids[begin:end] predicts up to "
        "token_ids[end], and its scored targets are token_ids[end - n_scored + 1 : end + 1].",
        "`inference(model)` sees to the modes and the gradients. `F.cross_entropy` with reduction='none' keeps a "
        "value for each token: give it the scored logits only, in float32, and put all the pieces together with "
        "`torch.cat`.",
    ),
    mistakes={
        "A window's first predictions are scored, not its last: the tokens with the least context before them.": [
            ("logits[-n_scored:]", "logits[:n_scored]"),
            ("token_ids[end - n_scored + 1 : end + 1]", "token_ids[begin + 1 : begin + n_scored + 1]"),
            ("for logits, (_, end, n_scored) in", "for logits, (begin, end, n_scored) in"),
        ],
        "The predictions are compared with the tokens that were read, not with those that come next.": (
            "token_ids[end - n_scored + 1 : end + 1]",
            "token_ids[end - n_scored : end]",
        ),
        "All predictions of a window are kept: tokens where windows overlap are there twice.": [
            ("logits[-n_scored:]", "logits"),
            ("token_ids[end - n_scored + 1 : end + 1]", "token_ids[end - len(logits) + 1 : end + 1]"),
        ],
        "Each window reads only as many tokens as it scores: the context that the overlap is for is lost.": [
            ("for first in range(0, len(windows), batch_size):", "for first in range(len(windows)):"),
            ("batch = windows[first : first + batch_size]", "batch = windows[first : first + 1]"),
            ("token_ids[begin:end] for begin, end, _ in", "token_ids[end - n_scored : end] for _, end, n_scored in"),
        ],
        "The model is in training mode: with dropout on, the text costs more, and another amount each time.": (
            "with inference(model):",
            "with torch.no_grad():",
        ),
        "The model is left in evaluation mode: a training run that evaluates in between goes on without dropout.": (
            _left_in_evaluation_mode
        ),
        "Gradients are recorded: the memory for them grows with each window of the text.": [
            ("with inference(model):", "with inference(model), torch.enable_grad():"),
        ],
        "The result is in bits, not in nats: exp of its mean is then no perplexity.": (
            "return torch.cat(nats)",
            "return torch.cat(nats) / math.log(2)",
        ),
        "The log-probabilities are returned, not their negatives: exp of their mean is then one over the "
        "perplexity, and lower is worse.": (
            "return torch.cat(nats)",
            "return -torch.cat(nats)",
        ),
        "Each token gets the mean of its window: the sum over a window is right, but what each token costs is lost.": (
            _with_loss_of_labels
        ),
        "The softmax is taken in the model's own half precision: bfloat16 has two to three digits, too few for a "
        "sum over thousands of tokens.": ("logits[-n_scored:].float()", "logits[-n_scored:]"),
        "The windows of the last batch are dropped where they do not fill it: the end of the text is never scored.": (
            "range(0, len(windows), batch_size)",
            "range(0, max(len(windows) - batch_size + 1, 1), batch_size)",
        ),
        "batch_size has no effect: all windows are given to the model at once, and a long text does not fit into memory.": (
            "    nats = []\n",
            "    nats, batch_size = [], len(windows)\n",
        ),
    },
)
def check_sliding_window_nll(sliding_window_nll, rng):
    model = Rememberer(rng, vocab_size=3).eval()
    text = torch.tensor([0, 2, 1, 1, 0, 2])
    shown = {"token_ids": text, "window": 3, "stride": 2, "model": "logits from all tokens read"}
    yield "six tokens, window 3, stride 2", sliding_window_nll(model, text, 3, 2), shown
    yield "the same text in disjoint windows", sliding_window_nll(model, text, 3, 3), shown | {"stride": 3}
    yield "the same text in one window", sliding_window_nll(model, text, 9, 1), shown | {"window": 9, "stride": 1}

    model = Rememberer(rng, vocab_size=11)
    text = torch.randint(0, 11, (60,), generator=rng)
    model.train()
    shown = {"token_ids": text, "window": 9, "stride": 4, "batch_size": 5, "model": "in training mode"}
    yield "60 tokens, 14 windows, 5 in a batch", sliding_window_nll(model, text, 9, 4, batch_size=5), shown
    most = dict(zip(("rows", "tokens", "training mode", "gradients"), model.most(), strict=False))
    limits = {"rows": 5, "tokens": 9, "training mode": 0, "gradients": 0}
    yield "what the model was given beyond its limits", {k: max(int(v) - limits[k], 0) for k, v in most.items()}, shown
    yield "the modes of the model afterwards", _modules_modes(model), shown
    yield "stride 1, one window at a time", sliding_window_nll(model.eval(), text, 5, 1, batch_size=1), shown

    half = Rememberer(rng, vocab_size=11, dtype=torch.bfloat16).eval()
    yield "a model in bfloat16", sliding_window_nll(half, text, 12, 6), {"token_ids": text, "model": "in bfloat16"}
    bare = lambda token_ids: model(token_ids)  # noqa: E731  a function, not a module
    yield "a model that is a function", sliding_window_nll(bare, text[:20], 7, 3), {"token_ids": text[:20]}
    for label, n, window, stride in (
        ("a start token but an empty text is refused", 1, 4, 2),
        ("a stride of 0 is refused", 8, 4, 0),
        ("a stride greater than the window is refused", 8, 4, 5),
    ):
        yield label, raised(sliding_window_nll, model, text[:n], window, stride)


def _refuse_texts(nats, n_bytes):
    if len(nats) != len(n_bytes) or len(nats) < 2 or (n_bytes < 1).any():
        raise ValueError


def _spread_of_ratios(nats, n_bytes):
    """All bits by all bytes, with the standard error of the mean of the texts' own ratios."""
    _refuse_texts(nats, n_bytes)
    bits, n_bytes = nats.double() / math.log(2), n_bytes.double()
    r, ratios = (bits.sum() / n_bytes.sum()).item(), bits / n_bytes
    half = stats.t.ppf(0.975, len(bits) - 1) * ratios.std().item() / math.sqrt(len(bits))
    return r, r - half, r + half


@observes(
    "bits_per_byte_interval",
    difficulty=2,
    minutes=15,
    rtol=1e-6,
    atol=1e-9,
    hints=(
        "The estimate is one division: all bits by all bytes. A long text has more say in it than a short one.",
        "How far is a text's bits from what r would give it? residual_i = bits_i - r · bytes_i. They sum to 0.",
        "Work in float64 (`.double()`). The standard error is the docstring's formula as it stands. `scipy.stats` "
        "has Student's t, and `ppf` is its quantile function: 2.5 % lie above the quantile that you need.",
    ),
    mistakes={
        "The work is done in float32, which has seven digits: in a difference of large numbers the last ones are "
        "what counts.": [
            ("nats.double() / math.log(2), n_bytes.double()", "nats.float() / math.log(2), n_bytes.float()"),
        ],
        "The mean of the texts' own ratios is taken: a text of 10 bytes has as much say as one of 10,000.": (
            "r = bits.sum() / n_bytes.sum()",
            "r = (bits / n_bytes).mean()",
        ),
        "The result is in nats per byte: the division by ln 2 is missing.": (
            "nats.double() / math.log(2)",
            "nats.double()",
        ),
        "1.96 is taken for every number of texts: with four of them t is 3.18, and the interval much too narrow.": (
            "stats.t.ppf(0.975, n - 1)",
            "1.959964",
        ),
        "The t of a 90 % interval is taken: 5 % then lie outside on each side, where 2.5 % should.": (
            "stats.t.ppf(0.975, n - 1)",
            "stats.t.ppf(0.95, n - 1)",
        ),
        "The sum of squares is divided by n, not by n - 1: r has been fitted to the same texts.": (
            "* n / (n - 1)).sqrt()",
            ").sqrt()",
        ),
        "The residuals are those from the mean of the bits: they hold the texts' different lengths, which say nothing of "
        "the model.": ("bits - r * n_bytes", "bits - bits.mean()"),
        "The spread is that of the texts' own ratios: a short text's ratio is noisy, and counts there as much as any.": (
            _spread_of_ratios
        ),
        "The interval is that of a single text, not of the whole: it does not shrink as texts are added.": (
            "square().sum() * n / (n - 1)).sqrt() / n_bytes.sum()",
            "square().sum() / (n - 1)).sqrt() / n_bytes.mean()",
        ),
        "The interval reaches one standard error to each side: with many texts that covers about 68 %, not 95 %.": (
            "float(stats.t.ppf(0.975, n - 1)) * standard_error.item()",
            "standard_error.item()",
        ),
        "One text is accepted: it says nothing of how far the next would be off, and the interval is nan.": (
            "if n < 2:",
            "if n < 1:",
        ),
        "A text of 0 bytes is accepted: it holds nothing to predict, and only makes n look larger.": (
            "if (n_bytes < 1).any():",
            "if (n_bytes < 0).any():",
        ),
    },
)
def check_bits_per_byte_interval(bits_per_byte_interval, rng):
    bits = math.log(2)
    yield "two texts", bits_per_byte_interval(torch.tensor([30 * bits, 10 * bits]), torch.tensor([10, 10]))
    yield "a long text, and one of a byte", bits_per_byte_interval(torch.tensor([200.0, 3.0]), torch.tensor([1000, 1]))
    n_bytes = torch.randint(50, 900, (12,), generator=rng)
    nats = 0.9 * n_bytes + 40 * torch.randn(12, generator=rng)
    yield "twelve texts", bits_per_byte_interval(nats, n_bytes)
    yield "the first four of the twelve", bits_per_byte_interval(nats[:4], n_bytes[:4])
    yield "a difference of two models", bits_per_byte_interval(nats - 0.95 * n_bytes, n_bytes)
    large = torch.tensor([300_000.0, -299_999.0])
    yield "large numbers that almost cancel", bits_per_byte_interval(large, torch.tensor([1000, 1000]))
    for label, some_nats, some_bytes in (
        ("one text is refused", nats[:1], n_bytes[:1]),
        ("no text is refused", nats[:0], n_bytes[:0]),
        ("nats of three texts and bytes of two are refused", nats[:3], n_bytes[:2]),
        ("a text of 0 bytes is refused", torch.tensor([9.0, 0.0, 3.0]), torch.tensor([4, 0, 2])),
    ):
        yield label, raised(bits_per_byte_interval, some_nats, some_bytes)
