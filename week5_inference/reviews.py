"""Short reviews with a clear mood, written for this course: the first of each pair is positive, the second negative."""

PAIRS = (
    ("The soup was hot and full of flavour.", "The soup was cold and tasted of nothing."),
    ("I laughed from the first page to the last.", "I gave up on the book after ten pages."),
    ("Our guide knew every stone of the old town.", "Our guide got lost twice and blamed us."),
    ("The bed was soft and the room was quiet.", "The bed was hard and the street kept us awake."),
    ("They mended my bike in an hour and asked for little.", "They kept my bike for a week and mended nothing."),
    ("The kite flew at the first try.", "The kite broke on the first day."),
    ("The actors made a simple story shine.", "The actors seemed bored with their own story."),
    ("Fresh bread, friendly people, fair prices.", "Stale bread, rude people, high prices."),
    ("The lamp gives a warm light and looks lovely.", "The lamp flickers and smells of burnt plastic."),
    ("We waited two minutes and ate like kings.", "We waited two hours and left hungry."),
    ("My son has not put the puzzle down since.", "My son threw the puzzle away after a minute."),
    ("The shoes fit perfectly and keep the rain out.", "The shoes pinch and let the rain in."),
    ("A song that I want to hear again tonight.", "A song that I hope never to hear again."),
    ("The garden behind the inn is a small wonder.", "The garden behind the inn is a rubbish heap."),
    ("The clock has kept time for a year.", "The clock stopped after a week."),
    ("She answered all my questions with patience.", "She sighed at every question and walked away."),
    ("The train was on time and the seats were clean.", "The train was late and the seats were dirty."),
    ("Crisp apples, each one sweet.", "Soft apples, half of them rotten."),
    ("The ending moved me to tears of joy.", "The ending made no sense at all."),
    ("I would buy this tent again.", "I want my money back for this tent."),
    ("The paint covers well and dries fast.", "The paint drips and never dries."),
    ("The tea has a rich, gentle taste.", "The tea tastes like wet paper."),
    ("The boat was steady and the crew was kind.", "The boat leaked and the crew was rude."),
)
LABELS = ("Positive", "Negative")
N_SHOT_PAIRS = 3  # the last pairs serve as examples, the others as items
ITEMS = [(text, label) for pair in PAIRS[:-N_SHOT_PAIRS] for text, label in zip(pair, LABELS, strict=True)]
SHOTS = PAIRS[-N_SHOT_PAIRS:]


def question(text: str) -> str:
    """A review as it is asked; the label comes after one space."""
    return f"Review: {text}\nSentiment:"


def shots_of(pattern: str, first: int = 0) -> list[tuple[str, str]]:
    """Examples with the labels of a pattern such as "PNNP": the pairs from `first` on, round and round."""
    found, used = [], {0: first, 1: first}
    for letter in pattern:
        side = "PN".index(letter)
        found.append((question(SHOTS[used[side] % len(SHOTS)][side]), LABELS[side]))
        used[side] += 1
    return found
