"""The questions at the end of lesson 03."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "A candidate of two tokens, a reference of three, all weights 1. The first candidate token has the cosines "
        "1.0, 0.4 and 0.2 with the three reference tokens, the second 0.6, 0.5 and 0.3. What is the recall?",
        0.6,
        "Each *reference* token takes its best partner: (1.0 + 0.5 + 0.3) / 3.",
        near={
            0.8: "That is the precision: the best partner of each candidate token, (1.0 + 0.6) / 2.",
            0.686: "That is F1.",
            0.5: "That is the mean of all six cosines, or of partners that may be taken only once. Each token takes "
            "its best, and two may share it.",
        },
        tolerance=0.005,
    ),
    Choice(
        "A program without idf weights gives a pair the same score each time in the same batch, and another score in "
        "another batch. What do you look at first?",
        Option(
            "Dropout, which was perhaps left on.",
            "Then the score would also change from one time to the next in the same batch.",
        ),
        Option(
            "The division of the vectors by their lengths, which was perhaps forgotten.",
            "Then the scores would be wrong, but the same in every batch.",
        ),
        Option(
            "The attention mask, which was perhaps not passed on.",
            "Without it real tokens attend to the padding, and how much of that there is depends on the batch's "
            "longest text.",
            right=True,
        ),
    ),
    Choice(
        "*Mia helped Rufus* against the reference *Rufus helped Mia*: the score is very high. Why?",
        Option(
            "Every token finds its like in the other text, wherever that stands.",
            "Greedy matching is a table of best partners. Order enters only through the context in the vectors, which "
            "differs little here.",
            right=True,
        ),
        Option(
            "The encoder has no positions, so both texts are the same bag of words to it.",
            "It has: layer 0 is the sum of word and position embeddings. The matching is what does not ask for places.",
        ),
        Option(
            "Names are unknown words, so both become the same token.",
            "Word pieces spell out what the vocabulary lacks; and equal tokens alone would not explain the other "
            "words.",
        ),
    ),
    Choice(
        "All scores are rescaled with a baseline of 0.8. What becomes of their correlation (Pearson's r) with "
        "people's judgements?",
        Option(
            "It rises, for the scores now use the whole range.",
            "A wider range is easier to read, but distances keep their proportions, and that is all that r sees.",
        ),
        Option(
            "It stays what it was.",
            "(score - b) / (1 - b) is a straight line that rises; neither rankings nor r change.",
            right=True,
        ),
        Option(
            "It falls, for some scores are negative now.",
            "A negative score only says: worse than unrelated texts. The order and the distances are as before.",
        ),
    ),
)
