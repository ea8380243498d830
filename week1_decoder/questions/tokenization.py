"""What a learner should know after lesson 01, tokenization."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "Five merges, in the order of their learning: `e r`, `l o`, `w er`, `lo w`, `er s`. Into how many tokens "
        "does BPE encode the word `lowers`?",
        3,
        "l o w e r s → l o w er s → lo w er s → lo wer s. No pair of these three is in the list. `w er` was learnt "
        "before `lo w` and before `er s`, so it comes first.",
        near={
            2: (
                "`low` and `ers` are the longest pieces from the left, and they decode to the same word. But BPE "
                "replays the merges by rank: `w er` takes the w before `lo w` and the er before `er s`."
            ),
            4: "One more merge fits: `w` and `er` stand side by side, and their merge is the third in the list.",
            6: "These are the letters, before any merge.",
        },
        unit="tokens",
    ),
    Choice(
        "You have trained BPE up to 10,000 merges, and you keep only the first 5,000. How does that tokenizer differ "
        "from one trained for 5,000 merges on the same text?",
        Option(
            "It holds rarer tokens, as the later merges have replaced the common ones.",
            "A merge replaces nothing. It adds one token to the vocabulary, and all earlier tokens stay in it.",
        ),
        Option(
            "It compresses less well, since the 10,000 merges were chosen together.",
            "Nothing is chosen together: each merge is the commonest pair at its own moment, and is never revised.",
        ),
        Option(
            "Not at all: a merge depends only on the merges before it.",
            "Training is greedy and goes step by step, so the first n merges are the tokenizer of that size. One "
            "training gives the whole curve over vocabulary sizes.",
            right=True,
        ),
        Option(
            "Its ids are the same, but words are cut at other places.",
            "The cuts follow from the list of merges alone, and the two lists are equal.",
        ),
    ),
    Choice(
        "GPT-2 has no PAD token, so a script fills up its rows with EOS and makes the mask as `token_ids != eos_id`. "
        "What will you see after fine-tuning?",
        Option(
            "The model has not learnt to stop: its answers run on.",
            "The mask hides the real end tokens together with the padding, so no target ever said that a text ends. "
            "Make the mask from the lengths.",
            right=True,
        ),
        Option(
            "The model stops too early, for it has seen more EOS than text.",
            "It would if padding counted in the loss. This mask hides every EOS, the real ones too, so it has learnt "
            "from none.",
        ),
        Option(
            "No difference: an end token is no text, so nothing is lost with it.",
            "The end token is a target like any other. It is the only thing from which a model can learn when to stop.",
        ),
        Option(
            "The loss becomes nan in rows that hold more than one EOS.",
            "A hidden position is only left out of the mean; that gives no nan as long as one target of the batch "
            "counts.",
        ),
    ),
    Choice(
        "A chat server encodes the messages of its users with the special tokens switched on. Someone types "
        "`<|endoftext|>` in the middle of a message. What reaches the model?",
        Option(
            "The letters and signs of the tag, cut into ordinary tokens.",
            "That is what happens where special tokens are not asked for, as in `encode_bpe` without the list. Here "
            "they are.",
        ),
        Option(
            "One id, which tells the model that a document ends and a new one begins.",
            "The tag is text that anybody can type. Whether it becomes the special token must be decided by the "
            "program: for a user's text, no.",
            right=True,
        ),
        Option(
            "Nothing: a special token has no bytes, so it falls out of the text.",
            "It has an id and a row in the embedding like every token, and the model has learnt what comes after it.",
        ),
        Option(
            "An unknown token, since the tag was never in the training text.",
            "Byte-level BPE has no unknown token, and this tag has stood between the documents of the training data.",
        ),
    ),
)
