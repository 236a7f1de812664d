"""Networks that see another range than [0, 1]: in training and in checkpoints."""

import pytest
import torch
from command_line import call
from conftest import randomize
from torch import nn

import denoisers
from denoisers.checkpoint import CheckpointError, network_of, read
from denoisers.networks.ffdnet import FFDNet
from denoisers.ranged import Ranged, ranged
from train import main as train


class Seen(nn.Module):
    """Keeps what it is given, and gives it back."""

    def forward(self, noisy, level=None):
        self.noisy, self.level = noisy, level
        return noisy


def test_the_network_sees_its_range_and_the_world_sees_its_own():
    seen, noisy = Seen(), torch.rand(2, 1, 9, 7)
    found = ranged(seen, [-1, 1])(noisy, torch.full((2, 1, 1, 1), 0.1))
    torch.testing.assert_close(seen.noisy, 2 * noisy - 1)
    torch.testing.assert_close(seen.level, torch.full((2, 1, 1, 1), 0.2))
    torch.testing.assert_close(found, noisy)
    ranged(seen, [0, 255])(noisy)
    torch.testing.assert_close(seen.noisy, 255 * noisy)
    assert seen.level is None
    assert ranged(seen, [0, 1]) is seen


def test_a_network_of_another_range_is_not_the_same_function():
    network, noisy, level = (
        randomize(FFDNet(channels=1)).eval(),
        torch.rand(1, 1, 16, 16),
        torch.full((1, 1, 1, 1), 0.1),
    )
    with torch.inference_mode():
        expected = (network(2 * noisy - 1, 2 * level) + 1) / 2
        torch.testing.assert_close(ranged(network, [-1, 1])(noisy, level), expected)
        assert not torch.allclose(network(noisy, level), expected, atol=1e-3)


@pytest.mark.parametrize("wrong", [[1, 0], [0], [0, 0], 3, "01", [0, "b"]])
def test_what_is_no_range_is_named(wrong):
    with pytest.raises(ValueError, match="value_range=.*first below the second"):
        ranged(Seen(), wrong)


def test_a_run_and_its_checkpoint_keep_to_the_range(tmp_path, monkeypatch, capfd):
    common = ["experiment=debug", "model.num_features=4", "model.num_layers=3", "trainer=cpu"]
    code, printed = call(monkeypatch, capfd, train, *common, "value_range=[-1,1]", f"run_dir={tmp_path / 'r'}")
    assert code == 0, printed
    network = network_of(read(tmp_path / "r"))
    assert isinstance(network, Ranged)
    assert (network.low, network.scale) == (-1, 2)
    clean = denoisers.load(tmp_path / "r")(torch.rand(1, 20, 24))
    assert clean.shape == (1, 20, 24)
    code, printed = call(monkeypatch, capfd, train, *common, "value_range=[1,0]", f"run_dir={tmp_path / 'wrong'}")
    assert code == 2
    assert "value_range=[1, 0]: two numbers" in printed
    damaged = read(tmp_path / "r")
    damaged["record"]["config"]["value_range"] = [0]
    with pytest.raises(CheckpointError, match="value_range"):
        network_of(damaged)
