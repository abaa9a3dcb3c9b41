"""Keep a mask in a training loop of one's own."""

import torch
import torch.nn.functional as F

import masksearch as ms


def main(epochs: int = 5) -> float:
    torch.manual_seed(0)
    data = ms.load_data("digits")
    model = ms.build_model("lenet_300_100", data, seed=0)
    space = ms.weight_space(model)
    mask = space.from_saliency(ms.criteria.magnitude(model, space), sparsity=0.9)

    keep = ms.keep_mask(model, space, mask)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(data.train.inputs, data.train.targets), 64, shuffle=True
    )
    for _ in range(epochs):
        for inputs, targets in loader:
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            keep()  # pruned weights are zero again
    keep.remove()

    zeros = 1 - ms.cost.nonzero_params(model) / ms.cost.params(model)
    accuracy = ms.evaluate(model, data.test).accuracy
    print(f"accuracy {accuracy:.2%} with {zeros:.1%} of the parameters at zero")
    return accuracy


if __name__ == "__main__":
    main()
