"""One gives and another gets: share, trade, gather, gift."""

from __future__ import annotations

from shared.world import words
from shared.world.plot import Case, Plot, steps

SHARE = Plot(
    name="share",
    things=words.FOODS,
    coloured=False,
    counts=((3, 12), (1, 6)),
    takes=True,
    cases=(
        Case("{friend} had left {fhis} lunch at home", "on a clean napkin"),
        Case("{friend} had dropped {fhis} food in the mud", "on a large leaf"),
        Case("{friend} had given {fhis} last crumbs to a hungry sparrow", "on a flat stone"),
        Case("{friend} had got up too late to pack any food", "on a little plate"),
        Case("the ants had eaten everything {friend} had", "in a paper bag"),
    ),
    problem="{friend} was hungry and had nothing to eat.",
    resolution="{hero} gave {friend} {n_change} and kept {n_after}.",
    summary="{friend} had nothing to eat because {reason}. {hero} had {n_before}, gave away {change} and kept {after}.",
    questions=(),
    steps=steps("""
    == opening
    - *opening
    == want
    - {he} had [picked|packed|brought] {n_before} and [found a soft place to sit|wanted to eat in peace].
    - {he} had {n_before} [with {him}|for lunch] and [was looking forward to them|counted them twice].
    - {his} [mother|grandfather|neighbour] had given {him} {n_before}. They smelled [sweet|wonderful|fresh].
    == meet
    - *meet
    == problem
    - {friend} [looked|was] {mood}. {fHe} [had nothing to eat|was hungry], because {reason}.
    - "I am so hungry," said {friend} in a {mood} voice. {reason}.
    - {friend}'s tummy [rumbled|growled|made a funny noise], and {fhe} was {mood}: {reason}.
    - {friend} looked at the {things} and then at the ground, {mood} and hungry. {reason}.
    == help
    - {hero} [thought for a moment|did not think twice]. {he} put {n_change} {means} and gave {them} to {friend}.
    - "[Then eat with me|I have enough|Let us share]!" said {hero}. {he} laid {n_change} {means} for {friend}.
    - {hero} [smiled|nodded|moved closer]. "[These are for you|Help yourself|Please take some]," {he} said. And {friend} got {n_change}
      {means}.
    == count
    - Now {hero} had {n_after} left[, and that was plenty|, just the right number|, and {he} did not mind].
    - "{before} take away {change} is {after}," {hero} counted. [It was still enough|That was enough for {him}].
    - {hero} kept {n_after} for {himself}, and [they ate side by side|everything tasted twice as good|both ate slowly].
    == ending
    - *ending
    """),
)

TRADE = Plot(
    name="trade",
    counts=((5, 15), (2, 9)),
    takes=True,
    units=words.TREASURES,
    places=("market", "park", "beach", "farm", "school", "station", "playground", "mill", "lake", "river"),
    cases=(
        Case("{his} old {thing} had a hole in it", "counted the {units} [out one by one|twice]",
             things=("hat", "scarf", "basket", "bucket", "blanket", "umbrella", "bag", "apron", "pillow", "drum")),
        Case("{his} old {thing} was broken", "laid the {units} in a row",
             things=("kite", "drum", "cup", "wagon", "bell", "flute", "umbrella", "lantern", "brush", "doll")),
        Case("{he} had wished for one all year", "shook hands on it"),
        Case("{he} had lost {his} own in the snow", "put the {units} into a jar"),
        Case("{his} little sister wanted one so much", "made a fair deal"),
    ),
    problem="{hero} needed a {thing}, and the {item} cost {n_change}.",
    resolution="{hero} paid {n_change} for the {item} and had {n_after} left.",
    summary="{hero} wanted a {thing} because {reason}. {he} traded {change} of {his} {n_before} for a {item}, so {after} were left.",
    questions=(),
    steps=steps("""
    == opening
    - *opening
    == want
    - {he} had {n_before} in {his} pocket. {he} [needed|wanted|was looking for] a {thing}, because {reason}.
    - {reason}, so {he} [needed|wanted] a new {thing}. {he} had no money, but {he} had {n_before}.
    - All {he} owned was {n_before}. And {he} [so much wanted|dreamed of] a {thing}, because {reason}.
    == meet
    - {friend_full} sat behind a little table with [all kinds of things|a hundred small things|old and new things].
      Among them was a {item}.
    - {friend_full} had [a stall|a cart full of goods|a mat with things to swap]. There {hero} saw a {item}.
    == problem
    - "How much is it?" asked {hero}. "{n_change}," said {friend}. {hero} [was {mood}|looked {mood}] and
      [counted|had to think]: was that too much?
    - "It costs {n_change}," said {friend}. At first {hero} was {mood}, for {he} [had never bought anything|was not good with numbers].
    - "You can have it for {n_change}," said {friend}. {hero} felt {mood}. Would {he} have [enough|any left]?
    == solution
    - Then they {means}. {friend} took {n_change}, and the {thing} was {hero}'s.
    - "Agreed!" said {hero}. They {means}, and {hero} got the {thing} for {n_change}.
    - But {friend} was [kind|patient|honest], and together they {means}. {hero} paid {n_change} and took the {thing}.
    == count
    - {hero} still had {n_after}[ in {his} pocket| for another day].
    - {before} take away {change} [is|makes] {after}, so {hero} had {n_after} left.
    - {n_after} [was|were] left[ over|, and {he} put what was left away].
    == thanks?
    - *thanks
    == ending
    - *ending
    """),
)

PLOTS = (SHARE, TRADE)
