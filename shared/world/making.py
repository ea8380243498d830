"""Plots in which something is made, learnt or planned: build, weather, skill."""

from __future__ import annotations

from shared.world import words
from shared.world.plot import Case, Plot, steps

BUILD = Plot(
    name="build",
    things=words.BUILDINGS,
    places=("park", "garden", "meadow", "beach", "forest", "hill", "pond", "river", "farm", "orchard", "lake",
            "playground", "field"),
    counts=((3, 10), (1, 9)),
    units=words.MATERIALS,
    cases=(
        Case("the ground was too soft", "put flat stones under the corners"),
        Case("the wind pushed against it", "tied everything together with cord"),
        Case("one side was much too heavy", "moved some of the weight to the other side"),
        Case("{he} had built too fast", "began again, slowly and with care"),
        Case("the {units} did not fit", "made all the ends the same length"),
        Case("there was nothing to hold up the middle", "set up a strong post"),
        Case("a curious calf had leaned against it", "led the calf away and built a little fence"),
    ),
    problem="The {item} of {hero} fell apart.",
    resolution="{friend} brought {more_change}, they {means}, and the {thing} held.",
    summary="{hero} built a {item} {at_place}, but it fell apart, because {reason}. With {change} more from {friend} "
            "there were {n_after}, and it held.",
    questions=(
        ("before", "How many {units} did {hero} have at first?"),
        ("change", "How many {units} did {friend} bring?"),
        ("after", "How many {units} were there in all?"),
        ("reason", "Why did the {thing} fall apart?"),
        ("thing", "What did {hero} want to build?"),
    ),
    steps=steps("""
    == opening
    - *opening
    == setting?
    - *setting
    == want
    - {he} wanted to build a {item}. {n_before} [lay ready|were all {he} had|lay beside {him}].
    - For weeks {he} had dreamed of a {item}. With {n_before} {he} [began|set to work].
    - "Today I will build a {item}," {he} [said|thought]. {He} had [gathered|found|saved] {n_before} for it.
    - {he} had [drawn a plan for|made up {his} mind to build] a {item}. {n_before} would do, {he} thought.
    == problem
    - But [crash|bump|oh dear]! The {thing} fell apart, because {reason}. {hero} was {mood}.
    - It [did not go well|went wrong]. {reason}, and [everything|the whole {thing}] fell apart. {hero}
      became {mood}.
    - Again and again the {thing} fell apart: {reason}. That made {him} {mood}.
    - It was hardly done when it fell apart. {reason}. How {mood} {hero} was!
    == meet
    - *meet
    == ask?
    - *ask
    == help
    - {friend} [ran off and came back with|went home and brought|knew where to find] {more_change}.
      "{before} and {change} make {after}," {fhe} [said|counted].
    - "I have {more_change} at home," said {friend}. [Soon|A little later] there were {n_after} in all.
    - {friend} [fetched|gave {him}|added] {more_change}, so now they had {n_after}.
    - "You need more," said {friend} and brought {n_change}. That made {n_after}.
    == solution
    - Together they {means}. This time the {thing} [stood firm|did not fall|held].
    - Then they {means}, and [look|see]! The {thing} [stood firm|was strong|held].
    - Now they [knew what to do|were clever]: they {means}. After that the {thing} [was strong|held well].
    - They {means}. {friend} [pushed|pulled] at the {thing}, but it did not [move|shake] any more.
    == lesson?
    - "[Two can build better than one|It pays to be patient]," said {hero}.
    - They [drank tea beside it|sat down in front of it|painted a sun on it] and [looked at their
      work|rested].
    - Everyone who came by [stopped to look|wanted to try it|clapped].
    == ending
    - *ending
    """),
)

PLANS = (  # what they wanted to do, and with what
    ("have a picnic", ("blanket", "basket", "bag")),
    ("fly the {thing}", ("kite",)),
    ("play catch", ("ball",)),
    ("put on a show", ("puppet", "doll", "crown", "drum")),
    ("play music for the birds", ("flute", "drum", "bell")),
    ("read a story aloud", ("book",)),
    ("march like a band", ("flag", "drum", "hat")),
    ("tell stories in the open air", ("lantern", "pillow", "puppet")),
    ("paint the old fence", ("brush", "bucket", "apron")),
)
SPOILERS = (  # what came between, and what they did at home
    ("it began to pour with rain", "drank cocoa and told each other riddles"),
    ("a storm came up", "built a den out of chairs"),
    ("big hailstones began to fall", "baked little cakes"),
    ("thick fog rolled in", "made shadow animals on the wall"),
    ("a wild wind began to howl", "sang all the songs they knew"),
    ("the sky turned dark and it thundered", "sat by the fire and knitted socks"),
)

WEATHER = Plot(
    name="weather",
    places=words.OUTDOORS,
    weathers=("sunny", "warm", "cloudy"),
    cases=tuple(Case(reason, means, things, goal=goal) for goal, things in PLANS for reason, means in SPOILERS),
    problem="{hero} and {friend} could not {goal}, because {reason}.",
    resolution="They went to {friend}'s home and {means}.",
    summary="{hero} and {friend} wanted to {goal} {at_place}, but {reason}. So they {means} at {friend}'s home.",
    questions=(
        ("goal", "What did {hero} and {friend} want to do?"),
        ("reason", "Why could they not do it?"),
        ("means", "What did they do at {friend}'s home?"),
        ("thing", "What had {hero} brought?"),
        ("mood", "How did {hero} feel when the plan was spoiled?"),
    ),
    steps=steps("""
    == opening
    - *together
    == setting?
    - *setting
    == want
    - They wanted to {goal}, and {hero} had brought a {item}[| just for that].
    - They had planned to {goal}. {hero} had a {item} [ready|with {him}|along].
    - "Let us {goal}!" said {hero}, who had [brought|found|borrowed] a {item}.
    - {hero} held a {item}, for they were going to {goal}.
    == problem
    - But [suddenly|before they could start,|after a short while] {reason}. {hero} was {mood}.
    - Then {reason}. "[Now everything is spoiled|That is not fair|There goes our plan]!" cried {hero}, who
      was {mood}.
    - [They had not even begun when|All was ready when] {reason}. {hero} looked up at the sky and felt
      {mood}.
    - {friend} [pointed at the sky|felt it first]. "Oh no!" And really, {reason}. That made {hero} {mood}.
    == solution
    - "[It does not matter|Never mind|Do not be {mood}]," said {friend}, who lived {fhome}. They ran there
      and {means}.
    - {friend} lived {fhome}. "Come with me!" {fhe} cried. There they {means}.
    - "I know what we can do," said {friend}. At {friend}'s home, {fhome}, they {means}.
    - They [ran|hurried] to {friend}'s home, {fhome}. There they [caught their breath|dried themselves] and
      {means}.
    == twist
    - The {thing} [got a place by the door|lay in a corner] and could wait for another day.
    - "Tomorrow we will {goal}," said {friend}[ and yawned|]. [But today was good too|Today was not lost].
    - {hero} [put the {thing} away|laid the {thing} on a chair] and did not think of it any more.
    - "This is even better than to {goal}," said {hero}[ after a while|].
    == ending
    - *ending
    """),
)

SKILL = Plot(
    name="skill",
    counts=((2, 9), (1, 6)),
    units=("try",),
    places=words.OUTDOORS + ("school", "barn"),
    cases=(
        Case("{hero} ran with the wind behind {him}", "ran against the wind", ("kite",), goal="fly a kite"),
        Case("{hero} shut {his} eyes each time", "kept both eyes open", ("ball",), goal="catch a ball"),
        Case("{hero} blew much too hard", "blew as softly as a breeze", ("flute",), goal="play a tune"),
        Case("{hero} was in too much of a hurry", "counted slowly out loud", ("drum",), goal="keep the beat"),
        Case("{hero} only guessed the words", "spelled each word letter by letter", ("book",),
             goal="read a whole page"),
        Case("{hero} did not listen to the song", "listened to the song first", ("bell",), goal="ring a bell in time"),
        Case("{hero} pulled at the wrong end", "made a loop first", ("ribbon",), goal="tie a bow"),
        Case("{hero} threw with too much force", "swung it gently", ("hat",), goal="throw a hat onto a hook"),
        Case("all the strings were tangled", "moved one string after the other", ("puppet",),
             goal="make a puppet dance"),
        Case("the reeds were too dry to bend", "put the reeds into water", ("basket",), goal="weave a basket"),
        Case("{hero} held the brush too tight", "held it loosely", ("brush",), goal="paint a straight line"),
        Case("{hero} took steps that were too big", "took tiny steps", ("bucket", "cup"),
             goal="carry a full {thing} without a spill"),
        Case("{hero} dropped every second stitch", "went on stitch by stitch", ("scarf",), goal="knit a scarf"),
        Case("{hero} wobbled too much", "looked at one point far away", ("book", "pillow", "basket"),
             goal="walk with a {thing} on top of the head"),
    ),
    problem="{hero} could not {goal}.",
    resolution="{hero} {means}, and after {more_change} it worked.",
    summary="{hero} could not {goal}, because {reason}. With help from {friend} {he} {means}, and after {n_after} in "
            "all it worked.",
    questions=(
        ("goal", "What did {hero} want to learn?"),
        ("reason", "Why did it not work at first?"),
        ("before", "How many tries went wrong before {friend} came?"),
        ("after", "How many tries did {hero} make in all?"),
        ("friend", "Who taught {hero}?"),
    ),
    steps=steps("""
    == opening
    - *opening
    == setting?
    - *setting
    == want
    - {he} had a {item} and wanted to learn to {goal}.
    - {he} wanted to {goal}, and {he} had brought {his} {item}. But {he} [had never done it|did not know
      how].
    - "Today I will learn to {goal}!" {he} said. {his} {item} was [ready|with {him}].
    - With {his} {item} {he} [practised|worked hard]. {He} wished to {goal}[, like the big ones|].
    == problem
    - {n_before}, and [nothing worked|all of them went wrong]! {hero} was {mood}.
    - But after {n_before} {he} [still could not do it|had not got any better]. {hero} felt {mood}.
    - {he} made {n_before}, [one worse than the other|and it went wrong each time]. "I will never learn it,"
      said {hero}, {mood} and tired.
    - It was [hard|not easy]. {n_before} went wrong, and {hero} [became|grew] {mood}.
    == meet
    - *meet
    == ask?
    - *ask
    == help
    - {friend} [watched|looked closely]. {reason}, that was the [trouble|mistake].
    - "[Show me|Do it once more]," said {friend}. And soon it was clear: {reason}.
    - {friend} saw at once why it did not work: {reason}.
    - It did not work because {reason}. {friend} [saw it|knew that] and [told {him} so|showed {him} another
      way].
    == solution
    - So {hero} {means}. After {more_change} it worked!
    - Now {hero} {means}, and {more_change} later {he} could do it!
    - {hero} [nodded|listened] and {means}. It took {more_change}, and then it [worked|went well]!
    - "Like this?" asked {hero}. {He} {means}, and with {more_change} {he} [did it|got it right]!
    == count
    - That made {n_after} in all.
    - {before} and {change} make {after}: it had taken {n_after}[ in all|].
    - "{n_after}!" {friend} had counted them all[|, the bad ones and the good one].
    - {n_after} [had been needed|it had taken], but now {he} could {goal}.
    == thanks?
    - *thanks
    == ending
    - *ending
    """),
)

PLOTS = (BUILD, WEATHER, SKILL)
