"""Questions at the end of the lesson on quantization."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        (
            "Weights are stored in 4 bits, in groups of 64, each group with a float16 scale and a zero point of "
            "one byte. How many bits does a weight take in all?"
        ),
        4.375,
        "A group adds 16 + 8 = 24 bits, which 64 weights share: 4 + 24/64 = 4.375.",
        near={
            4: "Those are the codes alone: scales and zero points are stored too.",
            4.25: "That has the scale, 16/64, and not the zero point.",
        },
        unit="bits",
        tolerance=0.01,
    ),
    Number(
        (
            "A token's features are quantized to int8 with one scale, absmax / 127. One feature is 60, all others "
            "lie between -0.6 and 0.6. How many different codes can the others get?"
        ),
        3,
        (
            "The step is 60 / 127 = 0.47, so 0.6 is 1.27 steps and rounds to 1: what is left are -1, 0 and 1. That "
            "is why LLM.int8() takes such a feature out."
        ),
        near={
            255: "They would have all 255 codes if the large feature were taken out.",
            2: "0 is a code too.",
            1: "0.6 is more than half a step, so it rounds to 1, not to 0.",
        },
    ),
    Choice(
        (
            "All calibration inputs are uncorrelated and of one size, so that the Hessian H is a multiple of the "
            "identity. How do GPTQ's codes compare with rounding to the nearest?"
        ),
        Option(
            "They are better: each column's error is made good by later ones.",
            (
                "A later column can make good an error only where its input goes along with the input of the "
                "column that was rounded."
            ),
        ),
        Option(
            "There are none: such an H is refused as not positive definite.",
            "A multiple of the identity is as positive definite as can be.",
        ),
        Option(
            "They are worse: columns are moved without a reason.",
            "Nothing is moved: the step is e · U_jk, and U_jk is 0.",
        ),
        Option(
            "They are the same codes.",
            (
                "Then U is diagonal, U_jk = 0 for k > j, and no error is passed on. All that GPTQ gains comes from "
                "correlated inputs."
            ),
            right=True,
        ),
    ),
    Choice(
        (
            "AWQ multiplies a column of w by 2 before rounding and divides by 2 afterwards. The column does not "
            "set the scale of its group. What becomes of the column's rounding error?"
        ),
        Option(
            "It stays: multiplying and dividing cancel.",
            "They cancel for the weights. The rounding in between has a step of fixed size, and does not scale.",
        ),
        Option(
            "It doubles: larger numbers have larger errors.",
            "Rounding is off by at most half a step, however large the number is.",
        ),
        Option(
            "It is halved.",
            (
                "The error is up to half a step as before, and then it is divided by 2. The column has got a grid "
                "that is twice as fine."
            ),
            right=True,
        ),
    ),
    Choice(
        (
            "In this lesson the model with packed 4-bit layers took less memory than in float32, and *more* time "
            "for a pass. Why?"
        ),
        Option(
            "Products of 4-bit numbers are slower on a CPU.",
            "No product was made in 4 bits: the codes became floats first.",
        ),
        Option(
            "The scales of the groups are searched for anew in each pass.",
            "They are found once, when the model is quantized, and stored.",
        ),
        Option(
            "The codes become floats, and then the same product is made.",
            (
                "That is work on top. Speed needs a kernel that unpacks inside the product, and memory that sets "
                "the pace."
            ),
            right=True,
        ),
        Option(
            "More bits have to be read than before.",
            "Fewer are read, about an eighth of float32's. They are not what takes the time here.",
        ),
    ),
)
