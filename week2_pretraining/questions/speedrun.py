"""What a learner should know after lesson 06, the speedrun."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "A gradient G is a matrix of 64 × 64, and all its singular values are above zero. Muon's ideal direction is "
        "U Vᵀ. What is the Frobenius norm of U Vᵀ?",
        8,
        "It has 64 singular values of 1, and the norm is the root of the sum of their squares: √64 = 8. The size of "
        "G has no part in it.",
        near={
            1: "That is each singular value. The Frobenius norm is the root of the sum of the squares of all 64.",
            64: "That is the sum of the squares; the root is missing.",
            11.3: "That would take 128 singular values. A matrix of 64 × 64 has 64.",
        },
        tolerance=0.05,
    ),
    Choice(
        "A gradient has rank 1: one singular value is above zero, all others are exactly zero. What does "
        "`orthogonalize` make of it?",
        Option(
            "A matrix whose singular values are all about 1.",
            "The polynomial a s + b s³ + c s⁵ has no constant term: zero stays zero, in any number of rounds.",
        ),
        Option(
            "The same matrix, as one direction is orthogonal already.",
            "The direction stays, but its strength goes from whatever it was to about 1.",
        ),
        Option(
            "The same one direction, with a strength of about 1.",
            "An odd polynomial acts on the singular values alone. It lifts small ones, and it invents no direction "
            "that was not there.",
            right=True,
        ),
        Option(
            "nan, since a matrix of rank 1 has no inverse.",
            "Nothing is inverted: there are only matrix products, and one division by the norm.",
        ),
    ),
    Choice(
        "`w_out` of a feed-forward net starts at zero, `w_in` at random numbers. Which of the two has a gradient "
        "other than zero in the first backward pass?",
        Option(
            "`w_out` alone.",
            "Its gradient is the product of what comes back from above and the hidden features, and both are there. "
            "What goes on to `w_in` has passed through `w_out`, which is zero; from the second step on it gets "
            "something.",
            right=True,
        ),
        Option(
            "`w_in` alone.",
            "What reaches `w_in` is multiplied by `w_out` on its way, so here it is zero.",
        ),
        Option(
            "Neither: what starts at zero stays at zero.",
            "That would be so if both were zero. With random hidden features `w_out` gets a gradient and leaves zero "
            "at once.",
        ),
        Option(
            "Both: the residual sum carries the gradient to them.",
            "It carries the gradient past the block, to the layers below. Inside the block the way to `w_in` leads "
            "through `w_out`.",
        ),
    ),
    Number(
        "A change saves 20 % of the iterations to the target, and makes each iteration 30 % slower. How long does "
        "the race take now, in per cent of the time before?",
        104,
        "0.8 · 1.3 = 1.04. The change is not worth it: what saves iterations must still save seconds.",
        near={
            110: "The shares cannot be added up: the 30 % fall on those 80 % of the iterations that are left.",
            80: "These are the iterations. Each of them takes 1.3 times as long.",
        },
        unit="%",
        tolerance=0.5,
    ),
)
