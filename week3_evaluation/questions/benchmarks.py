"""The questions at the end of lesson 05."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "A question of TruthfulQA has two true answers, with probabilities 0.03 and 0.01, and two false ones, with "
        "0.04 and 0.02. What is MC2?",
        0.4,
        "The true ones have 0.03 + 0.01 of 0.10 in all. That the likeliest answer is false costs MC1, not MC2.",
        near={
            0.04: "That is the mass of the true answers among all texts; MC2 is their share among the choices.",
            0.0: "That is MC1: the likeliest answer is a false one.",
            0.3: "That is the share of the best true answer alone.",
            0.5: "That is the share of true answers by number, not by probability.",
        },
        tolerance=0.005,
    ),
    Choice(
        "`a cat` has ln p = -8 after the prompt, `a very large dog` has -12. The texts have 5 and 16 characters. "
        "Which choice is picked by `acc`, which by `acc_norm`?",
        Option(
            "Both pick the cat.",
            "By `acc` it is the cat. But `acc_norm` compares -8 / 5 = -1.6 with -12 / 16 = -0.75.",
        ),
        Option(
            "`acc` picks the cat, `acc_norm` the dog.",
            "-8 is more than -12, and -12 / 16 = -0.75 is more than -8 / 5 = -1.6. The division decides here, not the "
            "model.",
            right=True,
        ),
        Option(
            "`acc` picks the dog, `acc_norm` the cat.",
            "The larger number wins, and -8 is larger than -12. Dividing helps the longer text.",
        ),
        Option(
            "Both pick the dog.",
            "By `acc_norm` it is the dog. But `acc` is ln p as it is, and a long text costs more.",
        ),
    ),
    Choice(
        "A program encodes the prompt `Answer: ` (with the space) and the choice `grass` each by itself, with a "
        "tokenizer like GPT-2's. What comes of it?",
        Option(
            "Rare token sequences: choices cost more, each by another amount.",
            "A lone space and a word without its space are tokens that seldom follow each other. No error tells you; "
            "the model just looks weaker.",
            right=True,
        ),
        Option(
            "The same tokens as from the whole text, for the characters are the same.",
            "This kind of tokenizer puts the space into the word's token, and here a border lies between the two.",
        ),
        Option(
            "The same number of nats more for every choice, so that accuracy stays.",
            "How unlikely the first token has become depends on the word, so the order of the choices can change.",
        ),
    ),
    Choice(
        "A small model has 26 % right on questions with four options, where ` A` to ` D` are scored. What can you say?",
        Option(
            "It knows hardly anything about these subjects.",
            "In this lesson SmolLM2 looked like a guess with letters, and was right most of the time with the "
            "options' texts.",
        ),
        Option(
            "Its knowledge is fine, and the items are broken.",
            "A score near chance shows neither. Score the same items in another way before you blame them.",
        ),
        Option(
            "Little: perhaps it cannot bind a letter to its option.",
            "Choosing by letter is an ability of its own. Ask for the same knowledge by the text of the options.",
            right=True,
        ),
    ),
    Choice(
        "A model is at 94 % on a public benchmark. You suspect that the items were in its training data. What tells "
        "most?",
        Option(
            "A 95 % interval by bootstrap over its items.",
            "That says how another draw of such items might score, if these were drawn fairly. Items that were learnt "
            "by heart look sure and right.",
        ),
        Option(
            "Its score on fresh items of the same kind.",
            "In this lesson 20 steps on leaked items made those nearly perfect and moved fresh ones little, if at all.",
            right=True,
        ),
        Option(
            "Its score on the same items with other few-shot examples.",
            "The questions and answers that it may have seen are still the same.",
        ),
    ),
)
