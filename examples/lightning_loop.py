"""Keep a mask in Lightning's Trainer: pip install lightning."""

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import masksearch as ms
from masksearch.training import lightning_callback


class Classifier(lightning.LightningModule):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(epochs: int = 5) -> float:
    lightning.seed_everything(0, verbose=False)
    data = ms.load_data("digits")
    model = ms.build_model("lenet_300_100", data, seed=0)
    space = ms.weight_space(model)
    keep = ms.keep_mask(model, space, space.from_saliency(ms.criteria.magnitude(model, space), sparsity=0.9))
    loader = DataLoader(TensorDataset(data.train.inputs, data.train.targets), 64, shuffle=True)
    callbacks, off = [lightning_callback(keep)], {"logger": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(max_epochs=epochs, callbacks=callbacks, **off)
    trainer.fit(Classifier(model), loader)
    accuracy = ms.evaluate(model.cpu(), data.test).accuracy
    print(f"accuracy {accuracy:.2%} with {ms.cost.nonzero_params(model):,} non-zero parameters")
    return accuracy


if __name__ == "__main__":
    main()
