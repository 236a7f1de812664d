"""The U-Nets' blocks, and how they are joined, against a second, deliberately plain computation; counts; contracts."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from hydra.utils import instantiate
from test_tiles import Tensors
from torch import nn

from denoisers.activations import XUnit, activation_factory
from denoisers.layers import DepthwiseConv2d, SqueezeExcite
from denoisers.networks.cbam_unet import CBAM, ChannelGate, SpatialGate
from denoisers.networks.danet import ChannelAttention, DualAttention, PositionAttention
from denoisers.networks.light_unet import InvertedResidual, LightUNet, separable_conv
from denoisers.networks.res_unet import ResidualDoubleConv, Upsample
from denoisers.networks.unet_autoencoder import UNetAutoencoder

COUNTS = {  # grey, RGB
    "res_unet": (2_709_113, 2_710_331),
    "cbam_unet": (1_931_975, 1_933_129),
    "light_unet": (437_341, 437_919),
    "danet": (2_319_339, 2_320_493),
    "unet_autoencoder": (421_409, 422_563),
}
MODELS = sorted(COUNTS)
RELU = activation_factory("relu")
H_SWISH = activation_factory("hardswish")


def build(compose, model, *overrides):
    return instantiate(compose(f"model={model}", *overrides).model)


def count(network):
    return sum(p.numel() for p in network.parameters())


def lively(module):
    """In double precision, with random weights large enough that gates and attentions leave their middle."""
    for parameter in randomize(module).parameters():
        parameter.data *= 4
    return module.double().eval()


def picture(channels, height=6, width=10):
    return torch.randn(2, channels, height, width, dtype=torch.float64)


@torch.no_grad()
def agree(module, plain, x):
    torch.testing.assert_close(module(x.clone()), plain(module, x), atol=1e-9, rtol=1e-9)


# Plain computations: sums over shifted copies, loops over pixels, the papers' formulas


def relu(x):
    return x.clamp(min=0)


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def hard_sigmoid(x):
    return (x + 3).clamp(0, 6) / 6


def h_swish(x):
    return x * (x + 3).clamp(0, 6) / 6


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def plus_bias(x, bias):
    return x if bias is None else x + bias.view(1, -1, 1, 1)


def conv(layer, x):
    size, step = layer.kernel_size[0], layer.stride[0]
    x = F.pad(x, [size // 2] * 4)
    height, width = ((side - size) // step + 1 for side in x.shape[2:])
    total = 0
    for i, j in product(range(size), repeat=2):
        seen, weight = x[..., i : i + step * height : step, j : j + step * width : step], layer.weight[..., i, j]
        depthwise = layer.groups > 1
        total = total + (seen * weight.view(1, -1, 1, 1) if depthwise else torch.einsum("oi,bihw->bohw", weight, seen))
    return plus_bias(total, layer.bias)


def transposed(layer, x):
    """Each pixel paints its window, scaled, onto a canvas whose margin is cut off."""
    (height, width), size = x.shape[2:], layer.kernel_size[0]
    canvas = x.new_zeros(len(x), layer.out_channels, 2 * height + size - 2, 2 * width + size - 2)
    for row, column in product(range(height), range(width)):
        window = torch.einsum("bi,iohw->bohw", x[..., row, column], layer.weight)
        canvas[..., 2 * row : 2 * row + size, 2 * column : 2 * column + size] += window
    margin = (size - 2) // 2
    return plus_bias(canvas[..., margin : margin + 2 * height, margin : margin + 2 * width], layer.bias)


def shuffle(x):
    out = x.new_zeros(len(x), x.shape[1] // 4, 2 * x.shape[2], 2 * x.shape[3])
    for c, i, j in product(range(out.shape[1]), range(2), range(2)):
        out[:, c, i::2, j::2] = x[:, 4 * c + 2 * i + j]
    return out


def norm(layer, x):
    mean, var, weight, bias = (
        v.view(1, -1, 1, 1) for v in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (x - mean) / (var + layer.eps).sqrt() * weight + bias


def pool(x):
    return torch.stack([x[..., i::2, j::2] for i, j in product(range(2), repeat=2)]).amax(0)


def double_conv(block, x, activate=relu):
    first, first_norm, _, second, second_norm, _ = block
    return activate(norm(second_norm, conv(second, activate(norm(first_norm, conv(first, x))))))


def squeeze_excite(block, x, gate):
    first, _, second, _ = block.factors
    out = torch.zeros_like(x)
    for b in range(len(x)):
        means = torch.stack([plane.sum() / plane.numel() for plane in x[b]])
        hidden = relu(first.weight[..., 0, 0] @ means + first.bias)
        for c, factor in enumerate(gate(second.weight[..., 0, 0] @ hidden + second.bias)):
            out[b, c] = factor * x[b, c]
    return out


def residual_double_conv(block, x):
    first, first_norm, _, second, second_norm, attend = block.body
    inside = norm(second_norm, conv(second, relu(norm(first_norm, conv(first, x)))))
    if isinstance(attend, SqueezeExcite):
        inside = squeeze_excite(attend, inside, sigmoid)
    if inside.shape[1] != x.shape[1]:
        shortcut, shortcut_norm = block.shortcut
        x = norm(shortcut_norm, conv(shortcut, x))
    return relu(inside + x)


def upsample(block, x):
    return transposed(block.transposed, x) + shuffle(conv(block.shuffled[0], x))


def channel_gate(block, x):
    first, _, second = block.shared
    out = torch.zeros_like(x)

    def perceptron(pooled):
        return second.weight[..., 0, 0] @ relu(first.weight[..., 0, 0] @ pooled)

    for b in range(len(x)):
        means = torch.stack([plane.sum() / plane.numel() for plane in x[b]])
        largest = torch.stack([plane.max() for plane in x[b]])
        out[b] = sigmoid(perceptron(means) + perceptron(largest)).view(-1, 1, 1) * x[b]
    return out


def spatial_gate(block, x):
    kernel = block.conv.weight[0]  # [2, 7, 7]
    assert kernel.shape == (2, 7, 7)
    assert block.conv.bias is None
    height, width = x.shape[2:]
    pooled = torch.zeros(len(x), 2, height + 6, width + 6, dtype=x.dtype)
    for row, column in product(range(height), range(width)):
        pooled[:, 0, row + 3, column + 3] = x[:, :, row, column].sum(1) / x.shape[1]
        pooled[:, 1, row + 3, column + 3] = x[:, :, row, column].max(1).values
    out = torch.zeros_like(x)
    for row, column in product(range(height), range(width)):
        score = (pooled[:, :, row : row + 7, column : column + 7] * kernel).sum((1, 2, 3))
        out[:, :, row, column] = sigmoid(score)[:, None] * x[:, :, row, column]
    return out


def cbam(block, x):
    return spatial_gate(block.space, channel_gate(block.channels, x))


def position_attention(block, x):
    b, c, d = (conv(layer, x).flatten(2) for layer in (block.key, block.query, block.value))  # [B, F, HW]
    out = torch.zeros_like(d)
    for j in range(d.shape[2]):
        similar = torch.exp((b * c[:, :, j : j + 1]).sum(1))  # [B, i]
        out[:, :, j] = (d * (similar / similar.sum(1, keepdim=True))[:, None]).sum(2)
    return block.weight * out.view_as(x) + x


def channel_attention(block, x):
    out = torch.zeros_like(x)
    for j in range(x.shape[1]):
        similar = torch.stack([torch.exp((x[:, i] * x[:, j]).mean((1, 2))) for i in range(x.shape[1])], dim=1)
        for i in range(x.shape[1]):
            out[:, j] += (similar[:, i] / similar.sum(1)).view(-1, 1, 1) * x[:, i]
    return block.weight * out + x


def dual_attention(block, x):
    branches = []
    for branch, attention in ((block.position, position_attention), (block.channel, channel_attention)):
        first, first_norm, _, attend, second, second_norm, _ = branch
        inside = attention(attend, relu(norm(first_norm, conv(first, x))))
        branches.append(relu(norm(second_norm, conv(second, inside))))
    return conv(block.mix, branches[0] + branches[1])


def inverted_residual(block, x):
    widen, widen_norm, _, depthwise, depthwise_norm, _, attend, narrow, narrow_norm = block.body
    inside = h_swish(norm(widen_norm, conv(widen, x)))
    inside = h_swish(norm(depthwise_norm, conv(depthwise, inside)))
    inside = norm(narrow_norm, conv(narrow, squeeze_excite(attend, inside, hard_sigmoid)))
    return inside + x if inside.shape == x.shape else inside


def plain_separable_conv(block, x):
    depthwise, depthwise_norm, _, mix, mix_norm, _ = block
    return h_swish(norm(mix_norm, conv(mix, h_swish(norm(depthwise_norm, conv(depthwise, x))))))


def pair(first, second):
    return lambda block, x: second(block[1], first(block[0], x))


def unet(encode, up, decode, skip=lambda block, x: x, bottom=lambda block, x: x):
    def estimate(network, noisy):
        x, skips = encode(network.down[0], noisy), []
        for number, down in enumerate(network.down[1:]):
            skips.append(skip(network.skip[number], x))
            x = encode(down, pool(x))
        x = bottom(network.bottom, x)
        for number in range(len(skips)):
            x = decode(network.merge[number], torch.cat([skips[-1 - number], up(network.up[number], x)], dim=1))
        return noisy - conv(network.last, x)

    return estimate


def light_unet(network, noisy):
    stem, stem_norm, _, block = network.down[0]
    levels = [inverted_residual(block, h_swish(norm(stem_norm, conv(stem, noisy))))]
    for down in network.down[1:]:
        levels.append(pair(inverted_residual, inverted_residual)(down, levels[-1]))
    x = levels[-1]
    for number, finer in enumerate(reversed(levels[:-1])):
        joined = torch.cat([finer, shuffle(conv(network.up[number][0], x))], dim=1)
        x = pair(plain_separable_conv, inverted_residual)(network.merge[number], joined)
    return noisy - conv(network.last, x)


def unet_autoencoder(network, noisy):
    first, _, second, _, third = network.encoder
    x = double_conv(third, pool(double_conv(second, pool(double_conv(first, noisy, gelu)), gelu)), gelu)
    up, fourth, last_up, fifth, last = network.decoder
    x = double_conv(fifth, transposed(last_up, double_conv(fourth, transposed(up, x), gelu)), gelu)
    return conv(last, x)


NETWORKS = {
    "res_unet": unet(residual_double_conv, upsample, residual_double_conv),
    "cbam_unet": unet(double_conv, transposed, double_conv, skip=cbam),
    "danet": unet(double_conv, transposed, double_conv, bottom=dual_attention),
    "light_unet": light_unet,
    "unet_autoencoder": unet_autoencoder,
}


@pytest.mark.parametrize(("gate", "plain"), [(nn.Sigmoid, sigmoid), (nn.Hardsigmoid, hard_sigmoid)])
def test_squeeze_excite(gate, plain):
    agree(lively(SqueezeExcite(6, 4, gate)), lambda block, x: squeeze_excite(block, x, plain), 4 * picture(6))


@pytest.mark.parametrize(
    ("name", "formula", "points"),
    [
        ("hardswish", h_swish, {-4: 0, -3: 0, -1.5: -0.375, 0: 0, 3: 3, 5: 5}),
        ("gelu", gelu, {-1: -0.158655, 0: 0, 1: 0.841345}),
        ("relu", relu, {-1: 0, 2: 2}),
    ],
)
def test_activations(name, formula, points):
    activation = activation_factory(name)(3)
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    torch.testing.assert_close(activation(x.clone()), formula(x))
    for point, value in points.items():
        assert activation(torch.tensor(float(point))).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("attend", [nn.Identity(), SqueezeExcite(5, 3)])
@pytest.mark.parametrize("into", [5, 3])
def test_residual_double_conv(into, attend):
    agree(lively(ResidualDoubleConv(into, 5, 3, RELU, attend)), residual_double_conv, picture(into))


def test_upsampling():
    agree(lively(Upsample(6, 3)), upsample, picture(6))


@pytest.mark.parametrize(
    ("block", "plain"),
    [(ChannelGate(6, 3), channel_gate), (SpatialGate(), spatial_gate), (CBAM(6), cbam)],
    ids=["channel", "spatial", "both"],
)
def test_cbam(block, plain):
    agree(lively(block), plain, picture(6))


@pytest.mark.parametrize(
    ("block", "plain", "features"),
    [
        (PositionAttention(16), position_attention, 16),
        (PositionAttention(3), position_attention, 3),
        (ChannelAttention(), channel_attention, 6),
        (DualAttention(64, 3, RELU), dual_attention, 64),
    ],
    ids=["position", "narrow", "channel", "both"],
)
def test_dual_attention(block, plain, features):
    agree(lively(block), plain, picture(features))


@pytest.mark.parametrize("learns", [False, True])
def test_position_attention_never_holds_all_pairs(learns):
    block, x = PositionAttention(16), torch.randn(1, 16, 48, 40)
    with Tensors() as tensors, torch.set_grad_enabled(learns):
        block(x)
    assert tensors.largest <= 16 * 48 * 40


def test_channels_resemble_each_other_at_any_size():
    block, x = lively(ChannelAttention()), picture(4)
    tiled = x.repeat(1, 1, 3, 2)
    torch.testing.assert_close(block(tiled), block(x).repeat(1, 1, 3, 2))


@pytest.mark.parametrize(("into", "out", "stride"), [(6, 6, 1), (6, 4, 1), (6, 6, 2), (4, 8, 2)])
def test_inverted_residual(into, out, stride):
    block = InvertedResidual(into, out, 3, H_SWISH, expansion=3, stride=stride)
    assert isinstance(block.body[3], DepthwiseConv2d) == (stride == 1)
    agree(lively(block), inverted_residual, picture(into))


def test_separable_conv():
    agree(lively(separable_conv(6, 4, 5, H_SWISH)), plain_separable_conv, picture(6))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_networks_against_a_plain_computation(compose, model, channels):
    network = build(compose, model, f"channels={channels}", "model.num_features=4", "model.num_layers=3")
    agree(lively(network), NETWORKS[model], picture(channels, 8, 12))


def test_attention_stands_where_it_should(compose):
    network = build(compose, "res_unet")
    assert [isinstance(block.body[-1], SqueezeExcite) for block in [*network.down, *network.merge]] == [False] * 4 + [
        True
    ] * 3
    assert [type(block) for block in build(compose, "cbam_unet").skip] == [CBAM] * 3
    assert isinstance(build(compose, "danet").bottom, DualAttention)
    blocks = [m for m in build(compose, "light_unet").modules() if isinstance(m, InvertedResidual)]
    assert [block.body[3].stride[0] for block in blocks] == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("model", MODELS)
def test_counts_are_those_of_the_docstrings(compose, model):
    for channels, expected in zip((1, 3), COUNTS[model], strict=True):
        network = build(compose, model, f"channels={channels}")
        assert count(network) == expected
        assert f"{expected:,}" in type(network).__doc__


@pytest.mark.parametrize("model", MODELS)
def test_defaults_are_those_of_the_configuration(compose, model):
    network = build(compose, model)
    assert str(type(network)()) == str(network)


def test_light_unet_is_light(compose):
    for channels in (1, 3):
        light, heavy = (build(compose, model, f"channels={channels}") for model in ("light_unet", "res_unet"))
        assert count(light) <= count(heavy) / 5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_residual_ones_begin_as_the_identity(compose, model, channels):
    noisy = torch.rand(2, channels, 16, 24)
    same = torch.equal(build(compose, model, f"channels={channels}", "model.num_features=8").train()(noisy), noisy)
    assert same == (model != "unet_autoencoder")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_any_size_is_padded_inside_and_cropped_back(compose, model, channels):
    network = randomize(build(compose, model, f"channels={channels}", "model.num_features=4")).eval()
    for height, width in [(1, 1), (7, 13), (1, 9)]:
        noisy = torch.rand(2, channels, height, width)
        multiple = 4 if model == "unet_autoencoder" else 8
        beyond = [(0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple)]
        padded = torch.from_numpy(np.pad(noisy.numpy(), beyond, mode="reflect"))
        estimate = network(noisy)
        assert estimate.shape == noisy.shape
        assert estimate.isfinite().all()
        torch.testing.assert_close(estimate, network(padded)[..., :height, :width], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_that_can_matter_learns(compose, model):
    network = randomize(build(compose, model, "model.num_features=8"))
    noisy = torch.rand(2, 1, 24, 32)
    network.eval()(noisy).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    network.zero_grad()
    network.train()(noisy).square().sum().backward()
    idle = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    before_norm = set()
    for path, module in network.named_modules():
        if isinstance(module, nn.Sequential):
            for number, follower in enumerate(module[1:]):
                if isinstance(follower, nn.BatchNorm2d):
                    before_norm.add(f"{path}.{number}.bias")
    assert idle <= before_norm
    with torch.autocast("cpu", dtype=torch.bfloat16):
        estimate = network(noisy)
    estimate.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("model", MODELS)
def test_xunits_replace_every_plain_activation(compose, model):
    def activations(*overrides):
        kinds = [type(m) for m in build(compose, model, "model.num_features=8", *overrides).modules()]
        return kinds.count(XUnit), kinds.count(nn.ReLU) + kinds.count(nn.GELU) + kinds.count(nn.Hardswish)

    none, plain = activations()
    replaced, left = activations("model.activation=xunit")
    inside = left - replaced  # a ReLU in each xUnit; those in squeeze-and-excitation and CBAM stay
    assert none == 0
    assert replaced >= 10
    assert replaced + inside == plain


@pytest.mark.parametrize(
    ("network", "override", "named"),
    [
        (LightUNet, {"expansion": 0}, "expansion=0"),
        (LightUNet, {"num_features": 0}, "num_features=0"),
        (UNetAutoencoder, {"num_layers": 0}, "num_layers=0"),
        (UNetAutoencoder, {"kernel_size": 2}, "kernel_size=2"),
    ],
)
def test_impossible_sizes_are_named(network, override, named):
    with pytest.raises(ValueError, match=named):
        network(**override)
