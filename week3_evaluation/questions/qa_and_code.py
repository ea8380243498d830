"""The questions at the end of lesson 04."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "Prediction: *The red kite in the park.* Gold answer: *red kite*. What is SQuAD's F1?",
        0.667,
        "Normalized, the prediction has 4 words (red kite in park), the gold 2, and both share 2: 2 · 2 / (4 + 2).",
        near={
            0.5: "That is the precision, 2 of 4; or F1 with both articles still counted.",
            1.0: "That is the recall: all of the gold is there. Precision asks how much else was said.",
            0.0: "That is exact match.",
        },
        tolerance=0.005,
    ),
    Number(
        "Of n = 5 samples c = 2 pass the test. What does equation 1 give for pass@2?",
        0.7,
        "Of the 10 ways to choose 2 of 5 samples, 3 hold only wrong ones: 1 - 3/10.",
        near={
            0.64: "That is 1 - (1 - c/n)²: it puts each sample back before it draws the next.",
            0.4: "That is c / n, pass@1.",
            0.8: "That is k · c / n; the chances overlap where both samples are right.",
            0.3: "That is the chance that both are wrong.",
        },
        tolerance=0.005,
    ),
    Choice(
        "Three examples in the prompt lift exact match from 20 % to 60 %. F1 was 62 % before and is 62 % now. What "
        "has happened?",
        Option(
            "The model now finds the answer to three times as many questions.",
            "Then the right words would be in more answers than before, and F1 would have risen too.",
        ),
        Option(
            "One of the two is computed wrongly, for they have to move together.",
            "EM is never above F1, but it can rise towards it while F1 stands still.",
        ),
        Option(
            "The right words were there before; now they stand in the form that is asked for.",
            "EM judges the form of an answer as much as what it says. Look at outputs before you compare two models.",
            right=True,
        ),
    ),
    Choice(
        "Two papers measure pass@10 of one model, both with 1 - (1 - c/n)¹⁰. One draws n = 10 samples a problem, the "
        "other n = 200. Which reports more on average?",
        Option(
            "The one with n = 200.",
            "The formula is too small on average, most where samples are few. Equation 1 is right on average for "
            "every n ≥ k.",
            right=True,
        ),
        Option(
            "The one with n = 10, for there k = n and no sample is wasted.",
            "With k = n the formula can even miss a right sample that it holds: one of ten right gives 0.65, not 1.",
        ),
        Option(
            "Neither: n only makes the figure more or less noisy.",
            "That holds for equation 1. This formula bends downwards in c/n, so noise in c/n makes its mean smaller.",
        ),
    ),
    Choice(
        "A model is *trained* with this reward: 1 if prompt, completion and test, run as one program, end with exit "
        "code 0. What should you expect of its pass rate?",
        Option(
            "It rises as far as the model learns to program, for the code runs against a real test.",
            "A program that leaves before the first assertion ends with code 0 as well, and is paid the same.",
        ),
        Option(
            "It rises, and some of what passes computes nothing.",
            "Holes in a judge are found when they are paid. So ask for proof that the last line was reached, and read "
            "what passed.",
            right=True,
        ),
        Option(
            "It does not move, for a sandbox keeps a program from cheating.",
            "A sandbox protects your machine. The score needs other protection: program and judge share one process.",
        ),
    ),
)
