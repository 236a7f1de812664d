"""Networks as their papers and published files describe them, once more and plainly; and files in the published styles.

The computations read their weights by the published names, and know of convolutions only that they are sums.
"""

import re

import torch
import torch.nn.functional as F

SIGMA = 30 / 255
DILATIONS = (1, 2, 3, 4, 3, 2, 1)


def plain_conv(x, weight, bias=None, dilation=1):
    """A convolution as the sum over shifted copies of the zero-padded input."""
    size = weight.shape[-1]
    reach, (height, width) = dilation * (size // 2), x.shape[-2:]
    padded = torch.zeros(*x.shape[:2], height + 2 * reach, width + 2 * reach, dtype=x.dtype)
    padded[..., reach : reach + height, reach : reach + width] = x
    total = 0
    for i in range(size):
        for j in range(size):
            shifted = padded[..., i * dilation : i * dilation + height, j * dilation : j * dilation + width]
            total = total + torch.einsum("oi,bihw->bohw", weight[:, :, i, j], shifted)
    return total if bias is None else total + bias[:, None, None]


def plain_norm(x, p, eps=1e-5):
    scale = p["weight"] / torch.sqrt(p["running_var"] + eps)
    return (x - p["running_mean"][:, None, None]) * scale[:, None, None] + p["bias"][:, None, None]


def at(state, name):
    return {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}.")}


def plain_stack(state, prefix, x, eps=1e-5, dilations=None, conv=plain_conv):
    """Convolutions by number, batch norm where there are statistics, ReLU after each but the last."""
    numbers = sorted({int(re.match(r"\d+", key[len(prefix) :])[0]) for key in state if key.startswith(prefix)})
    layers = [at(state, f"{prefix}{number}") for number in numbers]
    convs = [layer for layer in layers if "running_var" not in layer]
    place = 0
    for number, layer in enumerate(layers):
        if "running_var" in layer:
            x = plain_norm(x, layer, eps)
        else:
            given = {} if dilations is None else {"dilation": dilations[place]}
            x = conv(x, layer["weight"], layer.get("bias"), **given)
            place += 1
        if layer is not convs[-1] and not (number + 1 < len(layers) and "running_var" in layers[number + 1]):
            x = x.clamp(min=0)
    return x


def torch_conv(x, weight, bias=None, dilation=1):
    return F.conv2d(x, weight, bias, padding=dilation * (weight.shape[-1] // 2), dilation=dilation)


def even(x):
    """Odd sides grow by one, their last row or column once more."""
    x = torch.cat([x, x[..., -1:, :]], dim=-2) if x.shape[-2] % 2 else x
    return torch.cat([x, x[..., -1:]], dim=-1) if x.shape[-1] % 2 else x


def plain_ffdnet(state, prefix, noisy, sigma, ipol=False, conv=plain_conv):
    """Sub-images by hand; KAIR's noise map comes last, the IPOL article's, one for each channel, first."""
    height, width = noisy.shape[-2:]
    big = even(noisy)
    corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
    planes = [big[:, c, i::2, j::2] for c in range(noisy.shape[1]) for i, j in corners]
    maps = [torch.full_like(planes[0], sigma)] * (noisy.shape[1] if ipol else 1)
    x = torch.stack([*maps, *planes] if ipol else [*planes, *maps], dim=1)
    x = plain_stack(state, prefix, x, conv=conv)
    out = torch.zeros_like(big)
    for number in range(x.shape[1]):
        i, j = corners[number % 4]
        out[:, number // 4, i::2, j::2] = x[:, number]
    out = out[..., :height, :width]
    return noisy - out if ipol else out


def plain_adnet(state, noisy):
    x = noisy
    for number in range(1, 16):
        x = plain_conv(x, state[f"conv1_{number}.0.weight"], dilation=2 if number in (2, 5, 9, 12) else 1)
        x = plain_norm(x, at(state, f"conv1_{number}.1")).clamp(min=0)
    x = plain_conv(x, state["conv1_16.weight"])
    mixed = torch.tanh(torch.cat([noisy, x], dim=1))
    attention = torch.einsum("oi,bihw->bohw", state["conv3.weight"][:, :, 0, 0], mixed)
    return noisy - (attention + state["conv3.bias"][:, None, None]) * x


def plain_drunet(state, noisy, sigma):
    """By its published names, on a picture whose sides 8 divides."""

    def blocks(x, name, numbers):
        for number in numbers:
            inside = plain_conv(x, state[f"{name}.{number}.res.0.weight"]).clamp(min=0)
            x = x + plain_conv(inside, state[f"{name}.{number}.res.2.weight"])
        return x

    def down(x, weight):
        return sum(
            torch.einsum("oi,bihw->bohw", weight[:, :, i, j], x[..., i::2, j::2]) for i in (0, 1) for j in (0, 1)
        )

    def up(x, weight):
        out = torch.zeros(len(x), weight.shape[1], 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
        for i in (0, 1):
            for j in (0, 1):
                out[..., i::2, j::2] = torch.einsum("io,bihw->bohw", weight[:, :, i, j], x)
        return out

    depth = max(int(key[len("m_body.")]) for key in state if key.startswith("m_body.")) + 1
    x1 = plain_conv(torch.cat([noisy, torch.full_like(noisy[:, :1], sigma)], dim=1), state["m_head.weight"])
    skips = [x1]
    for number in (1, 2, 3):
        x = blocks(skips[-1], f"m_down{number}", range(depth))
        skips.append(down(x, state[f"m_down{number}.{depth}.weight"]))
    x = blocks(skips[-1], "m_body", range(depth))
    for number in (3, 2, 1):
        x = up(x + skips[number], state[f"m_up{number}.0.weight"])
        x = blocks(x, f"m_up{number}", range(1, depth + 1))
    return plain_conv(x + skips[0], state["m_tail.weight"])


def rand(*shape, scale=0.3):
    return torch.randn(*shape) * scale


def stack(prefix, widths, norm=False, bias=True, batches=True):
    """The state of convolutions, with batch norm between the first and the last where there is any."""
    state, number = {}, 0
    for place in range(len(widths) - 1):
        inner = 0 < place < len(widths) - 2
        state[f"{prefix}{number}.weight"] = rand(widths[place + 1], widths[place], 3, 3)
        if bias:
            state[f"{prefix}{number}.bias"] = rand(widths[place + 1])
        if norm and inner:
            number += 1
            features = widths[place + 1]
            state |= {f"{prefix}{number}.weight": 1 + rand(features), f"{prefix}{number}.bias": rand(features)}
            state[f"{prefix}{number}.running_mean"] = rand(features)
            state[f"{prefix}{number}.running_var"] = 0.002 + 0.01 * torch.rand(features)  # as small as real ones
            if batches:
                state[f"{prefix}{number}.num_batches_tracked"] = torch.tensor(7)
        number += 2
    return state


def adnet_state(channels=1, features=4):
    widths = [channels, *[features] * 15]
    state = {}
    for number in range(1, 16):
        state[f"conv1_{number}.0.weight"] = rand(widths[number], widths[number - 1], 3, 3)
        state |= {f"conv1_{number}.1.weight": 1 + rand(features), f"conv1_{number}.1.bias": rand(features)}
        state[f"conv1_{number}.1.running_mean"] = rand(features)
        state[f"conv1_{number}.1.running_var"] = 0.5 + torch.rand(features)
        state[f"conv1_{number}.1.num_batches_tracked"] = torch.tensor(7)
    state["conv1_16.weight"] = rand(channels, features, 3, 3)
    return state | {"conv3.weight": rand(channels, 2 * channels, 1, 1), "conv3.bias": rand(channels)}


def drunet_state(channels=1, features=4, blocks=2):
    state = {"m_head.weight": rand(features, channels + 1, 3, 3), "m_tail.weight": rand(channels, features, 3, 3)}

    def add(name, width, numbers):
        for number in numbers:
            for place in (0, 2):
                state[f"{name}.{number}.res.{place}.weight"] = rand(width, width, 3, 3, scale=0.1)

    for number in (1, 2, 3):
        width = features * 2 ** (number - 1)
        add(f"m_down{number}", width, range(blocks))
        state[f"m_down{number}.{blocks}.weight"] = rand(2 * width, width, 2, 2)
        state[f"m_up{number}.0.weight"] = rand(2 * width, width, 2, 2)
        add(f"m_up{number}", width, range(1, blocks + 1))
    add("m_body", 8 * features, range(blocks))
    return state


def with_prefix(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


IPOL = "intermediate_dncnn.itermediate_dncnn."
STYLES = {  # style → architecture, channels, () → a file's content, (that, noisy) → estimate
    "KAIR DnCNN": (
        "dncnn",
        1,
        lambda: stack("model.", [1, 6, 6, 6, 1]),
        lambda s, x: x - plain_stack(s, "model.", x),
    ),
    "KAIR DnCNN, RGB": (
        "dncnn",
        3,
        lambda: stack("model.", [3, 6, 6, 3]),
        lambda s, x: x - plain_stack(s, "model.", x),
    ),
    "KAIR DnCNN before merging": (
        "dncnn",
        1,
        lambda: stack("model.", [1, 6, 6, 6, 1], norm=True),
        lambda s, x: x - plain_stack(s, "model.", x, eps=1e-4),
    ),
    "SaoYan DnCNN": (
        "dncnn",
        1,
        lambda: stack("module.dncnn.", [1, 6, 6, 6, 1], norm=True, bias=False, batches=False),
        lambda s, x: x - plain_stack(s, "module.dncnn.", x),
    ),
    "another's DnCNN, RGB": (
        "dncnn",
        3,
        lambda: {"epoch": 3, "state_dict": stack("net.layers.", [3, 6, 6, 6, 3], norm=True)},
        lambda s, x: x - plain_stack(s["state_dict"], "net.layers.", x),
    ),
    "KAIR IRCNN": (
        "ircnn",
        1,
        lambda: stack("model.", [1, *[4] * 6, 1]),
        lambda s, x: x - plain_stack(s, "model.", x, dilations=DILATIONS),
    ),
    "KAIR's 25 IRCNNs, RGB": (
        "ircnn",
        3,
        lambda: {str(number): stack("model.", [3, *[2] * 6, 3]) for number in range(25)},
        lambda s, x: x - plain_stack(s["14"], "model.", x, dilations=DILATIONS),  # trained for σ = 30
    ),
    "KAIR FDnCNN, RGB": (
        "fdncnn",
        3,
        lambda: stack("model.", [4, 6, 6, 3]),
        lambda s, x: plain_stack(s, "model.", torch.cat([x, torch.full_like(x[:, :1], SIGMA)], dim=1)),
    ),
    "KAIR FFDNet": (
        "ffdnet",
        1,
        lambda: stack("model.", [5, 6, 6, 4]),
        lambda s, x: plain_ffdnet(s, "model.", x, SIGMA),
    ),
    "KAIR FFDNet, RGB": (
        "ffdnet",
        3,
        lambda: stack("model.", [13, 6, 6, 12]),
        lambda s, x: plain_ffdnet(s, "model.", x, SIGMA),
    ),
    "IPOL FFDNet": (
        "ffdnet",
        1,
        lambda: stack(f"module.{IPOL}", [5, 6, 6, 4], norm=True, bias=False),
        lambda s, x: plain_ffdnet(s, f"module.{IPOL}", x, SIGMA, ipol=True),
    ),
    "IPOL FFDNet, RGB": (
        "ffdnet",
        3,
        lambda: stack(IPOL, [15, 6, 6, 12], norm=True, bias=False),
        lambda s, x: plain_ffdnet(s, IPOL, x, SIGMA, ipol=True),
    ),
    "ADNet": (
        "adnet",
        1,
        lambda: with_prefix("module.", adnet_state()),
        lambda s, x: plain_adnet(at(s, "module"), x),
    ),
    "ADNet, RGB": ("adnet", 3, lambda: adnet_state(3), plain_adnet),
    "KAIR DRUNet": ("drunet", 1, drunet_state, lambda s, x: plain_drunet(s, x, SIGMA)),
    "KAIR DRUNet, RGB": (
        "drunet",
        3,
        lambda: {"params": drunet_state(3, blocks=1)},
        lambda s, x: plain_drunet(s["params"], x, SIGMA),
    ),
}
