"""The pretraining run: evaluation, utilization, checkpoints, scaling laws, and the model as a Hugging Face folder."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2Config, PreTrainedTokenizerFast

from week1_decoder.solutions.decoder import GPTConfig, from_gpt2_state_dict, transformer_flops


def evaluate_loss(
    model: nn.Module, batches: Iterable[tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]]
) -> float:
    """Mean nats per counted target over all (token_ids, targets) pairs; targets of -100 do not count.

    Every counted target weighs the same, whatever its batch. The model is in evaluation mode meanwhile and back in its
    earlier mode afterwards, also when it raises; no gradient is recorded.
    Raises ValueError if there is no batch, or no counted target in any.
    """
    # BEGIN SOLUTION
    was_training = model.training
    total_nats, n_targets = 0.0, 0
    model.eval()
    try:
        with torch.no_grad():
            for token_ids, targets in batches:
                logits = model(token_ids)  # (batch, seq, vocab)
                nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
                total_nats += nats.item()
                n_targets += (targets != -100).sum().item()
    finally:
        model.train(was_training)
    if n_targets == 0:
        raise ValueError("there is no counted target to evaluate on: no batch came, or all targets were -100")
    return total_nats / n_targets
    # END SOLUTION


def model_flops_utilization(config: GPTConfig, tokens_per_second: float, peak_flops_per_second: float) -> float:
    """MFU = tokens/s · FLOPs per token of a training step / peak FLOP/s: the share of the peak that does model work.

    Forward and backward take 3 times the FLOPs of forward; those of a token are `transformer_flops` of a sequence of
    context_length, divided by its tokens. Chowdhery et al. 2022 (PaLM), appendix B, where it reads 6N + 12LHQT.
    Raises ValueError unless both speeds are above 0.
    """
    # BEGIN SOLUTION
    if tokens_per_second <= 0 or peak_flops_per_second <= 0:
        raise ValueError(f"both speeds must be above 0, got {tokens_per_second} and {peak_flops_per_second}")
    forward = sum(transformer_flops(config, config.context_length).values()) / config.context_length
    return tokens_per_second * 3 * forward / peak_flops_per_second
    # END SOLUTION


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    step: int,
    config: object,
) -> None:
    """One file by torch.save: a dict with the keys "model", "optimizer", "generator", "step" and "config".

    The states of the first two, `generator.get_state()`, the steps done, and `asdict(config)` of the config dataclass:
    all of it loads with weights_only=True. A temporary file in the same folder (made if missing) is written, flushed,
    brought to the disk by os.fsync, and only then renamed by os.replace: whatever is at `path` is always whole.
    """
    # BEGIN SOLUTION
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    contents = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "step": step,
        "config": asdict(config),
    }
    with open(temporary, "wb") as file:
        torch.save(contents, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    # END SOLUTION


def load_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    config: object,
) -> int:
    """Put the state of a file of `save_checkpoint` into model, optimizer and generator; returns the steps done.

    Reads with weights_only=True: a file from elsewhere runs no code. Raises FileNotFoundError if there is no file, and
    ValueError if it is cut off or something else than such a checkpoint, if its config is not `config` (the message
    names each field that differs), or if its weights do not fit the model. Then all three are as they were.
    """
    # BEGIN SOLUTION
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}: start a new run, or correct the path")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is cut off or not a checkpoint: delete it, or go on from an earlier one") from error
    expected = {"model", "optimizer", "generator", "step", "config"}
    if not isinstance(saved, dict) or saved.keys() != expected:
        raise ValueError(f"{path} is no checkpoint of save_checkpoint, which holds {sorted(expected)}")
    wanted, found = asdict(config), saved["config"]
    names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if names:
        told = "; ".join(f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} here" for name in names)
        raise ValueError(f"{path} was made with another config ({told}): use that config, or another path")
    here, there = ({name: w.shape for name, w in state.items()} for state in (model.state_dict(), saved["model"]))
    if here != there:
        other = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
        raise ValueError(f"{path} has other weights than this model, though the config is the same: {other}")
    optimizer.load_state_dict(saved["optimizer"])
    model.load_state_dict(saved["model"])
    generator.set_state(saved["generator"])
    return saved["step"]
    # END SOLUTION


def t_quantile(degrees_of_freedom: int) -> float:
    """The 97.5 % point of Student's t distribution: 95 % of it lies within ± this value.

    A table to 9 degrees of freedom, then the expansion around the normal distribution's 1.96: right to 0.001.
    """
    table = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
    if degrees_of_freedom <= len(table):
        return table[degrees_of_freedom - 1]
    z, n = 1.959964, degrees_of_freedom
    terms = z**3 + z, 5 * z**5 + 16 * z**3 + 3 * z, 3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z
    return z + terms[0] / (4 * n) + terms[1] / (96 * n**2) + terms[2] / (384 * n**3)


def fit_power_law(sizes: Sequence[float], losses: Sequence[float]) -> tuple[float, float, tuple[float, float]]:
    """Exponent α and constant N_c of L(N) = (N_c / N)^α, and the 95 % interval (low, high) of α.

    Least squares of ln L = α ln N_c - α ln N, natural logarithms. The interval is α ± t · standard error of the slope,
    from the residuals, with t = t_quantile(points - 2). Kaplan et al. 2020, eq. 1.1.
    Raises ValueError for fewer than 3 points, lengths that differ, values not above 0, or sizes that are all the same.
    """
    # BEGIN SOLUTION
    if len(sizes) != len(losses):
        raise ValueError(f"each size needs one loss, got {len(sizes)} sizes and {len(losses)} losses")
    if len(sizes) < 3:
        raise ValueError(f"a line with an interval needs at least 3 points, got {len(sizes)}")
    if not all(0 < value < math.inf for value in [*sizes, *losses]):
        raise ValueError("sizes and losses must be finite and above 0: a logarithm is taken of each")
    if len(set(sizes)) == 1:
        raise ValueError(f"all sizes are {sizes[0]}: an exponent needs different ones")
    x = torch.tensor(sizes, dtype=torch.float64).log()
    y = torch.tensor(losses, dtype=torch.float64).log()
    spread = (x - x.mean()).square().sum()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / spread
    intercept = y.mean() - slope * x.mean()
    residuals = y - (intercept + slope * x)
    standard_error = torch.sqrt(residuals.square().sum() / (len(x) - 2) / spread)
    exponent, margin = -slope.item(), t_quantile(len(x) - 2) * standard_error.item()
    return exponent, torch.exp(intercept / -slope).item(), (exponent - margin, exponent + margin)
    # END SOLUTION


def chinchilla_optimal(flops: float, tokens_per_parameter: float = 20.0) -> tuple[float, float]:
    """Parameters N and tokens D that make the best of a budget: C = 6 N D with D = tokens_per_parameter · N.

    Hoffmann et al. 2022, section 3. Example: 5.76e23 FLOPs (those of Gopher) -> 6.9e10 parameters, 1.4e12 tokens.
    Raises ValueError unless the budget is above 0.
    """
    # BEGIN SOLUTION
    if flops <= 0:
        raise ValueError(f"the budget must be above 0 FLOPs, got {flops}")
    parameters = math.sqrt(flops / (6 * tokens_per_parameter))
    return parameters, tokens_per_parameter * parameters
    # END SOLUTION


# What GPT-2 is, among all that a GPTConfig can say.
GPT2_OPTIONS = {"bias": True, "positions": "learned", "norm": "layernorm", "norm_placement": "pre"}


def to_gpt2_state_dict(state_dict: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """The weights of `GPT(config)` under the names and in the layout of Hugging Face's GPT2LMHeadModel.

    The inverse of `from_gpt2_state_dict`: names begin with `transformer.`, w_q, w_k, w_v are joined as `c_attn`, the
    four kinds of matrices in a block are transposed (Conv1D), and `lm_head.weight` is `transformer.wte.weight`.
    Raises ValueError if the config is not GPT-2's architecture, or a name is missing or left over.
    """
    other = [name for name, value in GPT2_OPTIONS.items() if getattr(config, name) != value]
    if other:
        told = ", ".join(f"{name}={getattr(config, name)!r} (GPT-2: {GPT2_OPTIONS[name]!r})" for name in other)
        raise ValueError(f"GPT-2 cannot express {told}")
    # BEGIN SOLUTION
    renamed = {
        "wte": ["token_embedding"],
        "wpe": ["position_embedding"],
        "ln_f": ["final_norm"],
    }
    for i in range(config.n_layers):
        renamed[f"h.{i}.ln_1"] = [f"blocks.{i}.norm_1"]
        renamed[f"h.{i}.attn.c_attn"] = [f"blocks.{i}.attention.{w}" for w in ("w_q", "w_k", "w_v")]
        renamed[f"h.{i}.attn.c_proj"] = [f"blocks.{i}.attention.w_o"]
        renamed[f"h.{i}.ln_2"] = [f"blocks.{i}.norm_2"]
        renamed[f"h.{i}.mlp.c_fc"] = [f"blocks.{i}.feed_forward.w_in"]
        renamed[f"h.{i}.mlp.c_proj"] = [f"blocks.{i}.feed_forward.w_out"]

    theirs, rest = {}, dict(state_dict)
    for module, sources in renamed.items():
        for kind in ("weight",) if module in ("wte", "wpe") else ("weight", "bias"):
            missing = [f"{source}.{kind}" for source in sources if f"{source}.{kind}" not in rest]
            if missing:
                raise ValueError(f"names missing: {missing}")
            value = torch.cat([rest.pop(f"{source}.{kind}") for source in sources])
            theirs[f"transformer.{module}.{kind}"] = value.T if ".c_" in module and kind == "weight" else value
    if rest:
        raise ValueError(f"names left over: {sorted(rest)}")
    theirs["lm_head.weight"] = theirs["transformer.wte.weight"]
    return theirs
    # END SOLUTION


def save_pretrained(model: nn.Module, tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write a Hugging Face GPT-2 folder: config.json, model.safetensors, tokenizer.json, tokenizer_config.json.

    Raises ValueError for an architecture that GPT-2 cannot express, or a tokenizer with more tokens than the model.
    """
    config = model.config
    weights = to_gpt2_state_dict(model.state_dict(), config)
    if len(tokenizer) > config.vocab_size:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the model only {config.vocab_size}")
    GPT2Config(
        architectures=["GPT2LMHeadModel"],
        vocab_size=config.vocab_size,
        n_positions=config.context_length,
        n_embd=config.d_model,
        n_head=config.n_heads,
        n_layer=config.n_layers,
        n_inner=config.d_ff,
        activation_function="gelu_new",
        resid_pdrop=0.0,  # our GPT has no dropout
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    del weights["lm_head.weight"]  # the embedding again; transformers ties the two by itself
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def load_pretrained(folder: str | Path, GPT: type[nn.Module]) -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """(model, tokenizer) of a Hugging Face GPT-2 folder, the model as `GPT(GPTConfig(...))` in evaluation mode.

    Raises ValueError for a folder in which a file is missing or damaged, or a model that is not our GPT.
    """
    folder = Path(folder)
    files = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is no whole model folder: {', '.join(missing)} not there")
    try:
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ValueError(f"{folder} is damaged, fetch or make it again: {error}") from error
    if written.get("model_type") != "gpt2":
        raise ValueError(f"{folder} holds a model of type {written.get('model_type')!r}, not 'gpt2'")
    theirs = GPT2Config.from_dict(written)
    same = {  # our GPT computes just this
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
    }
    other = [name for name, value in same.items() if getattr(theirs, name) != value]
    if other:
        told = ", ".join(f"{name}={getattr(theirs, name)!r} (ours: {same[name]!r})" for name in other)
        raise ValueError(f"{folder} holds another architecture than our GPT: {told}")
    config = GPTConfig(
        vocab_size=theirs.vocab_size,
        context_length=theirs.n_positions,
        d_model=theirs.n_embd,
        n_heads=theirs.n_head,
        n_layers=theirs.n_layer,
        d_ff=theirs.n_inner,
    )
    model = GPT(config)
    try:
        model.load_state_dict(from_gpt2_state_dict(weights, config))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the weights in {folder} do not fit its config.json: {error}") from error
    return model.eval(), tokenizer
