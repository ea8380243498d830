"""Lesson 02's `bleu` for `evaluate.load("week3_evaluation/metrics/bleu")`."""

import evaluate

from week3_evaluation.metrics.info import metric_info
from week3_evaluation.solutions.ngram_metrics import bleu


class Bleu(evaluate.Metric):
    """BLEU of the corpus, 0 to 1, in the key "bleu"."""

    def _info(self):
        return metric_info(bleu, "Papineni et al. 2002")

    def _compute(self, predictions, references, max_order=4, smoothing="none"):
        return {"bleu": bleu(predictions, references, max_order, smoothing)}
