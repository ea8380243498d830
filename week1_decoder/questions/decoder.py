"""What a learner should know after lesson 03, the decoder."""

from shared.questions import Choice, Number, Option

QUESTIONS = (
    Number(
        "A block has d_model 100 and d_ff 400; biases and norms are left out. How many weights does it have?",
        120_000,
        "Attention has four matrices of 100 × 100, which is 40,000; the feed-forward net has two of 100 × 400, which "
        "is 80,000. In general it is 12 · d_model².",
        near={
            40_000: "That is the attention alone.",
            80_000: "That is the feed-forward net alone; or one of its two matrices, in and out, is missing.",
            110_000: "Attention has four matrices, not three: w_o mixes the heads.",
        },
        unit="weights",
    ),
    Choice(
        "A new GPT with 50,000 tokens starts at a loss of 30 nats; ln 50,000 is 10.8. Where do you look first?",
        Option(
            "At the learning rate: it is too high.",
            "No step has been made yet. A learning rate that is too high shows itself later.",
        ),
        Option(
            "At the causal mask: the model is confused by the future.",
            "A missing mask makes the loss too low, and only once the model has learnt to use what it sees.",
        ),
        Option(
            "At the text: it must be harder than usual.",
            "A model that knows nothing should give every token 1/V, and then its loss is ln V on any text at all.",
        ),
        Option(
            "At the start: its logits are far too large.",
            "A loss above ln V says that the model is certain and wrong. Embeddings of size 1 in place of 0.02 do "
            "that, for the logits are dot products of d_model numbers.",
            right=True,
        ),
    ),
    Choice(
        "In a pre-norm block you set `w_o` and `w_out` to zero, weights and biases. What does the block compute?",
        Option(
            "x, as it came in.",
            "Both updates are zero, and the sum hands the stream on. So a block can begin as nothing and come in "
            "slowly.",
            right=True,
        ),
        Option(
            "Zero, whatever x is.",
            "That would be a block without the residual sum. Here a block only adds to the stream.",
        ),
        Option(
            "The norm of x.",
            "In a pre-norm block the norms are in the side branches. In a post-norm block they would sit on the "
            "stream itself.",
        ),
        Option(
            "x three times: itself and two copies.",
            "The branches do not hand on x; they add what `w_o` and `w_out` write, which is zero.",
        ),
    ),
    Choice(
        "You port a model whose feed-forward net is as wide as its stream: d_ff = d_model. The file keeps its "
        "matrices as (in, out), yours are (out, in). Which new danger is there, compared with GPT-2?",
        Option(
            "None: strict loading compares every name and every shape.",
            "It does, and that is just what does not help here: a square matrix has the right shape either way round.",
        ),
        Option(
            "`w_in` and `w_out` load without a complaint, even if they are not transposed.",
            "In GPT-2 only attention's c_proj is square. Here the feed-forward matrices are, too, so a rule that "
            "transposes what does not fit leaves them wrong. Decide by a matrix that is not square, for all of them.",
            right=True,
        ),
        Option(
            "`w_in` can be loaded as `w_out`, so the two must have been swapped.",
            "Their names keep them apart. The danger is that each of them can be loaded the wrong way round.",
        ),
        Option(
            "The activation no longer works between two square matrices.",
            "GELU works on each number alone and does not mind how many there are.",
        ),
    ),
    Choice(
        "A causal decoder of several layers has no positions at all. Can its last token tell the text `a b c` from "
        "`b a c`?",
        Option(
            "No: attention sees a set, and both texts hold the same tokens.",
            "For one layer that is right: c takes the same average in both. But the second layer averages what the "
            "first has made of a and b, and that differs.",
        ),
        Option(
            "Yes: w_q and w_k are different matrices, so they know who stands first.",
            "They are the same matrices at every position. They compare contents, whoever stands where.",
        ),
        Option(
            "Yes: under the causal mask a and b have themselves seen different things.",
            "In `a b` the token b sees a, in `b a` it does not. After one layer the vectors differ, and the second "
            "layer can use that. In this lesson the model without positions was level with the GPT after 120 steps.",
            right=True,
        ),
        Option(
            "Yes: the feed-forward net sees the whole row, so it can count.",
            "The feed-forward net works on each position alone. Only attention moves anything between positions.",
        ),
    ),
)
