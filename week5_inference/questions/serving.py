"""Questions at the end of the lesson on serving."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        (
            "A draft guesses 3 tokens a round, and each is accepted with probability 0.8. How many tokens does a "
            "round give on average, to two places?"
        ),
        2.95,
        (
            "1 + 0.8 + 0.8² + 0.8³ = 2.95. The first 1 is the target's own token, the replacement or the free one "
            "at the end."
        ),
        near={
            2.4: "That is 3 · 0.8: a guess behind a refused one is lost, and the target adds a token of its own.",
            3.4: "That is 1 + 3 · 0.8: a guess behind a refused one is lost, however good it was.",
            1.95: "The target's own token is missing: even a round of refusals gives one.",
        },
        unit="tokens",
        tolerance=0.006,
    ),
    Number(
        (
            "A prompt of 37 tokens lies in blocks of 16. It is forked, so that two answers share it, and each "
            "writes 20 tokens of its own. How many blocks are in use in the end?"
        ),
        6,
        (
            "Each answer has 57 tokens, 4 blocks. The first two blocks are full of prompt and stay shared; the "
            "third and fourth are each answer's own: 2 + 2 + 2."
        ),
        near={
            8: "Without sharing it would be 8: the two full blocks of the prompt are in both tables.",
            7: (
                "The part-filled block is copied once: the second writer is then alone with the old one, and "
                "writes in place."
            ),
            5: "The third block cannot stay shared: both answers write into it.",
        },
        unit="blocks",
    ),
    Choice(
        (
            "A server's speculative decoding gets a worse draft model by mistake, which the target seldom agrees "
            "with. The code is right. What do the clients notice?"
        ),
        Option(
            "Texts that lean towards the worse model.",
            (
                "They would if refused tokens were replaced wrongly. Accept with min(1, p/q), else draw from what "
                "p has beyond q, and what comes out is p."
            ),
        ),
        Option(
            "Texts that are tamer, as if the temperature were lower.",
            "The distribution is the target's at the temperature asked for, whatever the draft is.",
        ),
        Option(
            "More tokens a round, but more refusals.",
            "A round ends at its first refusal: more refusals mean fewer tokens a round.",
        ),
        Option(
            "The same texts, in distribution, and a longer wait.",
            "The draft decides how many guesses pass, and so the cost. The text is the target's.",
            right=True,
        ),
    ),
    Choice(
        (
            "A server has four slots. Each client asks, waits for its answer and asks again. The number of clients "
            "goes from 4 to 8. What happens?"
        ),
        Option(
            "Throughput stays, and latency about doubles.",
            "Half of the requests now wait for a slot. Once the slots are full, more clients buy only waiting.",
            right=True,
        ),
        Option(
            "Throughput doubles, and latency stays.",
            "All slots were busy already: there is nobody to do the additional work.",
        ),
        Option(
            "Throughput and latency both about double.",
            "Throughput is bounded by the slots, and those were full with 4 clients.",
        ),
        Option(
            "Throughput and latency stay: four clients are served, the others are not.",
            "Slots are filled anew whenever a text ends, so all are served, later.",
        ),
    ),
)
