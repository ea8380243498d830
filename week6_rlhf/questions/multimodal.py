"""Questions at the end of the lesson on seeing."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        (
            "A picture of 64 × 64 pixels is cut into patches of 8 × 8, and the projector merges squares of 2 × 2 "
            "patches. How many tokens does the language model read for it?"
        ),
        16,
        "8 · 8 = 64 patches, and four of them make one token.",
        near={
            64: "Those are the patches, before they are merged.",
            32: "A square of 2 × 2 patches is four patches, not two.",
            4: "The *side* of the grid is 4 after merging: 4 · 4 tokens.",
        },
        unit="tokens",
    ),
    Choice(
        (
            "A model is trained on questions about pictures, but every picture gives it zeros. Asked about pairs "
            "of colour and shape that training held out, it is right *less* often than by guessing. Why?"
        ),
        Option(
            "It answers what was usual, and the right answer never was.",
            (
                "*What colour is the circle?* was never answered *red* in training if red circles were held out. "
                "So compare with a blind model, not with chance."
            ),
            right=True,
        ),
        Option(
            "Its training has gone wrong: chance is the least there is.",
            "Chance is what a guess without any knowledge gets. This model knows something that is misleading here.",
        ),
        Option(
            "Zeros are a picture of something black, so it answers black.",
            "It learnt with the same zeros that zeros say nothing about the answer.",
        ),
    ),
    Choice(
        (
            "Flamingo's gates start at 0, as tanh(gate) · attention. Which of the new parameters get a gradient "
            "that is not 0 in the *first* step?"
        ),
        Option(
            "All of them: the attention is computed.",
            "It is computed, and then multiplied by tanh(0) = 0, and so is every gradient that goes through it.",
        ),
        Option(
            "None: a closed gate lets no gradient through.",
            "None through it, but one to it: the derivative of tanh at 0 is 1.",
        ),
        Option(
            "The gates alone.",
            (
                "The gate's gradient is what the attention would have changed. Once the gate has moved, the "
                "weights behind it learn too."
            ),
            right=True,
        ),
    ),
    Choice(
        (
            "A linear probe reads the *mean* of a picture's patch features. The features are shuffled after the "
            "encoder. What happens to the probe's answers?"
        ),
        Option(
            "They stay as they are.",
            (
                "A mean does not know the order of what it averages. What the probe can say about places, the "
                "encoder must have written into the features."
            ),
            right=True,
        ),
        Option(
            "Those about shape get worse: a shape is where its parts are.",
            (
                "The encoder had the patches at their places, and its features are made. Only their order changes, "
                "and the mean does not see it."
            ),
        ),
        Option(
            "All get worse: the encoder's positions are wrong now.",
            "The encoder added its positions before. The shuffle comes after it.",
        ),
        Option(
            "They become chance: nothing is where it was trained.",
            "The probe was trained on means, and these are the same means.",
        ),
    ),
)
