"""The questions at the end of lesson 01."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "Four examples have 6, 5, 4 and 5 tokens. `collate_sft` packs them in this order, whole, into rows of at most "
        "10 tokens. How many rows are there?",
        3,
        "6 (5 more do not fit), then 5 + 4 (5 more do not fit), then 5.",
        near={
            2: "All 20 tokens would fill two rows, as 6 + 4 and 5 + 5. For that the examples must be sorted first, as "
            "TRL's packing does.",
            4: "That is one example a row, without packing.",
        },
        unit="rows",
    ),
    Choice(
        "A tokenizer pads with EOS, and somebody masks the labels by `token_ids == pad_id`. What will be seen?",
        Option(
            "A loss that does not fall, for the labels contradict each other.",
            "No label is wrong here. Some are missing, and fewer labels do not keep a loss from falling.",
        ),
        Option(
            "An ordinary loss curve, and replies that run on to the limit.",
            "The EOS that ends each answer is masked with the padding, so nobody ever asks the model to stop.",
            right=True,
        ),
        Option(
            "Replies that stop at once, for the model learns to write padding.",
            "That is what *unmasked* padding would teach. Here EOS is never a label at all.",
        ),
    ),
    Choice(
        "Two examples are packed into one row. Positions begin anew with the second, but attention is plainly causal "
        "over the row. What do the second one's logits depend on?",
        Option(
            "On both examples: new positions keep nobody out.",
            "A position tells where a token stands, the mask tells who may be seen. It takes both to get what the "
            "example gives alone.",
            right=True,
        ),
        Option(
            "On the second alone, because each example begins at position 0.",
            "Its queries still reach every key before them in the row, whatever numbers those carry.",
        ),
        Option(
            "On the first one at its first token only; from then on it has a context of its own.",
            "Every later query also sees all of the first example, and gives it what weight its scores say.",
        ),
    ),
    Choice(
        "Run A counts the responses only and ends at a loss of 1.4. Run B counts prompts and responses and ends at "
        "1.1. Which model answers better?",
        Option(
            "B, for its loss is lower.",
            "Its mean runs over other tokens. Prompts may be easier than answers, and there are more of them.",
        ),
        Option(
            "A, for only it was trained to answer.",
            "B was trained on the same answers, beside the prompts. Where data is scarce, prompts can even help.",
        ),
        Option(
            "That cannot be told from these two numbers.",
            "They are means over different tokens. Compare both on the same ones: responses to held-out instructions.",
            right=True,
        ),
    ),
    Choice(
        "Each document gives five instructions. All lines are shuffled, and a tenth is held out. What is wrong with "
        "the held-out score?",
        Option(
            "Nothing, as long as no held-out line is in the training set word for word.",
            "Five lines of one document share its facts: one line can give the answer of another away.",
        ),
        Option(
            "It flatters: most held-out lines have a sibling that was trained on.",
            "So split by what examples share, here the document. In this lesson that was the story.",
            right=True,
        ),
        Option(
            "It is too low, since the held-out documents are missing from training.",
            "With such a split hardly any document is missing from it: that is the fault.",
        ),
    ),
)
