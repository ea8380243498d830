"""What a plot is: cases and steps, with the many ways to say each step.

In the text of the steps each "-" starts one way to say a step, with `{slots}` and `[one|of|these]`. "== name?"
is a step that half of the stories leave out; "*name" takes one of SHARED_STEPS. A fact that a step tells must be
told by every way through it: a test reads the facts back from the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared.world import words

Steps = tuple[tuple[str, bool, tuple[str, ...]], ...]  # (name, optional, ways to say it)
Ranges = tuple[tuple[int, int], tuple[int, int] | None]


@dataclass(frozen=True)
class Case:
    """Why there is a problem and what solves it; where they hang together, also the things, event and goal."""

    reason: str
    means: str
    things: tuple[str, ...] = ()
    event: str = ""
    goal: str = ""


@dataclass(frozen=True)
class Plot:
    """One kind of story. `questions` pairs a field of the facts with the question that it answers here."""

    name: str
    cases: tuple[Case, ...]
    problem: str
    resolution: str
    summary: str
    questions: tuple[tuple[str, str], ...]
    steps: Steps
    things: tuple[str, ...] = words.TOYS
    places: tuple[str, ...] = tuple(words.PLACES)
    moods: tuple[str, ...] = words.MOODS
    feelings: tuple[str, ...] = words.FEELINGS
    weathers: tuple[str, ...] = tuple(words.SKIES)
    coloured: bool = True
    has_spot: bool = False
    counts: Ranges | None = None         # of the first number and the change (None: the same again)
    takes: bool = False                  # the change is taken away, not added
    units: tuple[str, ...] = ("thing",)  # what is counted: the thing itself, or one of these


def steps(text: str) -> Steps:
    """Read "== name" blocks of "- template" paragraphs."""
    found = []
    for block in re.split(r"^\s*== ", text, flags=re.MULTILINE)[1:]:
        name, _, body = block.partition("\n")
        templates = tuple(" ".join(t.split()) for t in re.split(r"^\s*- ", body, flags=re.MULTILINE)[1:])
        found.append((name.strip().rstrip("?"), name.strip().endswith("?"), templates))
    return tuple(found)


SHARED_STEPS = {name: templates for name, _, templates in steps("""
    == opening
    - {when}, {hero_full} [went|{moved}] {to_place}.
    - {when}, {meal}, {hero_full} [went|set off|{moved}] {to_place}.
    - It was {a_day}. {hero_full} was {at_place}[| and sang a little song| and hummed a tune| all alone].
    - {hero_full} lived {home}. {when}, {he} [went|came|{moved}] {to_place}.
    - [Once there was|There was once] a [little|young|kind|lively|clever] {kind} [named|called] {hero}.
      {when}, {he} [was|played|sat] {at_place}.
    - {hero} was a [small|friendly|curious|gentle|cheeky] {kind} who [loved|liked|was very fond of] {food}.
      {when}, {he} [took a walk|made a trip|{moved}|set out] {to_place}.
    - {at_place} it was [quiet|still|peaceful], for it was {a_day}. Only {hero_full} was [there|about].
    - {hero_full} [liked {place} more than any other place|knew every corner of {place}|went {to_place}
      whenever {he} could]. {when}, {he} was there again.
    - Do you know {hero_full}? {when}, {he} [{moved}|went] {to_place}.
    - [This is a story about|Let me tell you about] {hero_full}. {when}, {he} was {at_place}.
    - The way {to_place} was [long|steep|dusty], but {hero_full} did not mind. {when}, {he} [{moved}|went]
      there.
    - {hero_full} had [a lot of time|nothing to do]. It was {a_day}, so {he} [{moved}|went] {to_place}.

    == setting
    - {setting}.

    == together
    - {when}, {hero_full} and {friend_full} [met|played|were] {at_place}.
    - {when}, {hero_full} [went|walked|strolled] {to_place} with {friend_full}.
    - {hero_full} and {friend_full} were [neighbours|good friends|the best of friends]. {when}, they
      [met|sat side by side|had time to play] {at_place}.
    - {hero_full} lived {home}. {when}, {friend_full} came to visit, and they went {to_place}.
    - It was {a_day}. {hero_full} [met|ran into|waited for] {friend_full} {at_place}.

    == meet
    - [Just then|Soon|At that moment|Then|After a while] {friend_full} came [by|along|down the path|around
      the corner].
    - {friend_full} [heard {him}|saw {him}|noticed it] and came [over|closer|running].
    - {friend_full} was [not far away|close by|just passing] and [stopped|stood still|turned around].
    - Who came [along|by] but {friend_full}?
    - [Luckily|By good luck], {friend_full} was on the way [home|back] and stopped.
    - There was a [rustle|noise|sneeze] behind {him}. It was {friend_full}.
    - [Nearby|Not far off], {friend_full} was [taking a walk|resting] and [came to see|looked up].
    - A friendly voice said hello. It [was|belonged to] {friend_full}.

    == ask
    - "[What is the matter|What is wrong|What happened|Why do you look so {mood}]?" [asked {friend}|{friend}
      asked]. {hero} told {fhim} [everything|the whole story|about it].
    - "You look {mood}," said {friend}. "[Tell me about it.|What has happened?|Can I do anything?]"
    - {friend} [sat down beside {him}|listened to every word|smiled at {him}]. "[Do not give up|We will
      think of something|Two heads are better than one]," {fhe} said.
    - "Can you help me?" asked {hero}. "[Of course|Sure|Gladly|With pleasure]!" said {friend}.
    - {hero} told {friend} what had happened, and {friend} [nodded|listened well|thought about it].
    - {friend} wanted to know [everything|what was going on], and {hero} [explained it|told the story].

    == thanks
    - "[Thank you|Thanks], {friend}!" [said|called|cried] {hero}[| and hugged {fhim}| and jumped up and
      down].
    - "[I could not have done it alone|You are a true friend|That was a great help]," said {hero}.
    - {hero} thanked {friend} [again and again|with a deep bow|with a big hug|with all {his} heart].
    - {hero} gave {friend} a [big|long|warm] hug. "[You are the best|That was kind of you]," {he} said.
    - Without {friend} [it would not have ended so well|this would have been a sad {time}].
    - "If you ever need help, [call me|come to me]," said {hero}[| to {friend}].

    == ending
    - [In the end|At last|Now|That {time}] {hero} was {feeling}[| again| from head to toe| indeed].
    - {hero} [went|{moved}] home [feeling|and felt] {feeling}.
    - {hero} [felt|was] so {feeling} that {he} [sang|whistled|danced|smiled] all the way home.
    - And {hero}? {he} [felt|was] {feeling}[, and so was {friend}| and slept well that night|, as anyone
      could see].
    - When {he} [told it at home|lay in bed|thought of it later], {hero} [still felt|was still] {feeling}.
    - That night {hero} fell asleep [early|at once|with a smile], {feeling} and [tired|warm|full of dreams].
    - It had been a [long|good|special] {time}, and {hero} [was|felt] {feeling}.
    - What a {time}! {hero} was [as {feeling} as could be|more than {feeling}|truly {feeling}].
    - "[What a day|I will never forget this]," said {hero}, who [felt|was] [very|truly] {feeling}.
    - If you had met {hero} then, you would have seen how {feeling} {he} was.
    - {hero} [waved|said goodbye|took one last look] and {moved} home, [very|truly|quite] {feeling}.
    - {feeling} and [quite hungry|a little tired|full of new ideas], {hero} went home.
""")}
