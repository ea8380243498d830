"""What all four metric folders have in common: their inputs."""

from collections.abc import Callable

import datasets
import evaluate

TEXT = datasets.Value("string")
ONE_OR_SEVERAL = [
    datasets.Features({"predictions": TEXT, "references": datasets.Sequence(TEXT)}),
    datasets.Features({"predictions": TEXT, "references": TEXT}),
]


def metric_info(function: Callable, citation: str) -> evaluate.MetricInfo:
    """The description of a metric that takes one reference, or a list of them, for each prediction."""
    return evaluate.MetricInfo(
        description=function.__doc__,
        citation=citation,
        inputs_description="predictions: strings; references: a string, or a list of strings, for each",
        features=ONE_OR_SEVERAL,
    )
