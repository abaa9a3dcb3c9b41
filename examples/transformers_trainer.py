"""Keep a mask in the Trainer of Hugging Face's Transformers: pip install transformers accelerate."""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import masksearch as ms
from masksearch.training import transformers_callback


def sentences(n: int) -> list[dict[str, torch.Tensor]]:
    """Return ``n`` sequences of 16 tokens; the class says whether token 7 is among them."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(50, (n, 16), generator=generator)
    return [{"input_ids": row, "labels": (row == 7).any().long()} for row in tokens]


def main(n: int = 2000, epochs: int = 3) -> float:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    model = BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=2, **sizes))
    space = ms.weight_space(model, include="bert.encoder.*")
    keep = ms.keep_mask(model, space, space.from_saliency(ms.criteria.magnitude(model, space), sparsity=0.8))

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=epochs, learning_rate=1e-3, use_cpu=True, report_to=[], save_strategy="no", seed=0
        )
        trainer = Trainer(model, arguments, train_dataset=sentences(n), callbacks=[transformers_callback(keep)])
        loss = trainer.train().training_loss
    print(f"training loss {loss:.3f} with {ms.cost.nonzero_params(model):,} non-zero parameters")
    return loss


if __name__ == "__main__":
    main()
