"""A plain transcription of the published structure of MOSS: what its speed is compared with.

One row at a time, as published: keys grow by concatenation; the local transformer runs the whole prefix for
each of its 17 outputs; the gate reads the full text head; each codebook's penalty looks at every code so far;
the codec decodes one frame per call. Attention is torch's own, the arithmetic fp32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor

from soundmill.models.moss.published import CODEC, LANGUAGE
from soundmill.models.moss.random_weights import RandomWeights

SIZES = LANGUAGE["gpt2_config"]
WIDTH, HEADS, INNER = SIZES["n_embd"], SIZES["n_head"], SIZES["n_inner"]
BOOKS, PAD, SLOT, END = LANGUAGE["n_vq"], LANGUAGE["audio_pad_token_id"], 9, 7

Past = list[tuple[Tensor, Tensor]]


def _rope(x: Tensor, start: int, base: float = 10000.0) -> Tensor:
    """Rotary positions on `[B, H, T, D]`, pairs beside each other."""
    half = torch.arange(0, x.shape[-1], 2, dtype=torch.float32) / x.shape[-1]
    angles = torch.arange(start, start + x.shape[2], dtype=torch.float32)[:, None] * base**-half
    cos, sin = angles.cos(), angles.sin()
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)


class PlainLanguageModel:
    """Global and local transformer for one row."""

    def __init__(self) -> None:
        self._weights = RandomWeights()
        self.text = self._take("transformer.wte.weight", SIZES["vocab_size"], WIDTH)
        self.books = [self._take(f"audio_embeddings.{k}.weight", 1024, WIDTH) for k in range(BOOKS)]
        self._global = [self._block(f"transformer.h.{i}") for i in range(SIZES["n_layer"])]
        self._local = [self._block("local_transformer.h.0")]
        self._norms = [self._norm("transformer.ln_f"), self._norm("local_transformer.ln_f")]
        self._past: Past = []
        self._codes: list[list[int]] = [[] for _ in range(BOOKS)]

    def _take(self, name: str, *shape: int) -> Tensor:
        return self._weights.take(name, shape=shape, dtype=torch.float32)

    def _norm(self, name: str) -> tuple[Tensor, Tensor]:
        return self._take(f"{name}.weight", WIDTH), self._take(f"{name}.bias", WIDTH)

    def _block(self, name: str) -> dict[str, Tensor]:
        shapes = {
            "attn.c_attn": (3 * WIDTH, WIDTH), "attn.c_proj": (WIDTH, WIDTH),
            "mlp.fc_in": (INNER, WIDTH), "mlp.fc_out": (WIDTH, INNER),
        }  # fmt: skip
        block = {f"{part}.weight": self._take(f"{name}.{part}.weight", *s) for part, s in shapes.items()}
        block |= {f"{part}.bias": self._take(f"{name}.{part}.bias", s[0]) for part, s in shapes.items()}
        for part in ("ln_1", "ln_2"):
            block[f"{part}.weight"], block[f"{part}.bias"] = self._norm(f"{name}.{part}")
        return block

    def embed(self, rows: Tensor) -> Tensor:
        """`[T, 1 + K]` ids to `[1, T, D]`."""
        x = self.text[rows[:, 0]]
        for k in range(BOOKS):
            codes = rows[:, 1 + k]
            valid = codes != PAD
            x = x + self.books[k][codes.clamp(max=1023)] * valid[:, None]
        return x[None]

    def _run(self, blocks: list[dict[str, Tensor]], norm: int, x: Tensor, past: Past | None) -> Tensor:
        for index, block in enumerate(blocks):
            h = F.layer_norm(x, (WIDTH,), block["ln_1.weight"], block["ln_1.bias"])
            mixed = F.linear(h, block["attn.c_attn.weight"], block["attn.c_attn.bias"])
            q, k, v = (part.view(1, -1, HEADS, WIDTH // HEADS).transpose(1, 2) for part in mixed.chunk(3, -1))
            start = past[index][0].shape[2] if past is not None and len(past) > index else 0
            q, k = _rope(q, start), _rope(k, start)
            if past is not None:
                if start:
                    k, v = torch.cat((past[index][0], k), 2), torch.cat((past[index][1], v), 2)
                    past[index] = (k, v)
                else:
                    past.append((k, v))
            causal = q.shape[2] > 1
            h = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).reshape(x.shape)
            x = x + F.linear(h, block["attn.c_proj.weight"], block["attn.c_proj.bias"])
            h = F.layer_norm(x, (WIDTH,), block["ln_2.weight"], block["ln_2.bias"])
            h = F.gelu(F.linear(h, block["mlp.fc_in.weight"], block["mlp.fc_in.bias"]), approximate="tanh")
            x = x + F.linear(h, block["mlp.fc_out.weight"], block["mlp.fc_out.bias"])
        return F.layer_norm(x, (WIDTH,), *self._norms[norm])

    def begin(self, rows: Tensor) -> Tensor:
        """Run a prompt; return the last hidden state `[1, D]`."""
        self._past, self._codes = [], [[] for _ in range(BOOKS)]
        return self._run(self._global, 0, self.embed(rows), self._past)[:, -1]

    def frame(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Spell a frame and feed it back: codes `[K]` and the next hidden state."""
        inputs = hidden[:, None]
        gate = F.linear(self._run(self._local, 1, inputs, None)[:, -1], self.text)
        self._draw(gate[:, [SLOT, END]], 1.0, 50, 1.0)  # the answer is not asked for: fixed frames
        inputs = torch.cat((inputs, self.text[SLOT][None, None]), 1)
        codes = []
        for k in range(BOOKS):
            h = self._run(self._local, 1, inputs, None)[:, -1]
            logits = F.linear(h, self.books[k])
            if self._codes[k]:
                seen = torch.tensor(self._codes[k]).unique()
                score = logits[:, seen]
                logits[:, seen] = torch.where(score < 0, score * 1.2, score / 1.2)
            code = int(self._draw(logits, 0.8, 25, 0.95))
            self._codes[k].append(code)
            codes.append(code)
            if k + 1 < BOOKS:
                inputs = torch.cat((inputs, self.books[k][code][None, None]), 1)
        row = torch.tensor([[SLOT, *codes]])
        return row[0, 1:], self._run(self._global, 0, self.embed(row), self._past)[:, -1]

    @staticmethod
    def _draw(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
        logits = logits / temperature
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
        if top_p < 1:
            ordered, places = logits.sort(descending=True)
            dropped = ordered.softmax(-1).cumsum(-1) > top_p
            dropped[:, 1:] = dropped[:, :-1].clone()
            dropped[:, 0] = False
            logits = logits.masked_fill(dropped.scatter(1, places, dropped), -torch.inf)
        return torch.multinomial(logits.softmax(-1), 1)


class PlainCodec:
    """The decoder, one frame per call, with the keys and values of each layer's window."""

    def __init__(self) -> None:
        weights = RandomWeights()
        self._tables = [
            weights.take(
                f"table.{q}", shape=(1024, CODEC["quantizer_kwargs"]["rvq_dim"]), dtype=torch.float32
            )
            for q in range(BOOKS)
        ]
        self._output = weights.take("quantizer.output_proj", shape=(768, 512), dtype=torch.float32)
        self._modules = []
        rate = 12.5
        for module in CODEC["decoder_kwargs"]:
            if "patch_size" in module:
                rate *= module["patch_size"]
                self._modules.append(module)
                continue
            names = {
                "in": (256, module["input_dimension"]), "out": (module["output_dimension"], 256),
            }  # fmt: skip
            held = {n: weights.take(n, shape=s, dtype=torch.float32) for n, s in names.items()}
            shapes = {"qkv": (768, 256), "proj": (256, 256), "up": (1024, 256), "down": (256, 1024)}
            layers = [
                {n: weights.take(f"{n}{i}", shape=s, dtype=torch.float32) for n, s in shapes.items()}
                for i in range(module["num_layers"])
            ]
            window = round(rate * module["context_duration"])
            self._modules.append({"window": window, "layers": layers, **held})
        self._ones = torch.ones(256)
        self.reset()

    def reset(self) -> None:
        """Begin an utterance."""
        self._past: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._done = 0

    def decode(self, codes: Tensor) -> Tensor:
        """One frame's codes `[K]` to `[2, 3840]`."""
        latent = sum(table[code] for table, code in zip(self._tables, codes, strict=True))
        x = F.linear(latent, self._output)[None, None]
        for index, module in enumerate(self._modules):
            if "patch_size" in module:
                size = module["patch_size"]
                x = x.unflatten(-1, (-1, size)).transpose(2, 3).flatten(1, 2)
            else:
                x = self._transformer(index, module, x)
        self._done += 1
        return x.reshape(-1, 2).t()

    def _transformer(self, index: int, module: dict, x: Tensor) -> Tensor:
        start = self._done * x.shape[1]
        x = F.linear(x, module["in"])
        for number, layer in enumerate(module["layers"]):
            mixed = F.linear(F.layer_norm(x, (256,), self._ones, None), layer["qkv"])
            q, k, v = (part.unflatten(-1, (4, 64)).transpose(1, 2) for part in mixed.chunk(3, -1))
            q, k = _rope(q, start), _rope(k, start)
            if (index, number) in self._past:
                before = self._past[index, number]
                k, v = torch.cat((before[0], k), 2), torch.cat((before[1], v), 2)
            offset = k.shape[2] - q.shape[2]
            place = torch.arange(q.shape[2])[:, None] + offset - torch.arange(k.shape[2])
            mask = (place >= 0) & (place < module["window"])
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)
            self._past[index, number] = (k[:, :, 1 - module["window"] :], v[:, :, 1 - module["window"] :])
            x = x + 0.1 * F.linear(h, layer["proj"])
            h = F.linear(F.layer_norm(x, (256,), self._ones, None), layer["up"])
            x = x + 0.1 * F.linear(F.gelu(h), layer["down"])
        return F.linear(x, module["out"])
