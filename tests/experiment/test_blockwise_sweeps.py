"""Sweeps that prune language models block after block, at the densities that masks have."""

import pytest
import torch
from safetensors.torch import load_file
from small_sweeps import cells_of, settings_in, small_world  # noqa: F401
from text_cases import WORDS, save_tokenizer

import masksearch as ms
from masksearch.core.mask import Mask
from masksearch.data import load_data
from masksearch.experiment import run_sweep
from masksearch.models import build_model
from masksearch.pruning.gram_matrices import calibration_inputs
from masksearch.pruning.one_shot import LayerLevels, block_weights
from masksearch.searching.history_store import read_rows
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import torch_generator

TEXT = {
    "dataset": "standard_library",
    "model": "byte_gpt:0.03",
    "text_length": 16,
    "train_examples": 48,
    "val_examples": 16,
    "search_examples": 8,
    "calibration_examples": 24,
    "sparsity": [0.5],
    "scope": "layerwise",
    "epochs": 1,
    "batch_size": 16,
    "optimizer": "adamw",
    "lr": 1e-3,
    "objective": "distance",
    "retrain_epochs": 1,
    "reconstruct": "blockwise",
}


def swept(tmp_path, **flat):
    return cells_of(run_sweep(settings_in(tmp_path, **TEXT | flat)))


def test_masks_are_pruned_block_after_block_before_the_retraining(tmp_path):
    cells = {cell.metrics.method: cell for cell in swept(tmp_path, methods=["magnitude", "wanda", "sparsegpt"])}
    assert len(cells) == 3
    for name, cell in cells.items():
        result = cell.metrics
        assert (result.find_at, result.rewind_to, result.metric.name) == ("end", "none", "perplexity")
        assert result.mask.density == 0.5
        assert set(result.mask.densities) == {layer for layer in result.mask.densities if layer.startswith("blocks.")}
        updates = name == "sparsegpt"
        assert (result.last.found.test_loss == result.untrained.test_loss) != updates
        assert result.trained.test_loss != result.untrained.test_loss
    cell = cells["sparsegpt"]
    data = load_data("standard_library", text_length=16, train_examples=48, val_examples=16)
    dense = build_model(TEXT["model"], data)
    dense.load_state_dict(cell.moment("end"))
    inputs = calibration_inputs(data.train, 24, torch_generator(0, "calibration"))
    own = ms.one_shot(dense, inputs, 0.5)
    assert Mask.load(cell.folder / "mask.safetensors", own.space) == own.mask
    assert ms.evaluate(own.model, data.test).loss == pytest.approx(cell.metrics.untrained.test_loss, rel=1e-6)


def test_search_and_owl_give_layers_different_densities(tmp_path):
    [searched] = swept(
        tmp_path, methods=["optuna_cmaes"], saliencies=["wanda"], budget=3, optuna={"spread": 1.0}, scope="global"
    )
    [outliers] = swept(tmp_path, methods=["owl"], scope="global")
    for cell in (searched, outliers):
        densities = cell.metrics.mask.densities.values()
        assert cell.metrics.mask.density == 0.5
        assert max(densities) > min(densities)
        assert cell.metrics.last.found.test_loss != cell.metrics.untrained.test_loss


def test_nm_masks_are_exact_with_and_without_channel_swaps(tmp_path):
    flat = {"granularity": "nm", "methods": ["sparsegpt"], "scope": "global"}
    [plain], [permuted] = (swept(tmp_path, channel_swaps=swaps, **flat) for swaps in (0, 200))
    assert plain.folder != permuted.folder
    for cell in (plain, permuted):
        weights = load_file(cell.folder / "retrained.safetensors")["blocks.0.fall.weight"]
        assert (weights.view(-1, 4) != 0).sum(1).tolist() == [2] * (weights.numel() // 4)
    assert plain.metrics.untrained.test_loss != permuted.metrics.untrained.test_loss
    assert plain.metrics.dense.test_loss == permuted.metrics.dense.test_loss


def test_transformers_folder_is_pruned_blockwise_without_training(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder, texts = tmp_path / "gpt", tmp_path / "texts"
    save_tokenizer(folder, transformers, tokenizers)
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=32, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)  # its embedding and its head share their weights
    for part, n in (("train", 600), ("test", 100)):
        (texts / part).mkdir(parents=True)
        chosen = torch.randint(0, 30, (n,), generator=torch.Generator().manual_seed(n)).tolist()
        (texts / part / "text.txt").write_text(" ".join(WORDS[number] for number in chosen))
    names = {"dataset": f"text:{texts}", "model": f"transformers:{folder}", "epochs": 0, "methods": ["sparsegpt"]}
    sizes = {"train_examples": 28, "val_examples": 6, "search_examples": 3, "calibration_examples": 16}
    [cell] = swept(tmp_path, retrain_epochs=0, text_length=16, **names | sizes)
    assert all("transformer.h." in name for name in cell.metrics.mask.densities)
    assert cell.metrics.last.found.test_loss != cell.metrics.untrained.test_loss == cell.metrics.trained.test_loss


WRONG = {
    "it prunes weights, and granularity is filter": {"granularity": "filter", "methods": ["taylor"]},
    "layers: linear; reconstruct blockwise prunes all layers": {"layers": "linear"},
    "connected: reconstruct blockwise chooses other weights": {"connected": True},
    "it prunes in one round": {"schedule": ["iterative"]},
    "rewind_to: end; reconstruct blockwise updates the weights of find_at": {"rewind_to": ["end"]},
    "control: shuffle; reconstruct blockwise chooses": {"control": ["shuffle"]},
    "channel_swaps: 5; it is for 2:4 masks": {"channel_swaps": 5},
    "channel_swaps: 5; movement can't rank reordered": {
        "channel_swaps": 5,
        "granularity": "nm",
        "methods": ["movement"],
        "scope": "global",
    },
    "text_length: 16; digits has no text": {"dataset": "digits"},
}


@pytest.mark.parametrize("message", WRONG)
def test_blockwise_pruning_with_wrong_settings_raises_input_error(message, tmp_path):
    with pytest.raises(InputError, match=message):
        settings_in(tmp_path, **{"methods": ["wanda"]} | TEXT | WRONG[message])


def test_search_scores_networks_pruned_by_sparsegpt(tmp_path):
    flat = {"methods": ["random_search"], "saliencies": ["wanda"], "objective": "reconstructed", "budget": 6}
    [cell] = swept(tmp_path, **flat)
    data = load_data("standard_library", text_length=16, train_examples=48, val_examples=16, search_examples=8)
    dense = build_model(TEXT["model"], data)
    dense.load_state_dict(cell.moment("end"))
    space = block_weights(dense, data.example(2))
    inputs = calibration_inputs(data.train, 24, torch_generator(0, "calibration"))
    scorer = ms.Scorer(dense, space, data.search, "reconstructed", calibration=LayerLevels(dense, space, inputs))
    # The mask of the result keeps as many weights of each layer as the best mask of the search.
    expected = scorer(Mask.load(cell.folder / "mask.safetensors", space)).value
    assert max(trial.score.value for trial in read_rows(cell.folder)) == pytest.approx(expected, rel=1e-3)
