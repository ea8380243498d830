"""Plots in which something changes hands: share, trade, gather, gift."""

from __future__ import annotations

from shared.world import words
from shared.world.plot import Case, Plot, steps

SHARE = Plot(
    name="share",
    things=words.FOODS,
    coloured=False,
    counts=((3, 12), (1, 6)),
    takes=True,
    feelings=("happy", "glad", "proud", "cheerful", "pleased", "merry", "joyful"),
    cases=(
        Case("{friend} had left {fhis} lunch at home", "on a clean napkin"),
        Case("{friend} had dropped {fhis} food in the mud", "on a large leaf"),
        Case("{friend} had given {fhis} last crumbs to a hungry sparrow", "on a flat stone"),
        Case("{friend} had got up too late to pack any food", "on a little plate"),
        Case("the ants had eaten everything {friend} had", "in a small dish"),
        Case("{friend} had been working since sunrise", "in a wooden bowl"),
    ),
    problem="{friend} was hungry and had nothing to eat.",
    resolution="{hero} gave {friend} {n_change} and kept {n_after}.",
    summary="{reason}, so there was nothing to eat for {friend}. {hero} had {n_before}, gave away {change} and "
            "kept {after}.",
    questions=(
        ("before", "How many {things} did {hero} have at first?"),
        ("change", "How many {things} did {hero} give to {friend}?"),
        ("after", "How many {things} did {hero} have left?"),
        ("reason", "Why did {friend} have nothing to eat?"),
        ("friend", "Who was hungry?"),
    ),
    steps=steps("""
    == opening
    - *opening
    == setting?
    - *setting
    == want
    - {he} had [picked|packed|brought] {n_before} and [found a soft place to sit|wanted to eat in peace|was
      about to begin].
    - {he} had {n_before} [with {him}|for lunch|in a tin] and [was looking forward to them|had counted them
      twice].
    - {his} [mother|grandfather|neighbour] had given {him} {n_before}. They smelled [sweet|wonderful|fresh].
    - {he} [unpacked|took out] {n_before}. "[What a feast|Time to eat]!" {he} said.
    == meet
    - *meet
    == problem
    - {friend} [looked|was] {mood}. {reason}[, that was why|, and now {fhe} was hungry].
    - "I am so hungry," said {friend} in a {mood} voice. {reason}.
    - {friend}'s tummy [rumbled|growled|made a funny noise], and {fhe} was {mood}: {reason}.
    - {friend} looked at the {things} and then at the ground, {mood} and hungry. {reason}.
    - "Are you hungry?" asked {hero}. {friend} nodded, and {fhe} looked {mood}. {reason}.
    == help
    - {hero} [thought for a moment|did not think twice]. {He} put {n_change} {means} and gave {them} to
      {friend}.
    - "[Then eat with me|I have enough|Let us share]!" said {hero}. {He} laid {n_change} {means} for
      {friend}.
    - {hero} [smiled|nodded|moved closer]. "[This is for you|Help yourself]," {he} said. And {friend} got
      {n_change} {means}.
    - "[Friends share|It tastes better with two]," said {hero}. {n_change} [went|went over] to {friend},
      {means}.
    == count
    - Now {hero} had {n_after} left[, and that was plenty|, just the right number|, and {he} did not mind].
    - "{before} take away {change} is {after}," {hero} counted. {n_after} [would do|would be enough] for
      {him}.
    - {hero} kept {n_after} for {himself}, and [they ate side by side|it tasted twice as good|both ate
      slowly].
    - So {n_after} [stayed with|{were_after} left for] {hero}, and they ate until [the last crumb|they were
      full].
    == thanks?
    - "[Thank you|Thanks], {hero}!" [said|called|cried] {friend}[ with a full mouth| when {fhe} was full|].
    - {friend} [licked {fhis} lips|wiped {fhis} mouth|sighed happily]. "[That was good|I will never forget
      this]," {fhe} said.
    == ending
    - *ending
    """),
)

TRADE = Plot(
    name="trade",
    counts=((5, 15), (2, 9)),
    takes=True,
    units=words.TREASURES,
    places=("market", "park", "beach", "farm", "school", "station", "playground", "mill", "lake", "river", "barn"),
    moods=("worried", "troubled", "unsure", "nervous"),
    cases=(
        Case("{his} old {thing} had a hole in it", "counted the {units} [out one by one|twice]",
             ("hat", "scarf", "basket", "bucket", "blanket", "umbrella", "bag", "apron", "pillow", "drum")),
        Case("{his} old {thing} was broken", "laid the {units} in a row",
             ("kite", "drum", "cup", "boat", "bell", "flute", "umbrella", "lantern", "brush", "doll")),
        Case("{he} had wished for one all year", "shook hands on it"),
        Case("{he} had lost {his} own on a long walk", "put the {units} into a jar"),
        Case("{his} little sister wanted one so much", "agreed on a fair deal"),
        Case("{he} needed one for the summer party", "clapped hands on the deal"),
    ),
    problem="{hero} needed a {thing}, and a {item} cost {n_change}.",
    resolution="{hero} paid {n_change} for the {item} and had {n_after} left.",
    summary="{hero} wanted a {thing}, because {reason}. {He} traded {change} of {his} {n_before} for a {item}, and "
            "{after} {were_after} left.",
    questions=(
        ("before", "How many {units} did {hero} have at first?"),
        ("change", "How many {units} did the {thing} cost?"),
        ("after", "How many {units} did {hero} have left?"),
        ("reason", "Why did {hero} want a {thing}?"),
        ("friend", "Who sold the {thing} to {hero}?"),
    ),
    steps=steps("""
    == opening
    - *opening
    == setting?
    - *setting
    == want
    - {he} had {n_before} [with {him}|in a little purse]. {he} [needed|wanted|was looking for] a {thing},
      because {reason}.
    - {he} [needed|wanted] a {thing}, for {reason}. {He} had no money, but {he} had {n_before}.
    - All {he} owned was {n_before}. And {he} [so much wanted|dreamed of] a {thing}, because {reason}.
    - "If only I had a {thing}!" {he} [sighed|thought], for {reason}. {he} [felt for|counted] {his}
      {n_before}.
    == meet
    - {friend_full} sat behind a little table with [all kinds of|a hundred small|old and new] things. Among
      them was a {item}.
    - {friend_full} had [a stall|a mat|a cart] full of [goods|treasures]. There {hero} saw a {item}.
    - "[Come closer|Have a look]!" called {friend_full} from a [stall|table]. And what did {hero} see? a
      {item}!
    == problem
    - "How much is it?" asked {hero}. "{n_change}," said {friend}. {hero} [was|looked] {mood} and
      [counted|had to think]: was that too much?
    - "It costs {n_change}," said {friend}. At first {hero} was {mood}, for {he} [had never bought
      anything|was not good with numbers].
    - "You can have it for {n_change}," said {friend}. {hero} felt {mood}. Would {he} have [enough|any
      left]?
    - "{n_change}, and it is yours," said {friend}. {hero} [was {mood}|grew {mood}]. It was a lot to pay.
    == solution
    - Then they {means}. {friend} took {n_change}, and the {thing} was {hero}'s.
    - "Agreed!" said {hero}. They {means}, and {hero} got the {thing} for {n_change}.
    - But {friend} was [kind|patient|honest], and together they {means}. {hero} paid {n_change} and took the
      {thing}.
    - In the end they {means}. {n_change} went to {friend}, the {thing} to {hero}.
    == count
    - {hero} still had {n_after}[| in {his} purse| for another day].
    - {before} take away {change} [is|makes] {after}, so {hero} had {n_after} left.
    - {n_after} {were_after} left[ over|, and {hero} put the rest away].
    - {hero} counted [what was left|again|the rest]: {n_after}.
    == thanks?
    - *thanks
    == ending
    - *ending
    """),
)

GATHER = Plot(
    name="gather",
    things=("apple", "berry", "nut", "plum", "pear", "cherry", "acorn", "feather", "pebble"),
    coloured=False,
    counts=((2, 10), (1, 9)),
    places=("park", "garden", "meadow", "forest", "hill", "pond", "river", "farm", "orchard", "lake", "field"),
    cases=(
        Case("the birds had been there first", "looked under every leaf",
             ("apple", "berry", "nut", "plum", "pear", "cherry"), goal="bake a birthday cake"),
        Case("the best ones hung too high", "shook the branches together",
             ("apple", "nut", "plum", "pear", "cherry"), goal="fill a bowl for the summer party"),
        Case("there were so many thorns", "held the twigs apart with a stick", ("berry",),
             goal="cook jam for the winter"),
        Case("{his} sack had a hole", "walked back along the path", goal="surprise the neighbours"),
        Case("the leaves covered everything", "swept the leaves aside", ("acorn", "nut", "feather", "pebble"),
             goal="make a picture for the wall"),
        Case("{he} had eaten the best ones on the way", "worked side by side without nibbling",
             ("apple", "berry", "nut", "plum", "pear", "cherry"), goal="bake a pie for supper"),
        Case("{he} had started much too late", "shared the work", goal="fill a jar to the top"),
    ),
    problem="{hero} wanted to {goal} but had only {n_before}.",
    resolution="{friend} found {more_change}, so they had {n_after}.",
    summary="{hero} wanted to {goal} but found only {n_before}, because {reason}. {friend} found {change} more, which "
            "made {after}.",
    questions=(
        ("before", "How many {things} did {hero} have at first?"),
        ("change", "How many {things} did {friend} find?"),
        ("after", "How many {things} did they have in the end?"),
        ("goal", "What did {hero} want to do with the {things}?"),
        ("reason", "Why did {hero} not have enough {things}?"),
    ),
    steps=steps("""
    == opening
    - *opening
    == setting?
    - *setting
    == want
    - {he} wanted to {goal}. After [an hour|a long time] {he} had {n_before}.
    - "I want to {goal}," {he} [said|had told everyone]. [So far|By now] {he} had {n_before}.
    - {he} was [looking for|picking up|gathering] {things}, because {he} wanted to {goal}. {n_before} [lay
      in {his} sack already|were all {he} had so far].
    - To {goal}, that was {his} plan! {he} [searched|bent down|looked around] and [soon had|found]
      {n_before}.
    == problem
    - That was [not enough|far too few]. {reason}, and {hero} was {mood}.
    - [But more could not be found|But it went slowly], because {reason}. {hero} [was|felt] {mood}.
    - "Only {before}!" said {hero}, {mood} and tired. {reason}.
    - {he} needed more, but {reason}. {hero} [sat down|sighed] and was {mood}.
    == meet
    - *meet
    == ask?
    - *ask
    == help
    - [At once|Without a word] {friend} [began to help|joined in]. They {means}, and {friend} found
      {more_change}.
    - "[Let me help you|Four eyes see more than two]," said {friend}. They {means}. {more_change} came from
      {friend}.
    - They {means}, and [soon|before long] {friend} [held up|brought|had] {more_change}.
    - So they {means}, {hero} here and {friend} there. "I have {more_change}!" called {friend}.
    == count
    - {before} and {change} make {after}, so now they had {n_after}.
    - "Now we have {n_after}!" [cried|said|laughed] {friend}.
    - They counted [everything|once more|together]: {before} and {change}, that made {n_after}.
    - In all, there were now {n_after}.
    == solution
    - That was [just enough|plenty], and {hero} could {goal}.
    - [At last|Now|So] {hero} could {goal}, and {friend} [watched|helped with that too].
    - "Now I can {goal}!" [said|cried] {hero}. [And so it was|And that is what {he} did].
    == ending
    - *ending
    """),
)

GIFT = Plot(
    name="gift",
    has_spot=True,
    moods=("nervous", "worried", "flustered", "uneasy"),
    cases=(
        Case("it was {friend}'s birthday", "told a funny story until all was ready"),
        Case("{friend} had been ill for a week", "started a game of hide-and-seek"),
        Case("{friend} was soon to move to another village", "pointed at a bird in the sky"),
        Case("{friend} had helped {him} with the harvest", "asked {fhim} to close {fhis} eyes"),
        Case("{friend} had looked so lonely", "began to sing very loudly"),
        Case("{friend} had won a race", "asked {fhim} to count to twenty"),
    ),
    problem="{hero} had a secret present for {friend}, and {friend} came too early.",
    resolution="{hero} {means} and then gave {friend} the {item}.",
    summary="{hero} made a {item} for {friend}, because {reason}. {He} hid it {spot}, and the surprise went well.",
    questions=(
        ("reason", "Why did {hero} make a present for {friend}?"),
        ("thing", "What was the present?"),
        ("spot", "Where did {hero} hide the present?"),
        ("means", "What did {hero} do so that {friend} did not find the present?"),
        ("friend", "Who got the present?"),
    ),
    steps=steps("""
    == opening
    - *opening
    == setting?
    - *setting
    == want
    - {he} had made a {item} for {friend_full}, because {reason}.
    - {reason}, so {hero} had made {fhim} a present. It was a {item}, made with [great care|love|much
      patience].
    - For days {he} had [worked|cut and glued|been busy]. Now the {item} for {friend_full} was [ready|done],
      and all because {reason}.
    == hide
    - [It had to be a surprise|Nobody was to know], so {he} hid the {thing} {spot}.
    - [Quickly|Quietly] {he} put it {spot}, where [nobody would look|it was safe].
    - {spot}, that was the [best|perfect] hiding place for the {thing}.
    == problem
    - But {friend} came [much too early|before everything was ready]. "What are you hiding?" {fhe} asked.
      {hero} was {mood}.
    - Oh dear, there came {friend}, far too early! {hero} [grew|became] {mood}.
    - "[What are you doing there|Why are you smiling]?" asked {friend}, who [had come early|stood there all
      at once]. {hero} was so {mood} that {he} [nearly told the secret|could not speak].
    - {friend} was early! {fHe} looked [here and there|all around], and {hero} felt {mood}.
    == solution
    - [Quickly|Then] {hero} had an idea and {means}.
    - {hero} [thought fast|kept calm] and {means}. [It worked|That was clever|What luck, it helped]!
    - What now? {hero} {means}, and {friend} [forgot to be curious|did not notice a thing].
    == give
    - Then {hero} [took|pulled] out the {thing}. "[This is for you|Surprise]!" {he} [cried|said]. {friend}
      [beamed|clapped|could hardly believe it].
    - A little later {friend} held the {thing}. "[How beautiful|For me? Thank you]!" {fhe} [cried|said].
    - At last the {thing} came out of its hiding place. {friend} [hugged {hero}|danced with joy|was
      speechless].
    == ending
    - *ending
    """),
)

PLOTS = (SHARE, TRADE, GATHER, GIFT)
