"""What a learner should know after lesson 03, the pretraining run."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "A model has 100 million weights in matrices, each used once per token; leave the attention part out. It "
        "trains at 50,000 tokens/s on a device with a peak of 100 TFLOP/s (10¹⁴). What is its MFU?",
        30,
        "6 FLOPs per weight and token: 6 · 10⁸ · 50,000 = 3 · 10¹³ FLOP/s, which is 30 % of 10¹⁴.",
        near={
            10: "That is the forward pass alone, 2 FLOPs per weight. The backward pass costs twice as much again.",
            20: "Backward costs twice the forward pass, not once: it computes two gradients for each product.",
            5: (
                "A multiply and an add are 2 FLOPs, and forward and backward together take three times the forward "
                "pass."
            ),
        },
        unit="%",
        tolerance=0.1,
    ),
    Choice(
        "A run is killed and resumed from its checkpoint. The loss jumps at once, comes back within a few steps, and "
        "stays a little worse for a while. What was missing in the file?",
        Option(
            "The state of the generator.",
            "Then the batches are others, with other noise, and the loss looks like that of any run. No curve shows "
            "this mistake.",
        ),
        Option(
            "The config.",
            "Without it you cannot tell whether the file fits the run. The config itself moves no weight.",
        ),
        Option(
            "The state of the optimizer.",
            "With empty averages, Adam's first update is ± the learning rate for every parameter, however small its "
            "gradient, and the schedule is past its warmup.",
            right=True,
        ),
        Option(
            "The bytes after a cut in the middle of saving.",
            "Such a file cannot be loaded, or should be refused. That is why it is written beside, synced and then "
            "renamed.",
        ),
    ),
    Choice(
        "To see how the loss falls with the number of tokens, you train once with a cosine over 10,000 steps and "
        "read the loss at steps 1,000, 3,000 and 10,000. What is wrong with the early two?",
        Option(
            "They look worse than runs of that length would.",
            "At step 1,000 the learning rate is still high. A run whose schedule ends there does better. Such "
            "readings had a part in Kaplan's advice to let the model grow faster than the data.",
            right=True,
        ),
        Option(
            "They look better than runs of that length would.",
            "It is the other way round: a run that ends there would have brought its learning rate down.",
        ),
        Option(
            "Nothing: a loss after so many tokens is what it is.",
            "It is the loss of a run in the middle of its schedule. Planned for 1,000 steps, the same model would "
            "have come lower.",
        ),
        Option(
            "They are too noisy, for fewer tokens have been seen.",
            "How noisy a held-out loss is depends on how much is held out, not on how long the model has trained.",
        ),
    ),
    Number(
        "You want a model with three times the parameters, again with 20 tokens per parameter. How many times the "
        "FLOPs does its training take?",
        9,
        "C = 6ND, and D = 20N grows with N: 3 · 3 = 9. The other way round, N and D both grow with the square root "
        "of C.",
        near={
            3: "That would be so if the number of tokens stayed the same. By the rule it is tripled, too.",
            6: "The 6 of C = 6ND stands in both budgets. What changes is N and D, and they are multiplied.",
            60: "20 tokens per parameter is in both budgets. What changes is N and D, each by 3.",
            27: "Two things are tripled, not three: parameters and tokens.",
        },
        unit="times",
    ),
)
