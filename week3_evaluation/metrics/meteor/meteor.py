"""Lesson 02's `meteor` for `evaluate.load("week3_evaluation/metrics/meteor")`."""

from statistics import fmean

import evaluate

from week3_evaluation.metrics.info import metric_info
from week3_evaluation.solutions.ngram_metrics import check_pairs, meteor


class Meteor(evaluate.Metric):
    """Mean METEOR over the predictions, 0 to 1, in the key "meteor". Without synonyms."""

    def _info(self):
        return metric_info(meteor, "Banerjee and Lavie 2005")

    def _compute(self, predictions, references):
        return {"meteor": fmean(map(meteor, predictions, check_pairs(predictions, references)))}
