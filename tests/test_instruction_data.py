"""Week 4's 01_instruction_data against transformers, TRL, rouge-score; the course's instruction set; Self-Instruct."""

import random
import re
from collections import Counter, defaultdict
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.loss.loss_utils import ForCausalLMLoss

from shared.checking import run_check
from shared.data import stories
from shared.models import course_folder, smollm2
from shared.world.words import CHARACTERS, NUMBERS, PLACES
from week4_finetuning.chat import conversation, encode
from week4_finetuning.instructions import KINDS, instruction_stream, instructions
from week4_finetuning.self_instruct import (
    SEEDS,
    Task,
    classification_chances,
    instance_fault,
    list_prompt,
    pick_examples,
    read_list,
    why_refused,
    write,
    write_instances,
)
from week4_finetuning.solutions.instruction_data import (
    ALPACA_WITH_INPUT,
    ALPACA_WITHOUT_INPUT,
    VICUNA_SYSTEM,
    check_messages,
    collate_sft,
    document_mask,
    fit,
    format_alpaca,
    format_chatml,
    format_vicuna,
    keep_instruction,
    mask_prompt_labels,
    sft_loss,
)

CONTEXT = 256
EXAMPLES = {split: instructions(3000, split=split) for split in ("train", "validation")}
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(course_folder("base"))


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()


@pytest.fixture(scope="module")
def pairs(tokenizer):
    return [encode(tokenizer, example) for example in EXAMPLES["train"][:60]]


# The instruction set


@pytest.mark.parametrize("split", EXAMPLES)
def test_there_are_ten_kinds_each_about_equally_often(split):
    counts = Counter(example.kind for example in EXAMPLES[split])
    assert set(counts) == set(KINDS) and len(KINDS) == 10
    assert min(counts.values()) > 0.07 * len(EXAMPLES[split])


def test_the_same_seed_gives_the_same_examples_and_a_longer_list_begins_with_the_shorter():
    assert instructions(40, seed=3) == instructions(90, seed=3)[:40] == list(islice(instruction_stream(seed=3), 40))
    assert instructions(40, seed=3) != instructions(40, seed=4)
    assert instructions(0) == []
    with pytest.raises(ValueError, match="n is -1"):
        instructions(-1)
    with pytest.raises(ValueError):
        instructions(1, split="test")


@pytest.mark.parametrize("split", EXAMPLES)
def test_each_story_gives_three_examples_of_different_kinds_about_itself(split):
    of_story = defaultdict(list)
    for example in EXAMPLES[split]:
        of_story[example.story].append(example)
    told = stories(1000, split=split)
    assert sorted(of_story) == list(range(1000))
    for number, three in of_story.items():
        assert len({example.kind for example in three}) == len(three) == 3
        for example in three:
            if example.kind in ("question", "unanswerable", "summary"):
                assert example.input == told[number].text


def test_the_split_is_by_story():
    facts = {
        split: {(s.facts.hero, s.facts.thing, s.facts.place) for s in stories(1000, split=split)} for split in EXAMPLES
    }
    assert facts["train"].isdisjoint(facts["validation"])
    inputs = {split: {e.input for e in EXAMPLES[split] if len(e.input) > 100} for split in EXAMPLES}
    assert len(inputs["validation"]) > 500 and inputs["train"].isdisjoint(inputs["validation"])


def test_whole_repetitions_are_few_and_only_where_a_kind_has_few_questions():
    rows = Counter((e.kind, e.instruction, e.input, e.output) for e in EXAMPLES["train"])
    extra = Counter()
    for (kind, *_), count in rows.items():
        extra[kind] += count - 1
    assert sum(extra.values()) < 0.16 * len(EXAMPLES["train"])
    assert sum(extra[kind] for kind in KINDS if kind not in ("who", "refusal")) < 0.01 * len(EXAMPLES["train"])


def test_what_training_and_validation_share_is_world_knowledge_refusals_and_sums():
    rows = {(e.instruction, e.input, e.output) for e in EXAMPLES["train"]}
    shared = Counter(e.kind for e in EXAMPLES["validation"] if (e.instruction, e.input, e.output) in rows)
    assert set(shared) <= {"who", "refusal", "arithmetic", "recolour"}
    assert shared["arithmetic"] + shared["recolour"] < 0.02 * len(EXAMPLES["validation"])


@pytest.mark.parametrize("split", EXAMPLES)
def test_golds_are_right_against_the_facts(split):
    told = stories(1000, split=split)
    seen = Counter()
    for example in EXAMPLES[split]:
        facts, text = told[example.story].facts, told[example.story].text
        said, asked = example.output, example.instruction
        if example.kind == "question":
            answers = {
                f"Where was {facts.hero}?": PLACES[facts.place].at,
                "Who is the story about?": f"{facts.hero} and {facts.friend}",
                f"How did {facts.hero} feel in the end?": facts.feeling,
                "What time of day was it?": facts.time,
                "What day was it?": facts.day,
                f"What colour was the {facts.thing}?": facts.colour,
            }
            assert example.gold == answers[asked] is not None
            assert said == example.gold[0].upper() + example.gold[1:] + "."
            key = PLACES[facts.place].name if asked.startswith("Where") else example.gold.split()[-1]
            assert key.lower() in text.lower(), (asked, text)
        elif example.kind == "unanswerable":
            assert example.gold == "the story does not say" and said == "The story does not say."
            assert facts.day is None or asked != "What day was it?"
            assert not re.search(r"years? old|sister (was )?(called|named)|written by", text)
        elif example.kind == "summary":
            assert said == facts.summary
        elif example.kind == "continuation":
            assert f"{example.input} {said}" == text and len(said.split()) >= 5
        elif example.kind == "story":
            assert said == text and facts.hero in asked
        elif example.kind == "who":
            about = CHARACTERS[re.search(r"(?:is|does) (\w+)", asked)[1]]
            asked_for = about.home if "live" in asked else about.food if "eat" in asked else about.kind
            assert example.gold.removeprefix("an ").removeprefix("a ") == asked_for.removeprefix("a ")
        elif example.kind == "arithmetic":
            value = {word: number for number, word in enumerate(NUMBERS)}
            before, change = re.search(r"had (\w+) .*(?:found|gave) (\w+)", asked).groups()
            sign = 1 if "found" in asked else -1
            assert value[example.gold] == value[before] + sign * value[change] >= 1
            assert re.search(rf"is {example.gold}\. {facts.hero} had {example.gold} ", said)
        elif example.kind == "recolour":
            new = re.search(r"Make the \w+ (\w+)\.", asked)[1]
            words = re.findall(r"\w+", example.input)
            assert new in re.findall(r"\w+", said) and new not in words and example.gold == said
            assert len(said.split()) == len(example.input.split())
        elif example.kind == "rewrite":
            new, old = re.search(r"with (\w+) in place of (\w+)", asked).groups()
            assert example.input == told[example.story].parts["opening"] and example.gold == said
            assert old == facts.hero and new in said and not re.search(rf"\b{old}\b", said)
            assert CHARACTERS[new].kind in said or CHARACTERS[old].kind not in example.input
            assert not re.search(r"\ban [^aeiou]|\ba [aeiou]", said)
        else:
            assert example.kind == "refusal" and example.gold == "No" and said.startswith("No, I will not help")
        seen[example.kind] += 1
    assert set(seen) == set(KINDS)


def test_chatml_examples_fit_into_the_context_of_the_course_model(tokenizer):
    lengths = [sum(map(len, encode(tokenizer, e))) for split in EXAMPLES for e in EXAMPLES[split]]
    assert max(lengths) <= CONTEXT
    assert 80 < sum(lengths) / len(lengths) < 130


# Templates


def test_alpaca_is_the_published_text_with_one_line_break_behind_it():
    # stanford_alpaca/README.md (and train.py, which ends without the last line break)
    assert format_alpaca("I", "X") == f"{ALPACA_WITH_INPUT}\n\n### Instruction:\nI\n\n### Input:\nX\n\n### Response:\n"
    assert format_alpaca("I") == f"{ALPACA_WITHOUT_INPUT}\n\n### Instruction:\nI\n\n### Response:\n"
    assert ALPACA_WITHOUT_INPUT.split(". ")[1] == ALPACA_WITH_INPUT.split(". ")[1]


def random_messages(dice):
    turns = [{"role": ("user", "assistant")[i % 2], "content": text(dice)} for i in range(dice.randint(1, 5))]
    return [{"role": "system", "content": text(dice)}, *turns] if dice.random() < 0.5 else turns


def text(dice):
    return "".join(dice.choice(["a", "Mia", " ", "\n", "{x}", "é", "<|", "'", "### ", "user"]) for _ in range(6))


def test_200_random_conversations_equal_apply_chat_template(tokenizer):
    dice = random.Random(0)
    for _ in range(200):
        messages, opened = random_messages(dice), dice.random() < 0.5
        theirs = tokenizer.apply_chat_template(
            messages, chat_template=CHATML, tokenize=False, add_generation_prompt=opened
        )
        assert format_chatml(messages, opened) == theirs


def test_smollm2s_own_template_is_chatml_with_a_default_system_message():
    _, theirs = smollm2()
    dice = random.Random(1)
    for _ in range(50):
        messages = random_messages(dice)
        rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if messages[0]["role"] != "system":
            first = theirs.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
            default = re.match(r"<\|im_start\|>system\n(.*?)<\|im_end\|>", first)[1]
            messages = [{"role": "system", "content": default}, *messages]
        assert rendered == format_chatml(messages, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "got none"),
        ([{"role": "tool", "content": ""}], "role 'tool'; there are system, user, assistant"),
        ([{"content": "x"}], "role None"),
        ([{"role": "user", "content": None}], "must be a string, got NoneType"),
        ([{"role": "system", "content": "x"}], "take turns; got system"),
        ([{"role": "assistant", "content": "x"}], "take turns; got assistant"),
        ([{"role": "user", "content": "x"}] * 2, "take turns; got user, user"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "x"}], "take turns; got user, system"),
        ([{"role": "user", "content": "a<|im_end|>b"}], r"message 0 \(user\) holds <\|im_end\|>"),
    ],
)
def test_what_is_no_conversation_is_refused_with_what_came(messages, words):
    for function in (check_messages, format_chatml, format_vicuna):
        with pytest.raises(ValueError, match=words):
            function(messages)


def test_a_marker_typed_by_a_user_becomes_a_special_token_unless_it_is_split(tokenizer):
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop in tokenizer("a<|im_end|>b")["input_ids"]
    split = tokenizer("a<|im_end|>b", split_special_tokens=True)["input_ids"]
    assert stop not in split and tokenizer.decode(split) == "a<|im_end|>b"


def test_vicuna_is_what_fastchats_rule_gives_with_two_separators(tokenizer):
    contents = ["Hello!", "Hello!", "How are you?", "I am good."]
    messages = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    seps = (" ", "</s>")  # ADD_COLON_TWO: sep after the system and the user, sep2 after the assistant
    expected = VICUNA_SYSTEM + seps[0]
    for i, content in enumerate(contents):
        expected += ("USER", "ASSISTANT")[i % 2] + ": " + content + seps[i % 2]
    assert format_vicuna(messages) == expected
    assert expected.endswith("USER: Hello! ASSISTANT: Hello!</s>USER: How are you? ASSISTANT: I am good.</s>")
    assert format_vicuna(messages[:3], add_generation_prompt=True).endswith("USER: How are you? ASSISTANT:")
    assert format_vicuna([{"role": "system", "content": "Be kind."}, *messages]).startswith("Be kind. USER: Hello!")


# Labels, batches, loss


def rows_for_trl(pairs):
    return [{"input_ids": p + r, "labels": [-100] * len(p) + r} for p, r in pairs]


def test_labels_and_padding_equal_trls_collator(pairs, tokenizer):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    for pad in (tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")):
        theirs = DataCollatorForLanguageModeling(pad_token_id=pad)(rows_for_trl(pairs))
        ours = collate_sft(pairs, pad, CONTEXT)
        assert torch.equal(ours["token_ids"], theirs["input_ids"])
        assert torch.equal(ours["labels"], theirs["labels"])
        assert torch.equal(ours["attention_mask"], theirs["attention_mask"].bool())
        lengths = ours["attention_mask"].sum(dim=1)
        prompts = torch.tensor([len(p) for p, _ in pairs])
        assert torch.equal(mask_prompt_labels(ours["token_ids"], prompts, lengths), theirs["labels"])


def test_trls_trainer_makes_the_same_labels_and_the_same_loss_from_texts(tokenizer, model, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    examples = EXAMPLES["train"][:8]
    rows = [
        {"prompt": "<|endoftext|>" + format_chatml(conversation(e), add_generation_prompt=True), "completion": e.output}
        for e in examples
    ]
    options = dict(use_cpu=True, bf16=False, report_to="none", save_strategy="no", gradient_checkpointing=False)
    arguments = SFTConfig(output_dir=str(tmp_path), max_length=CONTEXT, eos_token="<|im_end|>", **options)
    trainer = SFTTrainer(model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    theirs = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    ours = collate_sft([encode(tokenizer, e) for e in examples], tokenizer.pad_token_id, CONTEXT)
    assert torch.equal(theirs["input_ids"], ours["token_ids"]) and torch.equal(theirs["labels"], ours["labels"])
    model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(model, dict(theirs))
        logits = model(ours["token_ids"], attention_mask=ours["attention_mask"].long()).logits
    assert sft_loss(logits, ours["labels"]).item() == pytest.approx(loss.item(), rel=1e-5)


def test_a_packed_row_equals_trls_padding_free_batch(pairs, tokenizer):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    theirs = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows_for_trl(pairs))
    ours = collate_sft(pairs, 0, 100_000, pack=True)
    assert torch.equal(ours["token_ids"], theirs["input_ids"])
    assert torch.equal(ours["positions"], theirs["position_ids"])
    assert torch.equal(ours["labels"], theirs["labels"])


@pytest.mark.parametrize("seed", range(5))
def test_packing_keeps_every_example_whole_and_in_order(seed):
    dice = random.Random(seed)
    examples = [
        (
            [dice.randint(1, 99) for _ in range(dice.randint(0, 6))],
            [dice.randint(1, 99) for _ in range(dice.randint(1, 6))],
        )
        for _ in range(40)
    ]
    packed = collate_sft(examples, 0, 16, pack=True)
    assert packed["token_ids"].shape[1] <= 16
    ids, owners = packed["token_ids"].flatten(), packed["document_ids"].flatten()
    for i, (prompt, response) in enumerate(examples):
        own = owners == i
        assert ids[own].tolist() == prompt + response
        assert len({row for row, _ in (packed["document_ids"] == i).nonzero().tolist()}) == 1
        assert packed["positions"].flatten()[own].tolist() == list(range(len(prompt + response)))
        labels = packed["labels"].flatten()[own].tolist()
        assert labels[0] == -100 and labels[1:] == ([-100] * len(prompt) + response)[1:]
    assert owners[owners >= 0].tolist() == sorted(owners[owners >= 0].tolist())
    padding = packed["document_ids"] == -1
    assert (packed["labels"][padding] == -100).all() and (packed["positions"][padding] == 0).all()
    assert len(packed["token_ids"]) < len(examples)


def test_packed_with_mask_and_positions_each_example_gets_the_logits_and_loss_it_gets_alone(pairs, model, tokenizer):
    packed = collate_sft(pairs[:12], tokenizer.pad_token_id, CONTEXT, pack=True)
    with torch.no_grad():
        logits = model(
            packed["token_ids"], attention_mask=document_mask(packed["document_ids"]), position_ids=packed["positions"]
        ).logits
        assert logits.isfinite().all()
        for i, pair in enumerate(pairs[:12]):
            alone = model(torch.tensor([sum(pair, [])])).logits[0]
            torch.testing.assert_close(logits[packed["document_ids"] == i], alone, rtol=1e-4, atol=1e-4)
        padded = collate_sft(pairs[:12], tokenizer.pad_token_id, CONTEXT)
        rows = model(padded["token_ids"], attention_mask=padded["attention_mask"].long()).logits
    together, apart = sft_loss(logits, packed["labels"]), sft_loss(rows, padded["labels"])
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)


def test_without_the_mask_the_first_example_leaks_into_the_second(pairs, model, tokenizer):
    def second(first):
        row = collate_sft([first, pairs[1]], tokenizer.pad_token_id, 2 * CONTEXT, pack=True)
        everyone = document_mask(torch.zeros_like(row["document_ids"]))
        with torch.no_grad():
            logits = model(row["token_ids"], attention_mask=everyone, position_ids=row["positions"]).logits
        return logits[0, -len(sum(pairs[1], [])) :]

    short = ([1, 2, 3], [4, 5])
    assert (second(short) - second(([9, 8, 7], [6, 5]))).abs().max() > 0.01


def test_document_mask_is_causal_within_a_document_and_leaves_no_query_without_a_key():
    mask = document_mask(torch.tensor([[0, 0, 1, 1, 1, -1, -1]]))[0, 0]
    assert mask.diagonal().all() and not mask.triu(1).any()
    assert not mask[2:5, :2].any() and not mask[5:, :5].any()
    assert mask[4, 2:5].all() and mask[1, :2].all()


def test_fit_leaves_out_what_is_too_long_and_counts_it():
    examples = [([1] * 3, [2] * 2), ([1] * 4, [2] * 2), ([], []), ([1], [2])]
    kept, dropped = fit(examples, 5)
    assert kept == [examples[0], examples[3]] and dropped == 2
    with pytest.raises(ValueError, match="example 1 has 6 tokens, allowed are 1 to 5"):
        collate_sft(examples, 0, 5)


def test_bad_lengths_shapes_and_texts_are_refused_with_what_came():
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"<= 4 must hold in each row; got prompts \[1\], lengths \[5\]"):
        mask_prompt_labels(ids, torch.tensor([1]), torch.tensor([5]))
    with pytest.raises(ValueError, match=r"got \(1, 4, 3\) and \(1, 3\)"):
        sft_loss(torch.zeros(1, 4, 3), ids[:, 1:])
    with pytest.raises(TypeError, match="the input must be a string .* got NoneType"):
        format_alpaca("x", None)
    with pytest.raises(ValueError, match="at least one example, got none"):
        collate_sft([], 0, 5)


def test_the_loss_and_its_gradient_equal_transformers():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randn(3, 9, 11, generator=generator).requires_grad_()
        labels = torch.randint(0, 11, (3, 9), generator=generator)
        labels[torch.rand(3, 9, generator=generator) < 0.5] = -100
        labels[0, 1] = 3
        theirs = ForCausalLMLoss(logits, labels, vocab_size=11)
        (gradient,) = torch.autograd.grad(theirs, logits)
        ours = sft_loss(logits, labels)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.autograd.grad(ours, logits)[0], gradient, rtol=1e-5, atol=1e-6)


def test_without_any_label_the_loss_is_zero_where_torch_says_nan():
    logits = torch.randn(2, 4, 5, requires_grad=True)
    labels = torch.full((2, 4), -100)
    assert F.cross_entropy(logits.flatten(0, 1), labels.flatten()).isnan()
    loss = sft_loss(logits, labels)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


# Self-Instruct


def test_the_filter_decides_as_rouge_score_with_the_papers_threshold():
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    seeds = [task.instruction for task in SEEDS]
    dice, seen = random.Random(0), Counter()
    for _ in range(300):
        a, b = dice.choice(seeds).split(), dice.choice(seeds[:3]).split()
        new = " ".join(a[: dice.randint(2, len(a))] + b[dice.randint(2, len(b)) :])
        overlap = max(scorer.score(old, new)["rougeL"].fmeasure for old in seeds)
        assert keep_instruction(new, seeds) == (overlap < 0.7 and 4 <= len(new.split()) <= 150), new
        assert keep_instruction(new, seeds) == (why_refused(new, seeds) == "")
        seen[overlap < 0.7] += 1
    assert min(seen.values()) > 30


def test_the_seeds_pass_the_filter_among_themselves():
    for i, task in enumerate(SEEDS):
        others = [other.instruction for j, other in enumerate(SEEDS) if j != i]
        assert keep_instruction(task.instruction, others), task
    assert 0 < sum(task.is_classification for task in SEEDS) < len(SEEDS)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ("Sing a song.", "length: 3 words"),
        ("word " * 151, "length: 151 words"),
        ("Tell me about this Map please.", "keyword: map"),
        ("Explain to a child why it snows.", "overlap: 0.86"),
        ("Name the largest lake of Africa.", ""),
    ],
)
def test_reasons_name_what_the_filter_saw(new, reason):
    said = why_refused(new, [task.instruction for task in SEEDS])
    assert said.startswith(reason) and bool(said) == bool(reason)


def test_a_prompt_shows_seeds_and_as_soon_as_there_are_any_tasks_of_the_model():
    dice = random.Random(0)
    assert len(pick_examples(SEEDS, dice)) == 6
    pool = [*SEEDS, *(Task(f"new {i}", by_model=True) for i in range(5))]
    for _ in range(20):
        picked = pick_examples(pool, dice)
        assert len(set(picked)) == 6 and sum(text.startswith("new") for text in picked) == 2
    assert list_prompt(["Sing.", "Run."]) == "Come up with a series of tasks:\n1. Sing.\n2. Run.\n3."


@pytest.mark.parametrize(
    ("written", "finished", "tasks"),
    [
        (" Name a fruit.\n8. Sing", False, ["Name a fruit."]),
        (" Name a fruit.\n8. Sing", True, ["Name a fruit.", "Sing"]),
        (" Name a fruit.\n 8) Sing\n\nThe end.", False, ["Name a fruit.", "Sing"]),
        (" Name  a\nfruit.", True, ["Name a fruit."]),
        ("", True, []),
        ("\n8. Sing\n", True, ["Sing"]),
    ],
)
def test_a_list_is_read_without_what_was_cut(written, finished, tasks):
    assert read_list(written, finished) == tasks


def test_instances_without_an_output_or_with_a_copied_one_are_refused():
    assert instance_fault("x", "None.") == instance_fault("", "") == "no output"
    assert instance_fault("a b", "a b") == "the output repeats the input"
    assert instance_fault("a b", "c") == instance_fault("", "c") == ""


def test_smollm2_proposes_classifies_and_writes_instances():
    smol, tokenizer = smollm2()
    side = tokenizer.padding_side
    torch.manual_seed(0)
    prompts = [list_prompt(pick_examples(SEEDS, random.Random(i))) for i in range(2)]
    written = write(smol, tokenizer, prompts, 24, temperature=0.8, stops=["\n\n"])
    assert any(read_list(text, finished) for text, finished in written)
    texts = [SEEDS[0].instruction, SEEDS[-1].instruction]
    together = classification_chances(smol, tokenizer, texts)
    apart = [classification_chances(smol, tokenizer, [text])[0] for text in texts]
    assert together == pytest.approx(apart, abs=1e-3) and all(0 < chance < 1 for chance in together)
    (given, output), (labelled, label) = write_instances(smol, tokenizer, [(texts[0], False), (texts[1], True)])
    assert "\n" not in given + output + labelled + label and label
    assert tokenizer.padding_side == side


def test_the_checks_judge_in_well_under_a_second():
    for name, answer in (("collate_sft", collate_sft), ("keep_instruction", keep_instruction)):
        run_check(name, answer)
        result = run_check(name, answer)
        assert result.passed and result.seconds < 1
