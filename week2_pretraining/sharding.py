"""A training run sharded over processes: FSDP2, one checkpoint folder that all of them write, the export at the end."""

import os
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist
from torch import nn
from transformers import PreTrainedTokenizerFast

from shared.runtime import pick_device
from week2_pretraining.solutions.pretraining import save_pretrained


def shard(model: nn.Module) -> nn.Module:
    """Split every parameter over all processes (FSDP2, ZeRO's stage 3), block by block."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(pick_device().type, (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


class ShardedRun:
    """What `torch.distributed.checkpoint` saves of a sharded run: each process writes and reads its own part."""

    def __init__(self, model, optimizer, generator, config):
        self.model, self.optimizer, self.generator, self.config = model, optimizer, generator, config
        self.step = 0

    def state_dict(self) -> dict:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimizer = get_state_dict(self.model, self.optimizer)
        own = {f"generator_{dist.get_rank()}": self.generator.get_state()}
        return {"model": model, "optimizer": optimizer, "step": self.step, "config": asdict(self.config), **own}

    def load_state_dict(self, state: dict) -> None:
        from torch.distributed.checkpoint.state_dict import set_state_dict

        if state["config"] != asdict(self.config):
            raise ValueError(f"this checkpoint was made with another config: {state['config']}")
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.generator.set_state(state[f"generator_{dist.get_rank()}"])
        self.step = state["step"]


def latest(folder: Path) -> Path:
    """The last whole sharded checkpoint: `.metadata` is written when all processes are done."""
    whole = sorted(path.parent for path in folder.glob("checkpoint-*/.metadata"))
    if not whole:
        raise FileNotFoundError(f"there is no whole checkpoint in {folder}: start without --resume")
    return whole[-1]


def export(model: nn.Module, whole: nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Gather the parameters in the first process, which puts them into `whole` and writes a Hugging Face folder."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if int(os.environ.get("RANK", 0)) == 0:
        whole.load_state_dict(weights)
        save_pretrained(whole, tokenizer, folder)
