"""What a denoiser costs, against values by hand."""

import pytest
from torch import nn

from experiments import cost


def test_costs_of_a_convolution_by_hand():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)
            self.wide = nn.Conv2d(1, 64, 3, padding=1, bias=False)

        def forward(self, noisy, level=None):
            return self.conv(noisy) + self.wide(noisy).mean(1, keepdim=True)

    found = cost.measure(One(), 1)
    assert found["parameters"] == 10 + 576
    assert found["size_mb"] == pytest.approx(586 * 4e-6)
    assert found["macs"] == 256 * 256 * 9 * 65
    assert found["cpu_ms"] > 0
    assert cost.measure(Same(), 1)["macs"] is None


def test_memory_is_measured_in_a_process_of_its_own():
    if not cost.CLEAR.exists():
        pytest.skip("this system does not tell the peak of a process's memory")
    found = cost.measure_apart(None, {"_target_": "denoisers.networks.simple_cnn.SimpleCNN"}, 1)
    assert 0.9 * 64 * 256 * 256 * 4 / 1e6 < found["peak_mb"] < 200  # of a feature map at least


class Same(nn.Module):
    def forward(self, noisy, level=None):
        return noisy
