"""Questions at the end of the lesson on reward models."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        (
            "A reward model orders 80 % of pairs as the truth does. The labels that it is measured on are wrong in "
            "20 % of pairs, independently of it. With how many percent of the labels does it agree?"
        ),
        68,
        (
            "It agrees where both are right, 0.8 · 0.8, and where both are wrong, 0.2 · 0.2: 0.64 + 0.04. Part of "
            "what it seems to get wrong are wrong labels."
        ),
        near={
            64: "Two mistakes agree with each other too: add 0.2 · 0.2.",
            80: "That is its agreement with the truth; the labels are noisier.",
            60: "Mistakes of both sides do not simply add up: sometimes they meet.",
        },
        unit="%",
    ),
    Choice(
        (
            "The rewards are 1.3 for a reply to prompt A and 0.2 for a reply to prompt B. The model was trained "
            "with the Bradley-Terry loss. What can you say?"
        ),
        Option(
            "The reply to A is the better one, with probability σ(1.1).",
            "σ of a difference is a forecast for two replies to *one* prompt. The loss never compared two prompts.",
        ),
        Option(
            "Nothing: rewards of different prompts are not comparable.",
            (
                "Add 5 to all rewards of one prompt and the loss stays as it is. Only differences within a prompt "
                "have a meaning."
            ),
            right=True,
        ),
        Option(
            "Both replies are better than average, as both rewards are above 0.",
            "The loss leaves the zero of the reward open, so the sign says nothing either.",
        ),
    ),
    Choice(
        (
            "A library looks for the end of a text by its last token that is not `pad_token_id`. Somebody sets "
            "`pad_token = eos_token`. What does its reward model read?"
        ),
        Option("The padding behind the text.", "Padding is skipped. The trouble is that more than padding is skipped."),
        Option(
            "The end token, as before: padding stands behind it.",
            "The end token *is* a padding token now, so it is skipped with the others.",
        ),
        Option(
            "The token before the end token.",
            (
                "So it cannot see whether a text has come to its end, and no error says so. A mask would have told "
                "the two apart."
            ),
            right=True,
        ),
        Option(
            "Nothing: it stops with an error.", "The shapes fit, and every row still has some other token. It runs."
        ),
    ),
    Choice(
        (
            "Labels prefer long stories, and the reward model has learnt to. What could tell you whether long "
            "stories *are* better, or the labels are biased?"
        ),
        Option(
            "A few careful labels made in another way.",
            (
                "From these labels alone nobody can tell. It takes something from outside: other labels, "
                "instructions, or a decision."
            ),
            right=True,
        ),
        Option(
            "Many more labels from the same people.",
            "They have the same bias. More of them make the model surer of it.",
        ),
        Option(
            "The accuracy on held-out pairs with such labels.",
            "It is high either way: both explanations say the same about every pair.",
        ),
        Option(
            "A low calibration error.", "That says that forecasts of the *labels* come true, whatever the labels mean."
        ),
    ),
    Choice(
        (
            "All rewards are divided by 2, a temperature. Then they go into r - β · KL, with β as before. What has "
            "changed?"
        ),
        Option(
            "Nothing: the order of replies is the same.",
            "The order is all that accuracy sees. The objective weighs the *size* of rewards against the KL.",
        ),
        Option(
            "The policy is held as by a β twice as large.",
            "r/2 - β · KL is half of r - 2β · KL, and half of an objective has the same best policy.",
            right=True,
        ),
        Option(
            "The policy is held as by a β half as large.",
            "The rewards have become weaker against the leash, so it holds more, not less.",
        ),
        Option(
            "The policy learns half as fast, to the same end.",
            "The best policy is another one: rewards and KL are traded at another price.",
        ),
    ),
)
