"""Pairs of sentences for which a reader's verdict is plain: what do the metrics say? Written by hand for this course.

"paraphrase": the same meaning in other words. "nonsense": the reference's own pieces in an order that means nothing.
"near copy with the meaning turned round": one word or two differ, and the sentence is now false.
Used by lessons 02 (n-grams) and 03 (embeddings).
"""

from dataclasses import dataclass

PARAPHRASE, NONSENSE, TURNED_ROUND = "paraphrase", "nonsense", "near copy with the meaning turned round"


@dataclass(frozen=True)
class Pair:
    candidate: str
    reference: str
    kind: str


PARAPHRASES: tuple[Pair, ...] = tuple(
    Pair(candidate, reference, kind)
    for kind, pairs in {
        PARAPHRASE: (
            ("Nobody was at home when we knocked.", "The house was empty as we tapped on the door."),
            ("The boy could not find his kite anywhere.", "He had lost his toy, and he looked for it in vain."),
            ("Rain kept the children indoors all day.", "Because of the wet weather, the kids never went outside."),
            ("She gave her last coin to the old man.", "To an elderly stranger went the only money that she had left."),
            ("The train was an hour late.", "We waited sixty minutes longer than planned for our railway carriage."),
            ("A dog woke the whole street.", "Loud barking pulled every neighbour out of bed."),
            ("Mila mended the torn scarf with a needle.", "The ripped shawl was sewn up again by Mila."),
            ("He was too tired to finish his supper.", "Exhausted, the man left half of the meal on his plate."),
            ("Their boat sank near the harbour.", "The ship that they owned went under not far from the port."),
            ("The baker sold out before noon.", "By midday every loaf in the shop had been bought."),
            ("It is forbidden to feed the ducks.", "Visitors must not give any food to the birds on the pond."),
            ("The twins shared a single umbrella.", "Brother and sister stood together under one brolly."),
        ),
        NONSENSE: (
            (
                "on the door of the empty house as we knocked the wind blew and nobody came to open.",
                "As we knocked on the door of the empty house, the wind blew and nobody came to open.",
            ),
            (
                "under the old bench in the park looked for his red kite for an hour the boy and found it.",
                "The boy looked for his red kite for an hour and found it under the old bench in the park.",
            ),
            (
                "her last silver coin to the old man at the gate she gave of the town on a cold evening.",
                "On a cold evening she gave her last silver coin to the old man at the gate of the town.",
            ),
            (
                "on the line, and it the train was in the snow because a tree stood still an hour late had fallen.",
                "The train was an hour late because a tree had fallen on the line, and it stood still in the snow.",
            ),
            (
                "with a needle and blue thread and gave it back Mila mended to her friend the torn scarf.",
                "Mila mended the torn scarf with a needle and blue thread and gave it back to her friend.",
            ),
            (
                "near the mouth of the harbour all five men swam to the boat in the storm sank but the shore.",
                "The boat sank in the storm near the mouth of the harbour, but all five men swam to the shore.",
            ),
            (
                "before noon because it was the baker sold every loaf of bread a holiday and closed the shop.",
                "The baker sold every loaf of bread before noon and closed the shop because it was a holiday.",
            ),
            (
                "must not feed the ducks on the pond visitors bread makes because to the zoo them ill.",
                "Visitors to the zoo must not feed the ducks on the pond, because bread makes them ill.",
            ),
        ),
        TURNED_ROUND: (
            (
                "The doctor said that the child was not well enough to go home.",
                "The doctor said that the child was well enough to go home.",
            ),
            (
                "Milo lent his sledge to Rosa on the first day of the winter.",
                "Rosa lent his sledge to Milo on the first day of the winter.",
            ),
            (
                "The shop on the corner opens at nine every Sunday.",
                "The shop on the corner closes at nine every Sunday.",
            ),
            (
                "They found the lost ring after the guests had left.",
                "They found the lost ring before the guests had left.",
            ),
            (
                "Everybody in the village believed what the miller told.",
                "Nobody in the village believed what the miller told.",
            ),
            ("The new bridge is longer than the old one.", "The new bridge is shorter than the old one."),
            ("The cat chased the big dog across the yard.", "The big dog chased the cat across the yard."),
            ("Anna accepted the offer because the pay was good.", "Anna refused the offer because the pay was good."),
            (
                "Four of the five bottles were full in the morning.",
                "Four of the five bottles were empty in the morning.",
            ),
            (
                "You should never mix these two powders with water.",
                "You should always mix these two powders with water.",
            ),
        ),
    }.items()
    for candidate, reference in pairs
)
