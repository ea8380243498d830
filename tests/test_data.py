"""The course corpus: its facts are true of its text, its splits share no combination, its numbers are as promised."""

import gzip
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from shared.data import corpus, hub_texts, stories
from shared.stories import FIRST_OPTION, Dice, Facts, draw, is_held_out, slots, tell
from shared.world import PLOTS, words
from shared.world.plot import SHARED_STEPS
from shared.world.templates import expand, parse, polish

TRAIN = stories(3_000)
VALIDATION = stories(1_500, split="validation")
BOTH = TRAIN + VALIDATION

FORMS = {form: noun for noun in words.THINGS + words.MATERIALS + ("try", "turn") for form in (noun, words.plural(noun))}
SPOTS = {spot for place in words.PLACES.values() for spot in place.spots}
NUMBER = {name: value for value, name in enumerate(words.NUMBERS)}
WHEN = re.compile(rf"(?:\b({'|'.join(words.SKIES)}) )?(?:\b({'|'.join(words.DAYS)}) )?\b({'|'.join(words.TIMES)})\b")
COUNT = re.compile(rf"\b({'|'.join(words.NUMBERS)}) (?:more )?({'|'.join(FORMS)})\b", re.IGNORECASE)


def tokens(text):
    return re.findall(r"[A-Za-z]+", text)


def test_names_kinds_and_pronouns_belong_to_the_facts():
    for story in BOTH:
        facts, said = story.facts, set(tokens(story.text))
        assert said & set(words.CHARACTERS) == {facts.hero, facts.friend}, story.text
        kinds = {words.CHARACTERS[name].kind for name in (facts.hero, facts.friend)}
        assert said & {c.kind for c in words.CHARACTERS.values()} <= kinds, story.text
        pronouns = {words.CHARACTERS[name].he for name in (facts.hero, facts.friend)}
        assert {token.lower() for token in said} & {"he", "she"} <= pronouns, story.text


def test_time_weather_and_day_are_read_back_from_the_text():
    for story in BOTH:
        facts = story.facts
        told = [match.groups() for match in WHEN.finditer(story.text)]
        assert told[0] == (facts.weather, facts.day, facts.time), story.text
        assert {time for _, _, time in told} == {facts.time}, story.text


def test_place_spot_and_colour_are_read_back_from_the_text():
    for story in BOTH:
        facts, said = story.facts, set(tokens(story.text.lower()))
        assert said & set(words.PLACES) == {facts.place}, story.text
        assert {spot for spot in SPOTS if spot in story.text.lower()} == ({facts.spot} - {None}), story.text
        assert said & set(words.COLOURS) == ({facts.colour} - {None}), story.text
        if facts.colour:
            assert f"{facts.colour} {facts.thing}" in story.text


def test_the_thing_of_the_story_is_the_only_one_in_it():
    large = set(words.TOYS + words.BUILDINGS)
    for story in BOTH:
        said = {FORMS[token] for token in tokens(story.text.lower()) if token in FORMS}
        assert story.facts.thing in said, story.text
        assert said & large <= {story.facts.thing}, story.text


def test_counts_are_read_back_from_the_text_and_add_up():
    for story in BOTH:
        facts = story.facts
        found = {NUMBER[number.lower()] for number, noun in COUNT.findall(story.text) if FORMS[noun] == facts.counted}
        if facts.counted is None:
            assert facts.before is facts.change is facts.after is None
            continue
        assert facts.after == facts.before + (-facts.change if PLOTS[facts.plot].takes else facts.change)
        assert min(facts.before, facts.change, facts.after) >= 1
        assert found <= {facts.before, facts.change, facts.after}, story.text
        assert {facts.before, facts.after} <= {NUMBER.get(token.lower()) for token in tokens(story.text)}, story.text


def test_singular_and_plural_follow_the_number():
    for story in BOTH:
        for number, noun in COUNT.findall(story.text):
            if story.facts.counted == FORMS[noun]:
                assert (noun == FORMS[noun]) == (number.lower() == "one"), story.text


def test_reason_means_event_goal_and_feelings_are_told_word_for_word():
    for story in BOTH:
        facts, text = story.facts, story.text.lower()
        for phrase in (facts.reason, facts.means, facts.event, facts.goal, facts.mood):
            assert phrase is None or phrase.lower() in text, (phrase, story.text)
        ending = set(tokens(story.parts["ending"].lower()))
        assert ending & set(PLOTS[facts.plot].feelings) == {facts.feeling}, story.text


def test_text_is_plain_and_well_formed():
    for story in BOTH:
        text = story.text
        assert 60 <= len(text.split()) <= 150
        assert text.isascii() and text == " ".join(story.parts.values())
        assert not re.search(r"[{}\[\]|*]|  | [.,!?]|[.,!?]{2}|\b(the the|a a)\b", text), text
        assert text.count('"') % 2 == 0 and text[-1] in '.!?"', text
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n (?!hour\b)[^aeiou]", text), text
        assert not re.search(r"(?:^|[.?!] )[a-z]", text), text


@pytest.mark.parametrize("plot", PLOTS)
def test_every_way_to_tell_a_step_can_be_told(plot):
    dice = Dice(1)
    facts = draw(dice, plot=plot)
    for _, _, ways in PLOTS[plot].steps:
        for way in ways:
            for told in SHARED_STEPS[way[1:]] if way[0] == "*" else [way]:
                assert polish(expand(parse(told), slots(facts, dice), dice.pick))[0].isupper() or told[0] == '"'


@pytest.mark.parametrize("plot", PLOTS)
def test_questions_of_a_plot_ask_for_facts_that_it_tells(plot):
    dice = Dice(2)
    for _ in range(20):
        facts = draw(dice, plot=plot)
        for field, question in PLOTS[plot].questions:
            assert field in {f.name for f in fields(Facts)}
            assert field == "colour" or getattr(facts, field) is not None
            assert polish(expand(parse(question), slots(facts, FIRST_OPTION), dice.pick)).endswith("?")


def test_problem_resolution_and_summary_follow_changed_facts():
    facts = next(story.facts for story in TRAIN if story.facts.plot == "lost")
    other = replace(facts, spot="under a fern", colour="pink")
    assert "under a fern" in other.resolution and "under a fern" in other.summary and "pink" in other.problem
    assert "under a fern" in tell(other, Dice(0)).text


def test_the_same_facts_can_be_told_in_many_ways():
    facts, dice = TRAIN[0].facts, Dice(3)
    assert len({tell(facts, dice).text for _ in range(50)}) == 50


def test_splits_share_no_triple_and_all_single_words():
    def triples(told):
        return {(s.facts.hero, s.facts.thing, s.facts.place) for s in told}

    assert not triples(TRAIN) & triples(VALIDATION)
    assert all(is_held_out(*triple) for triple in triples(VALIDATION))
    assert not any(is_held_out(*triple) for triple in triples(TRAIN))
    for field in ("hero", "friend", "thing", "place", "colour", "plot"):
        assert {getattr(s.facts, field) for s in TRAIN} == {getattr(s.facts, field) for s in VALIDATION}
    assert set(tokens(corpus(2_000_000).lower())) >= set(tokens(corpus(500_000, split="validation").lower()))


def test_stories_depend_on_the_seed_alone():
    assert stories(5) == TRAIN[:5]
    assert stories(5, seed=1) != TRAIN[:5]
    code = "from shared.data import stories; print(stories(3)[2].text)"
    for hash_seed in ("0", "1"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.strip() == TRAIN[2].text


def test_the_corpus_is_the_same_on_every_platform():
    """A new digest means new stories: the course model and the stored notebooks must then be made again."""
    text = corpus(300_000) + corpus(100_000, seed=3, split="validation")
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "ac255909a0b0bc0f"


def test_importing_the_stories_needs_neither_torch_nor_datasets():
    code = "import sys, shared.data; assert not {'torch', 'datasets', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_corpus_is_whole_stories_up_to_the_size():
    for n_bytes in (2_000, 10_000, 123_456):
        text = corpus(n_bytes)
        assert n_bytes - 1_500 < len(text.encode()) <= n_bytes
        told = text.split("\n\n")
        assert told == [story.text for story in TRAIN[: len(told)]]
    assert corpus(1) == TRAIN[0].text


def test_stories_are_distinct_varied_and_of_few_words():
    texts = [story.text for story in TRAIN]
    assert len(set(texts)) == len(texts)
    assert 800 <= len({token.lower() for text in texts for token in tokens(text)}) <= 1_500
    raw = "\n\n".join(texts).encode()[:1_000_000]
    assert len(gzip.compress(raw, 9)) / len(raw) > 0.22  # four rigid templates give about 0.1
    assert {story.facts.plot for story in TRAIN} == set(PLOTS) and len(PLOTS) >= 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stories(1, split="test"), "train and validation"),
        (lambda: stories(-1), "0 or more"),
        (lambda: stories(1, seed=-1), "0 or more"),
        (lambda: corpus(0), "1 or more"),
        (lambda: hub_texts("pile"), "tinystories, wikitext, c4"),
        (lambda: parse("a [b|c"), "brackets"),
    ],
)
def test_bad_input_gets_a_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_the_hub_the_error_comes_soon_and_says_what_to_do(monkeypatch):
    monkeypatch.setattr("shared.runtime.hub_reachable", lambda: False)
    with pytest.raises(ConnectionError, match=r"corpus\(n_bytes\)"):
        hub_texts("tinystories")


def test_hub_texts_streams_c4_rows_from_a_compressed_file(tmp_path):
    file = tmp_path / "c4-train.00000-of-01024.json.gz"
    rows = [{"text": f"page {i}", "timestamp": "2019-04-25T12:57:54Z", "url": "http://a"} for i in range(5)]
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert list(hub_texts("c4", data_files=str(file))) == [f"page {i}" for i in range(5)]
    assert list(hub_texts("c4", data_files=[str(file)], limit=2)) == ["page 0", "page 1"]


def test_hub_texts_reads_tinystories_and_joins_wikitext_to_articles(tmp_path):
    datasets = pytest.importorskip("datasets")
    file = str(tmp_path / "rows.parquet")
    datasets.Dataset.from_dict({"text": ["Once.\n", "", "Twice."]}).to_parquet(file)
    assert list(hub_texts("tinystories", data_files=file, split="validation")) == ["Once.", "Twice."]
    lines = ["", " = Pond = \n", "", " A pond . \n", " = = Life = = \n", " Frogs . \n", " = Sea = \n", " Big . \n"]
    datasets.Dataset.from_dict({"text": lines}).to_parquet(file)
    assert list(hub_texts("wikitext", data_files=file)) == [
        "= Pond =\nA pond .\n= = Life = =\nFrogs .",
        "= Sea =\nBig .",
    ]
