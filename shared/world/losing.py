"""Something is gone, or strange, or hard to find: lost, mystery, way."""

from __future__ import annotations

from shared.world.plot import Case, Plot, steps

LOST = Plot(
    name="lost",
    has_spot=True,
    cases=(
        Case("the wind had carried it off", "[walked|went] the way the wind blew"),
        Case("it had slipped from {his} back without a sound", "went back step by step"),
        Case("a puppy had run off with it", "followed the paw prints"),
        Case("{he} had put it down and forgotten it", "thought back over the whole {time}"),
        Case("a magpie had taken it", "asked all the birds"),
        Case("it had rolled away", "searched down the slope", things=("ball", "drum", "cup", "bucket", "wagon")),
        Case("someone had tidied it away", "asked everyone who came by"),
    ),
    problem="{hero} lost the {item} {at_place}.",
    resolution="{friend} and {hero} {means}, and they found the {thing} {spot}.",
    summary="{hero} lost the {item} {at_place} because {reason}. {friend} helped, and they found it {spot}.",
    questions=(),
    steps=steps("""
    == opening
    - *opening
    == want
    - {he} had [brought|taken along] a {item}, and {he} [would not let go of it|showed it to every bird|was careful
      with it].
    - {he} had a {item} with {him}. It was {his} [best|favourite|dearest] thing.
    - {he} carried a {item}, a present from {his} [uncle|grandmother|cousin|aunt].
    - {he} wanted to play with {his} {item}, which was [quite new|a birthday present|as good as new].
    == problem
    - But [when {he} looked up|a little later|after a nap|after a short rest], the {thing} was gone! {hero} was {mood}.
    - [Suddenly|Then|All at once] {he} [noticed|saw] that the {thing} was [missing|not there any more|gone]. This
      made {hero} {mood}.
    - Then {he} [stopped to look at a beetle|chased a butterfly|talked to a snail]. And when {he} turned around,
      there was no {thing}! "[Oh no|Oh dear]," {he} said, and {he} felt {mood}.
    - {he} [rested|played|dozed] a while. When {he} reached for the {thing}, it had [gone|vanished|disappeared], and
      {hero} felt [very|quite] {mood}.
    == meet
    - *meet
    == ask?
    - *ask
    == search
    - They {means}. [First|At first] they found [nothing at all|only an old shoe|nothing but leaves].
    - Together they {means}[, and they kept their eyes open| and looked left and right| for a long time].
    - "[We must think|Let us be clever]," said {friend}. So they {means}.
    - The two friends {means}, [here and there|slowly and carefully|without a word].
    == solution
    - [And there it was|There it lay], {spot}! [You see|So that was it], {reason}.
    - {friend} [found|spotted|saw] the {thing} {spot}. {reason}, [that was all|no more and no less].
    - At last {hero} [cried|called|shouted], "[Here|Look]!" The {thing} was {spot}, because {reason}.
    - And what [did they see|was that] {spot}? The {thing}! They [guessed|learned] what had happened: {reason}.
    == thanks?
    - *thanks
    == ending
    - *ending
    """),
)

PLOTS = (LOST,)
