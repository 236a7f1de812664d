"""On real images and published weights; skipped where they are absent."""

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from datamodules.images import decode, to_tensor
from datamodules.noise.gaussian import GaussianNoise
from datamodules.realisation import Kair
from datamodules.splits import images_of
from denoisers.metrics import Score


def merged_dncnn(path):
    """KAIR's DnCNN with batch norm folded: convolutions and ReLUs alone, built here from its state dict."""
    state = torch.load(path, weights_only=True)
    layers = []
    for key in [key for key in state if key.endswith("weight")]:
        weight, bias = state[key], state[key.replace("weight", "bias")]
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        conv.load_state_dict({"weight": weight, "bias": bias})
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.slow
def test_kair_protocol_reproduces_a_published_number(real_data):
    """DnCNN-25 of KAIR on Set12 at σ = 25: 30.4316 dB by an independent implementation, 30.44 published."""
    weights = real_data / "weights" / "kair" / "dncnn_25.pth"
    if not weights.is_file():
        pytest.skip(f"no published weights: {weights}")
    network, total = merged_dncnn(weights).to(memory_format=torch.channels_last), 0.0
    items = images_of("Set12", str(real_data))
    for item in items:
        clean = to_tensor(decode(item.clean))
        noisy, _ = Kair()(GaussianNoise(sigma=25), clean, eval_seed=0)
        with torch.no_grad():
            estimate = noisy[None] - network(noisy[None])
        total += Score()(estimate, clean[None])["psnr"].item()
    assert total / len(items) == pytest.approx(30.4316, abs=0.002)


@pytest.mark.parametrize(
    ("data", "channels", "sizes"),
    [("bsd400", 1, (388, 12, 80)), ("bsd432", 3, (420, 12, 68)), ("bsd432", 1, (420, 12, 68))],
)
def test_named_sets_are_found_and_checked(compose, real_data, data, channels, sizes):
    module = instantiate(compose(f"data={data}", f"channels={channels}", f"data_root={real_data}").datamodule)
    splits = module.splits
    assert (len(splits.train), len(splits.val), len(splits.test)) == sizes
    module.setup("validate")
    batch = module.on_after_batch_transfer(next(iter(module.val_dataloader())), 0)
    assert batch["clean"].shape[1] == channels
    assert (batch["noisy"] - batch["clean"]).std().item() * 255 == pytest.approx(25, rel=0.05)
