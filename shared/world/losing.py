"""Plots in which something is gone, or strange, or hard to find: lost, mystery, way."""

from __future__ import annotations

from shared.world.plot import Case, Plot, steps

LOST = Plot(
    name="lost",
    has_spot=True,
    cases=(
        Case("the wind had carried it off", "[walked|went] the way the wind blew"),
        Case("it had slipped down without a sound", "went back step by step"),
        Case("a puppy had run off with it", "followed the paw prints"),
        Case("{hero} had put it down and forgotten it", "went through the whole {time} in their minds"),
        Case("a magpie had taken it", "asked all the birds"),
        Case("it had rolled away", "searched down the slope", things=("ball", "drum", "cup", "bucket")),
        Case("someone had tidied it away", "asked everyone who came by"),
        Case("a lamb had pushed it along with its nose", "looked at the ground for tracks"),
    ),
    problem="{hero} lost a {item} {at_place}.",
    resolution="{hero} and {friend} {means} and found the {thing} {spot}.",
    summary="{hero} lost a {item} {at_place}, because {reason}. {friend} helped {him}, and they found it {spot}.",
    questions=(
        ("spot", "Where was the {thing} found?"),
        ("reason", "Why was the {thing} gone?"),
        ("means", "What did {hero} and {friend} do to find the {thing}?"),
        ("friend", "Who helped {hero} to look for the {thing}?"),
        ("mood", "How did {hero} feel when the {thing} was gone?"),
    ),
    steps=steps("""
    == opening
    - *opening
    == setting?
    - *setting
    == want
    - {he} had [brought|taken along] a {item} and [would not let go of it|showed it to every bird|was
      careful with it].
    - {he} had a {item} with {him}. It was {his} [best|favourite|dearest] [thing|thing in the world].
    - {he} carried a {item}, a present from {his} [uncle|grandmother|cousin|aunt].
    - {he} wanted to play with {his} {item}, which was [quite new|a birthday present|almost as good as new].
    - "What a [fine|lovely] {time} to take out my {item}," {he} [thought|said to {himself}].
    == problem
    - But [when {he} looked up|a little later|after a nap|after a short rest], the {thing} was gone! {hero}
      was {mood}.
    - [Suddenly|Then|All at once] {he} [noticed|saw] that the {thing} was [missing|not there any more|gone].
      This made {hero} {mood}.
    - Then {he} [stopped to look at a beetle|chased a butterfly|talked to a snail]. And when {he} turned
      around, there was no {thing}! "[Oh no|Oh dear]," {he} said, and {he} felt {mood}.
    - {he} [rested|played|dozed] a while. When {he} reached for the {thing}, it had
      [gone|vanished|disappeared], and {hero} felt [very|quite] {mood}.
    - But where was the {thing} now? {hero} [turned around and around|looked to the left and to the
      right|searched every pocket]. It was [nowhere|not to be seen]. How {mood} {he} was!
    == meet
    - *meet
    == ask?
    - *ask
    == search
    - They {means}. [First|At first] they found [nothing at all|only an old shoe|nothing but leaves].
    - Together they {means}[, with their eyes wide open|, and they did not give up|, though it took a long
      time].
    - "[We must think|Let us be clever]," said {friend}. So they {means}.
    - The two friends {means}, [quickly at first and then slowly|slowly and carefully|without a word].
    - "I have an idea," said {friend}. [And so|A moment later] they {means}.
    == solution
    - [And there it was|There it lay], {spot}! [You see|So that was it|Now it was clear], {reason}.
    - {friend} [found|spotted|saw] the {thing} {spot}. {reason}, [that was all|nothing worse than that].
    - At last {hero} [cried|called|shouted], "[Here|Look]!" The {thing} was {spot}, because {reason}.
    - And what [did they see|was that] {spot}? The {thing}! They [guessed|learned] what had happened:
      {reason}.
    - Something {colour} [lay|could be seen] {spot}. It was the {thing}! {reason}, [it seemed|as they now
      knew].
    == thanks?
    - *thanks
    == ending
    - *ending
    """),
)

MYSTERY = Plot(
    name="mystery",
    has_spot=True,
    moods=("puzzled", "worried", "nervous", "uneasy", "startled"),
    cases=(
        Case("a kitten was pulling at the string", "hid and waited", ("bell",), "rang all by itself"),
        Case("the wind was blowing across its holes", "stood still and listened", ("flute",),
             "played a tune all by itself"),
        Case("a bee had fallen asleep inside", "lifted it very gently",
             ("basket", "bucket", "bag", "drum", "lantern", "hat", "cup"), "hummed like a tiny song"),
        Case("a kitten was hiding under it", "lifted one corner",
             ("blanket", "bag", "pillow", "apron", "scarf", "flag"), "crept over the ground on its own"),
        Case("fireflies had moved in", "crept closer on tiptoe",
             ("lantern", "bucket", "basket", "cup", "hat"), "gave off a soft light"),
        Case("a kitten with muddy paws had slept on it", "followed the tracks",
             ("blanket", "pillow", "apron", "bag", "book", "flag", "scarf"), "was covered with small round dots"),
        Case("water was dripping from above", "looked up instead of down", (), "was wet, though no rain had fallen"),
        Case("a jar of syrup had tipped over on it", "followed their noses", (), "smelled as sweet as syrup"),
        Case("a calf had nibbled at it", "looked closely at the tooth marks",
             ("hat", "basket", "ribbon", "apron", "scarf", "blanket", "book"), "had a piece missing"),
        Case("ants had carried the crumbs there", "watched it for an hour", (), "was full of bread crumbs"),
    ),
    problem="The {item} of {hero} {event}, and nobody knew why.",
    resolution="{hero} and {friend} {means} and learned that {reason}.",
    summary="{hero} was {mood}, because the {item} {event}. {friend} helped {him} to find out why: {reason}.",
    questions=(
        ("event", "What was strange about the {thing}?"),
        ("reason", "What was the answer to the riddle?"),
        ("means", "What did {hero} and {friend} do to find out?"),
        ("spot", "Where was the {thing}?"),
        ("friend", "Who helped {hero} to solve the riddle?"),
    ),
    steps=steps("""
    == opening
    - *opening
    == setting?
    - *setting
    == want
    - {he} had left {his} {item} {spot} [the day before|for the night] and [came|wanted] to fetch it.
    - {his} {item} was lying {spot}, where {he} had [put it down|left it|forgotten it].
    - {he} [looked for|went to get] {his} {item}. It was {spot}, just where {he} had left it.
    - {he} sat down and [began to dream|ate a biscuit|closed {his} eyes]. {His} {item} was {spot}, [not far
      away|close by].
    == problem
    - But [what was that|how strange|how odd]! The {thing} {event}. {hero} [was|felt] {mood}.
    - Then {he} [rubbed {his} eyes|could not believe it|held {his} breath], for the {thing} {event}. It made
      {him} {mood}.
    - "[This is a riddle|I do not understand this|That cannot be]," said {hero}, who was [quite|rather]
      {mood}. The {thing} {event}!
    - {he} [looked again|looked twice|blinked]. The {thing} {event}! {hero} [became|grew] {mood}.
    == guess?
    - Was it [a ghost|magic|a trick]? {hero} [did not dare to move|took a step back|began to shiver].
    - "It [must be magic|is a ghost|is a trick]," [whispered|thought] {hero}.
    - {he} [thought|wondered] and [thought|wondered], but no answer came.
    == meet
    - *meet
    == search
    - "[There is a reason for everything|Every riddle has an answer]," said {friend}. So they {means}.
    - Together they {means}, [as quiet as falling snow|without making a sound|full of questions].
    - {friend} [was not afraid|loved riddles|only smiled]. The two of them {means}.
    - "Let us find out," [said|whispered] {friend}, and they {means}.
    == solution
    - And then they [saw|knew|understood] it: {reason}.
    - [The answer was simple|It was no magic at all|So that was the secret]: {reason}!
    - "[Look|See]!" [laughed|cried] {friend}. {reason}, that was all.
    - [Now they knew|Soon they knew] why the {thing} [was so strange|had made them wonder]: {reason}.
    == laugh?
    - [Both|They both|The two friends] [laughed until it hurt|had to laugh|laughed about it for a long
      time].
    - "[And I thought it was a ghost|What a funny riddle]!" said {hero}.
    == ending
    - *ending
    """),
)

WAY = Plot(
    name="way",
    cases=(
        Case("the signpost had fallen over", "climbed a tree and looked around"),
        Case("{he} had turned left instead of right", "followed {his} own footprints back"),
        Case("{he} had chased a butterfly and not watched the path", "listened for the sound of running water"),
        Case("the path split in two and there was no sign", "asked an old postman for the way"),
        Case("tall grass had grown over the path", "let the church spire show {him} the way"),
        Case("a fallen tree lay across the path", "walked around the tree, from lamp to lamp"),
        Case("{he} had been dreaming as {he} walked", "went back to the last crossroads"),
    ),
    problem="{hero} got lost on the way {to_place}.",
    resolution="{hero} {means} and found {friend} {at_place}.",
    summary="{hero} wanted to bring {friend} a {item} but got lost, because {reason}. {He} {means} and reached "
            "{place}.",
    questions=(
        ("reason", "Why did {hero} get lost?"),
        ("means", "What did {hero} do to find the way?"),
        ("thing", "What did {hero} bring to {friend}?"),
        ("place", "Where did {hero} want to go?"),
        ("friend", "Who was waiting for {hero}?"),
    ),
    steps=steps("""
    == opening
    - {hero_full} had promised to bring {friend_full} a {item}. {when}, {he} [set off|started out|left] for
      {place}.
    - {friend_full} was waiting {at_place}, and {hero_full} wanted to bring {fhim} a {item}. {hero}
      [left|set out|started] {when}.
    - It was {a_day}. {hero_full} was on the way {to_place} with a {item} for {friend_full}.
    - {hero_full} lived {home}. {when}, {he} left with a {item} for {friend_full}, who was waiting
      {at_place}.
    - {hero_full} had [found|mended|washed] a {item} that belonged to {friend_full}. {when}, {he} wanted to
      take it {to_place}, where {friend} was.
    == walk?
    - [Left, right, left, right|On and on|Up and down], {hero} [marched|walked|went], and {he}
      [sang|hummed|whistled] a song.
    - {hero} [greeted|waved to|said hello to] [every bird|a snail|the cows] on the way.
    - It was not far, {hero} thought.
    == problem
    - But [halfway|after an hour|soon] {hero} [did not know the way any more|was lost], because {reason}.
      {He} felt {mood}.
    - Then {hero} [stopped|stood still]. "I have never seen this [rock|fence|house] before," {he} said.
      {reason}, and now {he} was lost and {mood}.
    - [Suddenly|Little by little] everything looked [strange|different|wrong]. {hero} was lost: {reason}.
      How {mood} {he} was!
    - "Where am I?" asked {hero} [aloud|in a small voice]. {he} was lost, for {reason}. It made {him}
      {mood}.
    == try?
    - {he} [called|shouted] "Hello!" but only [the echo|a crow|an old donkey] answered.
    - {he} [sat down on a stone|took a deep breath|ate a biscuit] and thought.
    - First {he} walked in a circle and came back to the same [tree|stone|puddle].
    == solution
    - Then {hero} had an idea. {He} {means}, and [step by step|bit by bit] {he} [came nearer|got closer].
    - "[Keep calm|Be clever]," {he} told {himself}. {He} {means}. That helped!
    - At last {he} {means}. [And there was the right path|Now {he} knew where to go|After that it was easy].
    - What [did {hero} do|now]? {He} {means}, and [that was the answer|soon all was well again].
    == arrive
    - {friend} was still waiting {at_place}. "There you are!" {fhe} cried and took the {thing}.
    - Soon {he} saw {friend} waving {at_place}, and {hero} [handed over|gave {fhim}] the {thing}.
    - When {hero} reached {place}, {friend} ran to meet {him}. "What a [fine|lovely|pretty] {thing}!" {fhe}
      said.
    - "[Sorry that I am late|Better late than never]!" called {hero} when {he} got {to_place}. {friend}
      [hugged {him}|laughed] and took the {thing}.
    == ending
    - *ending
    """),
)

PLOTS = (LOST, MYSTERY, WAY)
