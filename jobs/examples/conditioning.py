#!/usr/bin/env python3
"""Writes conditioning.safetensors, the tensors of conditioning-file.json: texts that the demo model's own text encoder has
encoded, with NumPy alone. For other models let their own programs encode (ComfyUI, diffusers) and write the file in the same way.

  python3 jobs/examples/conditioning.py [OUT]"""
import json
import os
import struct
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
DEMO = os.path.join(HERE, "../demo")
sys.path.insert(0, os.path.join(HERE, "../../tools/demo-model"))
from tokens import Tokenizer  # noqa: E402

TEXTS = {"red_circle": "a red circle", "blue_star": "a blue star", "empty": ""}
PREFIX, LAYERS, HEADS = "cond_stage_model.transformer.text_model.", 2, 4


def read(path):
    """The text encoder's tensors, in float32."""
    with open(path, "rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(size)), f.read()
    return {name[len(PREFIX):]: np.frombuffer(data[slice(*t["data_offsets"])], np.float16).reshape(t["shape"]).astype(np.float32)
            for name, t in header.items() if name.startswith(PREFIX) and t["dtype"] == "F16"}


def linear(w, name, x):
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def norm(w, name, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[name + ".weight"] + w[name + ".bias"]


def attention(w, layer, x):
    q, k, v = (linear(w, f"{layer}self_attn.{n}_proj", x).reshape(len(x), HEADS, -1).swapaxes(0, 1) for n in "qkv")
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]) + np.triu(np.full((len(x), len(x)), -np.inf), 1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ v
    return linear(w, layer + "self_attn.out_proj", mixed.swapaxes(0, 1).reshape(x.shape))


def encode(w, ids):
    """CLIP's text transformer: ids -> [tokens, width]."""
    x = w["embeddings.token_embedding.weight"][ids] + w["embeddings.position_embedding.weight"]
    for layer in (f"encoder.layers.{i}." for i in range(LAYERS)):
        x = x + attention(w, layer, norm(w, layer + "layer_norm1", x))
        hidden = linear(w, layer + "mlp.fc1", norm(w, layer + "layer_norm2", x))
        x = x + linear(w, layer + "mlp.fc2", hidden / (1 + np.exp(-1.702 * hidden)))
    return norm(w, "final_layer_norm", x).astype(np.float32)


def write(path, tensors):
    header, offset = {}, 0
    for name, a in tensors.items():
        header[name] = {"dtype": "F32", "shape": a.shape, "data_offsets": [offset, offset + a.nbytes]}
        offset += a.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in tensors.values()))


def main():
    w, tokenizer = read(os.path.join(DEMO, "shapes-fp16.safetensors")), Tokenizer.load(os.path.join(DEMO, "tokenizer"))
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "conditioning.safetensors")
    write(out, {name: encode(w, tokenizer.encode(text)) for name, text in TEXTS.items()})
    print(out)


if __name__ == "__main__":
    main()
