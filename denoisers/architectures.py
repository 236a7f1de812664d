"""The architectures whose published weights are known, and how a file's keys and shapes say their sizes.

Keys are ours (``body.N`` for the layers of plain stacks), which for the larger networks are the published ones.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Shapes = Mapping[str, tuple[int, ...]]
Arguments = dict[str, Any]

IPOL = "itermediate_dncnn"  # spelt so in the keys of the IPOL article's FFDNet


class Architecture(NamedTuple):
    """What a network is called, its class, and its arguments: (shapes by key, prefix of the file's keys) → arguments.

    Of other networks' keys and shapes ``arguments`` makes None, or what is raised when they are not what it looks for.
    """

    name: str
    target: str
    arguments: Callable[[Shapes, str], Arguments | None]

    def read_off(self, shapes: Shapes, prefix: str) -> Arguments | None:
        """The arguments, or None where keys and shapes are another's."""
        try:
            return self.arguments(shapes, prefix)
        except (LookupError, ValueError, ArithmeticError):
            return None


def children(shapes: Shapes, where: str) -> int:
    """How many parts there are directly below a name."""
    return len({key[len(where) + 1 :].partition(".")[0] for key in shapes if key.startswith(f"{where}.")})


class Stack(NamedTuple):
    """Sizes of a stack of convolutions."""

    into: int
    out: int
    sizes: Arguments
    norm: bool


def stack_of(shapes: Shapes, where: str = "body") -> Stack | None:
    """The sizes of the convolutions ``where.N``, from the first and the last; None if there are fewer than two."""
    convs = [s for key, s in shapes.items() if re.fullmatch(rf"{where}\.\d+\.weight", key) and len(s) == 4]
    if len(convs) < 2:
        return None
    sizes = {"num_layers": len(convs), "num_features": convs[0][0], "kernel_size": convs[0][2]}
    return Stack(convs[0][1], convs[-1][0], sizes, any(key.endswith("running_var") for key in shapes))


def dncnn(shapes: Shapes, prefix: str) -> Arguments | None:
    stack = stack_of(shapes)
    if stack is None or not stack.into == stack.out <= 3 or ircnn(shapes, prefix):
        return None
    return {"channels": stack.out, **stack.sizes, "norm": stack.norm}


def ircnn(shapes: Shapes, prefix: str, where: str = "body") -> Arguments | None:
    stack = stack_of(shapes, where)
    if stack is None or stack.norm or not stack.into == stack.out <= 3 or stack.sizes["num_layers"] != 7:
        return None
    return {"channels": stack.out, "num_features": stack.sizes["num_features"]}


def ircnn_bank(shapes: Shapes, prefix: str) -> Arguments | None:
    one = ircnn(shapes, prefix, r"networks\.0\.body")
    return one and {**one, "num_networks": len({key.split(".")[1] for key in shapes})}


def fdncnn(shapes: Shapes, prefix: str) -> Arguments | None:
    stack = stack_of(shapes)
    if stack is None or stack.norm or not stack.into - 1 == stack.out <= 3:
        return None
    return {"channels": stack.out, **stack.sizes}


def ffdnet(shapes: Shapes, prefix: str) -> Arguments | None:
    stack = stack_of(shapes)
    if stack is None or stack.norm or stack.into - 1 != stack.out or stack.out % 4:
        return None
    return {"channels": stack.out // 4, **stack.sizes, "residual": prefix.endswith(IPOL)}


def adnet(shapes: Shapes, prefix: str) -> Arguments | None:
    return {"channels": shapes["attention.weight"][0], "num_features": shapes["body.0.weight"][0]}


def drunet(shapes: Shapes, prefix: str) -> Arguments | None:
    features, into = shapes["m_head.weight"][:2]
    return {
        "channels": into - 1,  # the other is the noise map
        "num_layers": 1 + len({key.split(".")[0] for key in shapes if key.startswith("m_down")}),
        "num_blocks": sum(bool(re.fullmatch(r"m_body\.\d+\.res\.0\.weight", key)) for key in shapes),
        "num_features": features,
    }


def nafnet(shapes: Shapes, prefix: str) -> Arguments | None:
    blocks = {
        f"{part}_blocks": [children(shapes, f"{part}s.{i}") for i in range(children(shapes, f"{part}s"))]
        for part in ("encoder", "decoder")
    }
    features, channels = shapes["intro.weight"][:2]
    return {"channels": channels, "num_features": features, "middle_blocks": children(shapes, "middle_blks"), **blocks}


def restormer(shapes: Shapes, prefix: str) -> Arguments | None:
    levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
    features, channels = shapes["patch_embed.proj.weight"][:2]
    hidden, coarse = shapes["latent.0.ffn.project_in.weight"][:2]
    return {
        "channels": channels,
        "num_features": features,
        "num_blocks": [children(shapes, level) for level in levels],
        "num_heads": [shapes[f"{level}.0.attn.temperature"][0] for level in levels],
        "refinement_blocks": children(shapes, "refinement"),
        "expansion": round((hidden // 2 + 0.5) / coarse, 2),  # of which the network keeps the whole channels
    }


def swinir(shapes: Shapes, prefix: str) -> Arguments | None:
    features, channels = shapes["conv_first.weight"][:2]
    block = "layers.0.residual_group.blocks.0"
    places, heads = shapes[f"{block}.attn.relative_position_bias_table"]
    return {
        "channels": channels,
        "num_features": features,
        "num_groups": children(shapes, "layers"),
        "num_blocks": children(shapes, "layers.0.residual_group.blocks"),
        "num_heads": heads,
        "window_size": (math.isqrt(places) + 1) // 2,
        "expansion": shapes[f"{block}.mlp.fc1.weight"][0] / features,
    }


def scunet(shapes: Shapes, prefix: str) -> Arguments | None:
    features, channels = shapes["m_head.0.weight"][:2]
    heads, side, _ = shapes["m_down1.0.trans_block.msa.relative_position_params"]
    return {
        "channels": channels,
        "num_features": features,
        "num_blocks": children(shapes, "m_body"),
        "head_features": features // 2 // heads,
        "window_size": (side + 1) // 2,
    }


ARCHITECTURES = (
    Architecture("dncnn", "denoisers.networks.dncnn.DnCNN", dncnn),
    Architecture("ircnn", "denoisers.networks.ircnn.IRCNN", ircnn),
    Architecture("ircnn", "denoisers.networks.ircnn.IRCNNBank", ircnn_bank),
    Architecture("fdncnn", "denoisers.networks.fdncnn.FDnCNN", fdncnn),
    Architecture("ffdnet", "denoisers.networks.ffdnet.FFDNet", ffdnet),
    Architecture("adnet", "denoisers.networks.adnet.ADNet", adnet),
    Architecture("drunet", "denoisers.networks.drunet.DRUNet", drunet),
    Architecture("nafnet", "denoisers.networks.nafnet.NAFNet", nafnet),
    Architecture("restormer", "denoisers.networks.restormer.Restormer", restormer),
    Architecture("swinir", "denoisers.networks.swinir.SwinIR", swinir),
    Architecture("scunet", "denoisers.networks.scunet.SCUNet", scunet),
)
