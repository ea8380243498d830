"""TRL's PPO and GRPO on the course model, with their insides to look at.

TRL's PPO computes rewards, advantages and losses inside one long function. Whoever wants to compare with it has to look
at that function's local variables while it runs: `ppo_step` keeps them at two places.
"""

from __future__ import annotations

import copy
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from torch import Tensor
from transformers import GPT2ForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from week4_finetuning.chat import STOP

QUIET = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}


@contextmanager
def quiet() -> Iterator[None]:
    """Without TRL's printed metrics and the remarks that libraries make about each other."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(before)


def stopping(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy whose end of text is the end of a message, and which pads on the left, as prompts need it."""
    other = copy.deepcopy(tokenizer)
    other.eos_token, other.padding_side = STOP, "left"
    return other


def scalar_model(model: PreTrainedModel, seed: int) -> GPT2ForSequenceClassification:
    """The same body with a new head that gives one number: TRL's value model, and its reward model."""
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    scalar = GPT2ForSequenceClassification(config)
    scalar.transformer.load_state_dict(model.transformer.state_dict())
    torch.nn.init.normal_(scalar.score.weight, std=0.1, generator=torch.Generator().manual_seed(seed))
    return scalar.eval()


@contextmanager
def watched(name: str, wanted: str) -> Iterator[list[dict[str, Tensor]]]:
    """The tensors among the local variables of TRL's `train`, each time that it calls `name` while it has `wanted`."""
    original, seen = getattr(ppo_trainer, name), []

    def spy(*args, **kwargs):
        caller = sys._getframe(1)
        if caller.f_code.co_name == "train" and wanted in caller.f_locals:
            seen.append({k: v.detach().clone() for k, v in caller.f_locals.items() if isinstance(v, Tensor)})
        return original(*args, **kwargs)

    setattr(ppo_trainer, name, spy)
    try:
        yield seen
    finally:
        setattr(ppo_trainer, name, original)


def ppo_step(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int = 32,
    epochs: int = 3,
    **settings: object,
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """One iteration of TRL's PPO on these prompts: what it knew after the advantages, and after the loss of each step.

    The policy is a copy of `model` that was moved a little, so that it differs from the reference and the KL counts.
    """
    tokenizer, policy = stopping(tokenizer), copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    with TemporaryDirectory() as folder, quiet():
        config = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=len(prompts),
            total_episodes=len(prompts),
            num_ppo_epochs=epochs,
            response_length=max_new_tokens,
            num_sample_generations=0,
            gradient_checkpointing=False,
            stop_token="eos",
            **{"temperature": 1.0, "learning_rate": 3e-3, **QUIET, **settings},
        )
        trainer = PPOTrainer(
            args=config,
            processing_class=tokenizer,
            model=policy,
            ref_model=copy.deepcopy(model),
            reward_model=scalar_model(model, 1),
            value_model=scalar_model(model, 2),
            train_dataset=Dataset.from_dict({"input_ids": list(prompts)}),
            eval_dataset=Dataset.from_dict({"input_ids": list(prompts)}),
        )
        with watched("masked_whiten", "returns") as rollouts, watched("masked_mean", "pg_loss") as updates:
            trainer.train()
    return rollouts[0], updates


def grpo_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    reward: Callable[[Sequence[list[int]], Sequence[list[int]]], Tensor],
    group_size: int,
    folder: str,
    **settings: object,
) -> GRPOTrainer:
    """TRL's GRPO on a copy of `model`, with a reward of token ids, as the course's loop has it."""
    tokenizer = stopping(tokenizer)
    texts = [tokenizer.decode(prompt) for prompt in prompts]

    def scores(prompts: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
        return reward(tokenizer(prompts, add_special_tokens=False).input_ids, completion_ids).tolist()

    with quiet():
        config = GRPOConfig(
            output_dir=folder,
            num_generations=group_size,
            gradient_checkpointing=False,
            logging_steps=1,
            **{"loss_type": "bnpo", "temperature": 1.0, "lr_scheduler_type": "constant", **QUIET, **settings},
        )
        trainer = GRPOTrainer(
            model=copy.deepcopy(model),
            reward_funcs=scores,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=tokenizer,
        )
    trainer.remove_callback(PrinterCallback)
    return trainer
