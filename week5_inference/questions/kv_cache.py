"""Questions at the end of the lesson on the KV cache."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        (
            "A model has 24 layers, 16 query heads, 4 key heads and d_head 128. Its cache is kept in float16. How "
            "many bytes does one token take?"
        ),
        49152,
        (
            "2 · layers · key heads · d_head · bytes = 2 · 24 · 4 · 128 · 2 = 49,152. The 2 in front is for keys "
            "and values."
        ),
        near={
            24576: "That counts the keys and leaves out the values.",
            196608: "That takes the 16 query heads. Queries are not kept: no later token asks for an old one.",
            393216: "Those are bits.",
        },
        unit="bytes",
    ),
    Choice(
        "Somebody takes the causal mask out of a decoder and goes on using its KV cache. What goes wrong?",
        Option(
            "Nothing: a key and a value are made from their own token alone.",
            (
                "That is so in the first layer. Above it, a token's hidden state has been through attention over "
                "other tokens."
            ),
        ),
        Option(
            "Old queries would have to be kept too, and there is no room for them.",
            (
                "They would have to be computed again, but so would keys and values above the first layer: keeping "
                "anything is of no use."
            ),
        ),
        Option(
            "The scores of old tokens no longer add up to 1.",
            "The softmax makes each row add up to 1, whatever its keys are.",
        ),
        Option(
            "A new token changes old keys and values above the first layer.",
            (
                "Without the mask, old positions see the new token, so what enters the second layer there has "
                "changed. The kept numbers are stale."
            ),
            right=True,
        ),
    ),
    Choice(
        (
            "Prompts of 8 and 40 tokens are padded on the right and read in one pass, with a correct mask. Then "
            "each row's first token is drawn from the *last column* of the logits. What do you see?"
        ),
        Option(
            "Both rows are right: the mask hides the padding.",
            (
                "The mask keeps padding from being *looked at*. The last column of the short row is still the "
                "answer to a padding token's query."
            ),
        ),
        Option(
            "Both rows are wrong: the last column belongs to no token.",
            "In the longest row the last column is its last real token.",
        ),
        Option(
            "The long row is right; the short one goes on from padding.",
            "The logits that count are those of the last *real* token, which stands in another column in each row.",
            right=True,
        ),
        Option(
            "An error: the rows have different lengths.",
            "The tensor has one shape. That is what makes such a mistake so quiet.",
        ),
    ),
    Choice(
        (
            "Reading a prompt token is many times cheaper than generating a token, although the same weights are "
            "multiplied. Why?"
        ),
        Option(
            "In prefill the tokens do not attend to one another.",
            (
                "They do: prefill computes the whole triangle of scores. Without it, the cache above the first "
                "layer would be wrong."
            ),
        ),
        Option(
            "In prefill, one reading of the weights serves the whole prompt.",
            (
                "Decode reads every weight for one token, so memory and the start of each operation set the pace. "
                "Prefill spreads both over many tokens."
            ),
            right=True,
        ),
        Option(
            "In prefill no probabilities over the vocabulary have to be computed.",
            "To leave them out spares one product of many, and this lesson's pass computes them all the same.",
        ),
        Option(
            "A prompt token takes fewer operations than a generated one.",
            "It takes about as many. What differs is how many tokens share the cost of reading and starting.",
        ),
    ),
)
