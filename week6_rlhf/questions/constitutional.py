"""Questions at the end of the lesson on constitutional AI."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        (
            "A judge is asked twice. With reply 1 in the first place it says A with probability 0.9; with reply 1 "
            "in the second place it says A with probability 0.7. What is the label, p(reply 1 is better)?"
        ),
        0.6,
        (
            "In the second order reply 1 is B, which has 0.3. The mean of 0.9 and 0.3 is 0.6: most of what sounded "
            "sure was the place."
        ),
        near={
            0.8: "That is the mean of the A's. In the second order reply 1 stood as B.",
            0.9: "That is one order, with the pull of the place still in it.",
            0.3: "That is the second order alone.",
        },
        tolerance=0.001,
    ),
    Choice(
        "A pair with the soft label p = 0.6 has reached a margin β h = 2. What does its loss do in the next step?",
        Option(
            "It pulls the margin back, towards ln 1.5.",
            (
                "The loss is least where σ(β h) = p, which is β h = ln(0.6 / 0.4) = 0.41. A clamp of labels to 0.4 "
                "to 0.6 bounds what one label can do."
            ),
            right=True,
        ),
        Option(
            "It pulls the margin up: the chosen reply is the better one.",
            "With p = 1 it would pull for ever. p = 0.6 says how much better, and no more.",
        ),
        Option(
            "It does nothing: the order is right, so the gradient is 0.",
            "The gradient is σ(β h) - p, and that is 0 at one margin only.",
        ),
    ),
    Choice(
        "You keep only pairs of which the judge is sure. When does that make the pairs better?",
        Option(
            "Always: sure labels are the right ones.",
            (
                "A judge may be sure of the place, or of a thing that does not matter. Then a threshold throws "
                "pairs away and buys nothing."
            ),
        ),
        Option(
            "When the judge was asked in both orders.",
            "That takes the place out. It does not make a judge see what it does not see.",
        ),
        Option(
            "When there are many pairs, so that enough are left.", "Many pairs make a threshold affordable, not useful."
        ),
        Option(
            "When the judge is right more often where it is surer.",
            "That can be measured: on a few pairs whose labels you know.",
            right=True,
        ),
    ),
    Choice(
        (
            "A model refuses nearly everything. You make pairs from its critique and revision. Almost all of them "
            "say: help with *this* request. What do you look at first after training?"
        ),
        Option(
            "At the margin of the training pairs: has it grown?",
            "It has, as the loss asks for. That says nothing about requests that are in no pair.",
        ),
        Option(
            "At the harmful requests: are they still refused?",
            (
                "Pairs teach what they contrast. No pair holds the refusal where it is right, so it may be lost. "
                "Put it into pairs."
            ),
            right=True,
        ),
        Option(
            "At the loss: did it fall below ln 2?",
            "It will, as a rule. A loss cannot tell which behaviour was never asked about.",
        ),
    ),
    Choice(
        (
            "Revisions score higher than first replies. You want to know whether the *critique* did that. What do "
            "you compare with?"
        ),
        Option(
            "A second round of critique and revision.",
            "It shows whether more of both helps, and still not which of the two it is.",
        ),
        Option(
            "Revisions for which no critique was asked.",
            "All else is then the same: a second try, by the same principle. What is left is the critique's part.",
            right=True,
        ),
        Option(
            "The scores of the critiques, by a judge.",
            "A good critique may have no effect on the revision, and a poor one may.",
        ),
        Option("First replies of a larger model.", "That changes the writer, and says nothing about the critique."),
    ),
)
