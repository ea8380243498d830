"""What a learner should know after lesson 01, data."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Choice(
        "Each of these pages has 300 words. Which one passes C4's rules and Gopher's rules?",
        Option(
            "A news page in Russian, well written.",
            "Gopher's stop words drop it: at least two of *the, be, to, of, and, that, have, with* must be there.",
        ),
        Option(
            "An advertisement in whole English sentences, no line twice.",
            "C4 asks for lines that end like sentences, Gopher for usual statistics. Neither asks whether a page "
            "says anything.",
            right=True,
        ),
        Option(
            "A tutorial on Python with a dictionary `{...}` in it.",
            "C4 drops the whole page for one curly bracket.",
        ),
        Option(
            "A table of prices, with no full stop at the end of a line.",
            "C4 keeps only lines that end in a full stop, another end mark or a closing quotation mark: nothing is "
            "left.",
        ),
    ),
    Choice(
        "You estimate the Jaccard similarity J of web pages with 112 permutations. Now you want to do the same for "
        "whole books, a hundred times as long, with the same standard error. How many permutations do you need?",
        Option(
            "About 11,200: the error is per shingle, and there are a hundred times as many.",
            "Each permutation gives one yes or no, with probability J, however many shingles stand behind it.",
        ),
        Option(
            "About 1,120: the error grows with the root of the length.",
            "A root is in the formula, but over the number of permutations: √(J(1−J)/k).",
        ),
        Option(
            "112: the error depends on J and on the number of permutations alone.",
            "It is √(J(1−J)/k). That is the point of MinHash: a page of any length becomes k numbers.",
            right=True,
        ),
        Option(
            "Fewer than 112: long texts have more shingles to average over.",
            "A signature keeps one minimum for each permutation, and averages over permutations, not over shingles.",
        ),
    ),
    Number(
        "Signatures of 4 numbers are cut into 2 bands of 2. With which probability do two pages of Jaccard "
        "similarity 0.5 become candidates?",
        43.75,
        "A band agrees with probability 0.5² = 0.25, so both bands differ with 0.75² = 0.5625, and at least one "
        "agrees with 1 − 0.5625 = 0.4375.",
        near={
            25: "That is one band. There are two, and one of them is enough.",
            50: (
                "Two bands with 25 % each do not add up to 50 %: the cases in which both agree would be counted twice."
            ),
            6.25: "That is the probability that all four numbers agree. One band is enough.",
            56.25: "That is the probability that they do *not* meet in any bucket.",
        },
        unit="%",
        tolerance=0.5,
    ),
    Choice(
        "You pack documents into rows with the right mask, but positions run on through the row and do not begin "
        "again at each document. The model has learned positions. What happens to a document in the middle of a row?",
        Option(
            "Nothing: the mask hides everything that comes from other documents.",
            "The mask decides who is seen. The position is part of each token's own vector.",
        ),
        Option(
            "It can see the end of the document before it.",
            "It cannot: the mask is right. Only the place is told wrong.",
        ),
        Option(
            "Its first token is hidden from itself.",
            "The mask says who sees whom, and does not depend on what the positions are.",
        ),
        Option(
            "Its logits are not those that it would have alone.",
            "Other position embeddings are added to the same tokens. Packing is right when a document in a row gets "
            "what it gets alone, and that takes the mask *and* the positions.",
            right=True,
        ),
    ),
)
