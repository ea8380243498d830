"""What a learner should know after lesson 04, parallelism."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "Mixed precision with Adam, 2 + 2 + 12 bytes a parameter, on 7 devices with ZeRO stage 2. How many bytes a "
        "parameter does each device hold?",
        4,
        "Stage 2 splits the optimizer and the gradients: 2 + (2 + 12)/7 = 2 + 2 = 4.",
        near={
            16: "That is stage 0, in which nothing is split.",
            5.71: "That is stage 1, 4 + 12/7. Stage 2 splits the gradients too.",
            2.29: "That is stage 3, 16/7. In stage 2 each device still holds all parameters.",
        },
        unit="bytes",
        tolerance=0.01,
    ),
    Choice(
        "Both layers of a feed-forward net are cut by columns: each rank has some columns of A and some columns of "
        "B. What has to be exchanged between the two layers?",
        Option(
            "Nothing: a layer cut by columns needs no exchange forward.",
            "That is true of A, for every rank has the whole x. But each column of B needs *all* hidden features, "
            "and a rank has only some.",
        ),
        Option(
            "An all-reduce, which adds the hidden features of all ranks.",
            "The ranks hold different features, no summands of the same ones. To add them would mix them up.",
        ),
        Option(
            "An all-gather, which gives every rank all hidden features.",
            "And y still comes out in pieces. If B is cut by *rows*, each rank needs just the features that it has, "
            "and one all-reduce at the end is enough.",
            right=True,
        ),
        Option(
            "A broadcast, in which rank 0 sends its hidden features.",
            "Then all ranks would have the features of rank 0, and those of the others would be lost.",
        ),
    ),
    Choice(
        "You double the number of rows that each rank reads in a step. In which way of training does the traffic of "
        "a step double?",
        Option(
            "Tensor parallelism.",
            "It sends activations, batch × seq × d_model, in the middle of each layer. The other two send parameters "
            "and gradients, and those do not grow with the batch.",
            right=True,
        ),
        Option(
            "Data parallelism.",
            "It sends the gradients, which are as large as the parameters, from however many rows they come.",
        ),
        Option(
            "ZeRO-3.",
            "It gathers the parameters twice and scatters the gradients once, in every step, whatever the batch is. "
            "With large batches this hides behind the computation.",
        ),
    ),
    Choice(
        "A new model gives the same outputs on 1, 2 and 4 ranks, to seven digits. Trained on 4 and loaded on 1 it is "
        "wrong: every rank had added the bias before the sum. Which comparison would have shown it before any "
        "training?",
        Option(
            "The same one in float64.",
            "More digits do not help: four times a bias of zero is exactly zero.",
        ),
        Option(
            "The first training loss on 4 ranks against that on 1 rank.",
            "It is taken before any bias has left zero, so it is the same. The losses of later steps do differ, and "
            "a test that runs some steps and asks for equality would find it, too.",
        ),
        Option(
            "The same one with random biases and random norms.",
            "A new model's biases are 0 and its norms 1. Zeros and ones hide bugs: whatever is multiplied, left out "
            "or counted twice must have a value that shows it.",
            right=True,
        ),
        Option(
            "The number and the order of the collectives on all ranks.",
            "They were right. What was wrong is what had been added before the sum.",
        ),
    ),
)
