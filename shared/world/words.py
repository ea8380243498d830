"""The small world of the course's stories: who lives there, where, with what, and how its words are bent.

Everything that is said of a character here (kind, home, favourite food) holds in every story, so a model
can learn it by heart; what a single story adds (colours, counts, spots) stands only in that story.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Character:
    """Someone of this world, with what is true of them in every story."""

    name: str
    kind: str
    he: str
    home: str
    food: str
    moved: str  # how this one gets about

    @property
    def pronouns(self) -> tuple[str, str, str, str]:
        """Subject, object, possessive, reflexive. Example: she, her, her, herself."""
        return ("he", "him", "his", "himself") if self.he == "he" else ("she", "her", "her", "herself")


@dataclass(frozen=True)
class Place:
    """Somewhere to go: the word for being there, the small spots, and the sights that are only there."""

    name: str
    preposition: str
    spots: tuple[str, ...]
    sights: tuple[str, ...]
    indoors: bool = False

    @property
    def at(self) -> str:
        return f"{self.preposition} the {self.name}"


CHARACTERS = {
    c.name: c
    for c in (
        Character("Pip", "rabbit", "he", "in a burrow with a round door", "carrots", "hopped"),
        Character("Nell", "mouse", "she", "in a hole behind the stove", "cheese", "scurried"),
        Character("Bruno", "bear", "he", "in a warm cave", "honey", "plodded"),
        Character("Olga", "owl", "she", "high in a hollow oak", "seed cake", "flew"),
        Character("Finn", "fox", "he", "in a den between two rocks", "pears", "trotted"),
        Character("Dora", "duck", "she", "in a nest of reeds", "corn", "waddled"),
        Character("Hugo", "hedgehog", "he", "under a heap of dry leaves", "plums", "shuffled"),
        Character("Tilda", "turtle", "she", "beside a mossy log", "lettuce", "crept"),
        Character("Oscar", "otter", "he", "in a cabin on stilts", "soup", "bounded"),
        Character("Lulu", "cat", "she", "in a house with a tin roof", "warm milk", "padded"),
        Character("Rufus", "dog", "he", "in a kennel with a little window", "toast", "raced"),
        Character("Freda", "frog", "she", "under a big flat stone", "jam", "leaped"),
        Character("Gus", "goat", "he", "in a shed full of straw", "oats", "clattered"),
        Character("Polly", "pig", "she", "in a cottage with a mud bath", "potatoes", "bustled"),
        Character("Milo", "mole", "he", "at the end of a long tunnel", "turnips", "toddled"),
        Character("Rosa", "squirrel", "she", "high up in a pine tree", "nuts", "darted"),
        Character("Barney", "badger", "he", "in a room under the roots", "mushrooms", "ambled"),
        Character("Hetty", "hen", "she", "in a coop with a ladder", "bread crumbs", "strutted"),
        Character("Mia", "girl", "she", "in a house at the end of the lane", "pancakes", "skipped"),
        Character("Ben", "boy", "he", "above the shoe shop", "noodles", "marched"),
        Character("Anna", "girl", "she", "in a tall narrow house", "rice pudding", "danced"),
        Character("Tom", "boy", "he", "in a house with a crooked chimney", "apple pie", "ran"),
        Character("Zoe", "girl", "she", "next to the old clock", "strawberries", "hurried"),
        Character("Leo", "boy", "he", "on the corner of the square", "cheese rolls", "strolled"),
    )
}

PLACES = {
    p.name: p
    for p in (
        Place("park", "in",
              ("under a bench", "behind the fountain", "beside the flower bed", "near the gate"),
              ("Somewhere children were laughing", "The fountain splashed", "A band was playing far away")),
        Place("garden", "in",
              ("between the cabbages", "beside the well", "under the rose bush", "behind the shed"),
              ("It smelled of mint and wet earth", "Butterflies sat on the roses",
               "A snail crept over the path")),
        Place("meadow", "in",
              ("in the tall grass", "beside a molehill", "among the daisies", "behind a haystack"),
              ("Crickets chirped", "The grass was as high as a chair", "Daisies grew everywhere")),
        Place("beach", "on",
              ("behind a sand dune", "between the rocks", "under a pile of seaweed", "near the rock pool"),
              ("The waves came and went", "Gulls cried overhead", "The sand tickled between the toes")),
        Place("forest", "in",
              ("under a fern", "inside a hollow log", "behind a fallen tree", "among the roots of an oak"),
              ("A woodpecker knocked", "It smelled of moss", "The trees whispered")),
        Place("hill", "on",
              ("behind a big rock", "under a thorn bush", "next to the old stone wall", "at the very top"),
              ("From there one could see the whole valley", "Sheep were grazing",
               "Up there it was very still")),
        Place("pond", "by",
              ("among the reeds", "behind the water lilies", "under the willow", "beside the little pier"),
              ("Dragonflies danced over the water", "Water lilies were in bloom", "A fish jumped")),
        Place("river", "by",
              ("under the bridge", "beside the wet stones", "between two roots", "on a bank of gravel"),
              ("The water gurgled over the stones", "Reeds bent over the water", "Swallows flew low over the water")),
        Place("market", "at",
              ("under the fruit stall", "behind a barrel", "beside the fish stand", "next to the scales"),
              ("It smelled of spice and fish", "Everyone was calling and laughing", "Balloons bobbed above the crowd")),
        Place("school", "at",
              ("under a desk", "behind the blackboard", "in the coat room", "beside the chalk box"),
              ("The windows stood wide open", "Drawings hung on the walls", "It smelled of chalk"), indoors=True),
        Place("farm", "on",
              ("behind the tractor", "beside the water trough", "under an old cart",
               "next to the goose pen"),
              ("The cows were mooing", "A rooster crowed", "It smelled of cows and clover")),
        Place("barn", "in",
              ("under the hay", "behind a milk churn", "behind a dusty cart", "beside the oat sacks"),
              ("Dust danced in the light", "It smelled of hay", "Swallows nested under the roof"), indoors=True),
        Place("orchard", "in",
              ("under a crate", "behind the beehives", "at the foot of the oldest tree",
               "against the tall hedge"),
              ("Bees went from blossom to blossom", "The trees were heavy with fruit",
               "It smelled sweet there")),
        Place("mill", "at",
              ("behind the mill wheel", "under a flour sack", "beside the stone steps", "in a dark corner"),
              ("The big wheel creaked", "Everything was dusty with flour", "Sacks stood everywhere"), indoors=True),
        Place("lake", "by",
              ("beside the oars", "under the jetty", "behind the ferry house", "near the swans"),
              ("Sails glided by", "Small waves lapped at the shore", "A heron stood in the water")),
        Place("library", "in",
              ("under a soft chair", "between two shelves", "behind the long curtain", "on the window seat"),
              ("Everyone was whispering", "The clock ticked", "It smelled of old paper"), indoors=True),
        Place("bakery", "in",
              ("behind the counter", "beside the oven", "under the cake table", "next to the butter dish"),
              ("It smelled of fresh bread", "The oven was warm", "Flour dust hung in the air"), indoors=True),
        Place("playground", "at",
              ("under the slide", "behind the climbing frame", "in the sandpit", "beside the seesaw"),
              ("Children were shouting", "The seesaw squeaked",
               "Somebody had drawn on the ground with chalk")),
        Place("station", "at",
              ("under the waiting bench", "beside the ticket window", "behind a tall trunk",
               "next to the big clock"),
              ("A train puffed in", "People hurried by with suitcases", "A whistle blew"), indoors=True),
        Place("field", "in",
              ("behind the scarecrow", "beside the wooden fence", "in a deep ditch",
               "between two rows of corn"),
              ("The corn rustled", "Larks sang high above", "A tractor hummed far away")),
    )
}
OUTDOORS = tuple(name for name, place in PLACES.items() if not place.indoors)

# Things that one story turns on, each with a colour; and small things that come in numbers.
TOYS = ("kite", "ball", "hat", "scarf", "book", "bell", "drum", "lantern", "cup", "basket", "bucket", "flute",
        "blanket", "umbrella", "bag", "ribbon", "puppet", "boat", "doll", "apron", "pillow", "crown", "brush",
        "flag")
BUILDINGS = ("hut", "doghouse", "tower", "swing", "birdhouse", "castle", "tent", "stage", "playhouse", "ramp")
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
    "sunny": ("The sun shone", "There was not a cloud in the sky", "The air was bright and clear"),
    "windy": ("The wind shook the trees", "A strong wind was blowing", "Leaves flew through the air"),
    "cloudy": ("Big clouds hung low", "The sun hid behind the clouds", "Clouds covered the sky"),
    "foggy": ("Fog lay over everything", "The fog was as thick as wool", "One could hardly see through the fog"),
    "cold": ("The air was fresh and cold", "One could see one's own breath", "It was cold enough for thick socks"),
    "warm": ("The air was soft and warm", "It was warm enough to go without shoes", "Bees hummed in the warm air"),
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
           "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty")
MOODS = ("sad", "worried", "upset", "unhappy", "troubled", "gloomy")
FEELINGS = ("happy", "glad", "proud", "thankful", "cheerful", "pleased", "merry", "joyful")


@cache
def plural(noun: str) -> str:
    """Example: berry -> berries, branch -> branches, shell -> shells."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("ch", "sh", "s", "x")) else "s")


@cache
def counted(number: int, noun: str) -> str:
    """Example: 3, berry -> three berries; 1, shell -> one shell."""
    return f"{NUMBERS[number]} {noun if number == 1 else plural(noun)}"
