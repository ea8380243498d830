"""From logits to text: filters, draws, the generation loop, beam search, contrastive decoding."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def greedy(logits: Float[Tensor, "batch vocab"]) -> Int[Tensor, "batch"]:
    """The likeliest token of each row: argmax of the logits. Example: [[1.0, 3.0, 2.0]] -> [1]."""
    # BEGIN SOLUTION
    return logits.argmax(dim=-1)
    # END SOLUTION


def check_settings(logits: Float[Tensor, "batch vocab"], temperature: float, top_k: int, top_p: float) -> None:
    """Raise ValueError where there is nothing that could be drawn."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 (greedy) or a positive number, got {temperature}")
    if top_k < 0:
        raise ValueError(f"top_k must be 0 (off) or a positive number of tokens, got {top_k}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1 (off), got {top_p}")
    if (logits.isnan() | (logits == math.inf)).any():
        raise ValueError("logits must be finite, or -inf for a forbidden token; these hold nan or +inf")
    if (logits == -math.inf).all(dim=-1).any():
        raise ValueError("a row of logits forbids every token (all -inf): at least one must be allowed")


def next_token_probs(
    logits: Float[Tensor, "batch vocab"], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Float[Tensor, "batch vocab"]:
    """softmax(logits / temperature), cut to the top_k likeliest, then to the smallest prefix with mass >= top_p.

    Each cut is renormalized, so top_p is a share of what top_k left; the likeliest token always stays. Temperature 0:
    all mass on the argmax. In float32, also for half-precision logits. Example: probabilities (0.5, 0.3, 0.2) with
    top_p=0.6 -> (0.625, 0.375, 0). Fan et al. 2018 (top-k); Holtzman et al. 2020, eq. 2-3 (top-p).
    Raises ValueError for settings out of range, nan or +inf, and a row of nothing but -inf.
    """
    check_settings(logits, temperature, top_k, top_p)
    # BEGIN SOLUTION
    logits = logits.float()
    vocab_size = logits.shape[-1]
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), vocab_size).float()
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature  # the maximum goes to 0, so nothing overflows
    if 0 < top_k < vocab_size:
        kth = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    probs = torch.softmax(logits, dim=-1)
    if top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered  # mass of the likelier tokens: exactly 0 for the first
        keep = torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order, before < top_p)
        probs = probs.masked_fill(~keep, 0)
        probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs
    # END SOLUTION


def sample_next_token(
    logits: Float[Tensor, "batch vocab"],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch"]:
    """One token for each row, drawn from `next_token_probs`, each row on its own.

    All chance comes from `generator` (None: torch's global one). The generator may live on another device.
    """
    # BEGIN SOLUTION
    probs = next_token_probs(logits, temperature, top_k, top_p)
    if generator is not None:
        probs = probs.to(generator.device)
    return torch.multinomial(probs, 1, generator=generator).squeeze(1).to(logits.device)
    # END SOLUTION


def repetition_penalty(
    logits: Float[Tensor, "batch vocab"],
    token_ids: Int[Tensor, "batch seq"],
    penalty: float,
    key_mask: Bool[Tensor, "batch seq"] | None = None,
) -> Float[Tensor, "batch vocab"]:
    """Logits with those of tokens in the row made smaller, once each: z / penalty where z > 0, else z * penalty.

    Keskar et al. 2019 (CTRL), §4.1, which uses 1.2; dividing negative ones, as its formula does, would reward them.
    `key_mask` is True for real tokens; padding does not count as seen. Raises ValueError for a penalty <= 0.
    """
    if not penalty > 0:
        raise ValueError(f"penalty must be positive (1 = off, above 1 = fewer repetitions), got {penalty}")
    # BEGIN SOLUTION
    real = torch.ones_like(token_ids, dtype=torch.bool) if key_mask is None else key_mask
    rows, columns = real.nonzero(as_tuple=True)
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen[rows, token_ids[rows, columns]] = True
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized, logits)
    # END SOLUTION


@contextmanager
def inference(model: Callable) -> Iterator[None]:
    """No gradients, and no dropout; afterwards each module is in the mode that it had before."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def check_prompt(
    model: Callable,
    token_ids: Int[Tensor, "batch seq"],
    max_new_tokens: int,
    key_mask: Bool[Tensor, "batch seq"] | None = None,
) -> int:
    """The model's `config.context_length` (a billion if it names none).

    Raises ValueError for a prompt that cannot be continued, and for max_new_tokens < 0.
    """
    context_length = getattr(getattr(model, "config", None), "context_length", 10**9)
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be 0 or more, got {max_new_tokens}")
    if token_ids.shape[1] == 0 or (key_mask is not None and not key_mask.any(dim=1).all()):
        raise ValueError("a prompt is empty: give each row at least one token, such as the end-of-text token")
    if token_ids.shape[1] > context_length:
        raise ValueError(f"the prompt has {token_ids.shape[1]} tokens, and the model's context holds {context_length}")
    if key_mask is not None and (key_mask[:, :-1] & ~key_mask[:, 1:]).any():
        raise ValueError("padding must stand on the left, so that each row's next token comes right after its prompt")
    return context_length


def generate(
    model: Callable,
    token_ids: Int[Tensor, "batch seq"],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    penalty: float = 1.0,
    eos_id: int | None = None,
    key_mask: Bool[Tensor, "batch seq"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch longer"]:
    """The prompts, each with up to `max_new_tokens` more tokens, drawn one by one.

    `model(token_ids)`, or `model(token_ids, key_mask)` for prompts padded on the left, gives (batch, seq, vocab) logits
    of the last context_length tokens. A row that has written `eos_id` is filled with it; when all have, the loop
    ends early. Dropout is off meanwhile, and a model in training mode is handed back in training mode. No gradients.
    Raises ValueError for an empty prompt, one longer than the context, and padding that is not on the left.
    """
    context_length = check_prompt(model, token_ids, max_new_tokens, key_mask)
    # BEGIN SOLUTION
    ended = torch.zeros(token_ids.shape[0], dtype=torch.bool, device=token_ids.device)
    with inference(model):
        for _ in range(max_new_tokens):
            window = token_ids[:, -context_length:]
            logits = model(window) if key_mask is None else model(window, key_mask[:, -context_length:])
            scores = repetition_penalty(logits[:, -1], token_ids, penalty, key_mask)
            next_ids = sample_next_token(scores, temperature, top_k, top_p, generator)
            if eos_id is not None:
                next_ids = next_ids.masked_fill(ended, eos_id)
                ended = ended | (next_ids == eos_id)
            token_ids = torch.cat([token_ids, next_ids[:, None]], dim=1)
            if key_mask is not None:
                key_mask = F.pad(key_mask, (0, 1), value=True)
            if ended.all():
                break
    return token_ids
    # END SOLUTION


def beam_search(
    model: Callable,
    token_ids: Int[Tensor, "seq"],
    n_beams: int,
    max_new_tokens: int,
    eos_id: int | None = None,
    length_penalty: float = 1.0,
) -> tuple[Int[Tensor, "longer"], float]:
    """The best text found with `n_beams` open at a time (prompt included), and its score Σ ln p / n_new^length_penalty.

    Each step ranks the 2 n_beams best candidates of all beams by Σ ln p. Of the first n_beams, those that end (with
    `eos_id`, which counts as a token, or at max_new_tokens) are finished; the n_beams best others stay open. It stops
    when n_beams are finished and no open one, ended here, would beat the worst: transformers' early_stopping=False.
    Raises ValueError for an empty prompt, one longer than the context, n_beams < 1 or max_new_tokens < 1.
    """
    context_length = check_prompt(model, token_ids[None], max_new_tokens)
    if n_beams < 1 or max_new_tokens < 1:
        raise ValueError(f"n_beams and max_new_tokens must be 1 or more, got {n_beams} and {max_new_tokens}")
    # BEGIN SOLUTION
    beams, totals = token_ids[None], torch.zeros(1, device=token_ids.device)
    finished: list[tuple[float, Tensor]] = []
    with inference(model):
        for length in range(1, max_new_tokens + 1):
            log_probs = torch.log_softmax(model(beams[:, -context_length:])[:, -1].float(), dim=-1)
            candidates = (totals[:, None] + log_probs).flatten()
            totals, index = candidates.topk(min(2 * n_beams, len(candidates)))
            parents, next_ids = index // log_probs.shape[-1], index % log_probs.shape[-1]
            beams = torch.cat([beams[parents], next_ids[:, None]], dim=1)
            ends = torch.full_like(next_ids, length == max_new_tokens, dtype=torch.bool)
            if eos_id is not None:
                ends |= next_ids == eos_id
            scores = (totals / length**length_penalty).tolist()
            best = ends[:n_beams].nonzero().flatten().tolist()
            finished += [(scores[i], beams[i]) for i in best]
            finished = sorted(finished, key=lambda entry: entry[0], reverse=True)[:n_beams]
            beams, totals = beams[~ends][:n_beams], totals[~ends][:n_beams]
            if len(beams) == 0:
                break
            if len(finished) == n_beams and totals[0].item() / length**length_penalty <= finished[-1][0]:
                break
    score, sequence = finished[0]
    return sequence, score
    # END SOLUTION


def contrastive_decode(
    expert_logits: Float[Tensor, "*batch vocab"],
    amateur_logits: Float[Tensor, "*batch vocab"],
    alpha: float = 0.1,
    amateur_temperature: float = 1.0,
) -> Float[Tensor, "*batch vocab"]:
    """ln p_expert - ln p_amateur of each token that the expert finds plausible, -inf for the others.

    Plausible: p_expert(token) >= alpha · max p_expert. Li et al. 2022, §3. The amateur's logits are divided by its
    temperature first. Example: expert (0.6, 0.38, 0.02), amateur (0.7, 0.2, 0.1) -> (ln 0.857, ln 1.9, -inf).
    Raises ValueError for alpha outside (0, 1], a temperature <= 0, and different shapes.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}")
    if not amateur_temperature > 0:
        raise ValueError(f"amateur_temperature must be positive, got {amateur_temperature}")
    if expert_logits.shape != amateur_logits.shape:
        shapes = f"{tuple(expert_logits.shape)} and {tuple(amateur_logits.shape)}"
        raise ValueError(f"expert and amateur must score the same tokens, got logits of shapes {shapes}")
    # BEGIN SOLUTION
    expert = torch.log_softmax(expert_logits.float(), dim=-1)
    amateur = torch.log_softmax(amateur_logits.float() / amateur_temperature, dim=-1)
    plausible = expert >= expert.amax(dim=-1, keepdim=True) + math.log(alpha)
    return (expert - amateur).masked_fill(~plausible, -math.inf)
    # END SOLUTION
