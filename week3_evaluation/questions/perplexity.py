"""The questions at the end of lesson 01."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "A text has two chapters. The first has 300 tokens with a mean cost of 2 nats, the second 100 tokens with a "
        "mean cost of 4 nats. The perplexity of the whole text is exp of which number?",
        2.5,
        "The mean is over tokens: (300 · 2 + 100 · 4) / 400.",
        near={
            3: "That is the mean of the two means: a token of the short chapter then counts three times as much.",
            6: "That is the sum of the two means; perplexity takes the mean over all tokens.",
        },
        unit="nats per token",
        tolerance=0.01,
    ),
    Choice(
        "On the same text model A costs 3.0 nats a token, and its tokens hold 4.5 bytes on average. Model B costs 2.0 "
        "nats a token, at 2.5 bytes a token. Which predicts the text better?",
        Option(
            "B, for its perplexity is lower.",
            "Per token it is, but B needs 1.8 times as many tokens for the same text.",
        ),
        Option(
            "That cannot be told, for they cut the text into different tokens.",
            "Their tokens differ, but the bytes are the same, and every byte is paid for by both.",
        ),
        Option(
            "A, for it pays less for a byte.",
            "3.0 / 4.5 = 0.67 nats a byte against 2.0 / 2.5 = 0.80; divided by ln 2 these are bits per byte.",
            right=True,
        ),
    ),
    Choice(
        "The same model on the same text: disjoint windows of 512 tokens give perplexity 20, windows of 512 with "
        "stride 256 give 18. Both programs are right. Where do the two points come from?",
        Option(
            "Tokens where the windows overlap are scored twice, and the second time they are easier.",
            "A right program scores each token once: of a later window only the new predictions count.",
        ),
        Option(
            "No token stands at the start of a window any more, except in the first one.",
            "With stride 256 every later scored token has at least 257 tokens before it. What costs is the start of a "
            "window.",
            right=True,
        ),
        Option(
            "The model has read the text twice, so it remembers some of it.",
            "Its weights do not change, and nothing is carried from one window to the next.",
        ),
    ),
    Choice(
        "A model needs 9 bits per byte for a Python file. What does that say?",
        Option(
            "It expects other tokens than those that come, and is rather sure of them.",
            "The cost -log₂ p has no upper limit: who is sure and wrong pays more than who knows nothing.",
            right=True,
        ),
        Option(
            "There is an error in the sum, because no byte can cost more than 8 bits.",
            "8 bits is what a uniform guess over bytes costs, or the file as it lies on the disk. A model can do "
            "worse.",
        ),
        Option(
            "Nothing much: perplexity is an exponential, which makes large losses look larger.",
            "Bits per byte are the loss itself in another unit; no exponential is taken.",
        ),
    ),
)
