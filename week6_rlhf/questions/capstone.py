"""Questions at the end of the lesson on the capstone."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        (
            "A chat has a system message of 20 tokens, a first turn of 60 (user) and 20 (assistant), a second of "
            "25 and 70, and a new question of 15. 156 tokens may be read. How many does `fit_history` keep? (Count "
            "no marks of the template.)"
        ),
        130,
        "All would be 210. The oldest turn goes as a whole, both its messages: 20 + 95 + 15.",
        near={
            210: "That is everything, and more than 156.",
            150: "That keeps a reply whose question is gone: turns go whole.",
            110: "The system message stays: it holds for the whole conversation.",
            156: "The budget need not be filled: turns go whole.",
        },
        unit="tokens",
    ),
    Choice(
        (
            "Of 100 items of a task your model gets none right. The bootstrap gives the interval 0 to 0. What "
            "belongs on the card?"
        ),
        Option(
            "0 to 0: that is what was measured.",
            "Each resample of zeros is all zeros, so the bootstrap cannot see what 100 items leave open.",
        ),
        Option(
            "Nothing: a task that it cannot do says nothing about it.",
            "What a model cannot do is what its user needs to know.",
        ),
        Option(
            "A Wilson interval: 0 to about 4 %.",
            (
                "A model that is right in 2 % of cases gets 0 of 100 more than one time in ten. An interval should "
                "say so."
            ),
            right=True,
        ),
    ),
    Choice(
        (
            "Two models get 61 and 63 of the *same kind* of 100 items right, each on items of its own. What does "
            "that say about which is better?"
        ),
        Option(
            "The second is better, by two points of a hundred.",
            "That is what these items say. Others would say something else.",
        ),
        Option(
            "Very little: each share may be off by ten points.",
            "1.96 · √(0.6 · 0.4 / 100) is 0.096. That is why a card gives intervals and the number of items.",
            right=True,
        ),
        Option(
            "They are equally good: two points are nothing.",
            "That is not shown either: a true difference of ten points could look like this too.",
        ),
    ),
    Choice(
        (
            "The aligned model has just told a story. You ask *Who was in the story?*, and the answer has nothing "
            "to do with it. The story was in its context. What is the most likely reason?"
        ),
        Option(
            "The history was cut too short.",
            "It was in the context, as the question says. Look there first all the same: it is easily checked.",
        ),
        Option(
            "The chat template hides earlier turns from the model.",
            "The template writes them all. The model sees every token before its own.",
        ),
        Option("Its temperature was too high.", "That makes single words vary. It does not take the question away."),
        Option(
            "It was tuned on conversations of one turn only.",
            (
                "To be *able* to see earlier turns is one thing. To use them has to be trained, by conversations "
                "of several turns."
            ),
            right=True,
        ),
    ),
)
