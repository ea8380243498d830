"""Questions at the end of the lesson on DPO."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        (
            "Since the start of a DPO run, log π of a chosen answer has gone down by 10 nats, that of its rejected "
            "one by 30. β is 0.1. What is the margin of the implicit rewards?"
        ),
        2,
        (
            "β · (-10 - (-30)) = 2. The loss is content with it, although the chosen answer is now e^10 times less "
            "likely: likelihood displacement."
        ),
        near={
            -4: "That is their sum: the loss sees the difference of the two.",
            20: "That is the margin in nats; the implicit reward is β times that.",
            -2: "The sign is turned: the rejected answer has lost more.",
        },
        tolerance=0.001,
    ),
    Choice(
        (
            "The loss of a DPO run stands at ln 2 in every step, to the last digit, and the model's texts get "
            "worse and worse. What is the likely cause?"
        ),
        Option("The learning rate is 0.", "Then the model would not change at all."),
        Option(
            "The reference is the policy under a second name.",
            (
                "The margin is 0 by construction, but its gradient is not. The model is pushed for ever, and the "
                "loss cannot show it."
            ),
            right=True,
        ),
        Option(
            "In each pair the two answers have the same text.",
            "The margin is 0 then, but so is its gradient: nothing would change.",
        ),
        Option(
            "β is so small that the margins do not count.",
            "Then the loss would be near ln 2, not at it, and the model would hardly move.",
        ),
    ),
    Choice(
        (
            "Somebody has pairs in which the two answers belong to two *different* prompts, and puts them into the "
            "DPO loss. What is wrong with that?"
        ),
        Option(
            "The two answers have other lengths, and log π is a sum.",
            "Answers to one prompt have other lengths too. What counts is the ratio to the reference.",
        ),
        Option(
            "The reference has no log-probability for the second prompt.",
            "It has one for every answer to every prompt.",
        ),
        Option(
            "Nothing: the loss takes four log-probabilities, whatever their prompts are.",
            "It can be computed. But it is no longer the likelihood of a choice under the policy's reward.",
        ),
        Option(
            "β log Z(x) is another number for each prompt, so it does not cancel.",
            (
                "The reward can be read off the policy up to that term. The loss may leave it out only because "
                "both answers have the same one."
            ),
            right=True,
        ),
    ),
    Choice(
        (
            "1,600 pairs, 16 a step, 150 steps. The training accuracy (pairs in the right order) makes a jump at "
            "step 101. What happened?"
        ),
        Option(
            "The same pairs come for the second time.",
            (
                "After 1,600 / 16 = 100 steps all pairs have been seen. From there on the curve measures memory, "
                "wrong labels included."
            ),
            right=True,
        ),
        Option(
            "The policy has understood what is preferred.",
            "Then the accuracy on held-out pairs would jump too. Look at that one.",
        ),
        Option(
            "The learning rate has become small enough.",
            "A schedule changes smoothly, and has no reason to do so just there.",
        ),
        Option(
            "The margins have reached 1 / β, where DPO is content.",
            "-log σ is never content, and the margins of 1,600 pairs do not get there in one step.",
        ),
    ),
)
