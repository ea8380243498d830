"""The quiz at the end of 02_attention."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "All entries of a query and a key are independent, with mean 0 and variance 1. The head is 64 wide. What is "
        "the standard deviation of their dot product, before anything is divided?",
        8,
        "The product of two such entries has variance 1, and variances of independent terms add up: 64 in all. The "
        "root of that is 8: the √d_head by which the scores are divided.",
        near={
            64: "That is the variance. The standard deviation is its root.",
            1: "That is what is left after the division by √d_head. The question is about the scores before it.",
            4096: "Variances of independent terms add up; they are not multiplied.",
        },
    ),
    Choice(
        "While generating, a model has one new query and ten keys, the last of which belongs to the query's own token. "
        "Which keys may the query see, and which does `F.scaled_dot_product_attention` with `is_causal=True` show it?",
        Option(
            "It may see all ten, and sees all ten.",
            "It may see all ten. But `is_causal=True` aligns its mask at the top left, so it takes the query for the "
            "first position of the text.",
        ),
        Option(
            "It may see all ten, and sees the first alone.",
            "The one query is the last position, so nothing lies in its future. `is_causal=True` aligns its mask at "
            "the top left, where query 0 sees key 0 and no other. With a cache, pass the mask yourself.",
            right=True,
        ),
        Option(
            "It may see the first nine, and sees all ten.",
            "A query may see its own position too: the mask is `key <= query`, not `key < query`.",
        ),
        Option(
            "It may see all ten, and sees the last alone.",
            "The first half is right. But a mask aligned at the top left takes this query for query 0. Which key does "
            "query 0 see?",
        ),
    ),
    Choice(
        "Someone takes the softmax of all scores first, and then sets the weights of future keys to 0. The values of "
        "future tokens do not enter the output. What is wrong?",
        Option(
            "Nothing: a weight of 0 hides a key, however it became 0.",
            "It hides the key's *value*. Look at what the other weights of that row were divided by.",
        ),
        Option(
            "The scores of future keys stay in the denominator, so the size of the output tells about them.",
            "A row now adds up to 1 minus the weight that the future had. Strong keys ahead make it small, and the "
            "model learns to read that. With -inf before the softmax they leave the denominator too.",
            right=True,
        ),
        Option(
            "The rows no longer add up to 1, so the gradient is 0.",
            "The first half is true. But the gradient is not 0: it even reaches the scores of future keys, by way of "
            "the denominator.",
        ),
    ),
    Number(
        "Multi-head attention with d_model 64 and 8 heads, without biases: how many parameters has it?",
        16384,
        "Four matrices (w_q, w_k, w_v and w_o) of 64 · 64 numbers. Heads are slices of the same matrices, so their "
        "number does not matter.",
        near={
            4096: "That is one of the matrices.",
            12288: "Those are w_q, w_k and w_v. One more matrix mixes the heads.",
            131072: "You gave each head four whole matrices. Each has only a slice of them.",
            2048: "Those are the slices of one head. There are 8.",
        },
        unit="parameters",
    ),
)
