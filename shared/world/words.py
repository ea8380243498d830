"""The small world of the course's stories: who lives there, where, with what, and how its words are bent.

Everything that is said of a character here (kind, home, favourite food) holds in every story, so a model
can learn it by heart; what a single story adds (colours, counts, spots) stands only in that story.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Character:
    """Someone of this world, with what is true of them in every story."""

    name: str
    kind: str
    he: str
    home: str
    food: str

    @property
    def pronouns(self) -> tuple[str, str, str, str]:
        """Subject, object, possessive, reflexive. Example: she, her, her, herself."""
        return ("he", "him", "his", "himself") if self.he == "he" else ("she", "her", "her", "herself")


@dataclass(frozen=True)
class Place:
    """Somewhere to go, with the word that means "there" and the small spots that are only found there."""

    name: str
    preposition: str
    spots: tuple[str, ...]
    indoors: bool = False

    @property
    def at(self) -> str:
        return f"{self.preposition} the {self.name}"


CHARACTERS = {
    c.name: c
    for c in (
        Character("Pip", "rabbit", "he", "in a burrow with a round door", "carrots"),
        Character("Nell", "mouse", "she", "in a hole behind the stove", "cheese"),
        Character("Bruno", "bear", "he", "in a warm cave", "honey"),
        Character("Olga", "owl", "she", "in a hollow oak", "seed cake"),
        Character("Finn", "fox", "he", "in a den between two rocks", "pears"),
        Character("Dora", "duck", "she", "in a nest of reeds", "corn"),
        Character("Hugo", "hedgehog", "he", "under a heap of dry leaves", "plums"),
        Character("Tilda", "turtle", "she", "beside a mossy log", "green salad"),
        Character("Oscar", "otter", "he", "in a cabin on stilts", "soup"),
        Character("Lulu", "cat", "she", "in a house with a tin roof", "warm milk"),
        Character("Rufus", "dog", "he", "in a kennel with a little window", "toast"),
        Character("Freda", "frog", "she", "under a big flat stone", "jam"),
        Character("Gus", "goat", "he", "in a shed full of straw", "oats"),
        Character("Polly", "pig", "she", "in a cottage with a mud bath", "potatoes"),
        Character("Milo", "mole", "he", "at the end of a long tunnel", "turnips"),
        Character("Rosa", "squirrel", "she", "high up in a pine tree", "nuts"),
        Character("Barney", "badger", "he", "in a room under the roots", "mushrooms"),
        Character("Hetty", "hen", "she", "in a coop with a ramp", "bread crumbs"),
        Character("Mia", "girl", "she", "in a house at the end of the lane", "pancakes"),
        Character("Ben", "boy", "he", "above the shoe shop", "noodles"),
        Character("Anna", "girl", "she", "in a tall narrow house", "rice pudding"),
        Character("Tom", "boy", "he", "in a house with a crooked chimney", "apple pie"),
        Character("Zoe", "girl", "she", "next to the old clock tower", "strawberries"),
        Character("Leo", "boy", "he", "on the corner of the square", "cheese rolls"),
    )
}

PLACES = {
    p.name: p
    for p in (
        Place("park", "in", ("under a bench", "behind the fountain", "beside the duck house", "near the gate")),
        Place("garden", "in", ("between the cabbages", "beside the well", "under the rose bush",
                               "behind the shed")),
        Place("meadow", "in", ("in the tall grass", "beside a molehill", "among the daisies",
                               "behind a haystack")),
        Place("beach", "on", ("behind a sand dune", "between two rocks", "under a pile of seaweed",
                              "near the rock pool")),
        Place("forest", "in", ("under a fern", "inside a hollow log", "behind a fallen tree",
                               "among the roots of an oak")),
        Place("hill", "on", ("behind a big rock", "under a thorn bush", "next to the old stone wall",
                             "at the very top")),
        Place("pond", "by", ("among the reeds", "on a lily pad", "under the willow", "beside the little pier")),
        Place("river", "by", ("under the bridge", "on a flat stone", "between two roots", "on a bank of gravel")),
        Place("market", "at", ("under the fruit stall", "behind a barrel", "beside the fish stand",
                               "next to the scales")),
        Place("school", "at", ("under a desk", "behind the blackboard", "in the coat room",
                               "beside the chalk box"), indoors=True),
        Place("farm", "on", ("behind the tractor", "beside the water trough", "under the hay cart",
                             "next to the goose pen")),
        Place("barn", "in", ("under the hay", "behind a milk churn", "on a dusty beam", "beside the oat sacks"),
              indoors=True),
        Place("orchard", "in", ("under a crate", "behind the beehives", "at the foot of the oldest tree",
                                "against the tall hedge")),
        Place("mill", "at", ("behind the mill wheel", "under a flour sack", "beside the stone steps",
                             "in a dark corner"), indoors=True),
        Place("lake", "by", ("in a rowing boat", "under the jetty", "behind the ferry hut", "near the swans")),
        Place("library", "in", ("under a soft chair", "between two shelves", "behind the long curtain",
                                "on the window seat"), indoors=True),
        Place("bakery", "in", ("behind the counter", "beside the oven", "under the cake table",
                               "next to the butter dish"), indoors=True),
        Place("playground", "at", ("under the slide", "behind the climbing frame", "in the sandpit",
                                   "beside the seesaw")),
        Place("station", "at", ("under the waiting bench", "beside the ticket window", "behind a tall trunk",
                                "next to the big clock"), indoors=True),
        Place("field", "in", ("behind the scarecrow", "beside the wooden fence", "in a deep ditch",
                              "between two rows of corn")),
    )
}
OUTDOORS = tuple(name for name, place in PLACES.items() if not place.indoors)

# Things that one story turns on, each with a colour; and small things that come in numbers.
TOYS = ("kite", "ball", "hat", "scarf", "book", "bell", "drum", "lantern", "cup", "basket", "bucket", "flute",
        "blanket", "umbrella", "bag", "ribbon", "puppet", "wagon", "doll", "apron", "pillow", "crown", "brush",
        "flag")
BUILDINGS = ("hut", "raft", "tower", "swing", "birdhouse", "castle", "tent", "stage", "playhouse", "ramp")
COUNTABLES = ("shell", "apple", "berry", "nut", "acorn", "pebble", "carrot", "plum", "pear", "cherry", "feather",
              "bun", "roll", "button", "bead")
FOODS = ("apple", "berry", "nut", "carrot", "plum", "pear", "cherry", "bun", "roll")
TREASURES = ("shell", "acorn", "pebble", "feather", "button", "bead")
MATERIALS = ("board", "log", "stick", "brick", "branch")
THINGS = TOYS + BUILDINGS + COUNTABLES

COLOURS = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "black", "brown", "grey")
TIMES = ("morning", "afternoon", "evening")
MEALS = {"morning": "after breakfast", "afternoon": "after lunch", "evening": "after supper"}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SKIES = {  # what the weather looks like, for those stories that tell it
    "sunny": ("The sun shone", "There was not a cloud to be seen", "The air was bright and clear"),
    "windy": ("The wind shook the trees", "A strong wind was blowing", "Leaves flew through the air"),
    "cloudy": ("Big clouds hung low", "The sun hid behind the clouds", "Clouds covered the sky"),
    "foggy": ("Fog lay over everything", "The fog was as thick as wool", "One could hardly see through the fog"),
    "cold": ("The air was fresh and cold", "One could see one's own breath", "It was cold enough for thick socks"),
    "warm": ("The air was soft and warm", "It was warm enough to go without shoes", "Bees hummed in the warm air"),
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
           "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty")
MOODS = ("sad", "worried", "upset", "unhappy", "troubled", "gloomy")
FEELINGS = ("happy", "glad", "proud", "thankful", "cheerful", "pleased", "merry", "content")


def plural(noun: str) -> str:
    """Example: berry -> berries, branch -> branches, shell -> shells."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("ch", "sh", "s", "x")) else "s")


def counted(number: int, noun: str) -> str:
    """Example: 3, berry -> three berries; 1, shell -> one shell."""
    return f"{NUMBERS[number]} {noun if number == 1 else plural(noun)}"
