"""Right answers to 03_pretraining, written otherwise than the reference."""

import contextlib
import copy
import dataclasses
import io
import math
import os
import pathlib
import tempfile

import numpy as np
import torch
import torch.nn.functional as F

from week1_decoder.solutions.decoder import count_parameters
from week2_pretraining.solutions.pretraining import t_quantile


def evaluate_loss__per_target(model, batches):
    @contextlib.contextmanager
    def evaluating():
        before = model.training
        model.train(False)
        try:
            yield
        finally:
            if before:
                model.train()

    nats = []
    with torch.inference_mode(), evaluating():
        for token_ids, targets in batches:
            log_p = model(token_ids).log_softmax(dim=-1)
            counts = targets.ne(-100)
            nats.append(-log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0][counts])
    if sum(len(part) for part in nats) == 0:
        raise ValueError("nothing to evaluate on")
    return torch.cat(nats).double().mean().item()


def evaluate_loss__running_mean(model, batches):
    before, grad = model.training, torch.is_grad_enabled()
    mean, n = torch.zeros((), dtype=torch.float64), 0
    try:
        model.eval()
        torch.set_grad_enabled(False)
        for token_ids, targets in batches:
            count = int((targets != -100).sum())
            if not count:
                continue
            loss = F.cross_entropy(model(token_ids).transpose(1, 2), targets, ignore_index=-100)
            n += count
            mean += (loss - mean) * count / n
    finally:
        torch.set_grad_enabled(grad)
        model.training or model.train(before)
    if n == 0:
        raise ValueError("nothing to evaluate on")
    return mean


def model_flops_utilization__palm(config, tokens_per_second, peak_flops_per_second):
    if min(tokens_per_second, peak_flops_per_second) <= 0:
        raise ValueError("speeds must be positive")
    d = config.d_model
    n = config.n_layers * (4 * d**2 + 2 * d * config.d_ff) + d * config.vocab_size
    per_token = 6 * n + 12 * config.n_layers * config.n_heads * config.d_head * config.context_length
    return tokens_per_second * per_token / peak_flops_per_second


def model_flops_utilization__by_counting(config, tokens_per_second, peak_flops_per_second):
    if not (tokens_per_second > 0 and peak_flops_per_second > 0):
        raise ValueError("speeds must be positive")
    plain = dataclasses.replace(config, bias=False, positions="none", norm="none")
    seconds_per_token = 1 / tokens_per_second
    attention = config.n_layers * 4 * config.context_length * config.d_model
    return (6 * count_parameters(plain) + 3 * attention) / (seconds_per_token * peak_flops_per_second)


def save_checkpoint__through_memory(path, model, optimizer, generator, step, config):
    buffer = io.BytesIO()
    torch.save(
        dict(
            config=dataclasses.asdict(config),
            step=step,
            generator=generator.get_state(),
            optimizer=optimizer.state_dict(),
            model={name: value.clone() for name, value in model.state_dict().items()},
        ),
        buffer,
    )
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file)
    except BaseException:
        os.unlink(name)
        raise
    os.rename(name, path)


def save_checkpoint__by_path(path, model, optimizer, generator, step, config):
    target = pathlib.Path(path)
    target.parent.mkdir(exist_ok=True, parents=True)
    part = target.parent / f".{target.name}.part"
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state()}
    torch.save(states | {"step": int(step), "config": vars(config).copy()}, part)
    descriptor = os.open(part, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)
    part.replace(target)


def load_checkpoint__step_by_step(path, model, optimizer, generator, config):
    if not os.path.exists(path):
        raise FileNotFoundError(f"no file {path}")
    try:
        with open(path, "rb") as file:
            saved = torch.load(io.BytesIO(file.read()), weights_only=True)
        states = [saved[key] for key in ("model", "optimizer", "generator")]
        theirs, step = saved["config"], saved["step"]
    except Exception as error:
        raise ValueError(f"{path} is no checkpoint") from error
    ours = dataclasses.asdict(config)
    nothing = object()
    different = [key for key in [*ours, *theirs] if ours.get(key, nothing) != theirs.get(key, nothing)]
    if different:
        raise ValueError("other settings of " + " and ".join(dict.fromkeys(different)))
    fits = [(name, tuple(w.shape)) for name, w in sorted(states[0].items())]
    if fits != [(name, tuple(w.shape)) for name, w in sorted(model.state_dict().items())]:
        raise ValueError("the weights are those of another model")
    for part, state in zip((model, optimizer), states, strict=False):
        part.load_state_dict(state)
    generator.set_state(states[2])
    return step


def load_checkpoint__undo(path, model, optimizer, generator, config):
    file = open(path, "rb")  # noqa: SIM115 - FileNotFoundError comes from here
    with file:
        try:
            saved = torch.load(file, weights_only=True, map_location=next(model.parameters()).device)
        except Exception:
            saved = None
    if not (isinstance(saved, dict) and {"model", "optimizer", "generator", "step", "config"} <= set(saved)):
        raise ValueError("cannot be read as a checkpoint")
    pairs = {repr(item) for item in saved["config"].items()} ^ {repr(item) for item in vars(config).items()}
    if pairs:
        raise ValueError(f"the settings differ: {sorted(pairs)}")
    earlier = copy.deepcopy(model.state_dict())
    try:
        model.load_state_dict(saved["model"])
    except RuntimeError as error:
        model.load_state_dict(earlier)
        raise ValueError("the weights do not fit") from error
    generator.set_state(saved["generator"].cpu())
    optimizer.load_state_dict(saved["optimizer"])
    return torch.tensor(saved["step"])


def fit_power_law__polyfit(sizes, losses):
    if len(sizes) != len(losses) or len(sizes) < 3 or len(set(sizes)) < 2 or min(*sizes, *losses) <= 0:
        raise ValueError("not enough to fit")
    (slope, intercept), *rest = np.polyfit(np.log(sizes), np.log(losses), 1, full=True)
    x = np.log(sizes)
    residual = np.log(losses) - slope * x - intercept
    s = math.sqrt((residual**2).sum() / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
    t = t_quantile(len(x) - 2)
    return [-slope, float(np.exp(-intercept / slope)), [-slope - t * s, -slope + t * s]]


def fit_power_law__normal_equations(sizes, losses):
    n = len(sizes)
    if n < 3 or len(losses) != n or any(v <= 0 for v in sizes) or any(v <= 0 for v in losses):
        raise ValueError("not enough to fit")
    design = torch.tensor([[1.0, -math.log(size)] for size in sizes], dtype=torch.float64)
    target = torch.tensor([math.log(loss) for loss in losses], dtype=torch.float64)
    gram = design.T @ design
    if torch.linalg.matrix_rank(design) < 2:
        raise ValueError("the sizes are all the same")
    offset, alpha = torch.linalg.solve(gram, design.T @ target).tolist()
    residual = target - design @ torch.tensor([offset, alpha], dtype=torch.float64)
    variance = residual @ residual / (n - 2) * torch.linalg.inv(gram)[1, 1]
    margin = t_quantile(n - 2) * variance.sqrt().item()
    return alpha, math.exp(offset / alpha), (alpha - margin, alpha + margin)


def chinchilla_optimal__tokens_first(flops, tokens_per_parameter=20.0):
    if not flops > 0:
        raise ValueError("no budget")
    tokens = (flops * tokens_per_parameter / 6) ** 0.5
    return flops / (6 * tokens), tokens


def chinchilla_optimal__logarithms(flops, tokens_per_parameter=20.0):
    if flops <= 0:
        raise ValueError("no budget")
    log_n = (math.log(flops) - math.log(6) - math.log(tokens_per_parameter)) / 2
    return [math.exp(log_n), math.exp(log_n + math.log(tokens_per_parameter))]


def _names(config):
    """(theirs, ours) name pairs, without weight and bias."""
    pairs = [("wte", ("token_embedding",)), ("wpe", ("position_embedding",)), ("ln_f", ("final_norm",))]
    for i in range(config.n_layers):
        a, f = f"blocks.{i}.attention.", f"blocks.{i}.feed_forward."
        pairs += [
            (f"h.{i}.ln_1", (f"blocks.{i}.norm_1",)),
            (f"h.{i}.ln_2", (f"blocks.{i}.norm_2",)),
            (f"h.{i}.attn.c_attn", (a + "w_q", a + "w_k", a + "w_v")),
            (f"h.{i}.attn.c_proj", (a + "w_o",)),
            (f"h.{i}.mlp.c_fc", (f + "w_in",)),
            (f"h.{i}.mlp.c_proj", (f + "w_out",)),
        ]
    return pairs


def to_gpt2_state_dict__columns(state_dict, config):
    out, used = {}, set()
    try:
        for theirs, sources in _names(config):
            linear = "c_" in theirs
            columns = [state_dict[f"{s}.weight"] for s in sources]
            out[f"transformer.{theirs}.weight"] = torch.hstack([c.t() for c in columns]) if linear else columns[0]
            used.update(f"{s}.weight" for s in sources)
            if theirs not in ("wte", "wpe"):
                out[f"transformer.{theirs}.bias"] = torch.hstack([state_dict[f"{s}.bias"] for s in sources])
                used.update(f"{s}.bias" for s in sources)
    except KeyError as error:
        raise ValueError(f"{error} is missing") from error
    if used != set(state_dict):
        raise ValueError(f"left over: {set(state_dict) - used}")
    return out | {"lm_head.weight": out["transformer.wte.weight"]}


def to_gpt2_state_dict__name_by_name(state_dict, config):
    table = {ours: (theirs, place) for theirs, sources in _names(config) for place, ours in enumerate(sources)}
    wanted = {f"{m}.{k}" for m in table for k in ("weight", "bias") if k == "weight" or "embedding" not in m}
    if wanted != state_dict.keys():
        raise ValueError(f"names that do not fit: {sorted(wanted ^ state_dict.keys())}")
    d, out = config.d_model, {}
    for name, value in state_dict.items():
        module, kind = name.rsplit(".", 1)
        theirs, place = table[module]
        key = f"transformer.{theirs}.{kind}"
        if "c_" in theirs and value.dim() == 2:
            value = value.T
        if theirs.endswith("c_attn"):
            out.setdefault(key, value.new_zeros(*value.shape[:-1], 3 * d))[..., place * d : (place + 1) * d] = value
        else:
            out[key] = value
    out["lm_head.weight"] = state_dict["token_embedding.weight"]
    return out
