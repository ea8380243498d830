"""The true preference, the stored stories, and the model as a policy."""

import pytest
import torch
import torch.nn.functional as F

from shared.data import stories
from shared.models import course_folder
from shared.world.words import CHARACTERS
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week6_rlhf.policy import encode, reply_log_probs, sample_replies, text_of
from week6_rlhf.preferences import Prompt, prompts, true_score
from week6_rlhf.preferred import Told, win_rate
from week6_rlhf.samples import PER_PROMPT, SIZES, told

PROMPT = Prompt("Tell me a story with Pip, Nell and a kite.", ("Pip", "Nell"), ("kite",))


@pytest.fixture(scope="module")
def instruct():
    model, tokenizer = load_pretrained(course_folder("instruct"), GPT)
    return model.eval(), tokenizer


def test_a_story_that_has_all_that_was_asked_for_is_faithful():
    assert true_score(PROMPT, "Pip saw Nell and the kite.").faithful == 1
    assert true_score(PROMPT, "Pip saw the kite.").faithful == pytest.approx(2 / 3)
    assert true_score(PROMPT, "Pip, Nell, the kite, Gus and Zoe.").faithful == pytest.approx(1 / 3)


def test_a_part_of_a_word_is_not_the_word():
    assert true_score(PROMPT, "Pippa, Nelly and the kites").faithful == 0


def test_a_friend_is_welcome_where_one_name_was_asked_for():
    alone = Prompt("Write a story in which Pip is in the park.", ("Pip",), ("park",))
    assert true_score(alone, "Pip met Nell in the park.").faithful == 1
    assert true_score(alone, "Pip met Nell and Gus in the park.").faithful == pytest.approx(2 / 3)


def test_kind_words_count_up_to_three_and_unkind_ones_against():
    assert true_score(PROMPT, "Thank you, friend!").kind == pytest.approx(2 / 3)
    assert true_score(PROMPT, "Thank you! " * 30).kind == 1
    assert true_score(PROMPT, "They were angry, and they quarrelled.").kind == pytest.approx(-2 / 3)
    assert true_score(PROMPT, "It was unkind.").kind == 0


def test_eighty_words_are_short_and_each_more_costs():
    assert [true_score(PROMPT, "word " * n).short for n in (1, 80, 100, 120, 500)] == [1, 1, 0.5, 0, -1]


def test_nothing_told_scores_nothing():
    assert true_score(PROMPT, " \n").total == 0


def test_prompts_name_what_they_ask_for_and_a_longer_list_begins_with_the_shorter():
    asked = prompts(60, seed=4)
    assert asked[:20] == prompts(20, seed=4) and asked != prompts(60, seed=5)
    for prompt in asked:
        assert all(word in prompt.text for word in (*prompt.names, *prompt.words))
        assert set(prompt.names) <= CHARACTERS.keys()
    with pytest.raises(ValueError, match="splits train and validation"):
        prompts(1, split="test")
    with pytest.raises(ValueError, match="0 or more"):
        prompts(-1)


def test_prompts_ask_for_what_their_split_tells():
    for split in ("train", "validation"):
        for prompt, story in zip(prompts(30, seed=2, split=split), stories(30, seed=2, split=split), strict=True):
            assert set(prompt.names) <= {story.facts.hero, story.facts.friend}


def test_the_stored_stories_belong_to_their_prompts():
    for split, n in SIZES.items():
        rows = told(split)
        assert len(rows) == n and all(len(row.texts) == len(row.ended) == PER_PROMPT for row in rows)
        own = sum(true_score(row.prompt, text).faithful for row in rows for text in row.texts)
        shifted = sum(
            true_score(a.prompt, text).faithful for a, b in zip(rows, rows[1:], strict=False) for text in b.texts
        )
        assert own > shifted + 0.5 * PER_PROMPT * n  # they keep to their own prompts, not to the next ones


def test_a_stored_story_is_likelier_after_its_own_prompt(instruct):
    model, tokenizer = instruct
    rows = told("validation")[:8]
    ids, texts = encode(tokenizer, [row.prompt for row in rows]), [tokenizer(row.texts[0]).input_ids for row in rows]
    own, other = (
        reply_log_probs(model, list(zip(asked, texts, strict=True)), tokenizer.pad_token_id)
        for asked in (ids, ids[1:] + ids[:1])
    )
    assert (own > other).sum() >= 6 and (own - other).mean() > 5


def test_replies_end_and_are_the_same_for_the_same_generator(instruct):
    model, tokenizer = instruct
    ids, stop = encode(tokenizer, prompts(3, seed=9)), tokenizer.convert_tokens_to_ids("<|im_end|>")

    def draw(seed):
        return sample_replies(model, tokenizer, ids, 2, 40, generator=torch.Generator().manual_seed(seed), batch_size=4)

    replies = draw(0)
    assert replies == draw(0) != draw(1)
    assert [len(row) for row in replies] == [2, 2, 2]
    for reply in (reply for row in replies for reply in row):
        assert len(reply) == 40 or reply[-1] == stop
        assert "<|" not in text_of(tokenizer, reply)


def test_log_probabilities_of_replies_are_those_of_each_alone(instruct):
    model, tokenizer = instruct
    ids = encode(tokenizer, prompts(3, seed=9))
    pairs = [(ids[0], [5, 6, 7]), (ids[1], [8]), (ids[2], [9, 10, 11, 12])]
    expected = []
    for prompt, reply in pairs:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + reply]))[0, len(prompt) - 1 : -1]
        expected.append(-F.cross_entropy(logits, torch.tensor(reply), reduction="sum"))
    torch.testing.assert_close(
        reply_log_probs(model, pairs, tokenizer.pad_token_id, batch_size=2), torch.stack(expected), rtol=1e-5, atol=1e-4
    )


def test_a_win_rate_counts_ties_half_and_has_an_interval():
    def scored(*texts):
        return Told(list(texts), [true_score(PROMPT, text) for text in texts], 0.0)

    ours, theirs = scored("Pip, Nell, kite", "Pip", "Pip", "x"), scored("Pip", "Pip", "Pip, Nell", "Pip, Nell")
    rate, low, high = win_rate(ours, theirs)
    assert rate == pytest.approx(0.375) and low < rate < high
    assert win_rate(ours, ours)[0] == 0.5
