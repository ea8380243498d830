"""The course model: its checkpoint is what its training.json says, and the run that made it can be made again."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared import course
from shared.data import corpus, stories
from shared.models import course_folder
from shared.stories import NAMES
from shared.world.words import NUMBERS
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining.consistency import beginning, consistency, kept
from week2_pretraining.fused import fuse
from week2_pretraining.pretrain import (
    END_OF_TEXT,
    SPECIAL_TOKENS,
    PretrainConfig,
    encode_stories,
    held_out_batches,
    main,
    make_model,
    make_optimizer,
    make_tokenizer,
    pretrain,
    story_batch,
    story_starts,
)
from week2_pretraining.sharding import latest
from week2_pretraining.solutions.pretraining import evaluate_loss, load_pretrained
from week2_pretraining.solutions.sampling import generate

FOLDER = course_folder("base")
TRAINING = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
CONFIG = PretrainConfig(**TRAINING["config"])
SMALL = ["--vocab-size", "300", "--context-length", "16", "--d-model", "16", "--n-layers", "1", "--n-stories", "40"]
SMALL += ["--batch-size", "4", "--evaluate-every", "2"]


@pytest.fixture(scope="module")
def trained():
    return load_pretrained(FOLDER, GPT)


def test_the_checkpoint_is_small_and_was_made_by_the_default_command():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8e6
    assert PretrainConfig() == CONFIG
    assert TRAINING["command"].startswith("python -m week2_pretraining.pretrain")
    assert TRAINING["records"][-1]["step"] == CONFIG.steps
    assert TRAINING["records"][-1]["seconds"] < 300


def test_its_first_steps_made_again_give_the_recorded_losses():
    """A short run with the whole run's schedule: what is compared is the loss of every one of its first steps."""
    tokenizer = make_tokenizer(CONFIG)
    assert tokenizer.backend_tokenizer.to_str() == AutoTokenizer.from_pretrained(FOLDER).backend_tokenizer.to_str()
    token_ids = encode_stories(tokenizer, CONFIG.n_stories, CONFIG.seed, "train")
    model = make_model(CONFIG)
    generator = torch.Generator().manual_seed(CONFIG.seed)
    n_steps = 10
    held_out = held_out_batches(tokenizer, CONFIG, 1)
    optimizer, config = make_optimizer(model, CONFIG), replace(CONFIG, evaluate_every=n_steps)
    starts = story_starts(token_ids, tokenizer, CONFIG)
    run = pretrain(model, optimizer, config, token_ids, held_out, generator, starts=starts)
    recorded = TRAINING["records"][0]["losses"][:n_steps]
    assert next(run).losses == pytest.approx(recorded, abs=2e-3)
    assert recorded[0] - recorded[-1] > 0.3  # so the tolerance is far below what was learned


def test_its_recorded_loss_is_what_the_stored_weights_have(trained):
    model, tokenizer = trained
    loss = evaluate_loss(model, held_out_batches(tokenizer, CONFIG))
    assert loss == pytest.approx(TRAINING["records"][-1]["held_out_loss"], abs=1e-3)


def test_transformers_reads_the_folder_and_gives_the_same_logits(trained):
    model, tokenizer = trained
    theirs = AutoModelForCausalLM.from_pretrained(FOLDER).eval()
    token_ids = torch.tensor([tokenizer(END_OF_TEXT + corpus(500, split="validation"))["input_ids"][:256]])
    with torch.no_grad():
        torch.testing.assert_close(model(token_ids), theirs(token_ids).logits, atol=1e-4, rtol=1e-4)


def test_the_tokenizer_cuts_stories_as_documents_and_keeps_the_chat_tokens_for_later(trained):
    _, tokenizer = trained
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(len(tokenizer) - 4, len(tokenizer)))
    text = stories(1, split="validation")[0].text
    encoded = tokenizer(END_OF_TEXT + text)["input_ids"]
    assert encoded[0] == tokenizer.eos_token_id and tokenizer.decode(encoded[1:]) == text


def test_it_writes_stories_that_end_in_the_words_of_their_world(trained):
    model, tokenizer = trained
    told = stories(16, seed=5, split="validation")
    written, ended = [], 0
    for i, story in enumerate(told):
        prompt = END_OF_TEXT + story.text[: story.text.index(".") + 1]
        token_ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        token_ids = generate(
            model, token_ids, 220, 0.7, eos_id=tokenizer.eos_token_id, generator=torch.Generator().manual_seed(i)
        )
        ended += token_ids[0, -1].item() == tokenizer.eos_token_id
        written += re.findall(r"[A-Za-z']+", tokenizer.decode(token_ids[0], skip_special_tokens=True))
    assert ended >= 12
    words = set(re.findall(r"[A-Za-z']+", corpus(1_000_000)))
    assert sum(word in words for word in written) > 0.98 * len(written)
    assert len(set(NAMES).intersection(written)) > 8


def test_it_keeps_to_the_names_that_a_story_has_told(trained):
    _, tokenizer = trained
    told = stories(60, seed=5, split="validation")
    model = AutoModelForCausalLM.from_pretrained(FOLDER).eval()
    names = sum(consistency(model, tokenizer, told, max_new_tokens=80), Counter())
    assert names["all names"] > 150
    assert names["names"] > 0.7 * names["all names"]  # two of 24 by chance: 0.08


def test_the_stories_themselves_are_consistent():
    told = stories(200, seed=6, split="validation")
    pairs = [(story, beginning(story)) for story in told]
    found = sum((kept(story, start, story.text[len(start) :]) for story, start in pairs), Counter())
    for kind, at_least in {"names": 1, "places": 1, "counts": 1, "things": 0.95}.items():
        assert found[f"all {kind}"] > 10
        assert found[kind] >= at_least * found[f"all {kind}"], kind


def test_a_continuation_that_changes_names_things_places_or_counts_is_noticed():
    story = next(s for s in stories(500, seed=6) if s.facts.plot == "gather" and s.facts.change > 1)
    facts, start = story.facts, beginning(story)
    other = next(name for name in NAMES if name not in (facts.hero, facts.friend))
    right = f" {facts.friend} found {NUMBERS[facts.change]} more. That made {NUMBERS[facts.after]}."
    assert kept(story, start, right)["counts"] == kept(story, start, right)["all counts"] == 1
    assert kept(story, start, right.replace(NUMBERS[facts.after], NUMBERS[facts.after + 2]))["counts"] == 0
    found = kept(story, start, f" {other} and {facts.hero} had a kite.")
    assert (found["names"], found["all names"]) == (1, 2)
    assert found["all things"] == 1 and found["things"] == ("kite" in start)


def test_story_rows_begin_at_stories_and_targets_are_one_token_later():
    token_ids = torch.tensor([9, 1, 2, 9, 3, 4, 5, 9, 6, 7, 8])
    inputs, targets = story_batch(token_ids, torch.tensor([0, 3]), 50, 4, torch.Generator().manual_seed(0))
    assert {tuple(row) for row in inputs.tolist()} == {(9, 1, 2, 9), (9, 3, 4, 5)}
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def run_small(folder, *more):
    main(["--out", str(folder), *SMALL, *more])
    return [record["losses"] for record in json.loads((folder / "training.json").read_text())["records"]]


def test_a_resumed_run_has_the_same_losses_to_the_last_digit(tmp_path, monkeypatch):
    whole = run_small(tmp_path / "whole", "--steps", "6")
    import week2_pretraining.pretrain as module

    def killed(*arguments):
        raise KeyboardInterrupt

    real = module.save_checkpoint
    monkeypatch.setattr(module, "PARTS", [])  # the parts stay as they are here
    monkeypatch.setattr(module, "save_checkpoint", lambda *a: real(*a) if a[4] < 6 else killed())
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path / "broken", "--steps", "6")
    monkeypatch.undo()
    monkeypatch.setenv("SIXWEEKS_WORK", str(tmp_path))
    assert run_small(tmp_path / "broken", "--steps", "6", "--resume") == whole
    assert len(whole) == 3


def test_a_run_with_other_settings_is_not_resumed(tmp_path):
    run_small(tmp_path, "--steps", "2")
    with pytest.raises(ValueError, match="max_lr"):
        run_small(tmp_path, "--steps", "2", "--max-lr", "0.5", "--resume")


def test_there_is_nothing_to_resume_where_nothing_was_saved(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["--out", str(tmp_path), *SMALL, "--steps", "2", "--resume"])
    with pytest.raises(FileNotFoundError, match="without --resume"):
        latest(tmp_path)


def test_two_processes_train_the_same_model_with_fsdp_and_go_on_from_their_checkpoint(tmp_path):
    def torchrun(*more):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += ["-m", "week2_pretraining.pretrain", "--out", str(tmp_path), *SMALL, "--steps", "4", *more]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "SIXWEEKS_DEVICE": "cpu"}
        done = subprocess.run(command, cwd=course.ROOT, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((tmp_path / "training.json").read_text())["records"]

    records = torchrun()
    assert [record["step"] for record in records] == [2, 4]
    model, tokenizer = load_pretrained(tmp_path, GPT)
    config = PretrainConfig(**json.loads((tmp_path / "training.json").read_text())["config"])
    assert evaluate_loss(model, held_out_batches(tokenizer, config)) == pytest.approx(
        records[-1]["held_out_loss"], abs=1e-4
    )
    for path in (tmp_path / "checkpoint-0000004").iterdir():  # as if killed while it was written
        path.unlink()
    again = torchrun("--resume")
    assert [record["losses"] for record in again] == [record["losses"] for record in records]


def test_the_fused_kernels_give_the_logits_and_gradients_of_your_own_attention_and_norms():
    config = GPTConfig(vocab_size=50, context_length=12, d_model=16, n_heads=4, n_layers=2)
    plain, fused = (GPT(config, torch.Generator().manual_seed(0)) for _ in range(2))
    fuse(fused)
    assert fused.state_dict().keys() == plain.state_dict().keys()
    token_ids = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(1))
    for model in (plain, fused):
        model.logits = model(token_ids)
        model.logits.logsumexp(-1).sum().backward()
    torch.testing.assert_close(fused.logits, plain.logits, atol=1e-5, rtol=1e-5)
    for (name, ours), (same, theirs) in zip(fused.named_parameters(), plain.named_parameters(), strict=True):
        assert name == same
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="padding"):
        fused(token_ids, key_mask=torch.ones(3, 12, dtype=torch.bool))
