"""Muon against a plain computation with singular values, and against PyTorch's Adam and Muon."""

import copy

import pytest
import torch
from torch import nn

from denoisers.optimizers import Muon, orthogonal


def small_network():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 2), nn.Conv2d(6, 1, 3)
    )


def give_gradients(network, scale=1.0):
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter) * scale


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 5, 5), (4, 1, 9)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_orthogonal_keeps_the_directions_and_evens_their_lengths(shape, scale):
    matrices = torch.randn(shape, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    found = torch.linalg.svdvals(orthogonal(scale * matrices))
    told = s[..., :] / matrices.norm(dim=(1, 2))[:, None] >= 0.01
    assert found[told].min() > 0.6
    assert found[told].max() < 1.3
    mixed = u.mT @ orthogonal(scale * matrices) @ vh.mT  # diagonal: the directions are the matrix's own
    assert (mixed - torch.diag_embed(mixed.diagonal(dim1=1, dim2=2))).abs().max() < 1e-6


@pytest.mark.parametrize(("half", "memory_format"), [(True, "contiguous_format"), (False, "channels_last")])
def test_steps_in_bfloat16_and_of_weights_kept_channels_last_are_close(half, memory_format):
    network = small_network()
    other = copy.deepcopy(network).to(memory_format=getattr(torch, memory_format))
    before = [p.detach().clone() for p in network.parameters()]
    give_gradients(network)
    for mine, its in zip(network.parameters(), other.parameters(), strict=True):
        its.grad = mine.grad.clone().to(memory_format=getattr(torch, memory_format)) if mine.ndim == 4 else mine.grad
    Muon(network.parameters(), lr=1.0, half=False).step()
    Muon(other.parameters(), lr=1.0, half=half).step()
    off = []
    for old, mine, its in zip(before, network.parameters(), other.parameters(), strict=True):
        assert its.dtype == torch.float32
        off.append(float((its - mine).detach().norm() / (mine - old).detach().norm()))
    assert max(off) < (0.05 if half else 1e-5)
    assert not half or max(off) > 1e-4  # and so they were made in bfloat16


def test_within_a_network_the_steps_are_those_of_pytorchs_muon():
    network = small_network()
    matrices = [nn.Parameter(p.detach().flatten(1).clone()) for p in network.parameters() if p.ndim >= 2][1:-1]
    ours = Muon(network.parameters(), lr=0.1, momentum=0.8, newton_schulz_steps=5)
    theirs = torch.optim.Muon(matrices, lr=0.1, momentum=0.8, weight_decay=0, nesterov=True)
    for _ in range(3):
        give_gradients(network)
        weights = [p for p in network.parameters() if p.ndim >= 2][1:-1]
        for matrix, weight in zip(matrices, weights, strict=True):
            matrix.grad = weight.grad.flatten(1).clone()
        ours.step()
        theirs.step()
    for matrix, weight in zip(matrices, weights, strict=True):
        torch.testing.assert_close(weight.flatten(1), matrix, atol=0.02, rtol=0)  # theirs computes in bfloat16


def test_what_is_not_within_learns_by_adam():
    network = small_network()
    weights = [p for p in network.parameters() if p.ndim >= 2]
    others = [p for p in network.parameters() if p.ndim < 2 or p is weights[0] or p is weights[-1]]
    copies = [nn.Parameter(p.detach().clone()) for p in others]
    ours = Muon(network.parameters(), adam_lr=0.01, betas=(0.8, 0.9))
    theirs = torch.optim.Adam(copies, lr=0.01, betas=(0.8, 0.9))
    for _ in range(4):
        give_gradients(network, scale=1e-3)
        for copied, parameter in zip(copies, others, strict=True):
            copied.grad = parameter.grad.clone()
        ours.step()
        theirs.step()
    for copied, parameter in zip(copies, others, strict=True):
        torch.testing.assert_close(parameter, copied)


def test_saved_state_goes_on_exactly():
    network, other = small_network(), small_network()
    other.load_state_dict(network.state_dict())
    ours, loaded = Muon(network.parameters()), Muon(other.parameters())
    give_gradients(network)
    ours.step()
    other.load_state_dict(network.state_dict())
    loaded.load_state_dict(copy.deepcopy(ours.state_dict()))
    give_gradients(network)
    for mine, its in zip(network.parameters(), other.parameters(), strict=True):
        its.grad = mine.grad.clone()
    ours.step()
    loaded.step()
    for mine, its in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_a_closure_is_called_with_gradients_on():
    weight = nn.Parameter(torch.ones(3))
    optimizer = Muon([weight])

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3
    assert (weight < 1).all()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"lr": -1}, "learning rate: -1"),
        ({"adam_lr": -1}, "adam_lr"),
        ({"momentum": 1}, "momentum=1"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\]=1.0"),
        ({"newton_schulz_steps": 0}, "newton_schulz_steps=0"),
    ],
)
def test_impossible_values_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        Muon([nn.Parameter(torch.ones(1))], **arguments)
