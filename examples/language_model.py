"""Remove 80 % of the weights of a small GPT that predicts the bytes of the standard library's code."""

import inspect
import json

import torch
from torch import Tensor, nn

import masksearch as ms


class Gpt(nn.Module):
    def __init__(self, width: int = 64, length: int = 64) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, width), nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(width, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        hidden = self.tokens(tokens) + self.places.weight[:length]
        causal = nn.Transformer.generate_square_subsequent_mask(length)
        return self.head(self.blocks(hidden, mask=causal, is_causal=True))


def main(chunks: int = 2000, epochs: int = 5) -> ms.Compressed:
    text = "".join(inspect.getsource(module) for module in (json.decoder, json.encoder, inspect, nn.functional))
    tokens = torch.tensor(list(text.encode())).long()
    tokens = tokens[: len(tokens) // 64 * 64].view(-1, 64)[:chunks]  # (n, 64)
    cut = len(tokens) * 4 // 5
    data = ms.Data.from_tensors("python", train=(tokens[:cut], None), test=(tokens[cut:], None), task="language_model")
    torch.manual_seed(0)
    model, training = Gpt(), ms.TrainSettings(epochs=epochs, optimizer="adamw", lr=2e-3, batch_size=32)
    ms.train(model, data.train, training, val=data.val)
    print(result := ms.compress(model, data, sparsity=0.8, train=training))
    return result


if __name__ == "__main__":
    main()
