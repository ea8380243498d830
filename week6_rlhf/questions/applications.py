"""Questions at the end of the lesson on retrieval and its applications."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        (
            "Two rankings are fused by reciprocal ranks with k = 60. One item is first in one ranking, and the "
            "other does not name it. A second item has the same place in *both*. Which place gives it the same "
            "sum?"
        ),
        62,
        "2 / (60 + r) = 1 / 61, so r = 62. With so large a k, to be named twice counts more than to be named high.",
        near={
            2: "2 / 62 is nearly twice 1 / 61: k makes the first places almost alike.",
            61: "60 + r has to be 122, twice 61.",
            122: "That is 60 + r: take the 60 off.",
        },
    ),
    Number(
        "A text of 500 words is cut into windows of 100 words that overlap by 50. How many windows are there?",
        9,
        (
            "Each window begins 50 words after the one before, and the ninth, from word 400 on, ends with the "
            "text: (500 - 50) / 50 = 9."
        ),
        near={
            10: "The tenth would begin at word 450, and lie within the ninth.",
            5: "That is without the overlap.",
        },
        unit="windows",
    ),
    Choice(
        (
            "A text gets one vector when it is embedded alone, and another one in a batch with a long text. Each "
            "of the two comes out the same in every run. What is the likely cause?"
        ),
        Option(
            "The mean of the hidden states counts the padding.",
            (
                "How much padding there is depends on the longest text of the batch. A mean over real tokens only "
                "does not."
            ),
            right=True,
        ),
        Option("Dropout is still on.", "Then the vectors would change from run to run, in the same batch too."),
        Option("The vectors are not brought to length 1.", "That changes how long a vector is, in both cases alike."),
        Option("A long text pulls the others towards its meaning.", "The rows of a batch do not see one another."),
    ),
    Choice(
        (
            "Somebody puts a passage into your corpus that fits a question perfectly and tells a lie. Which "
            "measure helps against it?"
        ),
        Option(
            "A fence around each passage, which nothing in it can close again.",
            (
                "It keeps *orders* from passing as the user's words. The lie is no order: it is a passage like any "
                "other."
            ),
        ),
        Option(
            "A higher threshold for the score of what is found.",
            "The lie fits the question as well as the truth does, or better.",
        ),
        Option(
            "Keeping the source of each passage, and trusting few of them.",
            "A lie can only be told by where it comes from, or by another source that is independent.",
            right=True,
        ),
        Option(
            "A rule in the prompt: answer only what the passages say.",
            "The reader obeys, and says what the passage says.",
        ),
    ),
    Choice(
        (
            "A reader gets the three best passages, and the right one is nearly always among them. It answers most "
            "questions wrong. With the *same* passages in reverse order it answers most right. What follows?"
        ),
        Option("The retriever should be made better.", "It has done its part: the passages were the same both times."),
        Option(
            "Three passages are too many for the model's context.",
            "Then the order would not have helped: the passages are as long either way.",
        ),
        Option(
            "This reader answers from what stands nearest to the question.",
            (
                "Recall is a ceiling. How near a reader comes to it depends on the order of the passages, and has "
                "to be measured."
            ),
            right=True,
        ),
        Option(
            "The questions were asked in other words than the passages have.",
            "They were the same questions both times.",
        ),
    ),
)
