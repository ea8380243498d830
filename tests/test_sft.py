"""Week 4's lesson 02: gradients of a batch in parts, replies, the instruct model, the instruction loop."""

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week3_evaluation.solutions.leaderboard import bootstrap_interval
from week4_finetuning.chat import OPEN_KINDS, STOP, conversation, encode, encode_prompt, score
from week4_finetuning.instructions import KINDS, instructions
from week4_finetuning.sft import SFTConfig, add_lora, as_transformers, encoded, main, tune
from week4_finetuning.solutions.instruction_data import collate_sft, sft_loss
from week4_finetuning.solutions.lora import lora_layers
from week4_finetuning.solutions.sft import accumulate_sft, replies
from week4_finetuning.study import SPACE, load_study


@pytest.fixture(scope="module")
def base():
    return load_pretrained(course_folder("base"), GPT)


@pytest.fixture(scope="module")
def instruct():
    folder = course_folder("instruct")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_parts_of_any_size_give_the_gradient_of_the_whole_batch(base):
    model, tokenizer = base
    pairs = [encode(tokenizer, example) for example in instructions(12)]
    rows = collate_sft(pairs, tokenizer.pad_token_id, 256)
    rows = {name: rows[name] for name in ("token_ids", "labels")}
    model.zero_grad()
    whole = sft_loss(model(rows["token_ids"]), rows["labels"])
    whole.backward()
    expected = gradient(model)
    for sizes in ([12], [1] * 12, [5, 7], [2, 9, 1]):
        model.zero_grad()
        pieces = zip(*(tensor.split(sizes) for tensor in rows.values()), strict=True)
        parts = [dict(zip(rows, piece, strict=True)) for piece in pieces]
        assert accumulate_sft(model, parts) == pytest.approx(whole.item(), rel=1e-5)
        assert (gradient(model) - expected).norm() < 1e-4 * expected.norm()
    model.zero_grad()


def test_a_reply_is_the_same_alone_in_a_batch_and_by_transformers_stop_strings(instruct):
    model, tokenizer = instruct
    asked = [conversation(example) for example in instructions(30, seed=9, split="validation")]
    together = replies(model, tokenizer, asked, max_new_tokens=20, batch_size=8)
    assert together == [replies(model, tokenizer, [messages], max_new_tokens=20)[0] for messages in asked]
    for messages, reply in zip(asked, together, strict=True):
        token_ids = torch.tensor([encode_prompt(tokenizer, messages)])
        written = model.generate(
            token_ids, attention_mask=torch.ones_like(token_ids), max_new_tokens=20, do_sample=False,
            stop_strings=STOP, tokenizer=tokenizer, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        assert tokenizer.decode(written[0, token_ids.shape[1] :], skip_special_tokens=True).strip() == reply
    assert len({len(reply) for reply in together}) > 3


def test_a_prompt_that_does_not_fit_is_refused_with_its_length(instruct):
    model, tokenizer = instruct
    with pytest.raises(ValueError, match=r"a prompt of \d+ tokens and 64 new ones do not fit: the model has 256"):
        replies(model, tokenizer, [[{"role": "user", "content": "story " * 300}]])


def test_the_instruct_model_beats_the_base_on_held_out_stories_with_intervals_apart(instruct):
    model, tokenizer = instruct
    base = AutoModelForCausalLM.from_pretrained(course_folder("base")).eval()
    trained_on = {(e.instruction, e.input) for e in instructions(SFTConfig().n_examples)}
    drawn = [e for e in instructions(250, seed=4, split="validation") if e.kind not in OPEN_KINDS]
    examples = [e for e in drawn if (e.instruction, e.input) not in trained_on]
    assert len(examples) > 100
    found = {}
    for name, one in (("base", base), ("instruct", model)):
        told = replies(one, tokenizer, [conversation(e) for e in examples], max_new_tokens=32, batch_size=64)
        scores = torch.tensor([score(e, reply) for e, reply in zip(examples, told, strict=True)])
        found[name] = bootstrap_interval(scores, generator=torch.Generator().manual_seed(0))
    assert found["base"][1] < found["instruct"][0], found


def test_its_first_steps_made_again_give_the_recorded_losses():
    about = json.loads((course_folder("instruct") / "training.json").read_text(encoding="utf-8"))
    assert about["command"].startswith("python -m week4_finetuning.sft")
    config = SFTConfig(**about["config"])
    assert config == SFTConfig()
    model, tokenizer = load_pretrained(course_folder("base"), GPT)
    pairs = encoded(tokenizer, config, model.config.context_length)
    losses = list(islice(tune(model, pairs, config, tokenizer.pad_token_id), 4))
    assert losses == pytest.approx(about["losses"][:4], rel=1e-3)


def test_a_short_run_lowers_the_loss_and_leaves_the_base_model_alone(base):
    model, tokenizer = load_pretrained(course_folder("base"), GPT)
    config = replace(SFTConfig(), n_examples=200, steps=12, batch_size=8)
    losses = list(tune(model, encoded(tokenizer, config, 256), config, tokenizer.pad_token_id))
    assert len(losses) == 12 and sum(losses[-4:]) / 4 < 0.75 * losses[0]
    assert not model.training
    token_ids = torch.tensor([encode_prompt(tokenizer, conversation(instructions(1)[0]))])
    with torch.no_grad():
        theirs = as_transformers(model, tokenizer)(token_ids).logits
        assert torch.allclose(theirs, model(token_ids), atol=1e-4)
        assert not torch.allclose(theirs, base[0](token_ids), atol=1e-1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_course_output_is_scored_as_right_and_another_as_wrong(kind):
    examples = [e for e in instructions(300) if e.kind == kind]
    assert len(examples) > 15
    for example in examples:
        assert score(example, example.output) == 1.0
        assert score(example, "") == 0.0
        assert score(example, "A violet zebra.") < 0.5


def test_the_stored_study_is_read_by_optuna_and_its_best_is_its_best():
    study = load_study()
    values = [trial.value for trial in study.trials]
    assert len(values) >= 20 and study.best_value == min(values)
    assert all(set(trial.params) == set(SPACE) for trial in study.trials)


@pytest.mark.parametrize("rank", [0, 4])
def test_the_program_stores_a_plain_model_in_16_bits_that_is_computed_in_32(rank, tmp_path, work, base):
    main([*f"--steps 3 --n-examples 60 --batch-size 4 --lora-rank {rank}".split(), "--out", str(tmp_path)])
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert stored.keys() == load_file(course_folder("base") / "model.safetensors").keys()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ours, tokenizer = load_pretrained(tmp_path, GPT)
    assert {p.dtype for p in (*theirs.parameters(), *ours.parameters())} == {torch.float32}
    token_ids = torch.tensor([encode_prompt(tokenizer, conversation(instructions(1)[0]))])
    with torch.no_grad():
        torch.testing.assert_close(ours(token_ids), theirs(token_ids).logits, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(ours(token_ids), base[0](token_ids), atol=1e-2)
    about = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert len(about["losses"]) == 3 and about["config"]["lora_rank"] == rank


def test_lora_tunes_every_linear_layer_and_the_embedding_and_nothing_else():
    model, _ = load_pretrained(course_folder("base"), GPT)
    frozen = {name: p for name, p in model.named_parameters() if "norm" in name or "position" in name}
    add_lora(model, 4)
    assert model.token_embedding.weight.requires_grad and not any(p.requires_grad for p in frozen.values())
    assert len(lora_layers(model)) == 6 * model.config.n_layers
    assert all(not layer.base.weight.requires_grad and layer.alpha == 8 for layer in lora_layers(model).values())
