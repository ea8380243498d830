"""What a learner should know after lesson 05, sampling."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "A model gives two tokens the probabilities 0.8 and 0.2. With which probability is the first drawn at "
        "temperature 0.5?",
        0.941,
        "Dividing the logits by 0.5 squares the probabilities, which are then scaled to sum to 1: 0.64 / (0.64 + "
        "0.04) = 0.941.",
        near={
            0.64: "The squares have to be scaled again: 0.64 and 0.04 sum to 0.68.",
            0.667: "That is temperature 2, which takes the roots. Below 1 the likely becomes likelier.",
            0.8: "That is temperature 1.",
            1: "That would be temperature 0. At 0.5 the second token is still drawn now and then.",
        },
        tolerance=0.006,
    ),
    Number(
        "Probabilities (0.4, 0.3, 0.2, 0.1), top-k 2 and top-p 0.5. How many tokens can be drawn?",
        1,
        "Top-k leaves 0.4 and 0.3, scaled to 0.57 and 0.43. Top-p is measured on these, and the first alone has 0.5 "
        "or more.",
        near={
            2: (
                "So it would be if top-p were measured on the model's own probabilities: 0.4 is less than 0.5. But it "
                "comes after top-k, on what that has left: 0.57."
            ),
        },
        unit="tokens",
    ),
    Choice(
        "You decode greedily, at temperature 0. Which setting can change the text?",
        Option(
            "Top-p: from 1.0 to 0.5.",
            "The cut leaves the likeliest token in any case, and greedy takes just that one.",
        ),
        Option(
            "Top-k: from 0 (off) to 40.",
            "The likeliest token is among the first 40, and greedy takes no other.",
        ),
        Option(
            "The repetition penalty: from 1.0 to 1.2.",
            "It lowers the logits of tokens that stand in the text already, so another token can come first.",
            right=True,
        ),
        Option(
            "The seed: from 0 to 1.",
            "Greedy decoding draws nothing, so there is no chance for a seed to decide.",
        ),
    ),
    Choice(
        "A batch of prompts is padded on the *right* with a key mask, and your loop reads the logits at `[:, -1]`. "
        "What do the shorter prompts get?",
        Option(
            "Their own continuation: the causal mask hides the padding.",
            "It hides the padding from the real tokens, which is why training can pad on the right. But here it is a "
            "padding position that is *read*.",
        ),
        Option(
            "Their own continuation, with positions that are too high.",
            "Positions are counted by the mask on either side. The column that is read is the wrong one.",
        ),
        Option(
            "The continuation of the longest prompt in the batch.",
            "Rows know nothing of each other; each one is attended to by itself.",
        ),
        Option(
            "A continuation from a padding token.",
            "The last column of a shorter row is padding. Padded on the left, each row's next token comes right "
            "after its last real one.",
            right=True,
        ),
    ),
    Choice(
        "With three beams you find a text whose Σ ln p is −20.1 (length penalty 0). With five beams the same program "
        "finds −20.6. Is that possible?",
        Option(
            "No: five beams hold all that three hold, and two more.",
            "They do at first. But the two more have continuations, and those can push out a beginning that three "
            "beams had kept.",
        ),
        Option(
            "Yes: the beginning of the better text can drop out among five.",
            "The better text may go through a beginning that looks poor for a while. With other rivals it is thrown "
            "away. In this lesson five beams did find less than three.",
            right=True,
        ),
        Option(
            "No: the sum of more beams cannot be lower than that of fewer.",
            "Each text has a sum of its own. Beams are texts side by side, and nothing is added over them.",
        ),
        Option(
            "Yes: a longer search adds more terms, and each lowers the sum.",
            "Longer *texts* have lower sums. More beams do not make a text longer.",
        ),
    ),
)
