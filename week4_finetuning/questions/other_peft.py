"""The questions at the end of lesson 05."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "Prefix tuning with 20 virtual tokens, on a model of 12 layers with d_model 768. How many numbers are kept "
        "after `fold()`?",
        368_640,
        "A key and a value for each virtual token in each layer: 20 · 12 · 2 · 768.",
        near={
            184_320: "That is the keys alone, or the values alone.",
            30_720: "That is one layer.",
            15_360: "That is prompt tuning, or the table before the MLP: one row of d_model numbers for each virtual "
            "token.",
        },
        unit="numbers",
    ),
    Choice(
        "Which of these does *not* start as the base model?",
        Option(
            "LoRA, with A at random and B at zero.",
            "B A = 0, so it does. That is what the zero is for.",
        ),
        Option(
            "IA3, with its vectors at 1.",
            "To multiply by 1 changes nothing, so it does.",
        ),
        Option(
            "Prefix tuning, with a random table.",
            "Random keys and values draw attention from the first step on, and all positions move by the prefix's "
            "length.",
            right=True,
        ),
        Option(
            "BitFit, with all biases free to learn.",
            "They start where pretraining left them, so it does.",
        ),
    ),
    Choice(
        "A prefix of 10 was trained on GPT-2, whose tokens then stand at positions 10, 11, 12 and so on. In use "
        "somebody numbers them from 0. What happens?",
        Option(
            "An error: two tokens can't have one position.",
            "Nothing checks that. Positions are only looked up and added.",
        ),
        Option(
            "Other logits, and no error.",
            "Each token gets another position embedding than it had in training: that is another model.",
            right=True,
        ),
        Option(
            "Nothing, for virtual tokens have no positions of their own.",
            "They have none, but the real tokens do, and theirs have moved by 10.",
        ),
    ),
    Choice(
        "Full tuning forgets more of the old task than LoRA. Each ran at the learning rate that was best for the new "
        "task. What may you conclude?",
        Option(
            "That full tuning has to forget more, for it changes all weights.",
            "In this lesson full tuning at a quarter of the rate had the same task loss and forgot a tenth as much, "
            "less than any other method.",
        ),
        Option(
            "That LoRA keeps the old ability, as the base weights are frozen.",
            "They are frozen, but switched on the adapter changes what the model does. Only switched off is the base "
            "back.",
        ),
        Option(
            "Something about these two rates.",
            "Who tunes the rate for the new task alone does not see what a smaller one would keep. Measure both tasks.",
            right=True,
        ),
    ),
    Choice(
        "A judge agrees with itself in both orders on every pair, and the interval of its win rate is narrow. What do "
        "you know?",
        Option(
            "It has no habit of place here; it may still be wrong.",
            "In this lesson the judge that likes length was perfectly consistent and named the wrong winner. Judge it "
            "on replies whose quality is known.",
            right=True,
        ),
        Option(
            "It is right, for a judge that is often wrong contradicts itself.",
            "One that is wrong at *random* does. One with a steady taste, for length say, does not.",
        ),
        Option(
            "The winner is better, for the interval leaves out a half.",
            "The interval says how the same judge would decide on other items. Its taste is in every one of them.",
        ),
    ),
)
