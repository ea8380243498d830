"""What a right answer of lesson 03 shows, and the known mistakes."""

import contextlib
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn

from shared.checking import observes, raised
from week1_decoder.solutions.decoder import GPT, GPTConfig
from week2_pretraining.solutions import pretraining as reference


class Guesser(nn.Module):
    """Logits by a table, louder in training mode; notes in which mode it was called, and whether gradients were on."""

    def __init__(self, rng, vocab_size=5, seconds_batch_fails=False):
        super().__init__()
        self.table = nn.Parameter(2 * torch.randn(vocab_size, vocab_size, generator=rng))
        self.calls = []
        self.fails_at = 1 if seconds_batch_fails else None

    def forward(self, token_ids):
        if len(self.calls) == self.fails_at:
            raise RuntimeError("out of memory")
        self.calls.append({"training": self.training, "gradients": torch.is_grad_enabled()})
        return self.table[token_ids] * (3.0 if self.training else 1.0)


def _batches(rng, shapes, ignored, vocab_size=5):
    """(token_ids, targets) of these shapes, the first `ignored` targets of each set to -100."""
    made = []
    for shape, count in zip(shapes, ignored, strict=True):
        token_ids = torch.randint(0, vocab_size, shape, generator=rng)
        targets = torch.randint(0, vocab_size, shape, generator=rng)
        targets.view(-1)[:count] = -100
        made.append((token_ids, targets))
    return made


def _mean_of_batches(model, batches):
    was_training, losses = model.training, []
    model.eval()
    try:
        with torch.no_grad():
            for token_ids, targets in batches:
                losses.append(F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten()).item())
    finally:
        model.train(was_training)
    if not losses or all(loss != loss for loss in losses):
        raise ValueError
    return sum(losses) / len(losses)


def _weighted_by_mean(model, batches):
    was_training, total, count = model.training, 0.0, 0
    model.eval()
    try:
        with torch.no_grad():
            for token_ids, targets in batches:
                n = (targets != -100).sum().item()
                total += n * F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten()).item()
                count += n
    finally:
        model.train(was_training)
    if not count:
        raise ValueError
    return total / count


@observes(
    "evaluate_loss",
    difficulty=2,
    minutes=10,
    hints=(
        "Lesson 04 of week 1: add up the nats of the whole corpus, then divide once. What is the weight of a batch?",
        "`F.cross_entropy(..., reduction='sum')` gives the nats of a batch, and 0 where nothing counts. Remember "
        "model.training before model.eval(), and restore it in a `finally`.",
        "total += summed cross-entropy of logits.flatten(0, 1) and targets.flatten(); n += (targets != -100).sum(); all "
        "under torch.no_grad(), inside try / finally: model.train(was_training). n == 0 is a ValueError.",
    ),
    mistakes={
        "Every batch weighs the same: the targets of a small last batch count more than the others.": _mean_of_batches,
        "The nats are divided by all positions, those with target -100 too: padding makes the loss look better.": (
            "(targets != -100).sum().item()",
            "targets.numel()",
        ),
        "The mean loss of each batch is weighted by its targets: where nothing counts it is nan, and 0 times nan is "
        "nan, which spoils the sum.": (_weighted_by_mean),
        "The model is evaluated in training mode: with dropout on, the loss is too high, and another one each time.": (
            "    model.eval()\n",
            "",
        ),
        "The model is left in evaluation mode: from the first evaluation on, it trains without dropout.": (
            "model.train(was_training)",
            "pass",
        ),
        "The model is always put in training mode at the end, even if it was not before.": (
            "model.train(was_training)",
            "model.train()",
        ),
        "The mode is restored only if all goes well: after an error in the model (or Ctrl-C) it stays in evaluation "
        "mode.": (
            "finally:",
            "except ZeroDivisionError:\n        pass\n    else:",
        ),
        "Gradients are recorded: each evaluation holds all activations in memory, for a backward pass that never "
        "comes.": ("torch.no_grad()", "torch.enable_grad()"),
        "The case without any counted target ends in nan or an error of division, which does not say what is wrong.": (
            "raise ValueError(",
            'return float("nan")\n        print(',
        ),
        "The perplexity comes back: the mean loss itself was asked for, in nats.": (
            "return total_nats / n_targets",
            "return 2.718281828459045 ** (total_nats / n_targets)",
        ),
    },
)
def check_evaluate_loss(evaluate_loss, rng):
    model = Guesser(rng, 3).eval()
    one = [(torch.tensor([[0, 1]]), torch.tensor([[1, 2]]))]
    table = {"model": "logits = table[token_ids]", "table": model.table.detach(), "batches": one}
    yield "one batch of two targets", evaluate_loss(model, one), table
    half = [(torch.tensor([[0, 1]]), torch.tensor([[-100, 2]]))]
    yield "one of two targets counts", evaluate_loss(model, half), {**table, "batches": half}
    model = Guesser(rng).train()
    batches = _batches(rng, [(3, 4), (1, 2), (2, 5)], [2, 0, 7])
    yield "batches with 10, 2 and 3 counted targets, from a generator", evaluate_loss(model, (b for b in batches))
    calls = [call["training"] for call in model.calls]
    yield "in training mode during the evaluation", calls, {"model": "in training mode before"}
    yield "gradients recorded", [call["gradients"] for call in model.calls], {"model": "in training mode before"}
    yield "in training mode afterwards", model.training, {"model": "in training mode before"}
    model.eval()
    yield "the same batches, the model in evaluation mode before", evaluate_loss(model, batches)
    yield "in training mode afterwards, when it was not before", model.training, {"model": "in evaluation mode before"}
    empty = _batches(rng, [(2, 2), (2, 3)], [4, 1])
    yield "one batch without any counted target", evaluate_loss(model, empty)
    yield "no batch is refused", raised(evaluate_loss, model, [])
    yield "no counted target is refused", raised(evaluate_loss, model, empty[:1])
    model = Guesser(rng, seconds_batch_fails=True).train()
    told = {"model": "in training mode before; raises RuntimeError on the second batch"}
    yield "an error in the model comes through", raised(evaluate_loss, model, batches), told
    yield "in training mode after that error", model.training, told
    yield "gradients are on again after that error", torch.is_grad_enabled(), told


@observes(
    "model_flops_utilization",
    difficulty=1,
    minutes=8,
    hints=(
        "Tokens a second times FLOPs per token is FLOP a second. What is it a share of?",
        "`transformer_flops(config, n_tokens)` returns the parts of one forward pass over a whole sequence.",
        "forward = sum of its values for config.context_length tokens, divided by context_length; 3 · forward · "
        "tokens_per_second / peak_flops_per_second.",
    ),
    mistakes={
        "Only the forward pass is counted: the backward pass costs twice as much again, so the whole is 3 times "
        "forward.": ("tokens_per_second * 3 * forward", "tokens_per_second * forward"),
        "Forward and backward are counted as equal: backward computes two gradients for each product, of the weights and "
        "of the inputs, so it costs twice the forward pass.": (
            "tokens_per_second * 3 * forward",
            "tokens_per_second * 2 * forward",
        ),
        "The FLOPs of a whole sequence are multiplied by tokens a second: the result is too high by a factor of "
        "context_length.": (" / config.context_length\n", "\n"),
        "The FLOPs of a sequence of one token are taken: attention to the rest of the context is missing.": (
            "sum(transformer_flops(config, config.context_length).values()) / config.context_length",
            "sum(transformer_flops(config, 1).values())",
        ),
        "The fraction is upside down: it says how many times the peak is above what the run does.": (
            "tokens_per_second * 3 * forward / peak_flops_per_second",
            "peak_flops_per_second / (tokens_per_second * 3 * forward)",
        ),
        "A speed of 0 or below is taken as it is: a measurement that went wrong looks like a result.": (
            "if tokens_per_second <= 0 or peak_flops_per_second <= 0:",
            "if False:",
        ),
    },
)
def check_model_flops_utilization(model_flops_utilization, rng):
    small = GPTConfig(vocab_size=7, context_length=4, d_model=2, n_heads=1, n_layers=1)
    yield "a tiny model, one token a second, a peak of 1,000 FLOP/s", model_flops_utilization(small, 1.0, 1000.0)
    yield "GPT-2 small, 100,000 tokens/s, 312 TFLOP/s", model_flops_utilization(GPTConfig(), 1e5, 312e12)
    layers, wide = (int(torch.randint(1, 9, (), generator=rng)) for _ in range(2))
    config = GPTConfig(vocab_size=1000, context_length=128, d_model=16 * wide, n_heads=2, n_layers=layers, d_ff=100)
    yield "another model", model_flops_utilization(config, 3e3, 5e10)
    yield "0 tokens a second are refused", raised(model_flops_utilization, small, 0.0, 1000.0)
    yield "half a token a second, a peak of 1 FLOP/s", model_flops_utilization(small, 0.5, 1.0)
    yield (
        "a peak of 0 and one below 0 are refused",
        [raised(model_flops_utilization, small, 1.0, p) for p in (0.0, -9.0)],
    )


@dataclass(frozen=True)
class Setting:
    """The config of a run, as small as it can be."""

    d_model: int = 3
    max_lr: float = 0.01
    betas: tuple = (0.9, 0.95)
    corpus_seed: int = 0


class Small(nn.Module):
    """A linear map and a buffer, so that not all that has to be kept is a parameter."""

    def __init__(self, rng, d_model=3):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d_model, generator=rng))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return x @ self.weight


def _run(model, optimizer, generator, steps):
    """Losses of a few steps on random numbers of `generator`."""
    losses = []
    for _ in range(steps):
        loss = model(torch.randn(4, len(model.weight), generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _start(rng, steps=0, **options):
    """A model, its optimizer and the generator of its data, after some steps."""
    model = Small(rng, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(int(torch.randint(1, 2**31, (), generator=rng)))
    _run(model, optimizer, generator, steps)
    return model, optimizer, generator


def _state(model, optimizer, generator):
    """All that a run consists of, as values; the generator by its next draw."""
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    optimizer_state = [dict(optimizer.state[p]) for p in model.parameters()]
    return {"model": dict(model.state_dict()), "optimizer": optimizer_state, "draw": torch.rand(2, generator=twin)}


class _Disk:
    """Watches what is done to make a file safe: fsync of all bytes, then a rename from the same folder."""

    def __init__(self):
        self.synced, self.renames = [], []

    def fsync(self, fd):
        self.synced.append(os.fstat(fd if isinstance(fd, int) else fd.fileno()).st_size)
        return self._fsync(fd)

    def rename(self, source, target, **options):
        same_folder = Path(source).resolve().parent == Path(target).resolve().parent
        self.renames.append({"same folder": same_folder, "bytes not yet on the disk": self._left(source)})
        return self._replace(source, target)

    def _left(self, source):
        return max(0, os.path.getsize(source) - max(self.synced, default=0))

    @contextlib.contextmanager
    def watch(self):
        self._fsync, self._replace = os.fsync, os.replace
        with (
            patch.object(os, "fsync", self.fsync),
            patch.object(os, "replace", self.rename),
            patch.object(os, "rename", self.rename),
        ):
            yield


def _full_disk(contents, file, *args, **kwargs):
    """torch.save on a disk that is full after a few bytes."""
    if hasattr(file, "write"):
        file.write(b"PK half a file")
    else:
        Path(file).write_bytes(b"PK half a file")
    raise OSError("No space left on device")


def _read(path):
    """The contents of a checkpoint; or in a word why it cannot be read."""
    try:
        return torch.load(path, weights_only=True)
    except FileNotFoundError:
        return "no file"
    except Exception as error:
        objects = re.findall(r"GLOBAL \S*?(\w+) was not", str(error))
        return "cannot be read with weights_only=True" + "".join(f": it holds a {name}" for name in objects)


def _entry(contents, key):
    return contents.get(key) if isinstance(contents, dict) else contents


@observes(
    "save_checkpoint",
    difficulty=3,
    minutes=20,
    hints=(
        "What does the next step of training depend on? Weights, Adam's two averages and step counter, the place in the "
        "schedule, and which batch is drawn next.",
        "`torch.save(contents, file)` writes into an open file. file.flush() hands Python's buffer to the system, "
        "os.fsync(file.fileno()) the system's to the disk. The old file is not touched until os.replace.",
        "contents is a dict of model.state_dict(), optimizer.state_dict(), generator.get_state(), step and "
        "asdict(config). Write it to path.with_name(path.name + '.tmp'), flush, fsync, close; os.replace(temporary, path).",
    ),
    mistakes={
        "The file is written in place: from the first byte on, the earlier checkpoint is gone. A kill or a full disk in "
        "the middle of saving loses both.": [
            ('temporary = path.with_name(path.name + ".tmp")', "temporary = path"),
            ("    os.replace(temporary, path)\n", ""),
        ],
        "The earlier file is deleted before the new one is complete: a kill in between loses both.": (
            '    with open(temporary, "wb") as file:',
            '    path.unlink(missing_ok=True)\n    with open(temporary, "wb") as file:',
        ),
        "The file is renamed before its bytes are on the disk (no fsync): after a power cut the name may be there, and "
        "the contents not.": ("os.fsync(file.fileno())", "pass"),
        "The temporary file is in another folder, and may be on another disk: from there a rename is impossible, or a "
        "copy that can break off in the middle.": (
            'temporary = path.with_name(path.name + ".tmp")',
            'import tempfile\n    temporary = Path(tempfile.gettempdir(), path.parent.name + ".tmp")',
        ),
        "The optimizer's state is missing: a resumed run starts with Adam's averages at zero, and its loss jumps.": (
            '"optimizer": optimizer.state_dict()',
            '"optimizer": {}',
        ),
        "The state of torch's global generator is saved, not of the one that draws the batches: a resumed run sees other "
        "batches.": (
            '"generator": generator.get_state()',
            '"generator": torch.get_rng_state()',
        ),
        "Only the parameters are kept: the model's buffers (running averages, tables) are lost.": (
            '"model": model.state_dict()',
            '"model": dict(model.named_parameters())',
        ),
        "The step is stored as one more than the steps done: a resumed run leaves one out.": (
            '"step": step,',
            '"step": step + 1,',
        ),
        "The config is stored as an object of its class: such a file cannot be read with weights_only=True, nor once the "
        "class has moved.": ('"config": asdict(config)', '"config": config'),
        "The whole module is pickled, not its state: such a file cannot be read with weights_only=True, nor once "
        "the code has moved.": ('"model": model.state_dict()', '"model": model'),
    },
)
def check_save_checkpoint(save_checkpoint, rng):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.pt")
        model, optimizer, generator = _start(rng, steps=3)
        told = {"path": "run.pt", "step": 3, "config": asdict(Setting())}
        disk = _Disk()
        with disk.watch():
            save_checkpoint(path, model, optimizer, generator, 3, Setting())
        contents = _read(path)
        yield "the keys of the file", sorted(contents) if isinstance(contents, dict) else contents, told
        for key in ("step", "config", "model", "optimizer", "generator"):
            yield f"the file's {key!r}", _entry(contents, key), told
        yield "files in the folder", sorted(os.listdir(folder)), told
        last = disk.renames[-1] if disk.renames else "nothing was renamed"
        yield "how the file got its name", last, told
        losses = _run(model, optimizer, generator, 2)
        save_checkpoint(str(path), model, optimizer, generator, 5, Setting())
        yield "saved again after two more steps", _entry(_read(path), "model"), {**told, "losses": losses, "step": 5}
        with patch.object(torch, "save", _full_disk):
            outcome = raised(save_checkpoint, path, model, optimizer, generator, 7, Setting(max_lr=1.0))
        full = {"path": "run.pt, with step 5 in it", "step": 7, "disk": "full: torch.save raises OSError"}
        yield "the disk is full in the middle of saving", outcome, full
        yield "the step in the file after the full disk", _entry(_read(path), "step"), full
        inner = Path(folder, "runs", "new", "run.pt")
        save_checkpoint(inner, *_start(rng), 0, Setting())
        yield "two folders that were not there, step 0", _entry(_read(inner), "step"), {"path": "runs/new/run.pt"}


@dataclass(frozen=True)
class OlderSetting:
    """The config of an earlier version of the script: one field fewer, another one gone since."""

    d_model: int = 3
    max_lr: float = 0.01
    betas: tuple = (0.9, 0.95)
    dropout: float = 0.1


class _RunsCode:
    """Pickled, it is a call of os.mkdir when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


OTHER_WEIGHTS = {  # the config is the same, the code of the model has changed since
    "weights under other names": lambda weights: {f"module.{name}": w for name, w in weights.items()},
    "weights of other shapes": lambda weights: {name: torch.stack([w, w]) for name, w in weights.items()},
}


def _refusal(load_checkpoint, path, run, config):
    """The exception's name, the config fields in its message, and what is left of the run."""
    fields = ("d_model", "max_lr", "betas", "corpus_seed", "dropout")
    try:
        outcome = f"returned {load_checkpoint(path, *run, config)}"
        named = []
    except NotImplementedError:
        raise
    except Exception as error:
        outcome = type(error).__name__
        named = [name for name in fields if name in str(error).replace(str(path), "")]
    return outcome, named


@observes(
    "load_checkpoint",
    difficulty=3,
    minutes=20,
    hints=(
        "First everything that can be refused, then everything that changes something: file there, readable, the right "
        "keys, the same config, weights that fit; only then three times a state is put back.",
        "torch.load(path, weights_only=True) raises many kinds of exceptions on a damaged file: turn them into one "
        "ValueError. Compare asdict(config) with the saved dict over the names of both.",
        "Compare the two config dicts name by name, over the names of both (`.get`), and tell all that differ. Do "
        "the same with the names and shapes of the weights. Only then load the optimizer, the model and the "
        "generator, and return the saved step.",
    ),
    mistakes={
        "The optimizer is not restored: Adam begins again with empty averages and a step counter of 0, and the loss jumps.": (
            'optimizer.load_state_dict(saved["optimizer"])',
            "pass",
        ),
        "The generator is not restored: the resumed run sees other batches than the uninterrupted one.": (
            'generator.set_state(saved["generator"])',
            "pass",
        ),
        "torch's global generator is set instead of the one that draws the batches.": (
            "generator.set_state(",
            "torch.set_rng_state(",
        ),
        "One step more than was done is returned: a resumed run leaves one out.": (
            'return saved["step"]',
            'return saved["step"] + 1',
        ),
        "Another config is not refused: the run goes on with other settings than its first part, and nobody notices.": (
            "if names:",
            "if False:",
        ),
        "Only the fields of today's config are compared: a setting that has since been removed from the code goes "
        "unnoticed.": ("wanted.keys() | found.keys()", "wanted.keys()"),
        "Only the fields in the file are compared: a setting that came later goes unnoticed.": (
            "wanted.keys() | found.keys()",
            "found.keys()",
        ),
        "The message does not name the fields that differ: which of thirty settings was it?": (
            "another config ({told})",
            "another config",
        ),
        "The model is overwritten before the config is compared: after the refusal it holds the other run's weights.": (
            "    wanted, found =",
            '    model.load_state_dict(saved["model"])\n    wanted, found =',
        ),
        "Weights that do not fit are noticed too late: load_state_dict raises in the middle of putting back, and the "
        "optimizer is already the other run's.": ("if here != there:", "if False:"),
        "Names are compared, but not shapes: load_state_dict raises in the middle of putting back, and the optimizer is "
        "already the other run's.": ("if here != there:", "if here.keys() != there.keys():"),
        "A missing file counts as a new run: with a typing error in the path, days of training begin again at step 0.": (
            "raise FileNotFoundError(",
            "return 0\n        print(",
        ),
        "The file may run any code while it is read (weights_only=False): pickle calls what it is told to call.": (
            'map_location="cpu", weights_only=True',
            'map_location="cpu", weights_only=False',
        ),
        "The errors of torch.load come out raw: a damaged file looks like a fault in the program, and a caller has to "
        "know all kinds of exceptions.": ("except Exception as error:", "except ZeroDivisionError as error:"),
        "A file of something else (only weights, say) is not recognized, and gives an error about a key.": (
            "if not isinstance(saved, dict) or saved.keys() != expected:",
            "if False:",
        ),
    },
)
def check_load_checkpoint(load_checkpoint, rng):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.pt")
        saved = _start(rng, steps=3)
        reference.save_checkpoint(path, *saved, 3, Setting())
        on = _run(*saved, 3)
        run = _start(rng, steps=1)
        told = {"path": "a checkpoint after 3 steps", "run": "another one, after 1 step"}
        global_state = torch.get_rng_state()
        yield "the step", load_checkpoint(path, *run, Setting()), told
        yield "torch's global generator is left alone", torch.equal(global_state, torch.get_rng_state()), told
        for key, value in _state(*run).items():
            yield f"the state afterwards: {key}", value, told
        yield "three more losses", _run(*run, 3), {**told, "losses of the uninterrupted run": on}
        yield "a new run, path as a string", load_checkpoint(str(path), *_start(rng), Setting()), told

        refused = {
            "another max_lr": (path, Setting(max_lr=0.02)),
            "other betas and d_model": (path, Setting(betas=(0.9, 0.99), d_model=4)),
        }
        older = Path(folder, "older.pt")
        reference.save_checkpoint(older, *_start(rng), 9, OlderSetting())
        refused["a checkpoint of an older script: no corpus_seed, but dropout"] = (older, Setting())
        removed = Path(folder, "removed.pt")
        torch.save({**torch.load(path), "config": {**asdict(Setting()), "dropout": 0.1}}, removed)
        refused["a checkpoint with dropout and all that we have"] = (removed, Setting())
        refused["no file"] = (Path(folder, "missing.pt"), Setting())
        whole = path.read_bytes()
        for label, n_bytes in (("cut in half", len(whole) // 2), ("0 bytes long", 0)):
            cut = Path(folder, f"{n_bytes}.pt")
            cut.write_bytes(whole[:n_bytes])
            refused[label] = (cut, Setting())
        text = Path(folder, "text.pt")
        text.write_text("not a checkpoint")
        refused["a text file"] = (text, Setting())
        weights = Path(folder, "weights.pt")
        torch.save(saved[0].state_dict(), weights)
        refused["only the weights of a model"] = (weights, Setting())
        alone = Path(folder, "alone.pt")
        torch.save(torch.zeros(3), alone)
        refused["a single tensor"] = (alone, Setting())
        for label, change in OTHER_WEIGHTS.items():
            other = Path(folder, f"{label}.pt")
            torch.save({**torch.load(path), "model": change(saved[0].state_dict())}, other)
            refused[label] = (other, Setting())
        evil, proof = Path(folder, "evil.pt"), Path(folder, "proof")
        torch.save({**torch.load(path), "step": _RunsCode(str(proof))}, evil)
        refused["a file that calls os.mkdir when it is unpickled"] = (evil, Setting())

        run = _start(rng, steps=1)
        before = _state(*run)
        for label, (file, config) in refused.items():
            told = {"path": label, "config": asdict(config)}
            outcome, named = _refusal(load_checkpoint, file, run, config)
            yield label, outcome, told
            yield f"{label}: fields named in the message", named, told
            yield f"{label}: model, optimizer and generator", _state(*run), {**told, "before": before}
        yield (
            "a folder was made by the code in the file",
            proof.exists(),
            {"path": "calls os.mkdir when it is unpickled"},
        )


def _linear_not_log(sizes, losses):
    return reference.fit_power_law([2.718281828459045**size for size in sizes], losses)


@observes(
    "fit_power_law",
    difficulty=3,
    minutes=15,
    rtol=1e-4,
    atol=1e-9,
    hints=(
        "A power law is a straight line in log-log: ln L = α ln N_c - α ln N. What are its slope and intercept?",
        "slope = Σ (x - x̄)(y - ȳ) / Σ (x - x̄)², intercept = ȳ - slope · x̄. The constant is where the line crosses "
        "L = 1: ln N_c = intercept / α.",
        "standard error of the slope = √(Σ residual² / (n - 2) / Σ (x - x̄)²); the interval is α ± "
        "t_quantile(n - 2) times this. α is minus the slope. Compute in float64.",
    ),
    mistakes={
        "The slope is returned, and not its negative: in L = (N_c / N)^α, α is above 0 when larger models are better.": [
            ("exponent, margin = -slope.item()", "exponent, margin = slope.item()"),
            ("torch.exp(intercept / -slope)", "torch.exp(intercept / slope)"),
        ],
        "The constant is exp of the intercept: that is N_c^α, not N_c.": (
            "intercept / -slope",
            "intercept",
        ),
        "The logarithm of the sizes is missing: this fits an exponential decay, not a power law.": (
            "torch.tensor(sizes, dtype=torch.float64).log()",
            "torch.tensor(sizes, dtype=torch.float64)",
        ),
        "The logarithm of the losses is missing: this fits a line in ln N.": (
            "torch.tensor(losses, dtype=torch.float64).log()",
            "torch.tensor(losses, dtype=torch.float64)",
        ),
        "The line is forced through the origin: the constant takes part in the slope.": [
            ("((x - x.mean()) * (y - y.mean())).sum() / spread", "(x * y).sum() / x.square().sum()"),
        ],
        "1.96 is taken for every number of points: with five points and two fitted numbers, three are left to tell "
        "the noise, and the interval is too narrow by more than a third.": (
            "t_quantile(len(x) - 2) *",
            "1.959964 *",
        ),
        "The residuals are divided by n and not by n - 2: two degrees of freedom went into the line, and the interval "
        "is too narrow.": ("/ (len(x) - 2) / spread", "/ len(x) / spread"),
        "The interval is that of the scatter around the line, not of its slope: it does not shrink as the sizes spread "
        "out.": ("/ (len(x) - 2) / spread", "/ (len(x) - 2)"),
        "The interval is one standard error to each side: that covers about 60 % with few points, not 95 %.": (
            "t_quantile(len(x) - 2) *",
            "1.0 *",
        ),
        "Two points are accepted: a line goes through any two, and its interval is made of nothing.": (
            "if len(sizes) < 3:",
            "if len(sizes) < 2:",
        ),
        "Values that are 0 or below are accepted: their logarithm turns the whole fit into nan.": (
            "if not all(0 < value < math.inf for value in [*sizes, *losses]):",
            "if False:",
        ),
    },
)
def check_fit_power_law(fit_power_law, rng):
    yield "three points of L = (16 / N)^0.5", fit_power_law([1.0, 4.0, 16.0], [4.0, 2.0, 1.0])
    yield "three points with noise", fit_power_law([10.0, 100.0, 1000.0], [5.0, 3.0, 2.5])
    sizes = [1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7]
    noise = torch.randn(len(sizes), generator=rng, dtype=torch.float64).clamp(-2, 2)
    losses = [(8.8e13 / n) ** 0.076 * (1 + 0.01 * e) for n, e in zip(sizes, noise.tolist(), strict=True)]
    yield "seven sizes, the paper's constants, 1 % noise", fit_power_law(sizes, losses)
    for label, sizes, losses in (
        ("two points", [1.0, 2.0], [2.0, 1.0]),
        ("a loss of 0", [1.0, 2.0, 4.0], [2.0, 1.0, 0.0]),
        ("a size below 0", [-1.0, 2.0, 4.0], [2.0, 1.0, 0.5]),
        ("three sizes, four losses", [1.0, 2.0, 4.0], [2.0, 1.0, 0.5, 0.25]),
        ("three times the same size", [2.0, 2.0, 2.0], [2.0, 1.0, 0.5]),
    ):
        yield label, raised(fit_power_law, sizes, losses)


@observes(
    "chinchilla_optimal",
    difficulty=1,
    minutes=5,
    hints=(
        "Put D = 20 N into C = 6 N D. What is left to solve for?",
        "With 20 tokens per parameter it is C = 120 N². Where does the 120 come from when the ratio is another?",
        "The parameters are the root of the budget over 6 times the ratio. There are tokens_per_parameter times as "
        "many tokens.",
    ),
    mistakes={
        "The 6 is missing: each token costs 6 FLOPs per parameter, 2 forward and 4 backward.": (
            "flops / (6 * tokens_per_parameter)",
            "flops / tokens_per_parameter",
        ),
        "Only the forward pass is paid for: 2 FLOPs per parameter and token, where training takes 6.": (
            "6 * tokens_per_parameter",
            "2 * tokens_per_parameter",
        ),
        "The square root is missing: parameters and tokens both grow with the budget, each with its square root.": (
            "math.sqrt(flops / (6 * tokens_per_parameter))",
            "flops / (6 * tokens_per_parameter)",
        ),
        "Tokens and parameters come in the wrong order.": (
            "return parameters, tokens_per_parameter * parameters",
            "return tokens_per_parameter * parameters, parameters",
        ),
        "20 tokens per parameter are built in: another ratio changes nothing.": [
            ("6 * tokens_per_parameter)", "120.0)"),
            ("return parameters, tokens_per_parameter * parameters", "return parameters, 20 * parameters"),
        ],
        "A budget of 0 or below is accepted, as if there were a model to train with it.": (
            "if flops <= 0:",
            "if flops < -1e99:",
        ),
    },
)
def check_chinchilla_optimal(chinchilla_optimal, rng):
    yield "a budget of 480 FLOPs", chinchilla_optimal(480.0)
    yield "the budget of Gopher", chinchilla_optimal(5.76e23)
    budget = 10 ** (15 + 10 * torch.rand((), generator=rng).item())
    yield "another budget", chinchilla_optimal(budget)
    yield "100 tokens per parameter", chinchilla_optimal(budget, tokens_per_parameter=100.0)
    yield "a budget of 1 FLOP", chinchilla_optimal(1.0)
    yield "no budget is refused", raised(chinchilla_optimal, 0.0)


@observes(
    "to_gpt2_state_dict",
    difficulty=3,
    minutes=20,
    hints=(
        "Go through `from_gpt2_state_dict` of week 1, lesson 03, from the last line to the first.",
        "torch.cat of the three weights (d_model, d_model) along axis 0, then the transpose: (d_model, 3 d_model). Biases "
        "are joined and not transposed; embeddings are neither.",
        "Make a table from Hugging Face's module to the list of ours (three for c_attn, else one); for each, and for "
        "weight and bias: take them out of a copy of the state dict, join, transpose if '.c_' is in the name.",
    ),
    mistakes={
        "The matrices are not transposed: Hugging Face's Conv1D keeps (inputs, outputs). The square ones load "
        "without a word, and the model talks nonsense.": ("value.T if", "value if"),
        "Embeddings are transposed too: they are tables with a row for each token, in both layouts.": (
            'value.T if ".c_" in module and kind == "weight" else value',
            'value.T if kind == "weight" and value.dim() == 2 else value',
        ),
        "c_attn is joined in another order than query, key, value: the shapes fit, and attention is wrong.": (
            '("w_q", "w_k", "w_v")',
            '("w_k", "w_q", "w_v")',
        ),
        "The weights of c_attn are joined along the wrong axis: heads of query, key and value come out mixed.": (
            'value = torch.cat([rest.pop(f"{source}.{kind}") for source in sources])',
            'value = torch.cat([rest.pop(f"{source}.{kind}") for source in sources], dim=-1)\n'
            "            value = value.T.reshape(-1, value.shape[0]) if value.dim() == 2 and len(sources) == 3 else value",
        ),
        "The prefix `transformer.` is missing: GPT2LMHeadModel finds none of its names.": [
            ('f"transformer.{module}.{kind}"', 'f"{module}.{kind}"'),
            ('theirs["transformer.wte.weight"]', 'theirs["wte.weight"]'),
        ],
        "`lm_head.weight` is missing: GPT2LMHeadModel asks for it, although it is the embedding again.": (
            'theirs["lm_head.weight"] = theirs["transformer.wte.weight"]',
            "pass",
        ),
        "The two norms of a block have changed places: the shapes fit, and the logits do not.": [
            ('"h.{i}.ln_1"] = [f"blocks.{i}.norm_1"]', '"h.{i}.ln_1"] = [f"blocks.{i}.norm_2"]'),
            ('"h.{i}.ln_2"] = [f"blocks.{i}.norm_2"]', '"h.{i}.ln_2"] = [f"blocks.{i}.norm_1"]'),
        ],
        "Names that are left over are dropped in silence: a deeper model than the config says loses its last layers.": (
            "if rest:",
            "if False:",
        ),
        "A missing name gives a bare KeyError, which says neither what was expected nor of which model.": (
            "if missing:",
            "if False:",
        ),
        "The entries are taken out of the caller's own dict: afterwards it is empty.": (
            "dict(state_dict)",
            "state_dict",
        ),
    },
)
def check_to_gpt2_state_dict(to_gpt2_state_dict, rng):
    config = GPTConfig(vocab_size=3, context_length=2, d_model=2, n_heads=1, n_layers=1, d_ff=3)
    weights = _random_weights(config, rng)
    first = {"config": config, "blocks.0.attention.w_q.weight": weights["blocks.0.attention.w_q.weight"]}
    theirs = to_gpt2_state_dict(weights, config)
    yield "the names for one layer", sorted(theirs), first
    yield "the weights of one layer", {k: v for k, v in theirs.items() if k.startswith("transformer.h.0.")}, first
    config = GPTConfig(vocab_size=11, context_length=5, d_model=6, n_heads=3, n_layers=2, d_ff=9)
    weights = _random_weights(config, rng)
    yield "two layers, d_ff of its own", to_gpt2_state_dict(weights, config), {"config": config}
    for name in ("blocks.1.norm_2.bias", "blocks.0.attention.w_k.weight", "final_norm.weight"):
        rest = {key: value for key, value in weights.items() if key != name}
        yield f"{name} is missing", raised(to_gpt2_state_dict, rest, config)
    shallow = GPTConfig(vocab_size=11, context_length=5, d_model=6, n_heads=3, n_layers=1, d_ff=9)
    yield "a layer more than the config says is refused", raised(to_gpt2_state_dict, weights, shallow)


def _random_weights(config, rng):
    return {name: torch.randn(value.shape, generator=rng) for name, value in GPT(config, rng).state_dict().items()}
