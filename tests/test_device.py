"""What has to be the same wherever it is computed: each test runs on the CPU and, where there is one, on the GPU."""

import copy
import logging

import pytest
import torch
from conftest import randomize

from datamodules import seeds
from datamodules.noise.gaussian import GaussianNoise
from denoisers.networks.dncnn import DnCNN
from denoisers.tiles import tiled

GPU = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
gpu = pytest.param("cuda", marks=GPU)
everywhere = pytest.mark.parametrize("device", ["cpu", gpu])


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """TF32 would hide mistakes of 1e-3."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def network():
    return randomize(DnCNN(channels=1, num_layers=4, num_features=16))


@everywhere
def test_noise_is_its_formula_and_a_function_of_its_seed(device):
    noise, clean = GaussianNoise(sigma=[10, 50]), torch.rand(16, 3, 64, 64, device=device)

    def drawn():
        with seeds.seeded(3, clean.device):
            return noise.corrupt(clean)

    noisy, level = drawn()
    assert noisy.device.type == level.device.type == device
    again = drawn()
    assert torch.equal(noisy, again[0])
    assert torch.equal(level, again[1])
    field = (noisy - clean) / level  # standard normal
    assert field.mean().item() == pytest.approx(0, abs=0.01)
    assert field.std(dim=(1, 2, 3)).cpu() == pytest.approx(torch.ones(16).numpy(), abs=0.03)
    assert ((level * 255 >= 10) & (level * 255 <= 50)).all()
    assert level.flatten().unique().numel() == 16


@everywhere
def test_a_training_step_is_that_of_the_cpu_in_float64(device):
    def step(net, where, kind):
        net = net.to(where, kind).train()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        generator = torch.Generator().manual_seed(1)
        for _ in range(2):
            clean = torch.rand(4, 1, 24, 24, generator=generator, dtype=torch.float64)
            noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
            optimizer.zero_grad()
            (net(noisy.to(where, kind)) - clean.to(where, kind)).square().mean().backward()
            optimizer.step()
        return torch.cat([p.detach().double().cpu().flatten() for p in net.parameters()])

    exact = step(network(), "cpu", torch.float64)
    moved = (exact - torch.cat([p.double().flatten() for p in network().parameters()])).abs().max()
    assert moved > 1e-2
    torch.testing.assert_close(step(network(), device, torch.float32), exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("device", "backend"), [("cpu", "aot_eager"), pytest.param("cuda", "inductor", marks=GPU)])
def test_a_compiled_network_estimates_and_learns_the_same(device, backend):
    eager, noisy = network().to(device), torch.rand(2, 1, 32, 32, device=device)
    compiled = copy.deepcopy(eager)
    compiled.compile(backend=backend)
    for net in (eager, compiled):
        net(noisy).square().mean().backward()
    for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-3)
    with torch.inference_mode():
        torch.testing.assert_close(compiled.eval()(noisy), eager.eval()(noisy), atol=1e-4, rtol=0)


@everywhere
def test_bf16_is_near_float32(device):
    net, noisy = network().to(device).eval(), torch.rand(2, 1, 32, 32, device=device)
    exact = net(noisy)
    with torch.autocast(device, torch.bfloat16):
        rough = net(noisy)
    assert 0 < (rough.float() - exact).abs().max() < 0.02 * (exact - noisy).abs().max()
    rough.float().square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("device", [gpu])
def test_tiles_are_halved_where_the_memory_of_a_gpu_runs_out(device, caplog):
    """The process may take 1 GB; the whole picture takes several."""
    net = randomize(DnCNN(channels=1, num_layers=4, num_features=64)).to(device).eval()
    noisy = torch.rand(1, 1, 3000, 3000)
    share = 2**30 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        with torch.inference_mode(), caplog.at_level(logging.WARNING):
            estimate = tiled(net, noisy.to(device), tile=2944)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory: going on with tiles of 1472 pixels" in caplog.text
    with torch.inference_mode():
        torch.testing.assert_close(
            estimate[..., :64, :64].cpu(), net.cpu()(noisy[..., :96, :96])[..., :64, :64], atol=1e-3, rtol=0
        )
