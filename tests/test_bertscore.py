"""The reference of week 3's 03_bertscore against the bert_score package, sklearn's cosines, and its invariants."""

import random
import re

import numpy as np
import pytest
import torch
from bert_score import BERTScorer
from bert_score.utils import get_idf_dict, greedy_cos_idf
from sklearn.metrics.pairwise import cosine_similarity

from shared.data import stories
from shared.models import MINILM, minilm
from week3_evaluation.checks.bertscore import SENTENCES, _toy, _toy_tokenizer
from week3_evaluation.paraphrases import PARAPHRASES
from week3_evaluation.solutions.bertscore import (
    bert_score,
    embed_tokens,
    embedding_similarity,
    greedy_match,
    idf_weights,
    rescale_with_baseline,
)
from week3_evaluation.trial import N_FACTS, WORDINGS, bootstrap, graded_summaries, write

CANDIDATES, REFERENCES = ([getattr(pair, side) for pair in PARAPHRASES] for side in ("candidate", "reference"))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def encoder():
    return minilm()


def package(num_layers=6, **options):
    return BERTScorer(str(MINILM.folder), num_layers=num_layers, nthreads=0, device="cpu", batch_size=16, **options)


@pytest.mark.parametrize("idf", [False, True])
@pytest.mark.parametrize("layer", [2, 6])
def test_bert_score_equals_the_package_with_minilm(encoder, layer, idf):
    hard = [("owl", "dog"), ("🦉 zebra", "a zebra, 12.5 %"), ("word " * 90, "Don't. " * 40), ("a " * 700, "a")]
    candidates = CANDIDATES + [pair[0] for pair in hard[: 4 if layer == 2 else 3]]
    references = REFERENCES + [pair[1] for pair in hard[: 4 if layer == 2 else 3]]
    theirs = package(layer, idf=idf, idf_sents=references if idf else None).score(candidates, references)
    ours = bert_score(candidates, references, *encoder, layer=layer, idf=idf, batch_size=7)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)  # float32 through six layers


def test_unrelated_pairs_equal_the_package_one_at_a_time_and_do_not_depend_on_the_batch(encoder):
    """In a batch the package's padding has cosine 0, which lifts a token whose real cosines are all negative."""
    words = [story.text.split() for story in stories(80, seed=0)]
    candidates = [" ".join(text[: 4 + 7 * i % 40]) for i, text in enumerate(words[:40])]
    references = [" ".join(text[: 30 - 5 * i % 26]) for i, text in enumerate(words[40:])]
    alone = package().score(candidates, references, batch_size=1)
    for batch_size in (1, 40):
        ours = bert_score(candidates, references, *encoder, batch_size=batch_size)
        for mine, other in zip(ours, alone, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)
    batched = package().score(candidates, references, batch_size=40)
    assert max((a - b).abs().max() for a, b in zip(alone, batched, strict=True)) > 1e-4


def test_several_references_equal_the_package(encoder):
    references = [REFERENCES[i : i + 1 + i % 3] for i in range(12)]
    flat = [text for group in references for text in group]
    theirs = package(idf=True, idf_sents=flat).score(CANDIDATES[:12], references)
    ours = bert_score(CANDIDATES[:12], references, *encoder, idf=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)


def test_rescaling_equals_the_package_with_the_same_baseline_file(encoder, tmp_path):
    baselines = [0.21, 0.23, 0.22]
    lines = ["LAYER,P,R,F", *(f"{layer},{','.join(map(str, baselines))}" for layer in range(7))]
    (tmp_path / "baseline.csv").write_text("\n".join(lines))
    scorer = package(lang="en", rescale_with_baseline=True, baseline_path=str(tmp_path / "baseline.csv"))
    theirs = scorer.score(CANDIDATES, REFERENCES)
    for mine, other, baseline in zip(bert_score(CANDIDATES, REFERENCES, *encoder), theirs, baselines, strict=True):
        torch.testing.assert_close(rescale_with_baseline(mine, baseline), other, rtol=0, atol=2e-4)


def random_pair(dice: random.Random, dim: int):
    """Padded random vectors, positive so that no best cosine is below the 0 which the package gives to padding."""
    generator = seeded(dice.randrange(2**30))
    sides = []
    for _ in range(2):
        lengths = torch.tensor([dice.randint(3, 9) for _ in range(4)])
        vectors = torch.rand(4, int(lengths.max()), dim, generator=generator)
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        weights = torch.rand(mask.shape, generator=generator) * mask
        weights[:, 0] = 0
        sides.append((vectors, weights, mask))
    return sides


def test_greedy_match_equals_the_package_on_1000_random_pairs():
    dice = random.Random(0)
    for _ in range(250):  # four pairs each
        (c, wc, mc), (r, wr, mr) = random_pair(dice, dice.randint(2, 12))
        ours = greedy_match(c, r, wc, wr, mc, mr)
        theirs = greedy_cos_idf(*(x.clone() for x in (r, mr, wr, c, mc, wc)))
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_a_pair_scores_the_same_alone_and_in_any_batch():
    model, tokenizer = _toy(seeded(1))
    together = bert_score(SENTENCES, SENTENCES[::-1], model, tokenizer)
    for i, pair in enumerate(zip(SENTENCES, SENTENCES[::-1], strict=True)):
        alone = bert_score([pair[0]], [pair[1]], model, tokenizer)
        torch.testing.assert_close(torch.cat(alone), torch.stack([score[i] for score in together]))


def test_precision_one_way_is_recall_the_other_way():
    model, tokenizer = _toy(seeded(2))
    p, r, f1 = bert_score(SENTENCES, SENTENCES[::-1], model, tokenizer)
    back = bert_score(SENTENCES[::-1], SENTENCES, model, tokenizer)
    torch.testing.assert_close((p, r, f1), (back[1], back[0], back[2]))


def test_a_text_with_itself_scores_one(encoder):
    for score in bert_score(CANDIDATES, CANDIDATES, *encoder):
        torch.testing.assert_close(score, torch.ones(len(CANDIDATES)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("idf", [False, True])
def test_empty_texts_score_zero_not_nan(encoder, idf):
    scores = bert_score(["", "owl", " ", "owl"], ["the fox", "", "", "an owl"], *encoder, idf=idf)
    for score in scores:
        assert score[:3].tolist() == [0, 0, 0] and score[3] > 0


@pytest.mark.parametrize(
    ("candidates", "references", "error", "words"),
    [
        (["a", "b"], ["a"], ValueError, "2 candidates"),
        ([], [], ValueError, "nothing to score"),
        (["a"], [[]], ValueError, "no reference"),
        (["a"], [None], TypeError, "must be strings"),
        (["a"], [["a", 3]], TypeError, "must be strings"),
        ([b"a"], ["a"], TypeError, "must be strings"),
        ("a", ["a"], TypeError, "put it into a list"),
        (["a"], "a", TypeError, "put it into a list"),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(candidates, references, error, words):
    with pytest.raises(error, match=words):
        bert_score(candidates, references, None, None)


def test_idf_weights_equal_the_package_on_stories():
    tokenizer = _toy_tokenizer(longest=200)
    texts = [re.sub(r"[^a-z ]", "", story.text.lower()) for story in stories(40)] + list(SENTENCES)
    theirs = get_idf_dict(texts, tokenizer, nthreads=0)
    ours = idf_weights([tokenizer(text)["input_ids"] for text in texts], len(tokenizer))
    assert ours.tolist() == pytest.approx([theirs[i] for i in range(len(tokenizer))], abs=1e-6)
    assert ours[tokenizer.cls_token_id] == ours[tokenizer.sep_token_id] == 0


def test_embeddings_equal_the_models_own_hidden_states(encoder):
    model, tokenizer = encoder
    texts = [*CANDIDATES[:5], "", CANDIDATES[0], "word " * 600]
    for layer in (0, 3, -1):
        for text, (token_ids, vectors) in zip(texts, embed_tokens(texts, model, tokenizer, layer, 3), strict=True):
            inputs = tokenizer(text, truncation=True, return_tensors="pt")
            with torch.no_grad():
                states = model(**inputs, output_hidden_states=True).hidden_states[layer][0]
            assert torch.equal(token_ids, inputs.input_ids[0]) and len(token_ids) <= 512
            torch.testing.assert_close(vectors, states, rtol=1e-4, atol=1e-4)


def test_the_model_comes_back_as_it_was():
    model, tokenizer = _toy(seeded(3))
    model.train()
    bert_score(SENTENCES[:2], SENTENCES[2:4], model, tokenizer)
    assert model.training and model.dropout.training and not model.gradients
    embed_tokens(SENTENCES, model.eval(), tokenizer)
    assert not model.training


def extreme(words: np.ndarray) -> np.ndarray:
    return np.array([max(column, key=abs) for column in words.T])


def test_embedding_similarity_equals_sklearn_on_1000_random_pairs():
    generator = np.random.default_rng(0)
    for _ in range(1000):
        a, b = (generator.normal(0.3, 1, (generator.integers(1, 8), 6)) for _ in range(2))
        cosines = cosine_similarity(a, b)
        expected = {
            "average": cosine_similarity(a.mean(0)[None], b.mean(0)[None]).item(),
            "extrema": cosine_similarity(extreme(a)[None], extreme(b)[None]).item(),
            "greedy": (cosines.max(0).mean() + cosines.max(1).mean()) / 2,
        }
        ours = embedding_similarity(torch.tensor(a), torch.tensor(b))
        assert ours == pytest.approx(expected, abs=1e-6)


def test_graded_summaries_have_as_many_right_facts_as_they_say():
    for graded in graded_summaries(60):
        assert graded.reference == write(graded.facts, "as the reference") == graded.facts.summary
        same = graded.text == write(graded.facts, graded.wording)
        assert same == (graded.n_right == N_FACTS)
        assert graded.wording in WORDINGS and 0 <= graded.n_right <= N_FACTS
    assert graded_summaries(20) == graded_summaries(60)[:20]
    with pytest.raises(ValueError, match="601"):
        graded_summaries(601)


def test_the_bootstrap_interval_holds_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(1)
    intervals = [bootstrap(np.mean, generator.normal(2, 1, 60), n_rounds=300) for _ in range(200)]
    assert 0.89 <= np.mean([low <= 2 <= high for _, low, high in intervals]) <= 0.99
