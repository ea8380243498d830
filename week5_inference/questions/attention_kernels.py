"""Questions at the end of the lesson on rotary positions and attention in tiles."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Choice(
        (
            "A checkpoint has its rotary pairs interleaved, (0, 1), (2, 3), …, and the code turns pairs (i, i + "
            "d_head/2). Both W_q and W_k are loaded as they are. What do you see?"
        ),
        Option(
            "An error when the weights are loaded.",
            "All shapes fit: only the order of rows within each head is another one.",
        ),
        Option(
            "No difference, since q and k are both paired wrongly, and alike.",
            (
                "Then scores at distance 0 are right. At other distances each pair turns by another frequency than "
                "it was trained with."
            ),
        ),
        Option(
            "A loss that is too high, but could pass for the model's own.",
            (
                "In this lesson the perplexity was two to three times too high, without a warning. So compare "
                "logits with a known implementation."
            ),
            right=True,
        ),
        Option(
            "Noise, as from weights that were never trained.",
            (
                "That is what happens when *only one* of q and k is reordered. With both alike, nearby tokens "
                "still score nearly right."
            ),
        ),
    ),
    Number(
        (
            "Of the scores so far the running maximum is m = ln 2, and the sum ℓ = 1.5. A block comes that holds "
            "the one score ln 4. What is ℓ now?"
        ),
        1.75,
        (
            "The new maximum is ln 4, so the old sum shrinks by e^(ln 2 - ln 4) = ½, and the new score adds e^0: "
            "0.75 + 1."
        ),
        near={
            2.5: "The old sum is still relative to the old maximum: it has to be corrected first.",
            4: "The correction is upside down: e^(old m - new m) is due, which is never above 1.",
        },
        tolerance=0.001,
    ),
    Choice(
        (
            "With RoPE, a text stands once at positions 0, 1, 2, … and once, behind 50 padding tokens that nobody "
            "sees, at positions 50, 51, 52, … What changes in the model's output for the text?"
        ),
        Option(
            "Everything: each vector is turned by another angle.",
            "Each q and k is. But a score is a dot product of two of them, and the common turn cancels.",
        ),
        Option(
            "Nothing: only differences of positions count.",
            (
                "The score of a query turned by mθ and a key turned by nθ knows (m - n)θ alone. Adding 50 to both "
                "leaves that as it is, up to rounding."
            ),
            right=True,
        ),
        Option("The scores stay, and the values are turned.", "Values are never turned: only q and k are."),
    ),
    Number(
        (
            "A model with d_head 64 was trained on 1,024 tokens. NTK-aware scaling stretches it to 8,192. By what "
            "number is the frequency of the *slowest* pair divided?"
        ),
        8,
        (
            "The base is multiplied by s^(d_head/(d_head - 2)), and the last pair's exponent is -(d_head - "
            "2)/d_head: together 1/s, with s = 8. That exponent was chosen for it."
        ),
        near={
            1: "That is the fastest pair, which NTK leaves alone.",
            7.5: "That comes out if the base is multiplied by s alone: 8^(62/64).",
        },
        tolerance=0.02,
    ),
    Choice(
        (
            "Attention in tiles gives the same output as attention with a stored matrix. What does it save, and "
            "what not?"
        ),
        Option(
            "It saves memory and bytes moved; operations are as many, or more.",
            (
                "One tile of scores is alive at a time. The backward pass even computes the weights again, and is "
                "still faster where memory is slow."
            ),
            right=True,
        ),
        Option(
            "It saves operations: they grow with n in place of n².",
            "Every visible pair of query and key is still computed once. What grows with n in place of n² is memory.",
        ),
        Option(
            "It saves memory, and the output is a good approximation.",
            "It is the same sum in another order: equal up to rounding.",
        ),
        Option(
            "It saves the softmax: tiles need no maximum and no sum.",
            "Both are kept up to date for each query, from tile to tile.",
        ),
    ),
)
