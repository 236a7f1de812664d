"""The contract of every network in conf/model, found by glob; and counts and blocks against the papers'."""

import pytest
import torch
import torch.nn.functional as F
from conftest import TRAINABLE, choices, randomize
from hydra.utils import instantiate
from torch import nn

from denoisers.activations import ACTIVATIONS, GaussianGate, XUnit, XUnitD, XUnitS
from denoisers.classical.median import Median
from denoisers.layers import DepthwiseConv2d

ACTIVE = sorted(ACTIVATIONS)
DIRECT = ("simple_cnn",)  # that put out the clean image, not the residual


def build(compose, model, *overrides):
    return instantiate(compose(f"model={model}", *overrides).model)


@pytest.mark.parametrize(
    ("model", "channels", "count"),
    [
        ("xdncnn", 3, 306_947),
        ("dncnn", 3, 559_363),
        ("dncnn", 1, 557_057),
        ("dncnn_b", 3, 559_363 + 3 * (64 * 64 * 9 + 64 + 128)),
    ],
)
def test_published_parameter_counts(compose, model, channels, count):
    assert sum(p.numel() for p in build(compose, model, f"channels={channels}").parameters()) == count


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("model", choices("model"))
def test_any_size_keeps_its_shape(compose, model, channels):
    if model == "bm3d":
        pytest.importorskip("bm3d", reason="the optional package bm3d is missing")
    network = randomize(build(compose, model, f"channels={channels}")).eval()
    for height, width in [(1, 1), (1, 7), (13, 17), (32, 32)]:
        noisy = torch.rand(2, channels, height, width)
        before = noisy.clone()
        with torch.no_grad():
            estimate = network(noisy, torch.full((2, 1, 1, 1), 0.1))
        assert estimate.shape == noisy.shape
        assert estimate.isfinite().all()
        assert torch.equal(noisy, before)


@pytest.mark.parametrize("activation", ACTIVE)
@pytest.mark.parametrize("model", TRAINABLE)
def test_begins_as_the_identity_and_every_parameter_learns(compose, model, activation):
    network = build(compose, model, f"model.activation={activation}", "model.num_features=8").train()
    noisy = torch.rand(2, 1, 16, 16)
    assert torch.equal(network(noisy), noisy) or model in DIRECT
    randomize(network)(noisy).square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias before batch norm cannot matter
    assert all(name.endswith("bias") for name in idle)
    assert len(idle) < len(list(network.parameters())) / 2


@pytest.mark.parametrize("model", TRAINABLE)
def test_samples_do_not_see_each_other(compose, model):
    network = randomize(build(compose, model)).eval()
    noisy = torch.rand(3, 1, 20, 20)
    with torch.no_grad():
        torch.testing.assert_close(network(noisy)[1:2], network(noisy[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ACTIVE)
@pytest.mark.parametrize("model", TRAINABLE)
def test_bf16_channels_last_and_export_agree(compose, model, activation):
    network = build(compose, model, f"model.activation={activation}", "model.num_features=8")
    network, noisy = randomize(network).eval(), torch.rand(1, 1, 24, 24)
    with torch.no_grad():
        expected = network(noisy)
        exported = torch.export.export(network, (noisy,)).module()(noisy)
        fast = network.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = fast(noisy)
        assert (expected - noisy).std() > 1e-3  # it does something
        torch.testing.assert_close(exported, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(fast(noisy), expected, atol=1e-5, rtol=1e-5)
        assert (half - expected).abs().max() < 0.05 * (expected - noisy).abs().max()


@pytest.mark.parametrize("model", TRAINABLE)
@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.kernel_size=4", "kernel_size=4"),
        ("model.num_features=0", "num_features=0"),
        ("model.num_layers=0", "num_layers=0"),
        ("model.activation=selu", "xunit_s"),
        ("model.activation_kernel_size=2", "activation_kernel_size=2"),
        ("model.activation_gate=tanh", "gaussian"),
    ],
)
def test_impossible_sizes_are_named(compose, model, override, named):
    with pytest.raises(Exception, match=named):
        build(compose, model, "model.activation=xunit", override)


def plain_depthwise(x, conv):
    """The same convolution pixel by pixel: a sum over shifted copies."""
    size = conv.kernel_size[0]
    padded = F.pad(x, [size // 2] * 4)
    total = torch.zeros_like(x)
    for i in range(size):
        for j in range(size):
            total += padded[..., i : i + x.shape[2], j : j + x.shape[3]] * conv.weight[:, 0, i, j].view(1, -1, 1, 1)
    return total + conv.bias.view(1, -1, 1, 1)


def plain_norm(x, norm):
    mean, var, weight, bias = (
        v.view(1, -1, 1, 1) for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (var + norm.eps).sqrt() * weight + bias


@pytest.mark.parametrize("gate", ["sigmoid", "gaussian"])
@pytest.mark.parametrize("variant", [XUnit, XUnitS, XUnitD])
def test_xunits_against_a_plain_computation(variant, gate):
    unit, x = randomize(variant(5, 7, gate)).eval(), torch.randn(2, 5, 11, 13)
    modules = list(unit.mask)
    convs = [m for m in modules if isinstance(m, nn.Conv2d)]
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    inside = x
    if variant is XUnit:
        inside = plain_norm(inside, norms[0]).clamp(min=0)
    if variant is XUnitD:
        mixed = torch.einsum("oi,bihw->bohw", convs[0].weight[:, :, 0, 0], inside) + convs[0].bias.view(1, -1, 1, 1)
        inside = plain_norm(mixed, norms[0]).clamp(min=0)
    inside = plain_norm(plain_depthwise(inside, convs[-1]), norms[-1])
    mask = 1 / (1 + torch.exp(-inside)) if gate == "sigmoid" else torch.exp(-(inside**2))
    with torch.no_grad():
        torch.testing.assert_close(unit(x), x * mask, atol=1e-5, rtol=1e-5)


def test_gaussian_gate_is_not_the_sigmoid():
    assert GaussianGate()(torch.zeros(1)) == 1
    assert GaussianGate()(torch.ones(1)).item() == pytest.approx(0.36788, abs=1e-4)


@pytest.mark.parametrize("size", [1, 3, 9])
def test_depthwise_gradients_equal_pytorchs(size):
    conv = DepthwiseConv2d(6, size).double()
    x = torch.randn(3, 6, 12, 10, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 6, 12, 10, dtype=torch.float64)
    inputs = (x, conv.weight, conv.bias)
    ours = torch.autograd.grad((conv(x) * weights).sum(), inputs)
    stock = F.conv2d(x, conv.weight, conv.bias, padding=size // 2, groups=6)
    for mine, theirs in zip(ours, torch.autograd.grad((stock * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert torch.autograd.gradgradcheck(lambda v: conv(v).square(), (x[:1, :, :4, :4],))


def test_median_equals_scipys():
    ndimage = pytest.importorskip("scipy.ndimage")
    image = torch.rand(1, 3, 15, 18)
    ours = Median(kernel_size=3)(image)
    for channel in range(3):
        theirs = ndimage.median_filter(image[0, channel].numpy(), size=3, mode="nearest")
        torch.testing.assert_close(ours[0, channel], torch.from_numpy(theirs))
