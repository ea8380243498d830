"""The questions at the end of lesson 06."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "Of 100 items, 5 are right for the first model only, and none for the second only. What is the exact, "
        "two-sided p of McNemar's test?",
        0.0625,
        "2 · (1/2)⁵: five throws that all fall to one side. The 95 others say nothing. With five, p is never below "
        "0.05.",
        near={
            0.03125: "That is one-sided: before you measured, the second could have been the better one as well.",
            0.0: "Five heads in five throws happen by luck too.",
        },
        tolerance=0.001,
    ),
    Number(
        "A score on 100 items has an interval of 10 points to either side. About how many items make it 2 points?",
        2500,
        "The interval shrinks with the square root of the number: 5 times narrower takes 25 times the items.",
        near={
            500: "5 times the items make it only √5 = 2.2 times narrower.",
            1000: "10 times the items make it only √10 = 3.2 times narrower.",
        },
        unit="items",
        tolerance=150,
    ),
    Choice(
        "On the same 200 items A has 66 % right (59 to 73) and B 60 % (53 to 67). What follows?",
        Option(
            "They are equally good, for the intervals overlap.",
            "Each interval holds the luck of the items, which both models share, so overlap proves nothing. Nor would "
            "a large p show that they are equal.",
        ),
        Option(
            "A is better, for it has twelve items more.",
            "Twelve more could be 13 against 1, which is clear, or 42 against 30, which may well be luck.",
        ),
        Option(
            "Nothing yet: compare them item by item.",
            "The paired interval of the difference, or McNemar's test, leaves out what was hard or easy for both.",
            right=True,
        ),
    ),
    Choice(
        "The best of twenty variants is 4 points ahead of the old model, on 200 items. What do you do before you "
        "report the 4 points?",
        Option(
            "Score it again on items that had no part in the choice.",
            "The best of many is flattered by its luck on these items. New items do not know which variant was chosen.",
            right=True,
        ),
        Option(
            "Divide the level of its test by twenty.",
            "That keeps false alarms rare. It does not make the lead of a chosen winner an honest estimate.",
        ),
        Option(
            "Draw more bootstrap resamples.",
            "More resamples only make the ends of the interval less noisy; it is still about the items that chose the "
            "winner.",
        ),
    ),
    Choice(
        "A judge says *first* whatever it is shown. `pairwise_judge` asks it in both orders. What are `win_rate` and "
        "`consistent`?",
        Option(
            "100 % and 100 %.",
            "So it looks if the judge is asked in one order only, with the same side always first.",
        ),
        Option(
            "50 % and 100 %.",
            "It says the same word twice, but with the order exchanged that word means the other answer.",
        ),
        Option(
            "0 % and 0 %.",
            "A preference that does not survive the exchange is a tie, and a tie is half a win.",
        ),
        Option(
            "50 % and 0 %.",
            "Each item is a tie, half a win for either side, and never is one answer preferred twice.",
            right=True,
        ),
    ),
)
