"""What a right answer of lesson 03 shows, and the known mistakes."""

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from shared.checking import observes, raised

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS += ["the", "a", "fox", "dog", "owl", "kite", "sat", "ran", "saw", "red", "old", "on", "by", "mat", "and"]
SENTENCES = (
    "the old fox sat on the mat",
    "a dog ran",
    "owl",
    "the red kite and the old owl saw a fox and a dog",
    "fox ran by dog",
    "the fox saw the zebra",
)


def _toy_tokenizer(longest=16):
    """Words are tokens; [CLS] before and [SEP] after; unknown words are [UNK]."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", pair=None, special_tokens=special)
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=longest, **named)


class _ToyBert(nn.Module):
    """Two layers that mix each token with its position and with the mean of what the attention mask lets it see."""

    def __init__(self, rng, dim=6):
        super().__init__()
        draw = lambda *shape: nn.Parameter(torch.randn(*shape, generator=rng))  # noqa: E731
        self.words, self.places = draw(len(WORDS), dim), draw(40, dim)
        self.layers = nn.ParameterList([draw(2 * dim, dim) for _ in range(2)])
        self.dropout = nn.Dropout(0.5)
        self.rows, self.cells, self.real, self.largest, self.gradients = 0, 0, 0, 0, False

    device = property(lambda self: self.words.device)
    dtype = property(lambda self: self.words.dtype)

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False, **others):
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self.rows += len(input_ids)
        self.cells += input_ids.numel()
        self.real += int((input_ids != 0).sum())
        self.largest = max(self.largest, len(input_ids))
        self.gradients |= torch.is_grad_enabled()
        share = (seen / seen.sum(dim=1, keepdim=True))[:, :, None]
        states = [self.words[input_ids] + 0.5 * self.places[: input_ids.shape[1]]]
        for weight in self.layers:
            context = (states[-1] * share).sum(dim=1, keepdim=True).expand_as(states[-1])
            mixed = torch.tanh(torch.cat([states[-1], context], dim=-1) @ weight)
            states.append(self.dropout(states[-1] + 2 * mixed))
        return BaseModelOutput(states[-1], hidden_states=tuple(states) if output_hidden_states else None)


def _toy(rng):
    return _ToyBert(rng).eval(), _toy_tokenizer()


@observes(
    "embed_tokens",
    difficulty=4,
    minutes=25,
    hints=(
        "Begin without speed: for each text `tokenizer(text, truncation=True)`, one call of the model with a batch of one, and its "
        "`hidden_states[layer][0]`. Then make batches of it.",
        "`list(dict.fromkeys(texts))` are the distinct texts in order. Sort their numbers by the length of their token ids and go "
        "through them in steps of batch_size; `pad_sequence(..., batch_first=True, padding_value=tokenizer.pad_token_id)` makes "
        "a batch, and the mask is `torch.arange(longest) < lengths[:, None]`.",
        "The model gets the padded ids, the mask as whole numbers, and output_hidden_states=True; "
        "`inference(model)` switches dropout and gradients off, and dropout on again. Cut each row to its own "
        "length, keep it under its text in a dict, and look the texts up in their first order.",
    ),
    mistakes={
        "The model is not told what is padding: each token also attends to it, and its embedding depends on the batch.": (
            "attention_mask=mask.long().to(device), ",
            "",
        ),
        "The rows come back as they were sorted, not in the order of the texts.": (
            "[embedded[text] for text in texts]",
            "[embedded[distinct[i]] for i in order for _ in range(texts.count(distinct[i]))]",
        ),
        "Padding is part of the result: each text ends where its own [SEP] is.": (
            "(row, states[: len(row)])",
            "(F.pad(row, (0, len(states) - len(row))), states)",
        ),
        "The last layer is taken, whatever `layer` says.": ("hidden_states[layer]", "hidden_states[-1]"),
        "The layer is one off: hidden_states[0] is the input of the first block, before any layer.": (
            "hidden_states[layer]",
            "hidden_states[layer + 1 if 0 <= layer < len(output.hidden_states) - 1 else layer]",
        ),
        "Long texts are not cut: a real model has no position for what lies beyond its length.": (
            "tokenizer(distinct, truncation=True)",
            "tokenizer(distinct)",
        ),
        "The special tokens are left out, in the input or in the result: the model was trained with [CLS] and [SEP] around "
        "each text.": ("truncation=True)", "truncation=True, add_special_tokens=False)"),
        "A text that comes twice goes through the model twice.": (
            "    return [embedded[text] for text in texts]",
            "    with inference(model):\n        for _ in range(len(texts) - len(distinct)):\n"
            "            model(torch.tensor([[tokenizer.cls_token_id]]))\n    return [embedded[text] for text in texts]",
        ),
        "Texts are batched as they come, not by length: much of what is computed is padding.": (
            "order = sorted(range(len(distinct)), key=lambda i: len(token_ids[i]), reverse=True)",
            "order = list(range(len(distinct)))",
        ),
        "All texts go through the model in one batch: batch_size is there to bound the memory.": (
            "    device = next",
            "    batch_size = len(order) or 1\n    device = next",
        ),
        "The vectors stay in the model's own type: in half precision the cosines would be rough, so they are made "
        "float32 here.": ("[layer].float()", "[layer]"),
        "The model is not switched to evaluation: dropout disturbs the embeddings.": (
            "with inference(model):",
            "with torch.no_grad():",
        ),
    },
)
def check_embed_tokens(embed_tokens, rng):
    model, tokenizer = _toy(rng)
    yield "one text", embed_tokens(["a dog ran"], model, tokenizer)
    yield "three texts in one batch", embed_tokens(list(SENTENCES[:3]), model, tokenizer)
    for layer in (0, 1, 2, -2):
        yield f"layer {layer}", embed_tokens(["owl", "fox ran by dog"], model, tokenizer, layer)
    texts = [SENTENCES[i] for i in (4, 0, 2, 4, 3, 1, 0, 4)]
    yield "eight texts, some of them equal, in batches of 2", embed_tokens(texts, model, tokenizer, batch_size=2)
    yield (
        "an empty text, and no texts",
        [embed_tokens(["", "owl"], model, tokenizer), embed_tokens([], model, tokenizer)],
    )
    yield "a text of 30 words where 16 tokens fit", embed_tokens(["fox dog owl " * 10, "owl"], model, tokenizer)
    model.rows = model.largest = 0
    embed_tokens(texts, model, tokenizer, batch_size=2)
    yield "rows that went through the model, for 5 distinct texts of 8", model.rows
    yield "no batch is larger than 2", model.largest <= 2
    model.cells = model.real = 0
    embed_tokens(
        ["dog", "owl " * 12, "fox", "fox " * 13, "kite", "dog " * 12, "mat", "mat " * 12],
        model,
        tokenizer,
        batch_size=4,
    )
    yield (
        "four short and four long texts, batches of 4: at most a tenth is padding",
        model.cells - model.real <= 0.1 * model.cells,
    )
    model.train()
    yield "a model with dropout", embed_tokens(["the old owl", "a red kite"], model, tokenizer)
    yield (
        "whether the model is in training mode afterwards, and whether gradients were recorded",
        [model.training, model.gradients],
    )
    ((_, vectors),) = embed_tokens(["owl"], model.double(), tokenizer)
    yield "what a model in float64 gives is float32", str(vectors.dtype)


def _match_inputs(rng, batch=3, m=5, n=4, dim=6):
    candidates, references = torch.randn(batch, m, dim, generator=rng), torch.randn(batch, n, dim, generator=rng)
    weights = [0.2 + torch.rand(batch, length, generator=rng) for length in (m, n)]
    masks = [torch.arange(length) < torch.tensor([[length], [length - 2], [length - 1]]) for length in (m, n)]
    return candidates, references, *weights, *masks


def _whole(candidates, references):
    """All weights 1, all tokens real."""
    ones = [torch.ones(side.shape[:2]) for side in (candidates, references)]
    return candidates, references, *ones, *(side.bool() for side in ones)


def _each_once(candidates, references, candidate_weights, reference_weights, candidate_mask, reference_mask):
    """Tokens that are taken are gone: one to one, the best pair first."""
    weights_p, weights_r = candidate_weights * candidate_mask, reference_weights * reference_mask
    out = []
    for b, cosines in enumerate(F.normalize(candidates, dim=-1) @ F.normalize(references, dim=-1).transpose(1, 2)):
        pairs = sorted(
            ((cosines[i, j].item(), i, j) for i in range(cosines.shape[0]) for j in range(cosines.shape[1])),
            reverse=True,
        )
        free_p, free_r = set(range(cosines.shape[0])), set(range(cosines.shape[1]))
        precision = recall = 0.0
        for cosine, i, j in pairs:
            if i in free_p and j in free_r and candidate_mask[b, i] and reference_mask[b, j]:
                free_p.discard(i)
                free_r.discard(j)
                precision, recall = (
                    precision + cosine * weights_p[b, i].item(),
                    recall + cosine * weights_r[b, j].item(),
                )
        total_p, total_r = weights_p[b].sum().item(), weights_r[b].sum().item()
        precision, recall = (precision / total_p, recall / total_r) if total_p > 0 and total_r > 0 else (0.0, 0.0)
        out.append([precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0])
    return torch.tensor(out).unbind(dim=1)


@observes(
    "greedy_match",
    difficulty=3,
    minutes=25,
    hints=(
        "Draw the matrix of cosines of one pair: a row for each token of the candidate, a column for each of the reference. Precision "
        "goes along the rows, recall along the columns.",
        "Divide the vectors by their lengths first (`F.normalize`); then one batched `@` gives all cosines, (batch, m, n). Before a "
        "maximum over the reference, fill its padding with -inf; before one over the candidate, the candidate's.",
        "P = Σ weight · best / Σ weight, with weights times mask. Where the weights of either text sum to less than 1e-6 all three scores are 0: "
        "`torch.where`, which also replaces the nan of 0 / 0.",
    ),
    mistakes={
        "Precision and recall are swapped: precision asks of the *candidate's* tokens whether the reference has them.": (
            "return precision, recall, f1",
            "return recall, precision, f1",
        ),
        "The vectors are not normalized: a dot product grows with their lengths, a cosine does not.": (
            "F.normalize(candidates, dim=-1) @ F.normalize(references, dim=-1).transpose(1, 2)",
            "candidates @ references.transpose(1, 2)",
        ),
        "A token may match padding: a vector of zeros has cosine 0, which beats every negative one.": [
            ("cosines.masked_fill(~reference_mask[:, None, :], -torch.inf)", "(cosines * reference_mask[:, None, :])"),
            ("cosines.masked_fill(~candidate_mask[:, :, None], -torch.inf)", "(cosines * candidate_mask[:, :, None])"),
        ],
        "The masks are not used for the matching: what stands in the padding is matched as if it were text.": [
            ("cosines.masked_fill(~reference_mask[:, None, :], -torch.inf)", "cosines"),
            ("cosines.masked_fill(~candidate_mask[:, :, None], -torch.inf)", "cosines"),
        ],
        "Padding counts in the mean: its weight must be 0 whatever stands there.": (
            "weights_p, weights_r = candidate_weights * candidate_mask, reference_weights * reference_mask",
            "weights_p, weights_r = candidate_weights, reference_weights",
        ),
        "The weights are not used: each token counts the same.": (
            "weights_p, weights_r = candidate_weights * candidate_mask, reference_weights * reference_mask",
            "weights_p, weights_r = candidate_mask * 1.0, reference_mask * 1.0",
        ),
        "The weighted sum is divided by the number of tokens, not by the sum of the weights.": [
            (
                "best_of_candidate).sum(dim=1) / weights_p.sum(dim=1)",
                "best_of_candidate).sum(dim=1) / candidate_mask.sum(dim=1)",
            ),
            (
                "best_of_reference).sum(dim=1) / weights_r.sum(dim=1)",
                "best_of_reference).sum(dim=1) / reference_mask.sum(dim=1)",
            ),
        ],
        "A token of weight 0 cannot be matched either: it should only be left out of the mean.": [
            ("~reference_mask[:, None, :]", "~(reference_mask & (reference_weights > 0))[:, None, :]"),
            ("~candidate_mask[:, :, None]", "~(candidate_mask & (candidate_weights > 0))[:, :, None]"),
        ],
        "Each token is matched at most once: greedy matching lets two tokens choose the same partner.": _each_once,
        "The mean of all cosines is taken, not each token's best.": [
            (
                "cosines.masked_fill(~reference_mask[:, None, :], -torch.inf).amax(dim=2)",
                "((cosines * reference_mask[:, None, :]).sum(2) / reference_mask.sum(1, True))",
            ),
            (
                "cosines.masked_fill(~candidate_mask[:, :, None], -torch.inf).amax(dim=1)",
                "((cosines * candidate_mask[:, :, None]).sum(1) / candidate_mask.sum(1, True))",
            ),
        ],
        "A pair with an empty text gives nan, from 0 / 0: then the mean over a whole test set is nan.": [
            ("torch.where(counted, score, 0.0)", "score"),
            (
                "torch.where(precision + recall == 0, 0.0, 2 * precision * recall / (precision + recall))",
                "2 * precision * recall / (precision + recall)",
            ),
        ],
        "Where one text is empty the other still gets a score, from its cosines with [CLS] and [SEP].": (
            "precision, recall = (torch.where(counted, score, 0.0) for score in (precision, recall))",
            "precision, recall = precision.nan_to_num(0, 0, 0), recall.nan_to_num(0, 0, 0)",
        ),
        "A text counts as empty only where its weights sum to exactly 0: rounding leaves a few 1e-8, and the pair gets a score "
        "out of nothing.": (
            "(weights_p.sum(dim=1) > 1e-6) & (weights_r.sum(dim=1) > 1e-6)",
            "(weights_p.sum(dim=1) > 0) & (weights_r.sum(dim=1) > 0)",
        ),
        "F1 is the mean of P and R: the harmonic mean is below it where they differ.": (
            "2 * precision * recall / (precision + recall)",
            "(precision + recall) / 2",
        ),
    },
)
def check_greedy_match(greedy_match, rng):
    one = torch.tensor([[[1.0, 0.0]]])
    two = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    yield "the example of the docstring", greedy_match(*_whole(one, two))
    yield "vectors of other lengths", greedy_match(*_whole(4 * one, torch.tensor([[[3.0, 4.0], [-0.5, 0.1]]])))
    twins = torch.tensor([[[1.0, 0.0], [1.0, 0.1]]])
    yield "two tokens with the same best partner", greedy_match(*_whole(twins, two))
    yield "nothing alike: cosines below 0", greedy_match(*_whole(-one, torch.tensor([[[1.0, 0.2], [0.9, -0.4]]])))
    yield "P + R is 0", greedy_match(*_whole(one, torch.tensor([[[0.0, 3.0]]])))
    yield "P and R are equal", greedy_match(*_whole(one, torch.tensor([[[3.0, 4.0]]])))
    both = torch.cat([one, -one], dim=1)
    real = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    yield "P is -1, R is 1", greedy_match(both, one, torch.tensor([[0.0, 1.0]]), torch.ones(1, 1), *real)
    inputs = _match_inputs(rng)
    yield "three pairs, weights, padding of random vectors", greedy_match(*inputs)
    candidates, references, *_, candidate_mask, reference_mask = inputs
    weights = [torch.ones(mask.shape) for mask in (candidate_mask, reference_mask)]
    yield (
        "the same, weights of 1 also in the padding",
        greedy_match(candidates, references, *weights, candidate_mask, reference_mask),
    )
    zeroed = candidates * candidate_mask[:, :, None], references * reference_mask[:, :, None]
    near = zeroed[0].abs(), -zeroed[1].abs()
    yield "padding of zeros, cosines below 0", greedy_match(*near, *inputs[2:])
    weights = [torch.ones(mask.shape) for mask in (candidate_mask, reference_mask)]
    weights[0][:, 0] = weights[1][:, 0] = 0
    alike = [side.clone() for side in (candidates, references)]
    alike[0][:, 1], alike[1][:, 1] = alike[1][:, 0], 2 * alike[0][:, 0]
    yield "the best partner has weight 0", greedy_match(*alike, *weights, candidate_mask, reference_mask)
    weights = [weight.clone() for weight in inputs[2:4]]
    weights[0][0], weights[1][1] = 0, 0
    yield "a candidate, then a reference, of nothing but weight 0", greedy_match(*inputs[:2], *weights, *inputs[4:])
    weights[0][0], weights[1][1] = 3e-8, -6e-8
    yield "the same after rounding", greedy_match(*inputs[:2], *weights, *inputs[4:])
    weights[0][0], weights[1][1] = 1.5e-6 / 5, 1.5e-6 / 2  # of five and of two tokens
    yield "weights that sum to 1.5e-6, which is enough", greedy_match(*inputs[:2], *weights, *inputs[4:])


@observes(
    "idf_weights",
    difficulty=2,
    minutes=10,
    hints=(
        "df is a number of *sentences*: how many have the token at least once.",
        "`set(token_ids)` holds each token of a sentence once; add 1 to the counts at these places.",
        "Start from zeros for the whole vocabulary: most tokens are in no sentence at all. At the end the formula "
        "is applied to all counts at once, and those tokens get ln(M + 1).",
    ),
    mistakes={
        "Each occurrence is counted: a token counts once in a sentence, however often it comes there.": (
            "        counts[list(set(token_ids))] += 1",
            "        for token_id in token_ids:\n            counts[token_id] += 1",
        ),
        "Nothing is added to the counts: a token of no sentence gets an infinite weight.": (
            "torch.tensor(len(sentences) + 1.0) / (counts + 1)",
            "len(sentences) / counts",
        ),
        "Only the count gets a plus one: a token of every sentence then has a negative weight.": (
            "torch.tensor(len(sentences) + 1.0) / (counts + 1)",
            "len(sentences) / (counts + 1)",
        ),
        "The fraction is upside down: frequent tokens weigh most, and rare ones less than nothing.": (
            "torch.tensor(len(sentences) + 1.0) / (counts + 1)",
            "(counts + 1) / (len(sentences) + 1)",
        ),
        "The logarithm is to base 2; the formula and the package take the natural one.": ("torch.log(", "torch.log2("),
        "The logarithm is missing: a few rare words then outweigh all the others.": (
            "torch.log(torch.tensor(len(sentences) + 1.0) / (counts + 1))",
            "(len(sentences) + 1) / (counts + 1)",
        ),
        "A token that no sentence has weighs 0: it should weigh most, for it is the rarest.": (
            "+ 1.0) / (counts + 1))",
            "+ 1.0) / (counts + 1)) * (counts > 0)",
        ),
        "M is the number of tokens, not of sentences.": (
            "len(sentences) + 1.0",
            "sum(len(token_ids) for token_ids in sentences) + 1.0",
        ),
    },
)
def check_idf_weights(idf_weights, rng):
    yield "the example of the docstring", idf_weights([[0, 1, 1], [0, 2]], 4)
    yield "one sentence", idf_weights([[1, 2]], 3)
    yield "the same sentence three times, and an empty one", idf_weights([[0, 1], [0, 1], [0, 1], []], 3)
    sentences = [torch.randint(0, 9, (n,), generator=rng).tolist() for n in (1, 4, 9, 12, 3)]
    yield "five random sentences", idf_weights(sentences, 12)
    yield "no sentences are refused", raised(idf_weights, [], 4)


@observes(
    "bert_score",
    difficulty=4,
    minutes=35,
    hints=(
        "First for one pair: `embed_tokens`, weights for its token ids, `greedy_match` with a batch of one. What is the weight of each "
        "token id, with and without idf? It fits into one tensor over the vocabulary.",
        "Embed candidates and references in one call, so that a text that comes in both is embedded once. `weights[token_ids]` are "
        "the weights of a text. `pad_sequence(..., batch_first=True)` pads vectors, weights, and masks of ones.",
        "With lists of references, repeat the candidate for each; score all the pairs in batches; then `scores.split(sizes)` and the "
        "maximum of each of the three columns.",
    ),
    mistakes={
        "Candidates and references are swapped, so precision is recall and recall is precision.": (
            "sides = embedded[:n_pairs], embedded[n_pairs:]",
            "sides = embedded[n_pairs:], embedded[:n_pairs]",
        ),
        "[CLS] and [SEP] count like words: each text has them, so every score rises.": (
            "        weights[[tokenizer.cls_token_id, tokenizer.sep_token_id]] = 0\n",
            "",
        ),
        "All special tokens get weight 0, also [UNK]: a word that the vocabulary lacks is still a word.": (
            "weights[[tokenizer.cls_token_id, tokenizer.sep_token_id]] = 0",
            "weights[tokenizer.all_special_ids] = 0",
        ),
        "`idf` is not used: every word weighs 1.": ("    if idf:", "    if False:"),
        "idf is counted over the candidates: then a system's own habits set the weights, and each system has others.": (
            "[token_ids.tolist() for token_ids, _ in sides[1]]",
            "[token_ids.tolist() for token_ids, _ in sides[0]]",
        ),
        "idf is counted over candidates and references together.": (
            "[token_ids.tolist() for token_ids, _ in sides[1]]",
            "[token_ids.tolist() for token_ids, _ in embedded]",
        ),
        "`layer` is not handed on: it is always the last layer that is compared.": (
            "embed_tokens(texts, model, tokenizer, layer, batch_size)",
            "embed_tokens(texts, model, tokenizer, -1, batch_size)",
        ),
        "`batch_size` is not handed on: the model is then given more texts at a time than were allowed.": (
            "embed_tokens(texts, model, tokenizer, layer, batch_size)",
            "embed_tokens(texts, model, tokenizer, layer)",
        ),
        "The scores come back in the order of the batches, not of the pairs.": (
            "scores[rows] = torch.stack",
            "scores[start : start + len(rows)] = torch.stack",
        ),
        "Of several references only the first is used: the others are right answers too.": (
            "part.amax(dim=0)",
            "part[0]",
        ),
        "The scores of several references are averaged: a candidate needs to be like one of them, not like all.": (
            "part.amax(dim=0)",
            "part.mean(dim=0)",
        ),
        "Of several references the one with the best F1 gives all three scores, not each its own best.": (
            "part.amax(dim=0)",
            "part[part[:, 2].argmax()]",
        ),
        "One number for all pairs comes out, not one for each.": (
            "return precision, recall, f1",
            "return precision.mean(), recall.mean(), f1.mean()",
        ),
    },
)
def check_bert_score(bert_score, rng):
    model, tokenizer = _toy(rng)
    score = lambda *args, **options: bert_score(*args, model, tokenizer, **options)  # noqa: E731
    yield "one pair", score(["a dog ran"], ["the old fox ran"])
    yield "the same text", score(["the red kite"], ["the red kite"])
    yield "a longer candidate", score([SENTENCES[3]], ["a fox"])
    candidates = [SENTENCES[i] for i in (3, 1, 0, 4, 2)]
    references = [SENTENCES[i] for i in (0, 4, 3, 1, 4)]
    yield "five pairs, batches of 2", score(candidates, references, batch_size=2)
    yield "layer 0", score(candidates, references, layer=0)
    yield "layer 1", score(candidates, references, layer=1)
    yield "words that the vocabulary lacks", score(["the fox saw the zebra"], ["a quokka saw the fox"])
    yield "with idf", score(candidates, references, idf=True)
    model.largest = 0
    yield "with idf, batches of 2", score(candidates, references, idf=True, batch_size=2)
    yield "the model was given 2 texts at a time", model.largest <= 2
    several = [["a fox"], [SENTENCES[0], SENTENCES[1], SENTENCES[4]], ["the mat", "dog"]]
    yield "one, three and two references", score([SENTENCES[0], SENTENCES[4], SENTENCES[3]], several)
    yield "the same with idf", score([SENTENCES[0], SENTENCES[4], SENTENCES[3]], several, idf=True)
    wide = ["fox", SENTENCES[3], "the red owl", "a dog sat on the old mat by the fox"]
    several = [wide[i % 2 :] for i in range(len(SENTENCES))]
    yield "three or four references, short and long, for six candidates", score(list(SENTENCES), several)
    yield "an empty candidate, an empty reference, both", score(["", "owl", ""], ["the fox", "", ""])
    bad = ((["a"], ["a", "b"]), ([], []), (["a"], [[]]), ("a", ["a"]), (["a"], "a"), (["a"], [None]), ([3], ["a"]))
    yield "unequal lengths, no pairs, and no references are refused", [raised(score, *pairs) for pairs in bad[:3]]
    yield (
        "strings in place of lists, and items that are no strings, are refused",
        [raised(score, *pairs) for pairs in bad[3:]],
    )


@observes(
    "rescale_with_baseline",
    difficulty=1,
    minutes=4,
    hints=(
        "A straight line: which two of its points does the docstring give?",
        "Subtract what becomes 0, then divide by what 1 has become.",
        "A perfect match now has 1 - baseline, and it is to have 1.",
    ),
    mistakes={
        "Only the baseline is subtracted: a perfect match then gets 1 - baseline, not 1.": (" / (1 - baseline)", ""),
        "The difference is divided by the baseline: a perfect match then gets 1 only where the baseline is 0.5.": (
            "/ (1 - baseline)",
            "/ baseline",
        ),
        "The difference is divided by 1 + baseline: a perfect match then does not get 1.": (
            "/ (1 - baseline)",
            "/ (1 + baseline)",
        ),
        "Negative scores are cut to 0: a pair worse than unrelated ones should be seen as such.": (
            "(scores - baseline) / (1 - baseline)",
            "((scores - baseline) / (1 - baseline)).clamp(min=0)",
        ),
    },
)
def check_rescale_with_baseline(rescale_with_baseline, rng):
    yield "the example of the docstring", rescale_with_baseline(torch.tensor([0.85, 0.6]), 0.7)
    yield "a perfect match, and the baseline itself", rescale_with_baseline(torch.tensor([1.0, 0.2]), 0.2)
    yield "a negative baseline", rescale_with_baseline(torch.tensor([0.0, -1.0]), -0.5)
    yield "four rows of P, R, F1", rescale_with_baseline(torch.rand(4, 3, generator=rng), 0.41)
    yield (
        "a baseline of 1 and one of -1.5 are refused",
        [raised(rescale_with_baseline, torch.ones(2), b) for b in (1.0, -1.5)],
    )


@observes(
    "embedding_similarity",
    difficulty=3,
    minutes=20,
    hints=(
        "Compute the example of the docstring by hand. The mean of (1, 0) and (0, -2) is (0.5, -1); what are its extrema?",
        "extrema: `amax` and `amin` over the words; the maximum stays where it is greater than minus the minimum. greedy: the "
        "matrix of cosines, its row maxima and its column maxima.",
        "`F.cosine_similarity` with dim=0 compares two single vectors. For the matrix divide all vectors by their "
        "lengths (`F.normalize`), and multiply. Average the row maxima and the column maxima each for itself, then "
        "the two means.",
    ),
    mistakes={
        "extrema takes the maximum: a value far below 0 is as telling as one far above.": (
            "torch.where(high > -low, high, low)",
            "high",
        ),
        "extrema takes the absolute value: the sign is lost.": (
            "torch.where(high > -low, high, low)",
            "torch.where(high > -low, high, -low)",
        ),
        "extrema takes the weaker end of each dimension: the minimum where the maximum is farther from 0, and the "
        "other way round.": (
            "torch.where(high > -low, high, low)",
            "torch.where(high > -low, low, high)",
        ),
        "greedy goes in one direction: what the candidate leaves out costs nothing.": (
            "(cosines.amax(dim=1).mean().item() + cosines.amax(dim=0).mean().item()) / 2",
            "cosines.amax(dim=1).mean().item()",
        ),
        "greedy averages all the best cosines in one pot: the longer text then counts more.": (
            "(cosines.amax(dim=1).mean().item() + cosines.amax(dim=0).mean().item()) / 2",
            "torch.cat([cosines.amax(dim=1), cosines.amax(dim=0)]).mean().item()",
        ),
        "greedy averages all cosines, not the best of each word.": (
            "(cosines.amax(dim=1).mean().item() + cosines.amax(dim=0).mean().item()) / 2",
            "cosines.mean().item()",
        ),
        "greedy takes dot products, not cosines: a long vector then beats a similar one.": (
            "F.normalize(candidate, dim=-1) @ F.normalize(reference, dim=-1).T",
            "candidate @ reference.T",
        ),
        "average takes a dot product, not a cosine: it grows with the lengths of the vectors.": (
            "F.cosine_similarity(candidate.mean(dim=0), reference.mean(dim=0), dim=0).item()",
            "(candidate.mean(dim=0) @ reference.mean(dim=0)).item()",
        ),
        "The vectors of the words are normalized before they are averaged: the definition averages them as they are.": (
            "F.cosine_similarity(candidate.mean(dim=0), reference.mean(dim=0), dim=0)",
            "F.cosine_similarity(F.normalize(candidate, dim=-1).mean(dim=0), F.normalize(reference, dim=-1).mean(dim=0), dim=0)",
        ),
        "A text without words is not provided for: there is neither a mean nor a largest value of no vectors.": (
            '    if len(candidate) == 0 or len(reference) == 0:\n        return {"average": 0.0, "extrema": 0.0, "greedy": 0.0}\n',
            "",
        ),
    },
)
def check_embedding_similarity(embedding_similarity, rng):
    yield (
        "the example of the docstring",
        embedding_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, -2.0]])),
    )
    yield "one word each", embedding_similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, -3.0]]))
    candidate, reference = torch.randn(3, 8, generator=rng), torch.randn(7, 8, generator=rng)
    yield "three words against seven", embedding_similarity(candidate, reference)
    yield "seven against three", embedding_similarity(reference, candidate)
    yield (
        "vectors of very different lengths",
        embedding_similarity(candidate * torch.tensor([[9.0], [0.1], [2.0]]), 5 * reference),
    )
    yield "a text with itself in another order", embedding_similarity(candidate, 2 * candidate[[2, 0, 1]])
    ties = torch.tensor([[2.0, -1.0, 0.5], [-2.0, 1.0, 0.0]])
    yield "equally far above and below 0", embedding_similarity(ties, torch.tensor([[1.0, 2.0, 3.0]]))
    empty = torch.zeros(0, 8)
    yield (
        "texts without words",
        [embedding_similarity(*pair) for pair in ((empty, reference), (candidate, empty), (empty, empty))],
    )
