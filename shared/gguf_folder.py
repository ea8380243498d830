"""SmolLM2's GGUF file to a Hugging Face folder: configuration, weights in float16, tokenizer."""

from __future__ import annotations

from pathlib import Path

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


def convert(gguf_file: Path, folder: Path) -> None:
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
