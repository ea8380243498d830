"""From questions to scores: prompts, log-likelihoods of choices, TruthfulQA's mass of truth, numbers read from text."""

import re
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from week2_pretraining.solutions.sampling import inference


def few_shot_prompt(shots: Sequence[tuple[str, str]], question: str, description: str = "") -> str:
    r"""The description as it is, then each worked example as "question answer\n\n", then the question, still open.

    One space stands between a question and its answer; none after the last question, for the space belongs to the
    answer's first token. Example: ([("1+1=", "2")], "2+2=", "Sums.\n\n") -> "Sums.\n\n1+1= 2\n\n2+2=".
    Brown et al. 2020, §2.4. Raises ValueError when the question is among the shots (its answer would be given away)
    or ends with white space.
    """
    # BEGIN SOLUTION
    if any(shown == question for shown, _ in shots):
        raise ValueError(f"the question is among its own examples, with its answer: {question!r}")
    if question != question.rstrip():
        raise ValueError(
            f"the question ends with white space: a tokenizer would split the answer otherwise: {question!r}"
        )
    return description + "".join(f"{shown} {answer}\n\n" for shown, answer in shots) + question
    # END SOLUTION


def encode_pair(tokenizer: PreTrainedTokenizerBase, prompt: str, choice: str) -> tuple[list[int], list[int]]:
    """(prompt ids, choice ids), split where the prompt's own tokens end: the ids of the whole after len(ids of prompt).

    No special tokens are added. White space at the prompt's end moves to the choice. An empty prompt stands for one
    token: bos_token_id, or eos_token_id where there is none. Raises ValueError for a choice of no tokens.
    """
    # BEGIN SOLUTION
    stem = prompt.rstrip()
    choice = prompt[len(stem) :] + choice
    if not stem:
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        prompt_ids, choice_ids = [start], tokenizer(choice, add_special_tokens=False).input_ids
    else:
        prompt_ids = tokenizer(stem, add_special_tokens=False).input_ids
        choice_ids = tokenizer(stem + choice, add_special_tokens=False).input_ids[len(prompt_ids) :]
    if not choice_ids:
        raise ValueError(f"the choice {choice!r} adds no token to the prompt: nothing is there to be scored")
    return prompt_ids, choice_ids
    # END SOLUTION


def next_token_logits(model: Callable, token_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
    """Logits of our own GPT, which returns them, or of a model of transformers, which returns them in an object."""
    output = model(token_ids)
    return getattr(output, "logits", output)


def context_length_of(model: Callable) -> int:
    """How many tokens the model can read; a billion where its config does not say."""
    config = getattr(model, "config", None)
    names = ("context_length", "n_positions", "max_position_embeddings")
    return next((getattr(config, name) for name in names if hasattr(config, name)), 10**9)


def multiple_choice_loglikelihood(
    model: Callable,
    pairs: Sequence[Sequence[tuple[list[int], list[int]]]],
    batch_size: int = 16,
) -> list[Float[Tensor, "choices"]]:
    """For each question, ln p(choice | prompt) in nats of each of its (prompt ids, choice ids): Σ ln p(token | before).

    The model reads prompt and choice without the last token, cut on the left to its context, at most `batch_size` rows
    at a time, padded on the right. A row that is another one's beginning (" A" and " B" after one prompt: the same row)
    is read only once. Float32; the rows of one question may be in different batches. Biderman et al. 2024.
    Raises ValueError for a choice longer than the context.
    """
    context = context_length_of(model)
    longest = max((len(choice_ids) for question in pairs for _, choice_ids in question), default=0)
    if longest > context:
        raise ValueError(f"a choice has {longest} tokens, and the model's context holds {context}")
    # BEGIN SOLUTION
    device = next(model.parameters()).device if isinstance(model, torch.nn.Module) else None
    asked = {  # (question, choice) -> what the model reads
        (q, c): tuple((prompt_ids + choice_ids)[-context - 1 : -1])
        for q, question in enumerate(pairs)
        for c, (prompt_ids, choice_ids) in enumerate(question)
    }
    rows: list[tuple[int, ...]] = []
    row_of: dict[tuple[int, ...], int] = {}
    for row in sorted(set(asked.values()), reverse=True):  # a beginning comes right after what it begins
        if not rows or rows[-1][: len(row)] != row:
            rows.append(row)
        row_of[row] = len(rows) - 1
    waiting: dict[int, list[tuple[int, int]]] = {}
    for place, row in asked.items():
        waiting.setdefault(row_of[row], []).append(place)
    found = [torch.zeros(len(question), device=device) for question in pairs]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # rows of like length share a batch: little padding
    with inference(model):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            longest = len(rows[batch[-1]])
            padded = torch.tensor([[*rows[i], *[0] * (longest - len(rows[i]))] for i in batch], device=device)
            for i, logits in zip(batch, next_token_logits(model, padded), strict=True):
                for q, c in waiting[i]:
                    choice_ids, end = torch.tensor(pairs[q][c][1], device=device), len(asked[q, c])
                    log_probs = logits[end - len(choice_ids) : end].float().log_softmax(dim=-1)
                    found[q][c] = log_probs.gather(1, choice_ids[:, None]).sum()
    return found
    # END SOLUTION


def normalized_scores(
    loglikelihoods: Float[Tensor, "choices"], choices: Sequence[str], n_tokens: Sequence[int]
) -> dict[str, Float[Tensor, "choices"]]:
    """The scores by which a choice is picked: "acc" ln p, "acc_norm" ln p / characters, "acc_bytes" ln p / UTF-8 bytes,
    "acc_tokens" ln p / tokens. Text lengths are without the space before the choice, which n_tokens covers.

    Example: ln p = (-6, -9), choices ("no", "never") -> acc_norm = (-3, -1.8): the longer one wins.
    acc_norm and acc_bytes as lm-evaluation-harness counts them (Gao 2021); per token: Brown et al. 2020, §2.4.
    Raises ValueError for lists of different lengths and for an empty choice.
    """
    if not len(loglikelihoods) == len(choices) == len(n_tokens):
        lengths = f"{len(loglikelihoods)}, {len(choices)} and {len(n_tokens)}"
        raise ValueError(f"each choice needs its log-likelihood and its tokens, got {lengths} of them")
    if not all(choices) or not all(n > 0 for n in n_tokens):
        raise ValueError(f"an empty choice has no length to divide by: {list(choices)}")
    # BEGIN SOLUTION
    lengths = {
        "acc": [1] * len(choices),
        "acc_norm": [len(choice) for choice in choices],
        "acc_bytes": [len(choice.encode("utf-8")) for choice in choices],
        "acc_tokens": list(n_tokens),
    }
    return {name: loglikelihoods / loglikelihoods.new_tensor(sizes) for name, sizes in lengths.items()}
    # END SOLUTION


def truthfulqa_mc2(loglikelihoods: Float[Tensor, "choices"], labels: Sequence[int]) -> float:
    """The share of the choices' probability that lies on the true ones (label 1): Σ_true p / Σ p, p = e^loglikelihood.

    Lin et al. 2022 (MC2). Also for log-likelihoods of -2,000, where every p is 0 in floating point.
    Example: p = (0.02, 0.01, 0.01), labels (1, 0, 0) -> 0.5. Raises ValueError for labels other than 0 and 1, another
    number of labels than choices, and where none or all of the choices are true.
    """
    # BEGIN SOLUTION
    if len(labels) != len(loglikelihoods) or set(labels) != {0, 1}:
        raise ValueError(f"expected a 0 or 1 for each of {len(loglikelihoods)} choices, and both, got {list(labels)}")
    shares = loglikelihoods.double().softmax(dim=-1)
    return shares[torch.tensor(labels, device=shares.device) == 1].sum().item()
    # END SOLUTION


def extract_number(text: str, strict: bool = False) -> float | None:
    """The number that a worked answer gives: the first right after "####"; else, unless `strict`, the last of the text.

    None: nothing can be read, which is counted apart. Commas group thousands, a $ may stand before the digits, units
    and a full stop after them, a minus before them unless it subtracts ("9-4" ends with 4). Only spaces and $ may stand
    between "####" and the number. The format of GSM8K: Cobbe et al. 2021.
    Examples: "#### 1,234" -> 1234.0; "so 5 nuts cost $2.50." -> 2.5; "#### many, 3 or 4" -> 4.0, strict: None.
    """
    # BEGIN SOLUTION
    number = r"(?<!\d)[-−]?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)[-−]?\$?\.\d+"
    marked = re.search(rf"####[\s$]*({number})", text)
    found = [marked[1]] if marked else [] if strict else re.findall(number, text)
    if not found:
        return None
    return float(re.sub(r"[$,]", "", found[-1]).replace("−", "-"))
    # END SOLUTION
