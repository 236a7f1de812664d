"""The contract of every network in conf/model, found by glob; and blocks against plain computations.

What a network can be asked is read off its own arguments. Most are tested small: with few features and layers.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import TRAINABLE, choices, randomize, small
from hydra.utils import instantiate
from torch import nn

from denoisers.activations import ACTIVATIONS, GaussianGate, XUnit, XUnitD, XUnitS
from denoisers.classical.median import Median
from denoisers.layers import DepthwiseConv2d, LevelError
from denoisers.weights import open_network

ACTIVE = sorted(ACTIVATIONS)
LEVEL = 0.1


def told(network, noisy, level=LEVEL):
    """The estimate of a network that is told the level, whether it listens or not."""
    return network(noisy, torch.full((len(noisy), 1, 1, 1), level))


@pytest.mark.parametrize(
    ("model", "channels", "count"),
    [
        ("xdncnn", 3, 306_947),
        ("dncnn", 3, 559_363),
        ("dncnn", 1, 557_057),
        ("dncnn_b", 3, 559_363 + 3 * (64 * 64 * 9 + 64 + 128)),
        ("ircnn", 1, 185_857),
        ("ircnn", 3, 188_163),
        ("ffdnet", 1, 485_316),
        ("ffdnet", 3, 852_108),
        ("fdncnn", 1, 666_497),
        ("fdncnn", 3, 668_803),
        ("adnet", 1, 519_171),
        ("adnet", 3, 521_493),
        ("drunet", 1, 32_638_656),
        ("drunet", 3, 32_640_960),
    ],
)
def test_published_parameter_counts(spec, model, channels, count):
    with torch.device("meta"):
        network = instantiate(spec(model, channels=channels))
    assert sum(p.numel() for p in network.parameters()) == count


def test_published_parameter_count_of_merged_batch_norm(spec):
    assert sum(p.numel() for p in instantiate(spec("dncnn_b", 3) | {"norm": False}).parameters()) == 668_227


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("model", choices("model"))
def test_any_size_keeps_its_shape(spec, model, channels):
    if model == "bm3d":
        pytest.importorskip("bm3d", reason="the optional package bm3d is missing")
    network = randomize(instantiate(small(spec(model, channels=channels)))).eval()
    for height, width in [(1, 1), (1, 7), (13, 17), (32, 32)]:
        noisy = torch.rand(2, channels, height, width)
        before = noisy.clone()
        with torch.no_grad():
            estimate = told(network, noisy)
        assert estimate.shape == noisy.shape
        assert estimate.isfinite().all()
        assert torch.equal(noisy, before)


@pytest.mark.parametrize("activation", [None, *ACTIVE])
@pytest.mark.parametrize("model", TRAINABLE)
def test_residual_networks_begin_as_the_identity_and_every_parameter_learns(spec, model, activation):
    arguments = small(spec(model))
    if activation:
        if "activation" not in arguments:
            pytest.skip("has no plain activation")
        arguments["activation"] = activation
    network = instantiate(arguments).train()
    noisy = torch.rand(2, 1, 16, 16)
    silent = copy.deepcopy(network)
    for parameter in silent.parameters():
        parameter.data.zero_()
    residual = torch.equal(told(silent, noisy), noisy)  # what has no weights says nothing
    assert torch.equal(told(network, noisy), noisy) or not residual
    told(randomize(network), noisy).square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias before batch norm cannot matter
    assert all(name.endswith("bias") for name in idle)
    assert len(idle) < len(list(network.parameters())) / 2


@pytest.mark.parametrize("model", TRAINABLE)
def test_samples_do_not_see_each_other(spec, model):
    network = randomize(instantiate(small(spec(model)))).eval()
    noisy = torch.rand(3, 1, 20, 20)
    with torch.no_grad():
        together, alone = told(network, noisy)[1:2], told(network, noisy[1:2])
    assert (together - alone).abs().max() <= 1e-5 * (together - noisy[1:2]).abs().max().clamp(min=1)


@pytest.mark.parametrize("model", TRAINABLE)
def test_the_level_is_ignored_or_asked_for(spec, model):
    network, noisy = randomize(instantiate(small(spec(model)))).eval(), torch.rand(2, 1, 17, 20)
    with torch.no_grad():
        estimate, asked = told(network, noisy), ""
        try:
            assert torch.equal(network(noisy), estimate)
        except LevelError as error:
            asked = str(error)
        if asked:
            assert type(network).__name__ in asked
            assert "level" in asked
            assert not torch.equal(told(network, noisy, 2 * LEVEL), estimate)
            torch.testing.assert_close(network(noisy, torch.full_like(noisy, LEVEL)), estimate)


@pytest.mark.parametrize(
    ("model", "activation"),
    [
        *(pytest.param(name, None, marks=[pytest.mark.slow] * (name == "scunet")) for name in TRAINABLE),
        *(("dncnn", name) for name in ACTIVE),
    ],
)
def test_bf16_channels_last_and_export_agree(spec, model, activation):
    arguments = small(spec(model)) | ({"activation": activation} if activation else {})
    network, noisy = randomize(instantiate(arguments)).eval(), torch.rand(1, 1, 21, 26)
    level = torch.full((1, 1, 1, 1), LEVEL)
    with torch.no_grad():
        expected = network(noisy, level)
        done = (expected - noisy).abs().max()
        assert done > 1e-4  # it does something
        near = {"atol": 1e-5 * done.clamp(min=1).item(), "rtol": 1e-5}
        exported = torch.export.export(network, (noisy, level)).module()(noisy, level)
        torch.testing.assert_close(exported, expected, **near)
        fast = network.to(memory_format=torch.channels_last)
        torch.testing.assert_close(fast(noisy, level), expected, **near)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = fast(noisy, level)
        assert (half - expected).abs().max() < 0.05 * done


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=[pytest.mark.slow] * (name != "dncnn")) for name in TRAINABLE]
)
def test_compiled_agrees(spec, model):
    network, noisy = randomize(instantiate(small(spec(model)))).eval(), torch.rand(1, 1, 21, 26)
    level = torch.full((1, 1, 1, 1), LEVEL)
    with torch.no_grad():
        expected = network(noisy, level)
        near = {"atol": 1e-5 * (expected - noisy).abs().max().clamp(min=1).item(), "rtol": 1e-5}
        network.compile(backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(network(noisy, level), expected, **near)


@pytest.mark.parametrize("model", TRAINABLE)
def test_saved_and_loaded(spec, model, tmp_path):
    arguments = small(spec(model))
    network, noisy = randomize(instantiate(arguments)).eval(), torch.rand(1, 1, 11, 9)
    state = {f"network.{key}": tensor for key, tensor in network.state_dict().items()}
    record = {"config": {"model": arguments, "channels": 1}}
    torch.save({"state_dict": state, "record": record}, tmp_path / "x.ckpt")
    opened = open_network(tmp_path / "x.ckpt")
    assert type(opened.network) is type(network)
    with torch.no_grad():
        assert torch.equal(told(opened.network, noisy), told(network, noisy))


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("channels", 0, "channels=0"),
        ("kernel_size", 4, "kernel_size=4"),
        ("num_features", 0, "num_features=0"),
        ("num_layers", 0, "num_layers=0"),
        ("num_blocks", 0, "num_blocks=0"),
        ("num_heads", 0, "num_heads=0"),
        ("window_size", 0, "window_size=0"),
        ("activation", "selu", "xunit_s"),
        ("activation_kernel_size", 2, "activation_kernel_size=2"),
        ("activation_gate", "tanh", "gaussian"),
    ],
)
def test_impossible_sizes_are_named(spec, key, value, named):
    asked = [one for model in TRAINABLE if key in (one := small(spec(model))) and not isinstance(one[key], list)]
    assert asked
    for arguments in asked:
        spatial = {"activation": "xunit"} if "activation" in arguments else {}
        with pytest.raises(Exception, match=named):
            instantiate(arguments | spatial | {key: value})


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
