"""The capstone: histories as langchain cuts them, cards as the Hub reads them, folders as transformers loads them."""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, trim_messages
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week4_finetuning.chat import encode_prompt
from week6_rlhf.dialogue import Dialogue, window
from week6_rlhf.export import export
from week6_rlhf.solutions.capstone import Result, fit_history, model_card

KINDS = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
RESULT = Result("arc", "acc", 0.5, 0.4, 0.6, 100)


def talk(sizes, system=False):
    turns = [{"role": ("user", "assistant")[i % 2], "content": "x " * n} for i, n in enumerate(sizes)]
    return [{"role": "system", "content": "a b c"}] * system + turns


@pytest.fixture(scope="module")
def instruct():
    model, tokenizer = load_pretrained(course_folder("instruct"), GPT)
    return model.eval(), tokenizer


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=9).filter(lambda n: len(n) % 2), st.booleans(), st.integers(0, 40)
)
def test_a_history_is_cut_as_langchain_cuts_it(sizes, system, extra):
    messages = talk(sizes, system)
    budget = sizes[-1] + 3 * system + extra
    kept = fit_history(messages, lambda found: sum(len(m["content"].split()) for m in found), budget)
    theirs = trim_messages(
        [KINDS[m["role"]](m["content"]) for m in messages],
        max_tokens=budget,
        strategy="last",
        include_system=True,
        start_on="human",
        token_counter=lambda found: sum(len(m.content.split()) for m in found),
    )
    assert [m["content"] for m in kept] == [m.content for m in theirs]


@pytest.mark.parametrize(
    "roles", [(), ("assistant",), ("user", "assistant"), ("user", "user"), ("system",), ("system", "system", "user")]
)
def test_turns_out_of_order_are_refused(roles):
    with pytest.raises(ValueError, match="take turns"):
        fit_history([{"role": role, "content": "x"} for role in roles], len, 9)


def test_a_message_that_is_too_long_is_named():
    with pytest.raises(ValueError, match="5 tokens, and 4 are left"):
        fit_history(talk([5]), lambda found: sum(len(m["content"].split()) for m in found), 4)


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1).filter(lambda s: s.strip()))
def test_the_hub_reads_back_whatever_the_names_hold(name):
    data = ModelCard(model_card(name, name, [RESULT], ["none that we know of"])).data
    assert data.model_name == data.base_model == name
    assert data.eval_results[0].metric_value == 0.5


def test_a_card_without_results_or_limits_is_refused():
    for results, limits in (([], ["x"]), ([RESULT], []), ([Result("arc", "acc", 0.7, 0.4, 0.6, 9)], ["x"])):
        with pytest.raises(ValueError):
            model_card("a", "b", results, limits)
    with pytest.raises(ValueError, match="at least one item"):
        model_card("a", "b", [Result("arc", "acc", 0.5, 0.4, 0.6, 0)], ["x"])


def test_the_export_loads_in_transformers_with_the_same_logits_and_its_template(instruct, tmp_path):
    model, tokenizer = instruct
    folder = tmp_path / "given"
    folder.mkdir()
    export(model, tokenizer, folder, model_card("given", "instruct", [RESULT], ["small"]))
    library, theirs = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "What is Pip?"},
        {"role": "assistant", "content": "A rabbit."},
        {"role": "user", "content": "And Nell?"},
    ]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == encode_prompt(tokenizer, messages)
    with torch.no_grad():
        torch.testing.assert_close(
            library(torch.tensor([ids])).logits, model(torch.tensor([ids])), rtol=1e-4, atol=1e-4
        )
    generation = GenerationConfig.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in generation.eos_token_id
    assert ModelCard.load(folder / "README.md").data.base_model == "instruct"
    assert getattr(tokenizer, "chat_template", None) is None  # the caller's tokenizer is as it was
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"


def test_a_dialogue_forgets_its_oldest_turns_and_stays_within_the_context(instruct):
    dialogue = Dialogue(*instruct, fit_history, max_new_tokens=60)
    seen = []
    for i in range(5):
        reply = dialogue.say(f"Write a story about Pip and Nell. {'Please. ' * i}")
        assert reply and "<|" not in reply
        seen.append(dialogue.seen)
    assert seen[:2] == [1, 3] and seen[-1] < 9 and all(n % 2 for n in seen)
    assert len(dialogue.messages) == 10
    with pytest.raises(ValueError, match="nothing to answer"):
        dialogue.say("  ")
    with pytest.raises(ValueError, match="make it shorter"):
        dialogue.say("Pip " * 300)
    assert len(dialogue.messages) == 10  # what was refused is not in the conversation


def test_what_is_said_is_shown_as_text_and_not_as_html(instruct):
    dialogue = Dialogue(*instruct, fit_history, max_new_tokens=4)
    dialogue.say("<script>alert(1)</script>")
    assert "<script>" not in dialogue._repr_html_() and "&lt;script&gt;" in dialogue._repr_html_()


def test_the_window_answers_and_says_what_is_wrong(instruct):
    dialogue = Dialogue(*instruct, fit_history, max_new_tokens=8)
    shown, row, note = window(dialogue).children
    typed, send = row.children
    send.click()
    assert "nothing to answer" in note.value and not dialogue.messages
    typed.value = "What is Pip?"
    send.click()
    assert len(dialogue.messages) == 2 and "What is Pip?" in shown.value and typed.value == "" and not send.disabled
