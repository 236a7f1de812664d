"""The published feature networks once more, plainly: their keys and shapes as tables, and their sums layer by layer."""

import torch
import torch.nn.functional as F

# torchvision's convolutions: number → (out, in, kernel)
VGG = {
    0: (64, 3, 3),
    2: (64, 64, 3),
    5: (128, 64, 3),
    7: (128, 128, 3),
    10: (256, 128, 3),
    12: (256, 256, 3),
    14: (256, 256, 3),
    17: (512, 256, 3),
    19: (512, 512, 3),
    21: (512, 512, 3),
    24: (512, 512, 3),
    26: (512, 512, 3),
    28: (512, 512, 3),
}
ALEX = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
# SqueezeNet's Fire modules: number → (in, squeezed, expanded)
FIRE = {
    3: (64, 16, 64),
    4: (128, 16, 64),
    6: (128, 32, 128),
    7: (256, 32, 128),
    9: (256, 48, 192),
    10: (384, 48, 192),
    11: (384, 64, 256),
    12: (512, 64, 256),
}
SQUEEZE = {0: (64, 3, 3)}
for number, (wide, few, many) in FIRE.items():
    SQUEEZE |= {f"{number}.squeeze": (few, wide, 1)}
    SQUEEZE |= {f"{number}.expand1x1": (many, few, 1), f"{number}.expand3x3": (many, few, 3)}
CONVOLUTIONS = {"squeeze": SQUEEZE, "alex": ALEX, "vgg": VGG}
TAPS = {
    "squeeze": ["relu1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9"],
    "alex": ["relu1", "relu2", "relu3", "relu4", "relu5"],
    "vgg": ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"],
}
WIDTHS = {
    "squeeze": [64, 128, 256, 384, 384, 512, 512],
    "alex": [64, 192, 384, 256, 256],
    "vgg": [64, 128, 256, 512, 512],
}
SMALLEST = {"squeeze": 17, "alex": 31, "vgg": 16}


def shapes(net):
    """Published key → shape, without ``features.``."""
    table = {}
    for key, (out, channels, kernel) in CONVOLUTIONS[net].items():
        table |= {f"{key}.weight": (out, channels, kernel, kernel), f"{key}.bias": (out,)}
    return table


def random_backbone(net, seed=0):
    """Weights under the published keys, such that activations keep their size."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5
        if len(shape) == 4
        else torch.randn(shape, generator=generator) * 0.1
        for key, shape in ((key, torch.Size(shape)) for key, shape in shapes(net).items())
    }


def random_heads(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator) for i, width in enumerate(WIDTHS[net])
    }


def write(directory, *nets):
    """Random weights under the names that are looked for."""
    directory.mkdir(parents=True, exist_ok=True)
    for net in nets:
        torch.save(random_backbone(net), directory / f"{net}.backbone.pth")
        torch.save(random_heads(net), directory / f"{net}_lin_v0.1.pth")
    return directory


def read(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def activations(net, weights, image):
    """Tap → activation of images in [-1, 1], in float64, from convolutions and maxima alone."""
    weights = {key: value.double() for key, value in weights.items()}
    shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]]).double()[:, None, :, None, None]
    x = (torch.cat([image.double()] * (4 - image.shape[1]), 1)[:, :3] - shift) / scale

    def conv(x, key, stride=1, padding=0):
        return F.conv2d(x, weights[f"{key}.weight"], weights[f"{key}.bias"], stride=stride, padding=padding).clamp(0)

    def fire(x, key):
        x = conv(x, f"{key}.squeeze")
        return torch.cat([conv(x, f"{key}.expand1x1"), conv(x, f"{key}.expand3x3", padding=1)], 1)

    def pool(x, size, whole_windows=True):
        if not whole_windows:  # the last window may hang over by what is missing
            x = F.pad(x, (0, (x.shape[3] - size) % 2, 0, (x.shape[2] - size) % 2), value=-torch.inf)
        return x.unfold(2, size, 2).unfold(3, size, 2).amax((4, 5))

    seen = {}
    if net == "squeeze":
        seen["relu1"] = conv(x, 0, stride=2)
        seen["fire3"] = fire(fire(pool(seen["relu1"], 3, False), 3), 4)
        seen["fire5"] = fire(fire(pool(seen["fire3"], 3, False), 6), 7)
        seen["fire6"] = fire(pool(seen["fire5"], 3, False), 9)
        seen["fire7"] = fire(seen["fire6"], 10)
        seen["fire8"] = fire(seen["fire7"], 11)
        seen["fire9"] = fire(seen["fire8"], 12)
    elif net == "alex":
        seen["relu1"] = conv(x, 0, stride=4, padding=2)
        seen["relu2"] = conv(pool(seen["relu1"], 3), 3, padding=2)
        seen["relu3"] = conv(pool(seen["relu2"], 3), 6, padding=1)
        seen["relu4"] = conv(seen["relu3"], 8, padding=1)
        seen["relu5"] = conv(seen["relu4"], 10, padding=1)
    else:
        names = {0: "1_1", 2: "1_2", 5: "2_1", 7: "2_2", 10: "3_1", 12: "3_2", 14: "3_3"}
        names |= {17: "4_1", 19: "4_2", 21: "4_3", 24: "5_1", 26: "5_2", 28: "5_3"}
        for number, name in names.items():
            x = conv(pool(x, 2) if number in (5, 10, 17, 24) else x, number, padding=1)
            seen[f"relu{name}"] = x
    return seen


def lpips(net, backbone, heads, estimate, clean):
    """LPIPS of images in [0, 1], by its formula."""
    ours, theirs = (activations(net, backbone, 2 * image - 1) for image in (estimate, clean))
    total = 0
    for i, tap in enumerate(TAPS[net]):
        a, b = (x[tap] / ((x[tap] ** 2).sum(1, keepdim=True).sqrt() + 1e-10) for x in (ours, theirs))
        total = total + F.conv2d((a - b) ** 2, heads[f"lin{i}.model.1.weight"].double()).mean((1, 2, 3))
    return total
