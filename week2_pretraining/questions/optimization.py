"""What a learner should know after lesson 02, optimization."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "Two parameters have the gradients 6 and 8, and you clip to max_norm 5. What becomes of the 6?",
        3,
        "The norm of both together is √(36 + 64) = 10, so both are multiplied by 5/10: 3 and 4. The direction stays.",
        near={
            5: "That is 6 clipped on its own. One factor holds for all gradients, from the norm of all.",
            6: "The norm of both together is 10, which is above 5: both are made smaller.",
            2.14: "The norms were added, 6 + 8 = 14. They add up in squares: 10.",
            3.75: "Both were divided by the largest gradient, 8. The norm counts both: 10.",
        },
        tolerance=0.01,
    ),
    Choice(
        "By mistake a loss is multiplied by 100. Nothing is clipped, and the optimizer is AdamW. What happens to its "
        "steps?",
        Option(
            "They are 100 times as long.",
            "That is true of plain gradient descent. Adam divides each gradient by its own size.",
        ),
        Option(
            "They stay nearly as they are.",
            "m̂ and √v̂ both grow by 100, and their ratio does not change; only ε counts a little less. So such a "
            "mistake can go unnoticed until somebody clips, or takes another optimizer.",
            right=True,
        ),
        Option(
            "They are 10 times as long, for v holds squares.",
            "v grows by 10,000, but it is its root that divides: 100 over 100.",
        ),
        Option(
            "They are 100 times as short, for v grows faster than m.",
            "v does grow faster, by 10,000. But the step divides by √v̂, which grows just as m̂ does.",
        ),
    ),
    Choice(
        "The row of a rare token in the embedding has had the gradient 0 (not None) since the start. What does AdamW "
        "do with it?",
        Option(
            "Nothing: without a gradient there is no step.",
            "The first part of the step is indeed 0 / ε = 0. But the decay does not ask for a gradient.",
        ),
        Option(
            "It moves it by the learning rate, like every other weight.",
            "That holds for a gradient that is not 0, however small. Here m̂ is 0, and so is the ratio.",
        ),
        Option(
            "It divides 0 by 0, and the row becomes nan.",
            "That is what ε in the denominator prevents.",
        ),
        Option(
            "It shrinks it a little in every step, by the factor 1 − ηλ.",
            "The decay stands outside of the division, and the gradient has no part in it. Over a run that gives "
            "about e to the power of −λ · Σ η.",
            right=True,
        ),
    ),
    Choice(
        "A run that went well in bfloat16 is moved to a GPU with float16 only, and nobody adds a loss scale. Where "
        "do the numbers suffer first?",
        Option(
            "In the weights: float16 has fewer digits.",
            "It has more: 10 bits of mantissa against 7. What it lacks is range. Besides, the weights are kept in "
            "float32.",
        ),
        Option(
            "In the gradients: many round to zero.",
            "They are small, and float16 ends at 6 · 10⁻⁸. A loss scale moves them up to where there is room; it is "
            "divided out again before clipping and the step.",
            right=True,
        ),
        Option(
            "In the loss: it is too large for float16.",
            "A loss is a few nats, and float16 reaches 65,504. (The loss scale makes it large, and is lowered if "
            "that is too much.)",
        ),
        Option(
            "In the learning rate: it is below the smallest number.",
            "The optimizer works in float32. The 16 bits are for the matrix products and what flows through them.",
        ),
    ),
    Choice(
        "A run has reached the end of its schedule, a cosine of a library, and you let it go on for a while. The "
        "training loss first stands still, then slowly rises. What is the likeliest reason?",
        Option(
            "The model overfits.",
            "Overfitting lets the *held-out* loss rise, while the training loss goes on falling.",
        ),
        Option(
            "Adam's v has gone to zero, so the steps explode.",
            "v follows the squared gradients of single batches, and the noise in those does not vanish.",
        ),
        Option(
            "The learning rate rises again.",
            "The cosines of torch and transformers go on after their planned end, upwards. Log the rate beside the "
            "loss, and hold it at the minimum.",
            right=True,
        ),
        Option(
            "The decay has pulled the norms' weights to zero.",
            "It would do so all along, and not from the planned end on; and with parameter groups it does not touch "
            "them.",
        ),
    ),
)
