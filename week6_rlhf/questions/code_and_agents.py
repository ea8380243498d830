"""Questions at the end of the lesson on code and agents."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        (
            "A task takes 20 calls in a row. Each call fails with a chance of 5 %, and the first failure ends the "
            "run. Of 100 such tasks, how many are solved on average?"
        ),
        36,
        "0.95^20 = 0.358. Small chances of failure multiply, so a long loop has to be able to try again.",
        near={
            0: "20 · 5 % is 100 %, but chances of failure do not add up: some tasks fail at several calls.",
            95: "That is one call.",
        },
        unit="tasks",
        tolerance=1.0,
    ),
    Number(
        (
            "Five programs have the scores 7, 5, 5, 5, 5. The first is wrong, and one of the other four is right. "
            "What is pass@3, with ties in random order?"
        ),
        0.5,
        (
            "The first takes one of the three places. Two of the four tied ones are drawn for the others: 1 - C(3, "
            "2) / C(4, 2) = 1 - 3/6."
        ),
        near={
            0.25: "That is one draw among the four; there are two places left.",
            0.75: "That draws three of the four, but the first program has one of the places.",
            0.6: "That is a draw among all five: the scores were not used.",
            1: "That breaks the tie in favour of the right one: the luckiest order, not the mean.",
        },
        tolerance=0.001,
    ),
    Choice(
        (
            "All tests are known to be right, but they do not cover every case. A misreading of the task is common "
            "among the ten programs. Which way to choose is best?"
        ),
        Option(
            "The agreement of programs and tests: it uses both.",
            (
                "The crowd that shares the misreading can outvote the tests. In this lesson that cost 13 points "
                "where all tests were right."
            ),
        ),
        Option(
            "The majority by output: most programs agree for a reason.",
            "The reason may be a common misreading, as here.",
        ),
        Option(
            "The number of tests that a program passes.",
            (
                "With right tests nothing beats counting them: a program that passes all is the best there is. "
                "Agreement is an insurance against wrong tests."
            ),
            right=True,
        ),
    ),
    Choice(
        (
            "A tool fails in one call of ten: not by an exception, but by returning `None`. `with_retries` stands "
            "around the tool. What happens to such a call?"
        ),
        Option(
            "It is tried again, up to the number of attempts.",
            "Only an exception of a retryable class is tried again. Here none is raised.",
        ),
        Option(
            "`None` goes through as a success.",
            (
                "The retries look at exceptions only. Whoever looks at the *result*, as the agent's loop does, can "
                "make an error of it."
            ),
            right=True,
        ),
        Option(
            "The run ends: the error is not retryable.",
            "An error that is not retryable comes out at once. This is no error to the retries.",
        ),
    ),
    Choice(
        (
            "A model is rewarded when its program passes tests. The values expected are compared inside the "
            "sandbox, in the program's own process. Why is that not enough?"
        ),
        Option(
            "A sandbox is too slow for many programs.",
            "One process for each program is enough. That is not what is wrong here.",
        ),
        Option(
            "The program can reach the expected values and the judge.",
            (
                "It may look into its caller, or return what is equal to anything. So only inputs go in, outputs "
                "come out, and they are compared outside."
            ),
            right=True,
        ),
        Option(
            "The program can delete or read the files of the machine.",
            "Keeping it from that is what the sandbox does, wherever the comparison is made.",
        ),
        Option("The tests may be wrong.", "They may, but that does not depend on where they are compared."),
    ),
)
