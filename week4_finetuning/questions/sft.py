"""The questions at the end of lesson 02."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "Two micro-batches make one batch. The first has 60 counted labels with a mean loss of 1 nat, the second 20 "
        "with a mean of 3 nats. What is the loss of the batch?",
        1.5,
        "All nats by all counted labels: (60 · 1 + 20 · 3) / 80.",
        near={
            2: "That is the mean of the two means: a label of the second then weighs three times as much as one of "
            "the first.",
            4: "That is the sum of the two means.",
        },
        unit="nats per reply token",
        tolerance=0.01,
    ),
    Choice(
        "Prompts of different lengths are padded on the *right*, the attention mask is right, and the model "
        "generates. Which replies suffer?",
        Option(
            "None: whatever the mask hides can't do harm.",
            "The padding is not read, but the model still goes on from the last column, and that is padding.",
        ),
        Option(
            "All but those of the longest prompts.",
            "Only where no padding follows is the last column the end of the prompt. No error tells of the others.",
            right=True,
        ),
        Option(
            "All, for the positions of every row are shifted.",
            "On the right, padding shifts nothing. The longest row has no padding at all.",
        ),
    ),
    Choice(
        "After tuning on questions and answers alone, a held-out story costs 0.2 bits per byte more than before. "
        "Which change works against that most directly?",
        Option(
            "Mixing stories into the batches.",
            "Then a step away from the stories costs loss in training too. Smaller steps, or fewer weights that may "
            "change, help as well.",
            right=True,
        ),
        Option(
            "More steps, until the loss on the answers has settled.",
            "Each step on instructions alone is one more step away from the stories.",
        ),
        Option(
            "Left padding in place of right padding.",
            "The side of the padding matters for generating. It has nothing to do with what the weights forget.",
        ),
    ),
    Choice(
        "A search tries 40 settings. The best has 0.80 nats on 200 examples that no run was trained on. What do you "
        "expect on 200 new ones?",
        Option(
            "0.80 on average, since the 200 were held out from training.",
            "From training, but not from the choice: 40 runs were compared on them.",
        ),
        Option(
            "Less than 0.80, since the search has found the region that works.",
            "The region may well be the right one. That does not make its lucky figure come again, let alone a better "
            "one.",
        ),
        Option(
            "Rather more than 0.80.",
            "The best of many owes a part of its figure to luck on the examples that chose it, and new ones do not "
            "share that.",
            right=True,
        ),
    ),
)
