"""Plots in which someone looks after someone else: mistake, help, brave, turns."""

from __future__ import annotations

from shared.world import words
from shared.world.plot import Case, Plot, steps

CARELESS = (
    "{hero} had not looked where {he} was going",
    "{hero} had used it without asking",
    "{hero} had swung it around for fun",
    "{hero} had wanted to see how it was made",
    "{hero} had been in too much of a hurry",
)
REPAIRS = (  # how it broke, how it was mended, and what breaks that way
    ("cracked", "mended it with strong glue",
     ("cup", "drum", "flute", "lantern", "boat", "bucket", "crown", "bell", "brush")),
    ("tore", "sewed it with needle and thread",
     ("hat", "scarf", "blanket", "bag", "apron", "pillow", "doll", "puppet", "ribbon", "flag")),
    ("got a big hole", "put a neat patch on it",
     ("kite", "umbrella", "bag", "apron", "basket", "blanket", "drum", "ball", "scarf")),
)

MISTAKE = Plot(
    name="mistake",
    moods=("ashamed", "sorry", "worried", "upset", "unhappy", "frightened"),
    feelings=("happy", "glad", "thankful", "relieved", "calm", "cheerful"),
    cases=tuple(Case(reason, means, things, event)
                for reason in CARELESS for event, means, things in REPAIRS),
    problem="{friend}'s {item} {event} when {hero} had it.",
    resolution="{hero} told {friend} the truth, and together they {means}.",
    summary="{friend}'s {item} {event}, because {hero} was careless: {reason}. {hero} told the truth, and "
            "together they {means}.",
    questions=(
        ("event", "What happened to the {thing}?"),
        ("reason", "Why did it happen?"),
        ("friend", "Who owned the {thing}?"),
        ("means", "What did they do with the broken {thing}?"),
        ("mood", "How did {hero} feel when it happened?"),
    ),
    steps=steps("""
    == opening
    - *opening
    == setting?
    - *setting
    == want
    - {he} had a {item} that belonged to {friend_full}.
    - {friend_full} had lent {him} a {item}. "[Take good care of it|It is dear to me]," {friend} had said.
    - There {he} found a {item}. It was the {thing} of {friend_full}[|, anyone could see that].
    - {he} was [looking after|playing with|carrying] a {item} for {friend_full}.
    == problem
    - But then, [crack|snap|oh no]! The {thing} {event}, because {reason}. {He} was {mood}.
    - [A moment later|Suddenly] the {thing} {event}. {reason}, and now {he} was {mood}.
    - {reason}, and so the {thing} {event}. {He} [turned pale|held {his} breath|stood very still], for {he}
      was {mood}.
    - And what happened? The {thing} {event}! {reason}. How {mood} {he} was!
    == tempted?
    - For a moment {he} wanted to [hide it under some leaves|run away|say that the wind had done it].
    - "[I could say that it was the wind|Nobody has seen it]," {he} thought. But that would [be a lie|not be
      right].
    - [Should|Could] {he} hide it? No, {he} [shook {his} head|did not want that].
    == confess
    - {hero} went to {friend}. "[It was me|I did it|It is my fault], and I am sorry," {he} said.
    - {he} [took a deep breath|took heart], went to {friend} and told the truth[, word for word| from start
      to end].
    - "{friend}, I must tell you something," {hero} began, and {he} [left nothing out|told everything].
    - Then {friend} came. {hero} [showed {fhim} the {thing}|held out the {thing}] and [said how sorry {he}
      was|told {fhim} everything].
    == forgive
    - {friend} [was quiet for a moment|sighed|looked at it]. "[Thank you for telling me|That can happen to
      anyone]," {fhe} said.
    - "I am not angry," said {friend}. "[You told the truth|It is good that you told me]."
    - {friend} [thought about it|swallowed] and then [smiled|nodded]. "[We all make mistakes|A friend is
      worth more than a {thing}]."
    == solution
    - Together they {means}. [Now it looked almost new|After that it was as good as before].
    - They sat down side by side and {means}[, and it went well|].
    - Then the two of them {means}[, and {hero} did most of the work|, and soon it was done].
    - {hero} helped, and so they {means}.
    == lesson?
    - From then on {hero} [always asked first|took better care|was more careful].
    - [It is hard to tell the truth, but it helps|The truth is better than any excuse].
    == ending
    - *ending
    """),
)

HELP = Plot(
    name="help",
    places=words.OUTDOORS,
    cases=(
        Case("a gust of wind had carried it up", "fetched a long pole", (), "was stuck high up in a tree"),
        Case("a knot had come loose", "let down a hook on a string", (), "had fallen down a well"),
        Case("{friend} had taken the short way through the swamp", "laid planks over the mud", (),
             "was stuck in deep mud"),
        Case("an old wall had tumbled down", "used a thick pole to lift the stone", (), "lay under a heavy stone"),
        Case("{friend} had jumped over the bush", "bent the thorns aside with a stick",
             ("scarf", "ribbon", "kite", "blanket", "flag", "apron", "bag", "hat"), "was caught in a thorn bush"),
        Case("the wind had slammed the door", "climbed in by the window", (), "was locked in a shed"),
        Case("{friend} had packed it too full", "took hold of the other side", ("basket", "bag", "bucket"),
             "was too heavy to carry"),
        Case("the current had pulled it away", "reached out with a rake", (), "was floating in a stream"),
    ),
    moods=words.MOODS + ("helpless",),
    problem="{friend}'s {item} {event}.",
    resolution="{hero} {means}, and {friend} got the {thing} back.",
    summary="{friend}'s {item} {event}, because {reason}. {hero} {means}, and {friend} got it back.",
    questions=(
        ("event", "What was wrong with {friend}'s {thing}?"),
        ("reason", "How did that happen?"),
        ("means", "What did {hero} do to help?"),
        ("friend", "Whom did {hero} help?"),
        ("colour", "What colour was {friend}'s {thing}?"),
    ),
    steps=steps("""
    == opening
    - *opening
    == setting?
    - *setting
    == meet
    - There stood {friend_full}, [all alone and|looking] {mood}.
    - {he} heard [a sob|a sigh|someone cry]. It was {friend_full}, who was {mood}.
    - {friend_full} was sitting [on a stone|on a stump|by the path] with a {mood} face.
    - {he} met {friend_full}, who [looked|seemed] {mood}.
    == ask?
    - "[What is the matter|Why do you cry|What has happened]?" asked {hero} [kindly|softly|at once].
    - {hero} [stopped|knelt down]. "[Tell me|Maybe I can help]," {he} said.
    == problem
    - "[Look|Oh], my {item}!" said {friend}. It {event}, because {reason}.
    - {friend}'s {item} {event}. {reason}.
    - {friend} had a {item}, but now it {event}: {reason}.
    - "It is my {item}," said {friend}. {reason}, and now the {thing} {event}.
    == try?
    - {hero} [jumped|pulled|pushed] [once|again and again], but that was [no use|not enough].
    - "[This will not be easy|That is a hard one]," said {hero}, [scratching {his} head|thinking hard].
    - They called for help, but [nobody heard them|no one came].
    == solution
    - Then {hero} {means}. [Slowly|Little by little|Bit by bit] it worked, and {friend} [had|got] the
      {thing} back.
    - "I know what to do!" {hero} [cried|said]. {He} {means}, and soon {friend} had the {thing} again.
    - {hero} [did not give up|wanted to help]. {He} {means}. [One, two, three|Heave]! The {thing} was free.
    - So {hero} {means}. It took [a while|some time|all {his} strength], but then the {thing} was safe[ and
      sound|].
    == thanks
    - "[Thank you|Thanks], {hero}!" [said|called|cried] {friend}[| and hugged {him}| and jumped up and
      down].
    - {friend} [pressed the {thing} close|danced around the {thing}|laughed again]. "[You are a true
      friend|What luck that you came]!" {fhe} said.
    - {friend} thanked {hero} [again and again|with a deep bow|with a big hug|with a song].
    == ending
    - *ending
    """),
)

FEARS = (  # what one does not dare, why, and what helps
    (("sing in front of everyone", "recite a poem", "ask to join the game"),
     ("{he} thought that everyone would laugh", "{he} had never done it before"),
     ("looked only at {friend}", "took a deep breath and counted to ten")),
    (("jump over the ditch", "walk across the narrow plank", "climb to the top of the ladder"),
     ("{he} had fallen down the last time", "{he} had never done it before"),
     ("did not look down once", "took a deep breath and counted to ten")),
    (("go into the dark shed", "stroke the big horse", "stay out after sunset"),
     ("{his} big brother had told {him} wild stories", "{he} had never done it before"),
     ("hummed {his} favourite song", "thought of all {his} friends")),
)

BRAVE = Plot(
    name="brave",
    places=words.OUTDOORS,
    things=("ribbon", "hat", "scarf", "bell", "crown", "flag", "doll", "puppet", "book", "bag"),
    moods=("afraid", "scared", "nervous", "shy", "frightened"),
    feelings=("happy", "proud", "brave", "glad", "cheerful", "strong", "merry"),
    cases=tuple(Case(reason, means, goal=goal) for goals, reasons, ways in FEARS
                for goal in goals for reason in reasons for means in ways),
    problem="{hero} was too {mood} to {goal}.",
    resolution="{friend} lent {hero} a {item} for luck. {hero} {means} and did it.",
    summary="{hero} did not dare to {goal}, because {reason}. {friend} gave {him} a {item} for luck, and "
            "then {he} {means} and did it.",
    questions=(
        ("goal", "What did {hero} not dare to do?"),
        ("reason", "Why was {hero} {mood}?"),
        ("thing", "What did {friend} give {hero} for luck?"),
        ("means", "How did {hero} do it?"),
        ("friend", "Who gave {hero} something for luck?"),
    ),
    steps=steps("""
    == opening
    - *opening
    == setting?
    - *setting
    == want
    - {he} wanted to {goal}. [All the others had done it|It was {his} turn now|The others were waiting].
    - Today {he} was to {goal}[|, and everyone knew it].
    - "I want to {goal}," {he} had [said|promised] at breakfast. [Now the time had come|That had sounded
      easy].
    == problem
    - But {he} was {mood}, because {reason}.
    - {he} [did not dare|could not do it]. {reason}, and that made {him} {mood}.
    - {his} knees [shook|were soft], so {mood} was {he}. {reason}.
    - "I am too {mood}," [whispered|said] {hero}, for {reason}.
    == meet
    - *meet
    == ask?
    - *ask
    == help
    - {friend} [gave|lent] {him} a {item}. "[It brings luck|It has always helped me]," {fhe} said.
    - "[Take this|Here]," said {friend} and held out a {item}. "[It is for luck|With it you can do it]."
    - {friend} [thought|smiled] and [fetched|took out] a {item}. "[This will make you strong|It is full of
      luck]," {fhe} [said|promised].
    == solution
    - {hero} [took the {thing}|put the {thing} close to {his} heart]. Then {he} {means}, and [{he} did it|it
      was done]!
    - With the {thing} {he} [dared to try|felt better]. {He} {means}. [And look: {he}|What do you think?
      {He}] did it!
    - {hero} [took heart|nodded]. {He} {means}, and before {he} knew it, it was over. {He} had done it!
    == secret?
    - "[The luck was in you all the time|It is only a {thing}]," [laughed|said] {friend}. "[You did it by
      yourself|You were the brave one]."
    - {hero} wanted to give back the {thing}, but {friend} said, "[Keep it|It is yours now]."
    == ending
    - *ending
    """),
)

TURNS = Plot(
    name="turns",
    things=("kite", "ball", "drum", "book", "bell", "flute", "boat", "doll", "puppet", "crown", "umbrella", "lantern",
            "flag"),
    moods=("cross", "angry", "upset", "sulky", "unhappy"),
    feelings=("happy", "glad", "cheerful", "pleased", "merry", "calm"),
    counts=((2, 8), None),
    units=("turn",),
    cases=(
        Case("there was only one", "drew straws for who came first"),
        Case("both had seen it at the same time", "let the smaller one begin"),
        Case("neither wanted to wait", "sang one song for each turn"),
        Case("each thought that it belonged to them", "made a rule and shook hands on it"),
        Case("the other one had been lost", "let a ladybird choose who came first"),
    ),
    problem="{hero} and {friend} both wanted the {item}.",
    resolution="They {means} and took turns.",
    summary="{hero} and {friend} quarrelled about a {item}, because {reason}. Then they {means}, and each had "
            "{n_before}.",
    questions=(
        ("thing", "What did {hero} and {friend} both want?"),
        ("reason", "Why did they quarrel?"),
        ("means", "How did they make peace?"),
        ("before", "How many turns did each of them have?"),
        ("after", "How many turns were there in all?"),
    ),
    steps=steps("""
    == opening
    - *together
    == setting?
    - *setting
    == want
    - There was a {item}, and both of them wanted [it|to have it|to play with it].
    - They had [found|brought|borrowed] a {item}. "Me first!" cried {hero}. "No, me!" cried {friend}.
    - In the [grass|middle of it all] lay a {item}. {hero} took one end, {friend} the other.
    == problem
    - They [pulled and shouted|quarrelled], because {reason}. {hero} was {mood}.
    - {reason}, and so they [fought about it|would not give in]. {hero} [became|grew] {mood}.
    - "It is mine!" "No, mine!" They quarrelled because {reason}. How {mood} {hero} was!
    == pause?
    - Then it was quiet. [Nobody|Neither of them] had any fun.
    - [An old goose|A passing postman] [stopped|laughed]. "If you both pull, you will break it!"
    == solution
    - "[Wait|Stop]," said {friend}. "We can take turns." So they {means}.
    - [At last|Then] {hero} let go. "[I am sorry|Let us take turns]," {he} said. They {means}.
    - "[This is silly|I do not want to fight]," said {hero}. They {means}, and then they took turns.
    == count
    - {hero} had {n_before}, and {friend} had {n_before} too. That made {n_after} in all.
    - Each of them had {n_before}. {before} and {before} [is|make] {after}, so there were {n_after} [in
      all|together].
    - {n_before} for {hero}, {n_before} for {friend}: {n_after} in all[, and it was fair|].
    == ending
    - *ending
    """),
)

PLOTS = (MISTAKE, HELP, BRAVE, TURNS)
