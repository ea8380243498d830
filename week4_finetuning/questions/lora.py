"""The questions at the end of lesson 03."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "A linear layer from 1,024 to 4,096 numbers gets LoRA factors of rank 8. How many parameters learn?",
        40_960,
        "r · (d_in + d_out) = 8 · (1,024 + 4,096): just under 1 % of the 4,194,304 in W₀.",
        near={
            4_194_304: "That is W₀, which is frozen.",
            8_192: "That is A alone.",
            32_768: "That is B alone.",
            33_554_432: "That is r · d_in · d_out; the factors are thin, so the sizes add up and do not multiply.",
        },
        unit="parameters",
    ),
    Choice(
        "An adapter was trained with rank 8 and alpha 16. Before it is loaded, somebody writes alpha 32 into its "
        "config. What comes of it?",
        Option(
            "The same model: alpha matters in training only, like a learning rate.",
            "It is a part of the forward pass, α/r · B A x, and of what is merged.",
        ),
        Option(
            "Another model, with all outputs of the adapted layers doubled.",
            "W₀ x stays what it was; only the second term has the factor α/r.",
        ),
        Option(
            "Another model, with the learnt update counted twice.",
            "α/r goes from 2 to 4, and the factors were trained for 2. No error tells you.",
            right=True,
        ),
    ),
    Choice(
        "All LoRA factors are in the optimizer and the learning rate is not 0, yet the loss stays exactly that of the "
        "base model. What fits?",
        Option(
            "Both factors of every layer start at zero.",
            "The gradient of each has the other as a factor, so both are zero, and stay so.",
            right=True,
        ),
        Option(
            "B starts at zero, and A at random.",
            "That is how it should be: the first step moves B, and from the second on A moves too.",
        ),
        Option(
            "W₀ and the biases are frozen.",
            "They should be. Gradients pass through a frozen weight to everything below and beside it.",
        ),
    ),
    Choice(
        "A model's weights take 14 GB in 16 bits, your GPU has 12 GB. Can you tune it there with LoRA of rank 1?",
        Option(
            "Yes: with rank 1 hardly any memory is needed.",
            "Hardly any for gradients and Adam's averages. The frozen weights are needed all the same.",
        ),
        Option(
            "No: the frozen weights alone do not fit.",
            "LoRA saves gradients, Adam's averages and the disk, not the weights. To store these in fewer bits is "
            "QLoRA's part.",
            right=True,
        ),
        Option(
            "Yes, if the adapter is merged before training.",
            "Merging puts the update into W₀: nothing is left that could learn, and W₀ is as large as ever.",
        ),
    ),
    Choice(
        "In this lesson the update of full tuning, cut to rank 1, was far worse than LoRA trained with rank 1. What "
        "does that show?",
        Option(
            "LoRA finds the first directions of the full update, only sooner.",
            "Then the cut update would have been about as good as LoRA's.",
        ),
        Option(
            "Full tuning had not learnt the task yet.",
            "Uncut, its update did as well as any: it was the cut that cost.",
        ),
        Option(
            "LoRA finds another solution, one that has a low rank.",
            "The full update is spread over many directions. A limit on the rank from the start leads elsewhere.",
            right=True,
        ),
    ),
)
