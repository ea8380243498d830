"""Similarity of meaning: contextual embeddings, greedy matching, idf weights, a baseline; older sentence vectors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from week2_pretraining.solutions.sampling import inference
from week3_evaluation.solutions.ngram_metrics import check_pairs


def embed_tokens(
    texts: Sequence[str],
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    layer: int = -1,
    batch_size: int = 64,
) -> list[tuple[Int[Tensor, "seq"], Float[Tensor, "seq dim"]]]:
    """For each text its token ids, special tokens included, and the model's hidden state at each of them.

    `layer` counts as transformers' hidden_states do: 0 is the input of the first block, -1 the output of the last.
    Texts longer than the model can read are cut. Equal texts go through the model once, and texts of like length share
    a batch of at most `batch_size`, so that little of it is padding. Dropout is off meanwhile; no gradients; what comes
    back is on the CPU, in float32.
    """
    # BEGIN SOLUTION
    distinct = list(dict.fromkeys(texts))
    token_ids = tokenizer(distinct, truncation=True)["input_ids"] if distinct else []
    order = sorted(range(len(distinct)), key=lambda i: len(token_ids[i]), reverse=True)
    device = next(model.parameters()).device
    embedded = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids = [torch.tensor(token_ids[i]) for i in rows]
        padded = pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id).to(device)
        mask = torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in ids])[:, None]
        with inference(model):
            output = model(padded, attention_mask=mask.long().to(device), output_hidden_states=True)
        hidden = output.hidden_states[layer].float().cpu()  # (batch, seq, dim)
        embedded |= {distinct[i]: (row, states[: len(row)]) for i, row, states in zip(rows, ids, hidden, strict=True)}
    return [embedded[text] for text in texts]
    # END SOLUTION


def greedy_match(
    candidates: Float[Tensor, "batch m dim"],
    references: Float[Tensor, "batch n dim"],
    candidate_weights: Float[Tensor, "batch m"],
    reference_weights: Float[Tensor, "batch n"],
    candidate_mask: Bool[Tensor, "batch m"],
    reference_mask: Bool[Tensor, "batch n"],
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Precision, recall and F1 of each pair. Zhang et al. 2020 (BERTScore), §3.

    Each token takes its best cosine among the real tokens (mask True) of the other text. Precision is the mean of these
    over the candidate's tokens by weight, recall over the reference's, F1 = 2PR / (P + R), 0 where P + R is 0.
    A token of weight 0 may be matched but is not counted. A pair with a text whose weights sum to less than 1e-6, which
    idf weights of 0 may do by rounding, gets 0, 0, 0.
    Example: candidate (1, 0), reference (1, 0), (0, 1), all weights 1 -> P = 1, R = 0.5, F1 = 0.667.
    """
    # BEGIN SOLUTION
    cosines = F.normalize(candidates, dim=-1) @ F.normalize(references, dim=-1).transpose(1, 2)  # (batch, m, n)
    best_of_candidate = cosines.masked_fill(~reference_mask[:, None, :], -torch.inf).amax(dim=2)
    best_of_reference = cosines.masked_fill(~candidate_mask[:, :, None], -torch.inf).amax(dim=1)
    weights_p, weights_r = candidate_weights * candidate_mask, reference_weights * reference_mask
    counted = (weights_p.sum(dim=1) > 1e-6) & (weights_r.sum(dim=1) > 1e-6)
    precision = (weights_p * best_of_candidate).sum(dim=1) / weights_p.sum(dim=1)
    recall = (weights_r * best_of_reference).sum(dim=1) / weights_r.sum(dim=1)
    precision, recall = (torch.where(counted, score, 0.0) for score in (precision, recall))
    f1 = torch.where(precision + recall == 0, 0.0, 2 * precision * recall / (precision + recall))
    return precision, recall, f1
    # END SOLUTION


def idf_weights(sentences: Sequence[Sequence[int]], vocab_size: int) -> Float[Tensor, "vocab"]:
    """The weight of each token of the vocabulary: ln((M + 1) / (df + 1)), df of the M sentences have it.

    `sentences` are token ids; a token counts once a sentence, however often it comes. Zhang et al. 2020, §3,
    "Importance Weighting", with plus-one smoothing. Example: [[0, 1, 1], [0, 2]] -> 0 for token 0, ln(3/2) for 1 and
    2, ln 3 for all others. Raises ValueError for no sentences.
    """
    if not sentences:
        raise ValueError("idf weights are counted over reference sentences, and there are none")
    # BEGIN SOLUTION
    counts = torch.zeros(vocab_size)
    for token_ids in sentences:
        counts[list(set(token_ids))] += 1
    return torch.log(torch.tensor(len(sentences) + 1.0) / (counts + 1))
    # END SOLUTION


def bert_score(
    candidates: Sequence[str],
    references: Sequence[str | Sequence[str]],
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    layer: int = -1,
    idf: bool = False,
    batch_size: int = 64,
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """BERTScore's precision, recall and F1 of each candidate. Zhang et al. 2020.

    Without `idf` each token weighs 1, but [CLS] and [SEP] 0; with it, all have `idf_weights` over the references. A
    candidate may have a list of references: the best P, the best R and the best F1 count. An empty text scores 0.
    Raises ValueError for unequal lengths, no pairs or an empty list of references, TypeError for what is not a string.
    """
    grouped = check_pairs(candidates, references)
    # BEGIN SOLUTION
    repeated = [candidate for candidate, group in zip(candidates, grouped, strict=True) for _ in group]
    n_pairs = len(repeated)
    texts = repeated + [text for group in grouped for text in group]
    embedded = embed_tokens(texts, model, tokenizer, layer, batch_size)
    sides = embedded[:n_pairs], embedded[n_pairs:]
    if idf:
        weights = idf_weights([token_ids.tolist() for token_ids, _ in sides[1]], len(tokenizer))
    else:
        weights = torch.ones(len(tokenizer))
        weights[[tokenizer.cls_token_id, tokenizer.sep_token_id]] = 0
    order = sorted(range(n_pairs), key=lambda i: len(sides[0][i][0]) + len(sides[1][i][0]))
    scores = torch.empty(n_pairs, 3)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        vectors, weighed, masks = [], [], []
        for side in sides:
            vectors.append(pad_sequence([side[i][1] for i in rows], batch_first=True))
            weighed.append(pad_sequence([weights[side[i][0]] for i in rows], batch_first=True))
            masks.append(pad_sequence([torch.ones(len(side[i][0]), dtype=torch.bool) for i in rows], batch_first=True))
        scores[rows] = torch.stack(greedy_match(*vectors, *weighed, *masks), dim=1)
    best = [part.amax(dim=0) for part in scores.split([len(group) for group in grouped])]
    precision, recall, f1 = torch.stack(best).unbind(dim=1)
    return precision, recall, f1
    # END SOLUTION


def rescale_with_baseline(scores: Float[Tensor, "*batch"], baseline: float) -> Float[Tensor, "*batch"]:
    """Scores on a scale where `baseline`, the mean score of unrelated texts, is 0 and a perfect match is 1.

    A pair that is worse than unrelated ones gets a negative score. Zhang et al. 2020, §3, "Baseline rescaling".
    Example: scores (0.85, 0.6), baseline 0.7 -> (0.5, -0.333). Raises ValueError for a baseline outside [-1, 1).
    """
    if not -1 <= baseline < 1:
        raise ValueError(f"a baseline is a mean cosine below 1, got {baseline}")
    # BEGIN SOLUTION
    return (scores - baseline) / (1 - baseline)
    # END SOLUTION


def embedding_similarity(candidate: Float[Tensor, "m dim"], reference: Float[Tensor, "n dim"]) -> dict[str, float]:
    """Three similarities of two texts, given a vector for each word: "average", "extrema" and "greedy".

    average: the cosine of the two mean vectors. extrema: the cosine of the two vectors that have, in each dimension,
    the value farthest from 0 (the negative one of equals; Forgues et al. 2014). greedy: each word's best cosine in the
    other text, averaged over each text, then over both (Rus and Lintean 2012). As in Liu et al. 2016, §3.2, and in
    nlg-eval. Example: (1, 0) and (1, 0), (0, -2) -> 0.447, 0.447, 0.75. A text without words gives 0, 0, 0.
    """
    # BEGIN SOLUTION
    if len(candidate) == 0 or len(reference) == 0:
        return {"average": 0.0, "extrema": 0.0, "greedy": 0.0}

    def extreme(words: Float[Tensor, "words dim"]) -> Float[Tensor, "dim"]:
        high, low = words.amax(dim=0), words.amin(dim=0)
        return torch.where(high > -low, high, low)

    cosines = F.normalize(candidate, dim=-1) @ F.normalize(reference, dim=-1).T  # (m, n)
    return {
        "average": F.cosine_similarity(candidate.mean(dim=0), reference.mean(dim=0), dim=0).item(),
        "extrema": F.cosine_similarity(extreme(candidate), extreme(reference), dim=0).item(),
        "greedy": (cosines.amax(dim=1).mean().item() + cosines.amax(dim=0).mean().item()) / 2,
    }
    # END SOLUTION
