"""Lesson 02's `rouge_n` and `rouge_l` for `evaluate.load("week3_evaluation/metrics/rouge")`."""

from statistics import fmean

import evaluate

from week3_evaluation.metrics.info import metric_info
from week3_evaluation.solutions.ngram_metrics import check_pairs, rouge_l, rouge_n


class Rouge(evaluate.Metric):
    """Mean F1 over the predictions, 0 to 1, in the keys "rouge1", "rouge2" and "rougeL"."""

    def _info(self):
        return metric_info(rouge_n, "Lin 2004")

    def _compute(self, predictions, references, use_stemmer=False):
        pairs = list(zip(predictions, check_pairs(predictions, references), strict=True))
        scores = {f"rouge{n}": [rouge_n(*pair, n, use_stemmer) for pair in pairs] for n in (1, 2)}
        scores["rougeL"] = [rouge_l(*pair, use_stemmer) for pair in pairs]
        return {name: fmean(f1 for _, _, f1 in triples) for name, triples in scores.items()}
