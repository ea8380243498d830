"""Right answers of week 2's lesson 05, written in other ways: the checks must accept them."""

import math

import torch
import torch.nn.functional as F


def greedy__topk(logits):
    return logits.topk(1, dim=-1).indices[:, 0]


def greedy__python(logits):
    return torch.tensor([max(range(len(row)), key=row.__getitem__) for row in logits.tolist()])


def _refuse_settings(logits, temperature, top_k, top_p):
    if not (temperature >= 0 and math.isfinite(temperature) and top_k >= 0 and 0 < top_p <= 1):
        raise ValueError("settings out of range")
    if torch.isnan(logits).any() or torch.isposinf(logits).any() or torch.isneginf(logits).all(dim=-1).any():
        raise ValueError("nothing to draw from")


def next_token_probs__python(logits, temperature=1.0, top_k=0, top_p=1.0):
    _refuse_settings(logits, temperature, top_k, top_p)
    out = []
    for row in logits.double().tolist():
        order = sorted(range(len(row)), key=lambda i: -row[i])
        top = row[order[0]]
        if temperature == 0:
            weights = {order[0]: 1.0}
        else:
            kept = order[: top_k or len(row)]
            weights = {i: math.exp((row[i] - top) / temperature) for i in kept}
        total, mass, nucleus = sum(weights.values()), 0.0, {}
        for i, weight in weights.items():
            if mass >= top_p:
                break
            nucleus[i] = weight
            mass += weight / total
        total = sum(nucleus.values())
        out.append([nucleus.get(i, 0.0) / total for i in range(len(row))])
    return torch.tensor(out, dtype=torch.float32)


def next_token_probs__ascending(logits, temperature=1.0, top_k=0, top_p=1.0):
    _refuse_settings(logits, temperature, top_k, top_p)
    z = logits.float()
    if temperature == 0:
        return torch.zeros_like(z).scatter(-1, z.argmax(dim=-1, keepdim=True), 1.0)
    z = (z - z.max(dim=-1, keepdim=True).values) / temperature
    z, order = z.sort(dim=-1)  # the likeliest last
    if top_k:
        z[:, : max(z.shape[-1] - top_k, 0)] = -math.inf
    if top_p < 1:
        below = torch.softmax(z, dim=-1).cumsum(dim=-1)
        cut = below <= 1 - top_p
        cut[:, -1] = False
        z = z.masked_fill(cut, -math.inf)
    return torch.empty_like(z).scatter_(-1, order, torch.softmax(z, dim=-1))


def sample_next_token__inverse_cdf(logits, temperature=1.0, top_k=0, top_p=1.0, generator=None):
    probs = next_token_probs__ascending(logits, temperature, top_k, top_p)
    u = torch.rand(len(probs), 1, generator=generator)
    tokens = (probs.cumsum(dim=-1) <= u).sum(dim=-1)
    return tokens.minimum((probs > 0).long().mul(torch.arange(probs.shape[-1])).amax(dim=-1))


def sample_next_token__gumbel(logits, temperature=1.0, top_k=0, top_p=1.0, generator=None):
    probs = next_token_probs__ascending(logits, temperature, top_k, top_p)
    noise = torch.empty_like(probs).exponential_(generator=generator)
    return (probs / noise).argmax(dim=-1)


def repetition_penalty__loop(logits, token_ids, penalty, key_mask=None):
    if penalty <= 0:
        raise ValueError("penalty must be positive")
    out = logits.clone()
    for i, row in enumerate(token_ids.tolist()):
        real = range(len(row)) if key_mask is None else key_mask[i].nonzero().flatten().tolist()
        for token in {row[j] for j in real}:
            out[i, token] = logits[i, token] / penalty if logits[i, token] > 0 else logits[i, token] * penalty
    return out


def repetition_penalty__factors(logits, token_ids, penalty, key_mask=None):
    if penalty <= 0:
        raise ValueError("penalty must be positive")
    hot = F.one_hot(token_ids, logits.shape[-1]).bool()
    if key_mask is not None:
        hot = hot & key_mask.unsqueeze(-1)
    strength = hot.any(dim=1).to(logits.dtype)
    return logits * penalty ** (-strength * logits.sign())


def _context_length(model):
    return getattr(getattr(model, "config", None), "context_length", 10**9)


def generate__row_by_row(
    model,
    token_ids,
    max_new_tokens,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    penalty=1.0,
    eos_id=None,
    key_mask=None,
    generator=None,
):
    context = _context_length(model)
    if key_mask is None:
        key_mask = torch.ones_like(token_ids, dtype=torch.bool)
    if not 0 < token_ids.shape[1] <= context or (key_mask.int().diff(dim=1) < 0).any():
        raise ValueError("a prompt that cannot be continued")
    training = getattr(model, "training", False)
    if training:
        model.eval()
    texts = []
    try:
        for row, mask in zip(token_ids, key_mask, strict=True):
            text = row[mask]
            for _ in range(max_new_tokens):
                with torch.no_grad():
                    logits = model(text[None, -context:])[:, -1]
                logits = repetition_penalty__loop(logits, text[None], penalty)
                text = torch.cat([text, sample_next_token__gumbel(logits, temperature, top_k, top_p, generator)])
                if eos_id is not None and text[-1] == eos_id:
                    break
            texts.append(text[mask.sum() :].tolist())
    finally:
        if training:
            model.train()
    longest = max(map(len, texts))
    new = [text + [eos_id] * (longest - len(text)) for text in texts]
    return torch.cat([token_ids, torch.tensor(new, dtype=torch.long).view(len(texts), longest)], dim=1)


@torch.no_grad()
def generate__preallocated(
    model,
    token_ids,
    max_new_tokens,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    penalty=1.0,
    eos_id=None,
    key_mask=None,
    generator=None,
):
    context, (batch, start) = _context_length(model), token_ids.shape
    if start == 0 or start > context:
        raise ValueError("a prompt that cannot be continued")
    real = torch.ones(batch, start + max_new_tokens, dtype=torch.bool)
    if key_mask is not None:
        if (~key_mask[:, -1]).any():
            raise ValueError("padding on the right")
        real[:, :start] = key_mask
    out = torch.full((batch, start + max_new_tokens), -1 if eos_id is None else eos_id)
    out[:, :start] = token_ids
    was_training = isinstance(model, torch.nn.Module) and model.training
    if was_training:
        model.eval()
    alive, end = torch.ones(batch, dtype=torch.bool), start
    while end < out.shape[1] and alive.any():
        first = max(0, end - context)
        arguments = (out[:, first:end],) if key_mask is None else (out[:, first:end], real[:, first:end])
        logits = model(*arguments)[:, -1]
        logits = repetition_penalty__factors(logits, out[:, :end], penalty, real[:, :end])
        tokens = sample_next_token__inverse_cdf(logits, temperature, top_k, top_p, generator)
        out[alive, end] = tokens[alive]
        if eos_id is not None:
            alive &= tokens != eos_id
        end += 1
    if was_training:
        model.train()
    return out[:, :end]


def _search(model, prompt, n_beams, max_new_tokens, eos_id, length_penalty, log_probs_of):
    """Beam search on Python lists of (total, tokens)."""
    if not 0 < len(prompt) <= _context_length(model) or n_beams < 1 or max_new_tokens < 1:
        raise ValueError("a search that cannot be made")
    beams, done = [(0.0, prompt.tolist())], []
    for n in range(1, max_new_tokens + 1):
        candidates = [
            (total + p, [*text, token])
            for (total, text), row in zip(beams, log_probs_of([text for _, text in beams]), strict=True)
            for token, p in enumerate(row)
        ]
        candidates.sort(key=lambda entry: -entry[0])
        beams = []
        for rank, (total, text) in enumerate(candidates[: 2 * n_beams]):
            if text[-1] == eos_id or n == max_new_tokens:
                if rank < n_beams:
                    done.append((total / n**length_penalty, text))
            elif len(beams) < n_beams:
                beams.append((total, text))
        done = sorted(done, key=lambda entry: -entry[0])[:n_beams]
        if not beams or (len(done) == n_beams and beams[0][0] / n**length_penalty <= done[-1][0]):
            break
    return torch.tensor(done[0][1]), done[0][0]


def beam_search__lists(model, token_ids, n_beams, max_new_tokens, eos_id=None, length_penalty=1.0):
    context = _context_length(model)
    training = getattr(model, "training", False)
    if training:
        model.eval()

    def log_probs_of(texts):
        with torch.no_grad():
            return [F.log_softmax(model(torch.tensor([t[-context:]]))[0, -1].double(), dim=0).tolist() for t in texts]

    try:
        return _search(model, token_ids, n_beams, max_new_tokens, eos_id, length_penalty, log_probs_of)
    finally:
        if training:
            model.train()


def beam_search__lists_in_one_batch(model, token_ids, n_beams, max_new_tokens, eos_id=None, length_penalty=1.0):
    context = _context_length(model)
    modes = {m: m.training for m in model.modules()} if isinstance(model, torch.nn.Module) else {}

    @torch.inference_mode()
    def log_probs_of(texts):
        logits = model(torch.tensor(texts)[:, -context:])[:, -1]
        return (logits - logits.logsumexp(dim=-1, keepdim=True)).tolist()

    for module in modes:
        module.eval()
    try:
        text, score = _search(model, token_ids, n_beams, max_new_tokens, eos_id, length_penalty, log_probs_of)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return text, torch.tensor(score)


def _refuse_contrast(expert_logits, amateur_logits, alpha, amateur_temperature):
    if alpha <= 0 or alpha > 1 or amateur_temperature <= 0 or expert_logits.shape != amateur_logits.shape:
        raise ValueError("no contrast to make")


def contrastive_decode__normalizers(expert_logits, amateur_logits, alpha=0.1, amateur_temperature=1.0):
    _refuse_contrast(expert_logits, amateur_logits, alpha, amateur_temperature)
    e, a = expert_logits.float(), amateur_logits.float() / amateur_temperature
    scores = e - a + (a.logsumexp(-1, keepdim=True) - e.logsumexp(-1, keepdim=True))
    ratio = (e - e.max(dim=-1, keepdim=True).values).exp()  # p / max p
    return torch.where(ratio >= alpha, scores, torch.tensor(-math.inf))


def contrastive_decode__cross_entropy(expert_logits, amateur_logits, alpha=0.1, amateur_temperature=1.0):
    _refuse_contrast(expert_logits, amateur_logits, alpha, amateur_temperature)
    vocab = expert_logits.shape[-1]
    rows = []
    for e, a in zip(expert_logits.reshape(-1, vocab).float(), amateur_logits.reshape(-1, vocab).float(), strict=True):
        every = torch.arange(vocab)
        loss_e = F.cross_entropy(e.expand(vocab, -1), every, reduction="none")
        loss_a = F.cross_entropy(a.expand(vocab, -1) / amateur_temperature, every, reduction="none")
        p = F.softmax(e, dim=-1)
        scores = torch.where(p >= alpha * p.max(), loss_a - loss_e, -math.inf)
        rows.append(scores.tolist())
    return torch.tensor(rows).reshape(expert_logits.shape)
