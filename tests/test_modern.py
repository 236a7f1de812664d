"""NAFNet, Restormer, SwinIR and SCUNet against a second, deliberately plain computation and the published names.

The second computation reads the weights by their published names and knows no windows: a pixel attends to those whose
row and column fall, counted from the shift, into the same cell of the grid.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate

from denoisers.layers import mirror_to_multiple
from denoisers.networks.nafnet import NAFBlock, NAFNet
from denoisers.networks.restormer import GatedFeedForward, Restormer, TransformerBlock, TransposedAttention
from denoisers.networks.scunet import ConvTransBlock, SCUNet
from denoisers.networks.scunet import SwinBlock as ConvSwinBlock
from denoisers.networks.swinir import ResidualGroup, SwinBlock, SwinIR
from denoisers.windows import from_windows, to_windows

SMALL = {
    "nafnet": lambda c: NAFNet(
        channels=c, num_features=4, encoder_blocks=[1, 2], middle_blocks=1, decoder_blocks=[2, 1]
    ),
    "restormer": lambda c: Restormer(
        channels=c, num_features=4, num_blocks=[1, 2, 1, 1], num_heads=[1, 2, 4, 8], refinement_blocks=1
    ),
    "swinir": lambda c: SwinIR(channels=c, num_features=12, num_groups=2, num_blocks=2, num_heads=3, window_size=4),
    "scunet": lambda c: SCUNet(channels=c, num_features=8, num_blocks=2, head_features=2, window_size=4),
}
SIZES = [(1, 1), (7, 13), (16, 16)]


def shaken(network, seed=0):
    """In double precision, every parameter moved away from where it began, so that each of them shows."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.double().parameters():
        spread = 0.4 / math.sqrt(parameter[0].numel())
        parameter.data += torch.empty_like(parameter).normal_(0, spread, generator=generator)
    return network.eval()


def at(p, name):
    """The weights below a name."""
    return {key[len(name) + 1 :]: value for key, value in p.items() if key.startswith(f"{name}.")}


def children(p, name):
    """The weights of a published list, one after the other."""
    numbers = {int(key.split(".")[0]) for key in at(p, name)}
    return [at(p, f"{name}.{number}") for number in sorted(numbers)]


# plain pieces


def conv(p, name, x, stride=1):
    weight = p[f"{name}.weight"]
    padding = weight.shape[-1] // 2 if stride == 1 else 0
    return F.conv2d(x, weight, p.get(f"{name}.bias"), stride, padding, groups=x.shape[1] // weight.shape[1])


def linear(p, name, x):
    return torch.einsum("...i,oi->...o", x, p[f"{name}.weight"]) + p[f"{name}.bias"]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def softmax(scores):
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def layer_norm(p, name, x, eps=1e-5):
    """Over the last axis."""
    mean = x.sum(-1, keepdim=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(-1, keepdim=True) / x.shape[-1]
    return (x - mean) / (variance + eps).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def on_channels(function, p, name, x, *args):
    """A function of the last axis, of [B, C, H, W]."""
    return torch.einsum("bhwc->bchw", function(p, name, torch.einsum("bchw->bhwc", x), *args))


def shuffle(x):
    """[B, 4C, H, W] → [B, C, 2H, 2W]."""
    out = x.new_zeros(x.shape[0], x.shape[1] // 4, 2 * x.shape[2], 2 * x.shape[3])
    for row in range(2):
        for column in range(2):
            out[:, :, row::2, column::2] = x[:, 2 * row + column :: 4]
    return out


def unshuffle(x):
    """[B, C, 2H, 2W] → [B, 4C, H, W]."""
    quarters = [x[:, :, row::2, column::2] for row in range(2) for column in range(2)]
    return torch.stack(quarters, 2).flatten(1, 2)


def padded(x, multiple, mode):
    """NumPy's padding, [B, C, H, W] up to a multiple."""
    bottom, right = (math.ceil(size / multiple) * multiple - size for size in x.shape[2:])
    return torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), (0, bottom), (0, right)], mode=mode))


# NAFNet


def plain_naf_block(p, x):
    features = x.shape[1]
    y = conv(p, "conv2", conv(p, "conv1", on_channels(layer_norm, p, "norm1", x, 1e-6)))
    y = y[:, :features] * y[:, features:]
    average = y.sum((2, 3)) / (y.shape[2] * y.shape[3])
    attention = torch.einsum("oi,bi->bo", p["sca.1.weight"][:, :, 0, 0], average) + p["sca.1.bias"]
    x = x + p["beta"] * conv(p, "conv3", torch.einsum("bchw,bc->bchw", y, attention))
    y = conv(p, "conv4", on_channels(layer_norm, p, "norm2", x, 1e-6))
    return x + p["gamma"] * conv(p, "conv5", y[:, :features] * y[:, features:])


def plain_nafnet(p, noisy):
    x = conv(p, "intro", padded(noisy, 4, "reflect"))
    skips = []
    for level in range(2):
        for block in children(p, f"encoders.{level}"):
            x = plain_naf_block(block, x)
        skips.append(x)
        x = conv(p, f"downs.{level}", x, stride=2)
    for block in children(p, "middle_blks"):
        x = plain_naf_block(block, x)
    for level in range(2):
        x = shuffle(conv(p, f"ups.{level}.0", x)) + skips[1 - level]
        for block in children(p, f"decoders.{level}"):
            x = plain_naf_block(block, x)
    return noisy + conv(p, "ending", x)[:, :, : noisy.shape[2], : noisy.shape[3]]


# Restormer


def plain_transposed_attention(p, x):
    qkv, heads = conv(p, "qkv_dwconv", conv(p, "qkv", x)), len(p["temperature"])
    per_head, mixed = x.shape[1] // heads, []
    for head in range(heads):
        q, k, v = (qkv[:, (part * heads + head) * per_head :][:, :per_head] for part in range(3))
        q, k = (t / (t**2).sum((2, 3), keepdim=True).sqrt() for t in (q, k))
        scores = torch.einsum("bchw,bdhw->bcd", q, k) * p["temperature"][head, 0, 0]
        mixed.append(torch.einsum("bcd,bdhw->bchw", softmax(scores), v))
    return conv(p, "project_out", torch.cat(mixed, 1))


def plain_gated_feed_forward(p, x):
    y = conv(p, "dwconv", conv(p, "project_in", x))
    half = y.shape[1] // 2
    return conv(p, "project_out", gelu(y[:, :half]) * y[:, half:])


def plain_restormer_block(p, x):
    def norm(name, x):
        mean = x.sum(1, keepdim=True) / x.shape[1]
        variance = ((x - mean) ** 2).sum(1, keepdim=True) / x.shape[1]
        return torch.einsum("bchw,c->bchw", x / (variance + 1e-5).sqrt(), p[f"{name}.body.weight"])

    x = x + plain_transposed_attention(at(p, "attn"), norm("norm1", x))
    return x + plain_gated_feed_forward(at(p, "ffn"), norm("norm2", x))


def plain_restormer(p, noisy):
    def stage(name, x):
        for block in children(p, name):
            x = plain_restormer_block(block, x)
        return x

    x1 = stage("encoder_level1", conv(p, "patch_embed.proj", padded(noisy, 8, "reflect")))
    x2 = stage("encoder_level2", unshuffle(conv(p, "down1_2.body.0", x1)))
    x3 = stage("encoder_level3", unshuffle(conv(p, "down2_3.body.0", x2)))
    x = stage("latent", unshuffle(conv(p, "down3_4.body.0", x3)))
    for name, skip, reduce in [("4_3", x3, "3"), ("3_2", x2, "2"), ("2_1", x1, None)]:
        x = torch.cat([shuffle(conv(p, f"up{name}.body.0", x)), skip], 1)
        if reduce:
            x = conv(p, f"reduce_chan_level{reduce}", x)
        x = stage(f"decoder_level{name[-1]}", x)
    return noisy + conv(p, "output", stage("refinement", x))[:, :, : noisy.shape[2], : noisy.shape[3]]


# shifted windows


def plain_attention(p, embed, project, table, x, size, shift):
    """``table`` [heads, 2·size − 1, 2·size − 1], by rows and columns from key to query; x [B, H, W, C]."""
    batch, height, width, features = x.shape
    heads, pixels = len(table), height * width
    row, column = torch.arange(pixels) // width, torch.arange(pixels) % width
    cell = (row - shift).div(size, rounding_mode="floor") * 10**6 + (column - shift).div(size, rounding_mode="floor")
    together = cell[:, None] == cell[None, :]
    # clamped only where the pair is not together
    down, right = ((t[:, None] - t[None, :]).clamp(1 - size, size - 1) + size - 1 for t in (row, column))
    qkv = linear(p, embed, x.reshape(batch, pixels, features))
    per_head, out = features // heads, []
    for head in range(heads):
        q, k, v = (qkv[..., part * features + head * per_head :][..., :per_head] for part in range(3))
        weight = (torch.einsum("bic,bjc->bij", q, k) / math.sqrt(per_head) + table[head, down, right]).exp() * together
        out.append(torch.einsum("bij,bjc->bic", weight / weight.sum(-1, keepdim=True), v))
    return linear(p, project, torch.cat(out, -1)).reshape(x.shape)


def plain_swin_block(p, x, size, shift):
    table = p["attn.relative_position_bias_table"]
    table = torch.einsum("rch->hrc", table.reshape(2 * size - 1, 2 * size - 1, -1))
    x = x + plain_attention(at(p, "attn"), "qkv", "proj", table, layer_norm(p, "norm1", x), size, shift)
    return x + linear(p, "mlp.fc2", gelu(linear(p, "mlp.fc1", layer_norm(p, "norm2", x))))


def plain_swin_group(p, x, size):
    y = x
    for number, block in enumerate(children(p, "residual_group.blocks")):
        y = plain_swin_block(block, y, size, size // 2 * (number % 2))
    return x + torch.einsum("bchw->bhwc", conv(p, "conv", torch.einsum("bhwc->bchw", y)))


def plain_swinir(p, noisy, size=4):
    mean = torch.tensor([0.4488, 0.4371, 0.4040] if noisy.shape[1] == 3 else [0.0]).double().view(1, -1, 1, 1)
    first = conv(p, "conv_first", padded(noisy, size, "symmetric") - mean)
    x = layer_norm(p, "patch_embed.norm", torch.einsum("bchw->bhwc", first))
    for group in children(p, "layers"):
        x = plain_swin_group(group, x, size)
    x = first + conv(p, "conv_after_body", torch.einsum("bhwc->bchw", layer_norm(p, "norm", x)))
    return noisy + conv(p, "conv_last", x)[:, :, : noisy.shape[2], : noisy.shape[3]]


def plain_conv_swin_block(p, x, size, shift):
    normed, table = layer_norm(p, "ln1", x), p["msa.relative_position_params"]
    x = x + plain_attention(at(p, "msa"), "embedding_layer", "linear", table, normed, size, shift)
    return x + linear(p, "mlp.2", gelu(linear(p, "mlp.0", layer_norm(p, "ln2", x))))


def plain_conv_trans_block(p, x, size, shift):
    y = conv(p, "conv1_1", x)
    half = y.shape[1] // 2
    local, distant = y[:, :half], torch.einsum("bchw->bhwc", y[:, half:])
    local = local + conv(p, "conv_block.2", conv(p, "conv_block.0", local).clamp(min=0))
    distant = plain_conv_swin_block(at(p, "trans_block"), distant, size, shift)
    return x + conv(p, "conv1_2", torch.cat([local, torch.einsum("bhwc->bchw", distant)], 1))


def plain_scunet(p, noisy, size=4):
    def stage(name, x):
        """The published lists hold blocks, and first or last the convolution between two resolutions."""
        shifted = False
        for module in children(p, name):
            if "weight" not in module:
                x = plain_conv_trans_block(module, x, size, size // 2 * shifted)
                shifted = not shifted
            elif "down" in name:
                x = F.conv2d(x, module["weight"], stride=2)
            else:
                coarse = torch.einsum("bihw,iokl->bohkwl", x, module["weight"])  # each pixel a 2×2 stamp
                x = coarse.flatten(4, 5).flatten(2, 3)
        return x

    x1 = conv(p, "m_head.0", padded(noisy, 8 * size, "edge"))
    x2 = stage("m_down1", x1)
    x3 = stage("m_down2", x2)
    x4 = stage("m_down3", x3)
    x = stage("m_up3", stage("m_body", x4) + x4)
    x = stage("m_up1", stage("m_up2", x + x3) + x2)
    return conv(p, "m_tail.0", x + x1)[:, :, : noisy.shape[2], : noisy.shape[3]]


PLAIN = {"nafnet": plain_nafnet, "restormer": plain_restormer, "swinir": plain_swinir, "scunet": plain_scunet}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SMALL)
def test_networks_against_a_plain_computation(name, channels, size):
    network = shaken(SMALL[name](channels))
    noisy = torch.rand(2, channels, *size, dtype=torch.float64)
    with torch.no_grad():
        estimate, expected = network(noisy), PLAIN[name](network.state_dict(), noisy)
    assert (expected - noisy).std() > 1e-2 or size == (1, 1)
    torch.testing.assert_close(estimate, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("block", "plain", "shape"),
    [
        (lambda: NAFBlock(6), plain_naf_block, (2, 6, 5, 7)),
        (lambda: TransposedAttention(8, 4), plain_transposed_attention, (2, 8, 5, 7)),
        (lambda: GatedFeedForward(8, 2.66), plain_gated_feed_forward, (2, 8, 5, 7)),
        (lambda: TransformerBlock(8, 2, 2.66), plain_restormer_block, (2, 8, 5, 7)),
        (lambda: SwinBlock(6, 2, 4, 0, 2), lambda p, x: plain_swin_block(p, x, 4, 0), (2, 8, 12, 6)),
        (lambda: SwinBlock(6, 2, 4, 2, 2), lambda p, x: plain_swin_block(p, x, 4, 2), (2, 8, 12, 6)),
        (lambda: SwinBlock(6, 2, 5, 2, 2), lambda p, x: plain_swin_block(p, x, 5, 2), (2, 5, 10, 6)),
        (lambda: ResidualGroup(6, 3, 2, 4, 2), lambda p, x: plain_swin_group(p, x, 4), (2, 8, 12, 6)),
        (lambda: ConvSwinBlock(6, 2, 4, 2), lambda p, x: plain_conv_swin_block(p, x, 4, 2), (2, 8, 12, 6)),
        (lambda: ConvTransBlock(8, 2, 4, 0), lambda p, x: plain_conv_trans_block(p, x, 4, 0), (2, 8, 8, 12)),
        (lambda: ConvTransBlock(8, 2, 4, 2), lambda p, x: plain_conv_trans_block(p, x, 4, 2), (2, 8, 8, 12)),
    ],
)
def test_blocks_against_a_plain_computation(block, plain, shape):
    module, x = shaken(block()), torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), plain(module.state_dict(), x), atol=1e-6, rtol=1e-6)


def test_windows_are_the_grid_in_reading_order():
    x = torch.arange(2 * 6 * 9 * 2).view(2, 6, 9, 2)
    windows = to_windows(x, 3)
    assert windows.shape == (2, 6, 9, 2)
    for number, (top, left) in enumerate((t, left) for t in (0, 3) for left in (0, 3, 6)):
        assert torch.equal(windows[:, number], x[:, top : top + 3, left : left + 3].reshape(2, 9, 2))
    assert torch.equal(from_windows(windows, 3, 6, 9), x)


@pytest.mark.parametrize(("repeat_edge", "mode"), [(False, "reflect"), (True, "symmetric")])
def test_mirroring_equals_numpys(repeat_edge, mode):
    for size in [(1, 1), (1, 7), (2, 3), (8, 9), (16, 8)]:
        image = torch.rand(2, 3, *size)
        assert torch.equal(mirror_to_multiple(image, 8, repeat_edge), padded(image, 8, mode))


PUBLISHED = {  # model: {channels: parameters}, {a few names of its checkpoints: shape in RGB}
    "nafnet32": (
        {1: 29_158_561, 3: 29_159_715},
        {
            "intro.weight": (32, 3, 3, 3),
            "ending.bias": (3,),
            "encoders.3.7.conv2.weight": (1024 // 2, 1, 3, 3),
            "encoders.0.1.sca.1.weight": (32, 32, 1, 1),
            "encoders.1.0.norm1.weight": (64,),
            "downs.3.weight": (512, 256, 2, 2),
            "middle_blks.11.beta": (1, 512, 1, 1),
            "middle_blks.0.conv4.bias": (1024,),
            "ups.0.0.weight": (1024, 512, 1, 1),
            "decoders.3.1.gamma": (1, 32, 1, 1),
            "decoders.0.0.conv5.weight": (256, 256, 1, 1),
        },
    ),
    "nafnet64": ({1: 115_980_609, 3: 115_982_915}, {"intro.weight": (64, 3, 3, 3), "ups.3.0.weight": (256, 128, 1, 1)}),
    "restormer": (
        {1: 26_109_076, 3: 26_111_668},
        {
            "patch_embed.proj.weight": (48, 3, 3, 3),
            "encoder_level1.3.norm1.body.weight": (48,),
            "encoder_level2.5.attn.temperature": (2, 1, 1),
            "encoder_level3.0.attn.qkv.weight": (576, 192, 1, 1),
            "latent.7.attn.qkv_dwconv.weight": (1152, 1, 3, 3),
            "latent.0.attn.project_out.weight": (384, 384, 1, 1),
            "latent.0.norm2.body.weight": (384,),
            "encoder_level1.0.ffn.project_in.weight": (254, 48, 1, 1),
            "encoder_level1.0.ffn.dwconv.weight": (254, 1, 3, 3),
            "decoder_level1.0.ffn.project_out.weight": (96, 255, 1, 1),
            "down1_2.body.0.weight": (24, 48, 3, 3),
            "up4_3.body.0.weight": (768, 384, 3, 3),
            "reduce_chan_level3.weight": (192, 384, 1, 1),
            "reduce_chan_level2.weight": (96, 192, 1, 1),
            "up2_1.body.0.weight": (192, 96, 3, 3),
            "refinement.3.attn.temperature": (1, 1, 1),
            "output.weight": (3, 96, 3, 3),
        },
    ),
    "swinir": (
        {1: 11_497_681, 3: 11_504_163},
        {
            "conv_first.weight": (180, 3, 3, 3),
            "patch_embed.norm.weight": (180,),
            "layers.0.residual_group.blocks.0.norm1.weight": (180,),
            "layers.5.residual_group.blocks.5.attn.relative_position_bias_table": (225, 6),
            "layers.5.residual_group.blocks.5.attn.qkv.weight": (540, 180),
            "layers.0.residual_group.blocks.3.attn.proj.bias": (180,),
            "layers.0.residual_group.blocks.3.mlp.fc1.weight": (360, 180),
            "layers.0.residual_group.blocks.3.mlp.fc2.weight": (180, 360),
            "layers.3.conv.weight": (180, 180, 3, 3),
            "norm.bias": (180,),
            "conv_after_body.weight": (180, 180, 3, 3),
            "conv_last.weight": (3, 180, 3, 3),
        },
    ),
    "scunet": (
        {1: 17_943_768, 3: 17_946_072},
        {
            "m_head.0.weight": (64, 3, 3, 3),
            "m_down1.3.trans_block.ln1.weight": (32,),
            "m_down1.0.trans_block.msa.relative_position_params": (1, 15, 15),
            "m_down2.0.trans_block.msa.embedding_layer.weight": (192, 64),
            "m_down3.0.trans_block.msa.linear.bias": (128,),
            "m_down1.4.weight": (128, 64, 2, 2),
            "m_body.3.trans_block.msa.relative_position_params": (8, 15, 15),
            "m_body.0.trans_block.mlp.0.weight": (1024, 256),
            "m_body.0.trans_block.mlp.2.weight": (256, 1024),
            "m_body.0.conv1_1.weight": (512, 512, 1, 1),
            "m_body.0.conv1_2.bias": (512,),
            "m_up3.0.weight": (512, 256, 2, 2),
            "m_up3.4.conv_block.0.weight": (128, 128, 3, 3),
            "m_up1.1.conv_block.2.weight": (32, 32, 3, 3),
            "m_tail.0.weight": (3, 64, 3, 3),
        },
    ),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_counts_and_names(compose, model):
    counts, names = PUBLISHED[model]
    for channels, count in counts.items():
        with torch.device("meta"):
            network = instantiate(compose(f"model={model}", f"channels={channels}").model)
        assert sum(p.numel() for p in network.parameters()) == count
    state = network.state_dict()
    assert {name: tuple(state[name].shape) for name in names} == names
    assert len(state) == len(list(network.parameters()))  # and no name that published files lack


def test_swinir_takes_the_constants_of_published_files_and_nothing_else():
    network = SMALL["swinir"](1)
    state = network.state_dict()
    for group in range(2):
        block = f"layers.{group}.residual_group.blocks"
        for number in range(2):
            state[f"{block}.{number}.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
        state[f"{block}.1.attn_mask"] = torch.zeros(4, 16, 16)
    keys = list(state)
    network.load_state_dict(state)
    torch.nn.Sequential(network).load_state_dict({f"0.{key}": value for key, value in state.items()})
    assert list(state) == keys
    with pytest.raises(RuntimeError, match="absolute_pos_embed"):
        network.load_state_dict({**state, "absolute_pos_embed": torch.zeros(1)})


@pytest.mark.parametrize("name", SMALL)
def test_begins_as_the_identity_and_every_parameter_learns(name):
    network, noisy = SMALL[name](1), torch.rand(2, 1, 32, 32)
    assert torch.equal(network(noisy), noisy) == (name != "scunet")  # which has no global residual
    network, noisy = shaken(network), noisy.double()
    (network(noisy) * torch.randn_like(noisy)).sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("network", "wrong", "named"),
    [
        (NAFNet, {"channels": 0}, "channels=0"),
        (NAFNet, {"num_features": 0}, "num_features=0"),
        (NAFNet, {"middle_blocks": 0}, "middle_blocks=0"),
        (NAFNet, {"encoder_blocks": [2, 0, 4, 8]}, r"encoder_blocks\[1\]=0"),
        (NAFNet, {"decoder_blocks": [2, 2]}, "as many numbers as encoder_blocks"),
        (Restormer, {"channels": -1}, "channels=-1"),
        (Restormer, {"num_features": 7}, "num_features=7: must be even"),
        (Restormer, {"num_blocks": [1, 2]}, "num_blocks=.*four"),
        (Restormer, {"num_blocks": [1, 2, 0, 1]}, r"num_blocks\[2\]=0"),
        (Restormer, {"num_heads": [5, 1, 1, 1]}, r"num_heads\[0\]=5: must divide the 48"),
        (Restormer, {"refinement_blocks": 0}, "refinement_blocks=0"),
        (Restormer, {"expansion": 0}, "expansion=0"),
        (SwinIR, {"channels": 2}, "channels=2: must be 1 or 3"),
        (SwinIR, {"num_heads": 7}, "num_heads=7: must divide num_features=180"),
        (SwinIR, {"window_size": 0}, "window_size=0"),
        (SwinIR, {"num_groups": 0}, "num_groups=0"),
        (SwinIR, {"num_blocks": 0}, "num_blocks=0"),
        (SwinIR, {"expansion": -1}, "expansion=-1"),
        (SCUNet, {"channels": 0}, "channels=0"),
        (SCUNet, {"num_features": 40}, "num_features=40: must be a multiple of .*64"),
        (SCUNet, {"head_features": 0}, "head_features=0"),
        (SCUNet, {"window_size": -8}, "window_size=-8"),
    ],
)
def test_impossible_sizes_are_named(network, wrong, named):
    with torch.device("meta"), pytest.raises(ValueError, match=named):
        network(**wrong)
