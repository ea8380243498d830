"""What lesson 04 measures and a lesson has no time for: `python -m week6_rlhf.constitution_study [PART ...]`.

Parts: judged (SmolLM2 as a judge of stories), replies_judged (of refusals), refined (its critiques and revisions),
rlaif (DPO on those pairs, labelled by four judges), rlaif_rules (on ten times as many, by the judges that cost
nothing). Each result goes into constitution_study.json as soon as it is there; a part that is run again replaces what
it gave before.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from tqdm.auto import tqdm

from shared.answers import write_atomically
from shared.models import course_folder, smollm2
from shared.runtime import machine
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.fused import fuse
from week2_pretraining.solutions.pretraining import load_pretrained
from week4_finetuning.chat import STOP
from week5_inference.prompting_study import as_text
from week6_rlhf.constitution import (
    PRINCIPLES,
    REPLIES,
    RuleJudge,
    judge_prompt,
    keeps,
    letters,
    requests,
    tune,
    write,
)
from week6_rlhf.dpo_training import DPOConfig, Preference
from week6_rlhf.policy import encode, sample_replies, text_of
from week6_rlhf.preferences import prompts, true_score
from week6_rlhf.samples import Told, told
from week6_rlhf.solutions.constitutional import ai_preference, constitutional_pairs, critique_prompt, revision_prompt

STORED = Path(__file__).parent / "constitution_study.json"
N_JUDGED, N_RULED, N_REPLIES, N_REFINED, N_PROMPTS = 90, 960, 24, 24, 80
PLACE, NOISE = 3.0, 2.0  # of the rule-based judge in the DPO runs
SEEDS = (0, 1)


@cache
def smol():
    return smollm2()


def judged_pairs(count: int = N_JUDGED) -> list[tuple[Told, str, str, str]]:
    """(told, principle, first, second): the story that keeps the principle best of four, and that which does worst.

    The principles take turns, and so do the places of the better story. Prompts whose four are alike are passed over.
    Of `count` pairs those are given whose stories differ by more than rounding.
    """
    found = []
    for one in told("train"):
        principle = PRINCIPLES[len(found) % len(PRINCIPLES)].name
        by_truth = sorted(one.texts, key=lambda text: keeps(principle, one.prompt, text))
        worst, best = by_truth[0], by_truth[-1]
        if keeps(principle, one.prompt, worst) < keeps(principle, one.prompt, best):
            order = (best, worst) if len(found) // len(PRINCIPLES) % 2 == 0 else (worst, best)
            found.append((one, principle, *order))
        if len(found) == count:
            break
    return [
        row for row, (first, second) in zip(found, truth(found).tolist(), strict=True) if abs(first - second) > 1e-6
    ]


def truth(pairs: list[tuple[Told, str, str, str]]) -> torch.Tensor:
    """(pair, 2): how well the first and the second story keep the pair's principle."""
    return torch.tensor([[keeps(name, one.prompt, text) for text in both] for one, name, *both in pairs])


def rounded(values: torch.Tensor) -> list:
    return [[round(value, 4) for value in row] for row in values.tolist()]


def judged() -> Iterator[dict]:
    """SmolLM2's letters for each pair of stories, in both orders."""
    questions = {principle.name: principle.question for principle in PRINCIPLES}
    for one, name, first, second in judged_pairs():
        asked_of = [
            judge_prompt(smol()[1], questions[name], one.prompt.text, *both)
            for both in ((first, second), (second, first))
        ]
        ab, ba = rounded(letters(*smol(), asked_of, batch_size=2))
        yield {"prompt": one.prompt.text, "principle": name, "ab": ab, "ba": ba}


def replies_judged() -> Iterator[dict]:
    """SmolLM2 as a judge of refusals: the refusal stands first in `ab`."""
    every = requests()
    for request in every[:: len(every) // N_REPLIES][:N_REPLIES]:
        both = (request.refusal, request.help)
        asked_of = [
            judge_prompt(smol()[1], REPLIES.question, request.text, *order, noun="Reply")
            for order in (both, both[::-1])
        ]
        ab, ba = rounded(letters(*smol(), asked_of, batch_size=2))
        yield {"request": request.text, "mean": request.mean, "ab": ab, "ba": ba}


def refined() -> Iterator[dict]:
    """One round of critique and revision of validation stories; and a revision for which no critique was asked."""
    rows = [(one, PRINCIPLES[i % len(PRINCIPLES)]) for i, one in enumerate(told("validation")[:N_REFINED])]
    for start in range(0, len(rows), 6):
        batch = rows[start : start + 6]
        asked_of = [(principle, one.prompt.text, one.texts[0]) for one, principle in batch]
        critiques = write(*smol(), [critique_prompt(*row) for row in asked_of], 48)
        revisions = write(
            *smol(), [revision_prompt(*row, said) for row, said in zip(asked_of, critiques, strict=True)], 144
        )
        direct = write(*smol(), [revision_prompt(*row, "(nothing)") for row in asked_of], 144)
        for (one, principle), *texts in zip(batch, critiques, revisions, direct, strict=True):
            named = dict(zip(("critique", "revision", "direct"), texts, strict=True))
            yield {"prompt": one.prompt.text, "principle": principle.name, "reply": one.texts[0]} | named


def rule_labels(count: int = N_JUDGED) -> dict[str, torch.Tensor]:
    """p(first is better) of the judged pairs, by the truth and by a rule-based judge with noise and a pull of place."""
    good_first, good_second = truth(judged_pairs(count)).unbind(dim=1)
    generator, sure = torch.Generator().manual_seed(0), RuleJudge(pull=1000.0)
    rule = RuleJudge(place=PLACE, noise=NOISE)
    ab, ba = rule.letters(good_first, good_second, generator), rule.letters(good_second, good_first, generator)
    return {
        "the truth": ai_preference(sure.letters(good_first, good_second), sure.letters(good_second, good_first)),
        "rules, noise and place, asked once": ab.softmax(dim=1)[:, 0],
        "rules, noise and place, asked twice": ai_preference(ab, ba),
    }


def labels() -> dict[str, torch.Tensor]:
    """p(first is better) of the pairs that SmolLM2 judged, by each judge."""
    stored = load()["parts"]["judged"]["results"]
    by_smol = ai_preference(*(torch.tensor([result[order] for result in stored]) for order in ("ab", "ba")))
    return rule_labels() | {"SmolLM2, asked twice": by_smol, "SmolLM2, asked twice, made hard": by_smol.round()}


def preferences_of(tokenizer, rows, preferences: torch.Tensor) -> tuple[list[Preference], torch.Tensor]:
    """The judged pairs as token ids, the chosen first, and p(chosen is better)."""
    by_text = {text: ended for one, *_ in rows for text, ended in zip(one.texts, one.ended, strict=True)}
    stop = tokenizer.convert_tokens_to_ids(STOP)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids + [stop] * by_text[text]

    asked_for = [one.prompt for one, *_ in rows]
    first, second = [row[2] for row in rows], [row[3] for row in rows]
    pairs = constitutional_pairs(asked_for, first, second, preferences)
    encoded = encode(tokenizer, [pair["prompt"] for pair in pairs])
    found = [Preference(i, ids(p["chosen"]), ids(p["rejected"])) for i, p in zip(encoded, pairs, strict=True)]
    return found, torch.tensor([pair["preference"] for pair in pairs])


def tuned_scores(rows, preferences: torch.Tensor | None, config: DPOConfig) -> list:
    """(prompt, part): scores of stories for held-out prompts, by the instruct model after DPO on these labels."""
    policy, tokenizer = load_pretrained(course_folder("instruct"), GPT)
    policy = fuse(policy)
    if preferences is not None:
        tune(policy, *preferences_of(tokenizer, rows, preferences), config, tokenizer.pad_token_id)
    wanted = prompts(N_PROMPTS, seed=4, split="validation")
    generator = torch.Generator().manual_seed(config.seed)
    told_now = sample_replies(policy.eval(), tokenizer, encode(tokenizer, wanted), generator=generator)
    texts = [text_of(tokenizer, reply) for (reply,) in told_now]
    scores = [true_score(prompt, text) for prompt, text in zip(wanted, texts, strict=True)]
    return rounded(torch.tensor([[score.faithful, score.kind, score.short] for score in scores]))


def rlaif() -> Iterator[dict]:
    """DPO on the pairs that SmolLM2 judged, by the labels of each judge; and no training."""
    for seed in SEEDS:
        config = DPOConfig(steps=30, batch_size=8, max_lr=3e-4, seed=seed)
        for name, preferences in {"no training": None, **labels()}.items():
            yield {"labels": name, "seed": seed, "scores": tuned_scores(judged_pairs(), preferences, config)}


def rlaif_rules() -> Iterator[dict]:
    """The same on N_RULED pairs, by the judges that cost nothing, and with half of the aligned model's steps."""
    rows = judged_pairs(N_RULED)
    for seed in SEEDS:
        for name, preferences in rule_labels(N_RULED).items():
            config = DPOConfig(steps=70, seed=seed)
            yield {"labels": name, "pairs": len(rows), "seed": seed, "scores": tuned_scores(rows, preferences, config)}


PARTS: dict[str, Callable[[], Iterator[dict]]] = {
    "judged": judged,
    "replies_judged": replies_judged,
    "refined": refined,
    "rlaif": rlaif,
    "rlaif_rules": rlaif_rules,
}


def load(path: Path = STORED) -> dict:
    """The stored study: {"command", "parts": {part: {"results": [result, ...]}}}."""
    return json.loads(path.read_text(encoding="utf-8"))


def main(arguments: list[str], path: Path = STORED) -> None:
    unknown = set(arguments) - PARTS.keys()
    if unknown:
        raise SystemExit(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    study = load(path) if path.exists() else {"command": "python -m week6_rlhf.constitution_study", "parts": {}}
    for part in arguments or PARTS:
        results: list[dict] = []
        study["parts"][part] = {"machine": ", ".join(machine().values()), "results": results}
        for result in tqdm(PARTS[part](), desc=part):
            results.append(result)
            write_atomically(path, as_text(study))  # now: a study may be stopped


if __name__ == "__main__":
    main(sys.argv[1:])
