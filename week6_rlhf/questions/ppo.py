"""Questions at the end of the lesson on PPO."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        (
            "An episode has two steps: rewards 0 and 1, values 0.5 and 0.5, then it ends. γ = 1 and λ = 0.5. What "
            "is the advantage of the first step?"
        ),
        0.25,
        "δ of the second step is 1 + 0 - 0.5 = 0.5, of the first 0 + 0.5 - 0.5 = 0. So the first has 0 + γλ · 0.5.",
        near={
            0: "That is λ = 0, which looks one step ahead: there nothing was better than expected.",
            0.5: "That is λ = 1: the whole return less the value.",
            1: "The value of the state itself is to be subtracted in each δ: 1 - 0.5, and 0 + 0.5 - 0.5.",
        },
    ),
    Choice(
        "PPO's clipped objective with ε = 0.2. For which token is its gradient 0?",
        Option(
            "Advantage +1, ratio 0.6",
            (
                "A good token has become rarer. The minimum takes the unclipped term, so the pull back stays, at "
                "any distance."
            ),
        ),
        Option(
            "Advantage -1, ratio 1.4",
            (
                "A bad token has become more frequent. min(-1.4, -1.2) is the unclipped term, and its gradient "
                "pulls back."
            ),
        ),
        Option("Advantage +1, ratio 1.1", "Inside the clip both terms are the same, and not flat."),
        Option(
            "Advantage +1, ratio 1.4",
            "It has gone far enough the right way: min(1.4, 1.2) is the clipped term, which is flat.",
            right=True,
        ),
    ),
    Choice(
        (
            "Tokens are drawn from the present policy. Somebody adds β times the mean of k1 over them to the "
            "*loss*, as a leash, and lets it be differentiated. What does this leash do?"
        ),
        Option(
            "On average nothing: its mean gradient is 0.",
            (
                "The gradient of k1 is that of log p, and its mean over draws of p is 0. As a number k1 is right; "
                "as a loss k2, or k3 with the ratio in front, is."
            ),
            right=True,
        ),
        Option(
            "It holds the policy: k1 is unbiased, so its gradient is too.",
            (
                "The mean of k1 is the KL. But the draws themselves depend on the policy, and a loss over samples "
                "does not see that."
            ),
        ),
        Option(
            "It pushes the policy away, since k1 is negative at times.",
            "A single estimate may be negative, and its gradient has either sign. They cancel.",
        ),
    ),
    Choice(
        (
            "During a run of PPO the proxy reward and the KL rise steadily, and the stories get shorter. The true "
            "score, which people give from time to time, rose at first and now falls. What is it?"
        ),
        Option(
            "The learning rate is too small: the truth follows later.",
            (
                "The policy moves well, as the KL shows. It moves where the proxy is wrong, and more steps go "
                "farther there."
            ),
        ),
        Option(
            "The value head is bad, so that the advantages are noise.",
            "With advantages of noise the proxy would not rise so steadily.",
        ),
        Option(
            "The policy has found what the reward model gets wrong.",
            (
                "Overoptimization: short stories please the proxy. Stop earlier, hold the leash shorter, or mend "
                "the reward model."
            ),
            right=True,
        ),
        Option(
            "The clip is too wide, so that single steps go too far.",
            "A narrow clip slows each iteration. In clipped steps a policy can walk any distance.",
        ),
    ),
    Choice(
        (
            "GRPO writes eight replies to a prompt, and all get the reward 1. What does the policy learn from "
            "their rewards?"
        ),
        Option(
            "All eight become likelier: they are good replies.",
            "Good compared with what? The group's mean is the expectation, and none is above it.",
        ),
        Option(
            "Nothing, since 0 / 0 is nan and the step is left out.",
            "The small number added to the std is there for that: the advantages are 0.",
        ),
        Option(
            "Nothing: each advantage is 0.",
            "The group takes the place of the value. Prompts that are always solved, or never, teach nothing.",
            right=True,
        ),
    ),
)
