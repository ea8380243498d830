"""The questions at the end of lesson 02."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "Candidate: *the cat the cat the cat*. Reference: *the cat saw the other cat*. What is the clipped precision "
        "of the *bigrams*, p₂?",
        0.2,
        "The candidate has 5 bigrams: three times *the cat*, twice *cat the*. The reference has *the cat* once, so 1 "
        "of 5 counts.",
        near={
            0.6: "That is without clipping: *the cat* may match only as often as the reference has it.",
            0.5: "That counts different bigrams, 1 of 2; the sum is over all occurrences.",
            0.667: "That is p₁: 4 of the 6 single words.",
        },
        tolerance=0.005,
    ),
    Choice(
        "One of 100 sentences of a dozen words shares no 4-gram with its reference; the others share some. What does "
        "it do to the corpus's BLEU, without smoothing?",
        Option(
            "BLEU is 0, because a factor of the product is 0.",
            "p₄ is one ratio for the whole corpus, and the 99 others have matches in its sum.",
        ),
        Option(
            "It counts as a 0 in the mean of the 100 scores.",
            "BLEU is no mean of sentence scores: matches and n-grams are added up first, and divided once.",
        ),
        Option(
            "It adds 4-grams but no matches, so p₄ gets a little lower.",
            "Its 4-grams stand in the denominator of p₄ only. Its words and pairs can still match in p₁ to p₃.",
            right=True,
        ),
    ),
    Choice(
        "Two models sum up the same stories. The one whose summaries have *more* wrong facts gets the higher BLEU. "
        "What is the likeliest reason?",
        Option(
            "It phrases things more like the reference.",
            "In this lesson texts in the reference's words with all six facts wrong had, on average, more than texts "
            "in other words with none wrong.",
            right=True,
        ),
        Option(
            "Its summaries are longer than the references, and BLEU rewards length.",
            "The brevity penalty is never above 1, and words too many make the precisions lower.",
        ),
        Option(
            "Facts are rare words, and BLEU gives rare words little weight.",
            "BLEU weighs all n-grams of an order alike. It is CIDEr that weighs, and it weighs rare ones more.",
        ),
    ),
    Choice(
        "You score ten captions with CIDEr, first as a set of their own, then among a thousand others. What happens "
        "to the scores of these ten?",
        Option(
            "Nothing: each candidate is compared with its own references only.",
            "The cosine is with its own references, but the weights in both vectors come from the whole set.",
        ),
        Option(
            "They change, because it is counted over the whole set how rare an n-gram is.",
            "The weight is ln(|I| / df), and both numbers belong to the set. A CIDEr without its data set cannot be "
            "compared.",
            right=True,
        ),
        Option(
            "They get a hundred times smaller, as there are a hundred times as many items.",
            "Each candidate has a cosine of its own, from 0 to 1; only the corpus's score is a mean over items.",
        ),
    ),
)
