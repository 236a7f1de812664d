"""Weight decay with and without biases and norms, against PyTorch's optimisers and against arithmetic."""

import copy

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from denoisers.decay import adamw, decaying, sgd

LR, DECAY = 0.1, 0.3
OURS = {"adamw": adamw, "sgd": sgd}
THEIRS = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def network():
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.LayerNorm([6]), nn.PReLU(), nn.Conv2d(6, 1, 3))


def still(network):
    for parameter in network.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    return network


@pytest.mark.parametrize("name", OURS)
def test_without_gradients_weights_alone_decay(name):
    net = still(network())
    OURS[name](net.parameters(), lr=LR, weight_decay=DECAY, decay_norms_and_biases=False).step()
    for key, parameter in net.named_parameters():
        expected = 1 - LR * DECAY if key in ("0.weight", "4.weight") else 1.0
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected), msg=key)


@pytest.mark.parametrize("name", OURS)
def test_the_default_is_pytorchs_step(name):
    one, other = network(), network()
    other.load_state_dict(one.state_dict())
    ours = OURS[name](one.parameters(), lr=LR, weight_decay=DECAY)
    theirs = THEIRS[name](other.parameters(), lr=LR, weight_decay=DECAY)
    assert {k: v for k, v in ours.state_dict().items() if k != "state"} == {
        k: v for k, v in theirs.state_dict().items() if k != "state"
    }
    for _ in range(3):
        for mine, its in zip(one.parameters(), other.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        ours.step()
        theirs.step()
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("name", OURS)
def test_two_groups_go_on_exactly(name):
    one, options = network(), {"lr": LR, "weight_decay": DECAY, "decay_norms_and_biases": False}
    other = copy.deepcopy(one)
    ours, loaded = (OURS[name](net.parameters(), **options) for net in (one, other))
    for turn in range(2):
        for mine, its in zip(one.parameters(), other.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        ours.step()
        if turn:
            loaded.step()
        else:
            other.load_state_dict(one.state_dict())
            loaded.load_state_dict(copy.deepcopy(ours.state_dict()))
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_an_empty_group_is_left_out():
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    assert decaying([bias], False) == [{"params": [bias], "weight_decay": 0.0}]
    assert decaying([weight], False) == [{"params": [weight]}]


@pytest.mark.parametrize("name", OURS)
def test_the_option_reaches_the_optimiser_from_the_command_line(compose, name):
    cfg = compose(f"optimizer={name}", "optimizer.decay_norms_and_biases=false")
    built = instantiate(cfg.optimizer)(network().parameters())
    assert [group["weight_decay"] for group in built.param_groups] == [1e-4, 0.0]
    assert [len(group["params"]) for group in built.param_groups] == [2, 7]
