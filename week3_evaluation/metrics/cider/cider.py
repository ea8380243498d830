"""Lesson 02's `cider` for `evaluate.load("week3_evaluation/metrics/cider")`."""

from statistics import fmean

import evaluate

from week3_evaluation.metrics.info import metric_info
from week3_evaluation.solutions.ngram_metrics import cider


class Cider(evaluate.Metric):
    """CIDEr of the corpus, 0 to 1, in the key "cider", and of each prediction in "scores"."""

    def _info(self):
        return metric_info(cider, "Vedantam et al. 2015")

    def _compute(self, predictions, references, max_order=4):
        scores = cider(predictions, references, max_order)
        return {"cider": fmean(scores), "scores": scores}
