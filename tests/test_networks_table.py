"""The table of all networks, and how far they see."""

import json

import numpy as np
import pytest
from command_line import call
from PIL import Image
from torch import nn

from denoisers.layers import SqueezeExcite
from denoisers.networks.dncnn import DnCNN
from denoisers.networks.ffdnet import FFDNet
from denoisers.networks.ircnn import IRCNN
from denoisers.networks.unet import UNet
from denoisers.receptive import receptive_field
from experiments import networks


@pytest.mark.parametrize(
    ("network", "field"),
    [
        (DnCNN(num_features=4), 35),  # 1 + 2 · 17
        (DnCNN(num_features=4, num_layers=5, kernel_size=5), 21),
        (IRCNN(num_features=4), 33),  # 1 + 2 · (1 + 2 + 3 + 4 + 3 + 2 + 1), as published
        (FFDNet(num_features=4), 62),  # 2 · (1 + 2 · 15), as published
        (UNet(num_features=4, num_layers=1), 7),
    ],
)
def test_receptive_fields_are_those_of_their_layers(network, field):
    assert receptive_field(network, 1) == field


def test_a_mean_over_the_image_sees_all_of_it():
    class Global(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = SqueezeExcite(1, 1)

        def forward(self, noisy, level=None):
            return self.attend(noisy)

    assert receptive_field(Global(), 1) is None


@pytest.fixture
def photographs(tmp_path):
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 255, (24, 24), dtype=np.uint8)
        (tmp_path / "photographs").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{index}.png")
    return tmp_path / "photographs"


@pytest.mark.slow
def test_the_table_measures_trains_and_goes_on(monkeypatch, capfd, photographs, tmp_path):
    folder = tmp_path / "table"
    monkeypatch.setattr(networks, "SIZES", {256: "256²", 512: "512²"})
    crops = ["data.patch_size=12", "data.crops_per_image=4", "data.batch_size=4", "trainer.max_steps=2"]
    typed = ",".join(f'"{override}"' for override in ["data=folder", f"data.path={photographs}", *crops])
    asked = ["models=[swift,simple_cnn]", "train=1", f"recipe=[{typed}]", f"run_dir={folder}"]
    code, printed = call(monkeypatch, capfd, networks.main, *asked)
    assert code == 0, printed
    lines = (folder / "networks.md").read_text().splitlines()
    small, swift = (next(line for line in lines if line.startswith(f"| {name} ")) for name in ("simple_cnn", "swift"))
    assert small.startswith("| simple_cnn | 38,145 | 2.49 | 7 |")
    assert " photographs " in small
    assert swift.startswith("| swift | 568,836 | 2.71 | 180 |")
    assert swift.endswith("| – | – |")
    kept = json.loads((folder / "costs" / "swift.json").read_text())
    assert kept["512"]["macs"] == 4 * kept["256"]["macs"]
    code, printed = call(monkeypatch, capfd, networks.main, *asked)
    assert code == 0, printed
    assert "measuring" not in printed
    assert "done already" in printed


def test_a_network_that_is_not_there_is_named(monkeypatch, capfd, tmp_path):
    code, printed = call(monkeypatch, capfd, networks.main, "models=[swft]", f"run_dir={tmp_path / 'r'}")
    assert code == 2
    assert "there is no 'swft'; did you mean swift" in printed
