"""Rooflines: operations and traffic counted by hand, ceilings, and a small table."""

import json
import math
import signal

import pytest
import torch
from command_line import call
from conftest import TRAINABLE, small
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from denoisers.layers import DepthwiseConv2d
from experiments import bench_xunit, roofline, throughput
from experiments.roofline import Ceilings, Least, Work, least, work_of
from experiments.signals import Interrupted


class Alone(nn.Module):
    """One convolution as a network."""

    def __init__(self, convolution):
        super().__init__()
        self.convolution = convolution

    def forward(self, noisy, level=None):
        return self.convolution(noisy)


@pytest.mark.parametrize(
    ("convolution", "weights"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), 4 * 6 * 9),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), 2 * 6 * 9),
        (DepthwiseConv2d(4, 9), 4 * 81),
    ],
)
def test_work_is_that_counted_by_hand(convolution, weights):
    batch, height, width, out = 2, 10, 12, convolution.out_channels
    pixels = batch * height * width
    work = work_of(Alone(convolution), (batch, 4, height, width))
    assert work["estimating"].flops == 2 * weights * pixels
    assert work["estimating"].elements == pixels * (4 + out) + weights + out
    assert work["training"].flops == 2 * work["estimating"].flops  # of its input no gradient is wanted
    # backwards: the output's gradient, the input and the weights go in, the gradients of weights and bias come out
    assert work["training"].elements == work["estimating"].elements + pixels * (4 + out) + 2 * weights + out


def test_gradients_of_what_lies_between_count_too():
    first, second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
    work = work_of(Alone(nn.Sequential(first, nn.ReLU(), second)), (1, 1, 8, 8))
    assert work["estimating"].flops == 2 * 64 * (72 + 72)
    assert work["training"].flops == 2 * 64 * (2 * 72 + 3 * 72)


def test_the_network_itself_stays_as_it_is():
    network = Alone(nn.Conv2d(1, 1, 3, padding=1)).eval()
    work_of(network, (1, 1, 8, 8))
    assert not network.training
    assert network.convolution.weight.device.type == "cpu"
    assert network.convolution.weight.grad is None


def test_the_roofline_is_the_lower_of_two_ceilings():
    machine = Ceilings(flops=100, bytes=10)
    assert least(Work(200, 1), machine, 4) == Least(2.0, "matrix")
    assert least(Work(200, 10), machine, 4) == Least(4.0, "copy")
    assert least(Work(200, 10), machine, 2) == Least(2.0, "copy")
    rated = throughput.rated(
        {"training": 8.0, "estimating": 4.0},
        {"training": Work(200, 10), "estimating": Work(200, 1)},
        machine,
        throughput.MODES["float32"],
        4_000_000,
    )
    assert rated["training"] == {"pixels": 0.5, "share": 0.5, "binds": "copy"}
    assert rated["estimating"] == {"pixels": 1.0, "share": 0.5, "binds": "matrix"}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("features", "flops"), [((1, 4, 8, 8), 4 * 64**3), ((2, 16, 32, 32), 4 * 16 * 16 * 9 * 2 * 32 * 32)]
)
def test_ceilings_are_those_of_a_product_or_a_convolution_and_a_copy(monkeypatch, half, features, flops):
    monkeypatch.setattr(roofline, "SIDE", {"cpu": 64})
    monkeypatch.setattr(roofline, "FEATURES", {"cpu": features})
    monkeypatch.setattr(roofline, "BYTES", {"cpu": 2**12})

    def half_a_second(step, at_least, of):
        result = step()
        kinds.append((result.dtype, result.nbytes))
        return of([0.5, 0.75])

    kinds = []
    monkeypatch.setattr(roofline, "seconds_of", half_a_second)
    assert roofline.ceilings("cpu", half, 1.0) == Ceilings(flops=flops, bytes=4 * 2**12)
    dtype = torch.bfloat16 if half else torch.float32
    products = [(dtype, size * dtype.itemsize) for size in (64**2, math.prod(features))]
    assert kinds == [*products, (torch.float32, 2**12)]


@pytest.mark.parametrize("model", TRAINABLE)
def test_the_work_of_every_network_can_be_counted(spec, model):
    network = instantiate(small(spec(model)))
    work = work_of(network, (1, 1, 64, 64))
    assert work["training"].flops >= 2 * work["estimating"].flops * 0.9 > 0


def test_a_small_table(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(roofline, "SIDE", {"cpu": 256, "cuda": 256})
    monkeypatch.setattr(roofline, "FEATURES", dict.fromkeys(("cpu", "cuda"), (1, 8, 16, 16)))
    monkeypatch.setattr(roofline, "BYTES", {"cpu": 2**22, "cuda": 2**22})
    asked = ["models=[swift]", "batch_size=1", "patch_size=16", "seconds=0", f"run_dir={tmp_path}"]
    code, printed = call(monkeypatch, capfd, throughput.main, *asked, "modes=[float32,bf16]")
    assert code == 0, printed
    assert all(len(line) <= 100 for line in printed.splitlines())
    found = json.loads((tmp_path / "swift.json").read_text())
    assert set(found["modes"]) == {"float32", "bf16"}
    assert set(found["ceilings"]) == {"float32", "bf16"}
    for mode in found["modes"].values():
        assert mode["training"]["pixels"] > 0
        assert mode["estimating"]["share"] > 0
    assert "GFLOP/s (M)" in printed

    monkeypatch.setattr(throughput, "measure", None)  # what is there is kept
    assert call(monkeypatch, capfd, throughput.main, *asked, "modes=[bf16]")[0] == 0
    code, printed = call(monkeypatch, capfd, throughput.main, *asked, "modes=[fast]")
    assert code == 2
    assert "modes" in printed


def test_each_mode_is_kept_as_soon_as_it_is_measured(monkeypatch, capfd, tmp_path):
    def measure(model, mode, cfg):
        if mode.half:
            raise Interrupted(signal.SIGTERM)
        return {"training": 2.0, "estimating": 1.0}

    monkeypatch.setattr(throughput, "measure", measure)
    monkeypatch.setattr(roofline, "ceilings", lambda *unused: Ceilings(1.0, 1.0))
    asked = ["models=[swift]", "batch_size=1", "patch_size=16", "modes=[float32,bf16]", f"run_dir={tmp_path}"]
    assert call(monkeypatch, capfd, throughput.main, *asked)[0] == 143
    assert set(json.loads((tmp_path / "swift.json").read_text())["modes"]) == {"float32"}


def test_a_failure_that_says_nothing_is_named(monkeypatch, spec):
    def fail(*unused):
        raise NotImplementedError

    monkeypatch.setattr(roofline, "seconds_of", fail)
    cfg = OmegaConf.create({"batch_size": 1, "channels": 1, "patch_size": 16, "seconds": 0, "backend": "eager"})
    found = throughput.measure(small(spec("dncnn")), throughput.MODES["float32"], cfg)
    assert found == {"failed": "NotImplementedError: "}


def test_units_are_compared_with_pytorchs_own(monkeypatch, capfd):
    tiny = ["features=4", "kernel_size=3", "batch_size=1", "patch_size=8", "rounds=1", "gate=gaussian"]
    code, printed = call(monkeypatch, capfd, bench_xunit.main, *tiny)
    assert code == 0, printed
    rows = [line.split() for line in printed.splitlines() if line.strip().startswith("xunit")]
    assert [row[:2] for row in rows] == [[u, p] for u in ("xunit", "xunit_s", "xunit_d") for p in ("float32", "bf16")]
    assert all(float(row[-1]) < (1e-5 if row[1] == "float32" else 0.1) for row in rows)
    assert all(len(line) <= 120 for line in printed.splitlines())


def test_what_a_unit_keeps_for_its_gradients():
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    unit = bench_xunit.Stock("xunit_s", 4, 3, "sigmoid")
    kept = bench_xunit.kept(unit, lambda unit: unit(x)) * 1e6
    assert kept == pytest.approx(3 * x.nbytes, abs=100)  # the input, the convolution's output and the gate
