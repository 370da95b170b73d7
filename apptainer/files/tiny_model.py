"""Makes a tiny language model out of a text, in the forms that llama-server (GGUF) and vLLM (a folder) read.

usage: tiny_model.py TEXT [--gguf FILE] [--folder DIRECTORY]

It is a real Llama in form, with a tokenizer, a chat template and one layer, and it is trained by counting: the
embedding tells the current token (one-hot), attention and feed-forward add nothing, and the head holds the
logarithms of how often each token of TEXT follows another. So it says in words whether everything works, in
less than 1 MB and without anything but Python's standard library. The same text gives the same bytes.
"""

import argparse
import collections
import json
import math
import pathlib
import re
import struct
from typing import Dict, Iterator, List, Sequence, Tuple, Union

Matrix = List[List[float]]
Field = Union[bool, int, float, str, List[str], List[int]]

VOCABULARY = 576
LAYERS, HEADS, HEAD_SIZE, FEED_FORWARD = 1, 2, 32, 64
CONTEXT, ROPE_BASE, EPSILON = 2048, 10000.0, 1e-6
NEVER = -15.0  # the logit of what was never seen
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TEXT, _, END_OF_ANSWER = range(3)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+")


def byte_letters() -> Dict[int, str]:
    """The letter by which a byte-level vocabulary writes each byte: itself if printable, else one from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


LETTERS = byte_letters()


class Tokenizer:
    """Byte-pair encoding: again and again, the most frequent pair of neighbours in words becomes a token."""

    def __init__(self, text: str) -> None:
        words = collections.Counter(WORDS.findall(text))
        spelled = {word: [LETTERS[byte] for byte in word.encode()] for word in words}
        self.tokens = SPECIAL + [LETTERS[byte] for byte in range(256)]
        self.merges: List[Tuple[str, str]] = []
        while len(self.tokens) < VOCABULARY:
            pairs: collections.Counter[Tuple[str, str]] = collections.Counter()
            for word, count in words.items():
                for pair in zip(spelled[word], spelled[word][1:]):
                    pairs[pair] += count
            if not pairs:
                break
            best = max(pairs, key=lambda pair: (pairs[pair], pair))
            self.merges.append(best)
            self.tokens.append("".join(best))
            for word in words:
                spelled[word] = merged(spelled[word], best)
        self.tokens += [f"<|unused_{i}|>" for i in range(VOCABULARY - len(self.tokens))]
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        self.spelled = spelled

    def encode(self, text: str) -> List[int]:
        """Token numbers of a part of the text that it was made from."""
        return [self.ids[token] for word in WORDS.findall(text) for token in self.spelled[word]]


def merged(letters: Sequence[str], pair: Tuple[str, str]) -> List[str]:
    out: List[str] = []
    for letter in letters:
        if out and (out[-1], letter) == pair:
            out[-1] += letter
        else:
            out.append(letter)
    return out


def head(tokenizer: Tokenizer, lines: Sequence[str]) -> Matrix:
    """Logits [next][current]. After a token that the text does not have, any beginning of a word may follow."""
    follows: Dict[int, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    start = tokenizer.ids[LETTERS[ord("\n")]]
    any_word: collections.Counter[int] = collections.Counter()
    for line in lines:
        numbers = [start, *tokenizer.encode(line), END_OF_ANSWER]
        for current, following in zip(numbers, numbers[1:]):
            follows[current][following] += 1
        any_word.update(n for n in numbers if tokenizer.tokens[n].startswith(LETTERS[ord(" ")]))
    logits = [[NEVER] * VOCABULARY for _ in range(VOCABULARY)]
    for current in range(VOCABULARY):
        counts = follows.get(current) or any_word
        total = sum(counts.values())
        for following, count in counts.items():
            logits[following][current] = math.log(count / total)
    return logits


def rows(out: int, into: int, value: float = 0.0) -> Matrix:
    """A matrix of `out` rows and `into` columns with one value everywhere."""
    return [[value] * into for _ in range(out)]


def weights(logits: Matrix) -> Iterator[Tuple[str, str, Matrix]]:
    """Name in a Llama folder, name in GGUF, matrix.

    The last norm undoes the length that a norm gives a one-hot vector.
    """
    size, inner = VOCABULARY, HEADS * HEAD_SIZE
    length = 1 / math.sqrt((1 / size) + EPSILON)
    yield "model.embed_tokens.weight", "token_embd.weight", [[float(a == b) for b in range(size)] for a in range(size)]
    for layer in range(LAYERS):
        folder, gguf = f"model.layers.{layer}.", f"blk.{layer}."
        yield folder + "input_layernorm.weight", gguf + "attn_norm.weight", rows(1, size, 1.0)
        for name in "qkv":
            yield folder + f"self_attn.{name}_proj.weight", gguf + f"attn_{name}.weight", rows(inner, size)
        yield folder + "self_attn.o_proj.weight", gguf + "attn_output.weight", rows(size, inner)
        yield folder + "post_attention_layernorm.weight", gguf + "ffn_norm.weight", rows(1, size, 1.0)
        yield folder + "mlp.gate_proj.weight", gguf + "ffn_gate.weight", rows(FEED_FORWARD, size)
        yield folder + "mlp.up_proj.weight", gguf + "ffn_up.weight", rows(FEED_FORWARD, size)
        yield folder + "mlp.down_proj.weight", gguf + "ffn_down.weight", rows(size, FEED_FORWARD)
    yield "model.norm.weight", "output_norm.weight", rows(1, size, 1 / length)
    yield "lm_head.weight", "output.weight", logits


# ------------------------------------------------------------------- GGUF


def packed(matrix: Matrix) -> Tuple[int, bytes]:
    """GGUF's number of the type, and the data.

    Vectors are 32-bit floats, the logits 8-bit blocks (Q8_0), and matrices of zeros and ones 4-bit blocks (Q4_0),
    which hold them exactly.
    """
    if len(matrix) == 1:
        return 0, struct.pack(f"<{len(matrix[0])}f", *matrix[0])
    exact = all(value in {0.0, 1.0} for row in matrix for value in row)
    block = four_bits if exact else eight_bits
    return (2 if exact else 8), b"".join(block(row[i : i + 32]) for row in matrix for i in range(0, len(row), 32))


def eight_bits(values: Sequence[float]) -> bytes:
    scale = max(map(abs, values)) / 127
    return struct.pack("<e32b", scale, *(round(value / scale) if scale else 0 for value in values))


def four_bits(values: Sequence[float]) -> bytes:
    """A weight is (q - 8) * scale: 8 is zero, and 0 is one, by a scale of -1/8."""
    q = [8 if value == 0.0 else 0 for value in values]
    return struct.pack("<e16B", -0.125, *(low | high << 4 for low, high in zip(q[:16], q[16:])))


def text_field(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def field(key: str, value: Field) -> bytes:
    """One entry of the header; whole numbers are unsigned 32-bit ones."""
    return text_field(key) + typed(value)


def typed(value: Field) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text_field(value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text_field, value))
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def gguf(tokenizer: Tokenizer, logits: Matrix) -> bytes:
    control = len(SPECIAL)
    fields: Dict[str, Field] = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "general.alignment": 32,
        "llama.vocab_size": VOCABULARY,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": VOCABULARY,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": FEED_FORWARD,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": HEADS,
        "llama.attention.key_length": HEAD_SIZE,
        "llama.attention.value_length": HEAD_SIZE,
        "llama.attention.layer_norm_rms_epsilon": EPSILON,
        "llama.rope.dimension_count": HEAD_SIZE,
        "llama.rope.freq_base": ROPE_BASE,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokenizer.tokens,
        "tokenizer.ggml.token_type": [3 if n < control else 1 for n in range(VOCABULARY)],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer.merges],
        "tokenizer.ggml.bos_token_id": END_OF_TEXT,
        "tokenizer.ggml.eos_token_id": END_OF_ANSWER,
        "tokenizer.ggml.padding_token_id": END_OF_TEXT,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    infos: List[bytes] = []
    data = b""
    for _, name, matrix in weights(logits):
        kind, content = packed(matrix)
        shape = [len(matrix[0])] if len(matrix) == 1 else [len(matrix[0]), len(matrix)]
        infos.append(text_field(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data)))
        data += content + bytes(-len(content) % 32)
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(fields))
    start += b"".join(field(key, value) for key, value in fields.items()) + b"".join(infos)
    return start + bytes(-len(start) % 32) + data


# ------------------------------------------------------------------- a Llama folder


def folder(tokenizer: Tokenizer, logits: Matrix) -> Dict[str, Union[bytes, Dict[str, object]]]:
    """File name → content, as `transformers` and vLLM read them."""
    special = [
        {
            "id": n,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for n, name in enumerate(SPECIAL)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": VOCABULARY,
            "intermediate_size": FEED_FORWARD,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "head_dim": HEAD_SIZE,
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": EPSILON,
            "rope_theta": ROPE_BASE,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": END_OF_TEXT,
            "eos_token_id": END_OF_ANSWER,
            "pad_token_id": END_OF_TEXT,
            "torch_dtype": "float32",
        },
        "generation_config.json": {"bos_token_id": END_OF_TEXT, "eos_token_id": [END_OF_ANSWER, END_OF_TEXT]},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIAL[END_OF_TEXT],
            "eos_token": SPECIAL[END_OF_ANSWER],
            "pad_token": SPECIAL[END_OF_TEXT],
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": special,
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": tokenizer.ids,
                "merges": [" ".join(pair) for pair in tokenizer.merges],
            },
        },
        "model.safetensors": safetensors(logits),
    }


def safetensors(logits: Matrix) -> bytes:
    header: Dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, _, matrix in weights(logits):
        shape = [len(matrix[0])] if len(matrix) == 1 else [len(matrix), len(matrix[0])]
        content = b"".join(struct.pack(f"<{len(row)}e", *row) for row in matrix)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    start = json.dumps(header).encode()
    start += b" " * (-len(start) % 8)
    return struct.pack("<Q", len(start)) + start + data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=pathlib.Path, help="one answer a line")
    parser.add_argument("--gguf", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--folder", type=pathlib.Path, metavar="DIRECTORY")
    options = parser.parse_args()
    text = options.text.read_text(encoding="ascii")
    tokenizer = Tokenizer(text + "\nuser assistant system")
    logits = head(tokenizer, text.splitlines())
    if options.gguf:
        options.gguf.parent.mkdir(parents=True, exist_ok=True)
        options.gguf.write_bytes(gguf(tokenizer, logits))
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        for name, content in folder(tokenizer, logits).items():
            data = content if isinstance(content, bytes) else json.dumps(content, indent=1).encode()
            (options.folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
