"""What a learner should know after lesson 04, language modelling."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "Model A reads bytes, one per token, and needs 2 bits for each. Model B reads tokens of 4 bytes on average, "
        "and needs 6 bits for each. How many bits per byte does B need?",
        1.5,
        "6 bits are shared by 4 bytes: 1.5. So B is the better model of the text, although its loss per token is "
        "three times that of A.",
        near={
            6: "That is per token. A token of B stands for 4 bytes.",
            24: "The bits of a token are shared by its bytes: divide, do not multiply.",
            0.67: "Divide the bits by the bytes, not the bytes by the bits.",
        },
        unit="bits per byte",
        tolerance=0.01,
    ),
    Number(
        "At one position a model gives three tokens the probabilities 0.7, 0.2 and 0.1. The third one comes. What is "
        "the gradient of this position's loss by the logit of the third token?",
        -0.9,
        "p − 1 for the token that came: 0.1 − 1 = −0.9. For the other two it is 0.7 and 0.2. A step against the "
        "gradient lifts the right logit and lowers the others.",
        near={
            0.9: "The size is right. The sign is minus: a step *against* the gradient must lift the right logit.",
            0.1: "That is p itself, the gradient for a token that did not come. For the one that came, subtract 1.",
            2.3: "That is the loss, −ln 0.1, and not its gradient.",
            -10: "That is the gradient by the *probability*, −1/p. The logit acts through the softmax.",
        },
        tolerance=0.005,
    ),
    Choice(
        "A model learns one batch by heart: the loss goes to nearly 0. Which of these faults can still be in the "
        "program?",
        Option(
            "The gradients never reach the optimizer.",
            "Then no weight would move and the loss would stay at ln V. This the test does rule out.",
        ),
        Option(
            "The targets are the inputs, not shifted by one.",
            "Any targets can be learnt by heart, also wrong ones. What shows it is a held-out loss that is too good, "
            "and text that repeats the token it has just read.",
            right=True,
        ),
        Option(
            "The learning rate is a thousand times too small.",
            "Then the loss would hardly have moved in so few steps, even on one batch.",
        ),
        Option(
            "The weights are restored to their start after every step.",
            "Then nothing could be learnt by heart. A fault that stops learning is what this test finds.",
        ),
    ),
    Choice(
        "You compare the answers `yes` and `no, not at all` by the sum of ln p of their tokens. What does the length "
        "do?",
        Option(
            "Nothing: the chain rule makes probabilities of different lengths comparable.",
            "It makes them right. Still each of them is a product, and a longer product of numbers below 1 is smaller.",
        ),
        Option(
            "The longer answer gains: each further token adds evidence for it.",
            "Each further token adds ln p, which is at most 0. The sum can only fall.",
        ),
        Option(
            "The longer answer loses: each further token adds a number below 0.",
            "That is right for ln p(answer), and often unwanted in a comparison. The GPT-3 paper also divides by the "
            "number of tokens, or by the answer's probability without the question.",
            right=True,
        ),
        Option(
            "The longer answer gains: its later tokens are easier to guess.",
            "They may be, and then they cost little. But they never cost less than nothing.",
        ),
    ),
)
