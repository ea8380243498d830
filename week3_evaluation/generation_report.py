"""One call, all scores of a list of generated texts: nlg-eval's job (Sharma et al. 2017).

    generation_report(candidates, references)               BLEU-1 … BLEU-4, METEOR, ROUGE-L, CIDEr
    generation_report(candidates, references, embed=words)  and the average, extrema and greedy embedding scores

Against nlg-eval: METEOR without synonyms, ROUGE-L with β = 1 (there 1.2), CIDEr as in the paper (there CIDEr-D).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from torch import Tensor

from week3_evaluation.solutions.bertscore import embedding_similarity
from week3_evaluation.solutions.ngram_metrics import bleu, check_pairs, cider, meteor, rouge_l

EMBEDDING_SCORES = ("average", "extrema", "greedy")


class Report(dict[str, float]):
    """Scores of a corpus by name; shows itself as a table."""

    def __str__(self) -> str:
        return "\n".join(f"{name:8s} {score:.3f}" for name, score in self.items())

    def _repr_html_(self) -> str:
        cells = '<td style="text-align:left">{}</td><td style="text-align:right">{:.3f}</td>'
        return f"<table>{''.join(f'<tr>{cells.format(*item)}</tr>' for item in self.items())}</table>"


def generation_report(
    candidates: Sequence[str],
    references: Sequence[str | Sequence[str]],
    embed: Callable[[list[str]], list[Tensor]] | None = None,
) -> Report:
    """Each metric's score of the whole corpus, 0 to 1 (embedding scores: -1 to 1), in a fixed order.

    BLEU counts over the corpus; the others are means over the candidates, each scored with its best reference (CIDEr:
    the mean over its references). `embed` gives each text's word vectors, (words, dim). Errors as for `bleu`.
    """
    grouped = check_pairs(candidates, references)
    pairs = list(zip(candidates, grouped, strict=True))
    report = Report({f"BLEU-{n}": bleu(candidates, grouped, n) for n in (1, 2, 3, 4)})
    report["METEOR"] = fmean(meteor(candidate, group) for candidate, group in pairs)
    report["ROUGE-L"] = fmean(rouge_l(candidate, group)[2] for candidate, group in pairs)
    report["CIDEr"] = fmean(cider(candidates, grouped))
    if embed is not None:
        texts = list(dict.fromkeys(text for candidate, group in pairs for text in (candidate, *group)))
        vectors = dict(zip(texts, embed(texts), strict=True))
        scores = [[embedding_similarity(vectors[c], vectors[text]) for text in group] for c, group in pairs]
        for name in EMBEDDING_SCORES:
            report[name] = fmean(max(score[name] for score in group) for group in scores)
    return report
