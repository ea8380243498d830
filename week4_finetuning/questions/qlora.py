"""The questions at the end of lesson 04."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "NF4 in blocks of 32, with one float32 scale a block and no double quantization: how many bits does a weight "
        "take?",
        5,
        "4 for the code, and 32 / 32 = 1 for its share of the scale. Half the block, twice the cost of the scales.",
        near={
            4.5: "That is for blocks of 64: 4 + 32/64.",
            4: "The codes alone; the scales are stored as well.",
            4.25: "8-bit scales would cost that; or float32 ones in blocks of 128.",
        },
        unit="bits",
        tolerance=0.01,
    ),
    Choice(
        "In one block of 64 a weight is 100, and the other 63 have magnitudes below 3. Scales are in float32. What "
        "does NF4 make of the matrix?",
        Option(
            "The 63 come back as 0, the 100 exactly; other blocks do not notice.",
            "absmax is 100, so the values next to 0 are about 8 and -9: all 63 lie nearer to 0.",
            right=True,
        ),
        Option(
            "The 100 is cut to the end of the range, and the 63 keep their precision.",
            "Nothing is cut: the largest magnitude *is* the scale, so it falls on the value 1.",
        ),
        Option(
            "All weights of the matrix lose precision, for the steps have become coarser.",
            "So it is with one scale for a whole matrix. Blocks are there so that one large weight spoils only its "
            "own 64.",
        ),
    ),
    Choice(
        "Why is a *frozen* weight W needed in the backward pass at all?",
        Option(
            "Its own gradient is computed, and then thrown away.",
            "A frozen weight gets no gradient, so none is computed.",
        ),
        Option(
            "The factors A and B have W in their gradients.",
            "They lie beside W, on another path: their gradients need x, each other, and the gradient of the output.",
        ),
        Option(
            "The gradient goes through it to the layers below.",
            "∂L/∂x = (∂L/∂y) W. So W is made anew from its codes; to keep it until then would hold the whole model in "
            "full.",
            right=True,
        ),
    ),
    Choice(
        "NF4 has 7 negative values, 0, and 8 positive ones. Why not 8 and 8?",
        Option(
            "Because trained weights are more often positive.",
            "They are taken to be symmetric, N(0, σ²). Sixteen is even, so one half has to get one value more.",
        ),
        Option(
            "Because zeros must come back as zeros.",
            "Padding and pruned weights are exactly 0. With a value for 0, an odd number is left for the two halves.",
            right=True,
        ),
        Option(
            "Because one code must be kept for nan.",
            "All sixteen codes are numbers. A nan is refused, since it would spoil the scale of its block.",
        ),
    ),
    Choice(
        "At every step, the weights and activations of a run need more memory than the GPU has. What does a paged "
        "optimizer do for it?",
        Option(
            "Nothing that saves it: only AdamW's moments can move to the CPU.",
            "Paging is for the one long batch whose activations need the room for a moment. It moves no weights and "
            "no activations.",
            right=True,
        ),
        Option(
            "It makes the run possible, and slow: what does not fit lies in the CPU's memory.",
            "That would be so if weights and activations could be paged too. They are not.",
        ),
        Option(
            "It makes the run possible at full speed, for the moments are touched only once a step.",
            "The moments are touched once a step, which is why they may leave. But they are not what is too large "
            "here.",
        ),
    ),
)
