"""xUnits in fewer passes: what the kernels' gradients rest on, the kernels themselves, and where they are used."""

import copy
import os

import pytest
import torch
from conftest import randomize
from torch import nn

from denoisers import fused
from denoisers.activations import XUnit, XUnitD, XUnitS
from denoisers.layers import DepthwiseConv2d

GPU = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
VARIANTS = pytest.mark.parametrize("variant", [XUnit, XUnitS, XUnitD])
GATES = pytest.mark.parametrize("gate", ["sigmoid", "gaussian"])
ORDERS = pytest.mark.parametrize("contiguous", [False, True], ids=["channels last", "contiguous"])


@pytest.fixture
def plain(monkeypatch):
    """Units go the way that they go on a GPU, but with PyTorch's operators in place of the kernels."""
    monkeypatch.setattr(fused, "working", lambda kind, contiguous: fused.Plain())


def numbers(features):
    return [torch.randn(features, dtype=torch.float64, requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize("gaussian", [False, True])
def test_gradients_of_the_gate_are_those_of_its_formula(gaussian):
    x, z = (torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def gated(x, z, gain, shift):
        mean, variance = z.mean((0, 2, 3)).detach(), z.var((0, 2, 3), correction=0).detach()
        return fused.NormGate.apply(x, z, gain, shift, mean, variance, 1e-5, gaussian, fused.Plain())

    assert torch.autograd.gradcheck(gated, (x, z, *numbers(3)))
    assert torch.autograd.gradgradcheck(gated, (x[:1], z[:1], *numbers(3)))


@VARIANTS
@GATES
def test_a_unit_learns_as_by_pytorchs_operators(plain, variant, gate):
    usual = randomize(variant(5, 7, gate)).train()
    ours, x = copy.deepcopy(usual), torch.randn(3, 5, 11, 13)
    found = []
    for unit, way in (
        (usual, lambda x: x * usual.mask(x)),
        (ours, lambda x: fused.xunit(ours.mask, x, gate != "sigmoid")),
    ):
        given = x.clone().requires_grad_()
        estimate = way(given)
        (estimate * torch.linspace(0, 1, x.numel()).view_as(x)).sum().backward()
        found.append([estimate, given.grad, *(p.grad for p in unit.parameters()), *unit.buffers()])
    for theirs, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@VARIANTS
@GATES
@pytest.mark.parametrize("folded", [False, True])
def test_a_unit_estimates_as_by_pytorchs_operators(plain, variant, gate, folded):
    from denoisers.folding import fold_batch_norm

    unit, x = randomize(variant(5, 7, gate)).eval(), torch.randn(2, 5, 11, 13)
    with torch.inference_mode():
        expected = x * unit.mask(x)
        unit = fold_batch_norm(unit) if folded else unit
        torch.testing.assert_close(fused.xunit(unit.mask, x, gate == "gaussian"), expected, atol=1e-5, rtol=1e-5)


def test_units_that_do_something_else_are_left_to_pytorch(plain):
    x = torch.randn(1, 4, 6, 6)
    learning, done, told = XUnit(4, 3), XUnit(4, 3).eval(), XUnit(4, 3)
    assert fused.xunit(done.mask, x, False) is None  # gradients by norms that are fixed
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(XUnit(4, 3))
    assert fused.xunit(synchronised.mask, x, False) is None
    told.mask[2].register_forward_hook(lambda *unused: None)
    assert fused.xunit(told.mask, x, False) is None
    with torch.no_grad():
        assert fused.xunit(learning.mask, x, False) is None  # norms that go on learning
        assert fused.xunit(done.mask, x, False) is not None


@pytest.mark.parametrize("training", [True, False])
def test_a_unit_on_the_cpu_leaves_what_it_is_given_as_it_is(training):
    unit, x = randomize(XUnitS(4, 3)).train(training), torch.randn(2, 4, 6, 6)
    given = x.clone()
    with torch.set_grad_enabled(training):
        found = unit(x)
    assert torch.equal(x, given)
    assert torch.equal(found, x * copy.deepcopy(unit).mask(x)) or training  # a norm that learns has moved


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_unit_computes_the_same(backend):
    unit, x = randomize(XUnit(4, 5)), torch.randn(2, 4, 8, 8)
    compiled = copy.deepcopy(unit)
    compiled.compile(backend=backend, fullgraph=True)
    for one in (unit, compiled):
        one(x).square().sum().backward()
    for ours, theirs in zip(compiled.parameters(), unit.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(compiled.eval()(x), unit.eval()(x))


def test_depthwise_convolutions_learn_under_autocast():
    """Whatever the type is that they are given."""
    conv, x = DepthwiseConv2d(4, 5), torch.randn(2, 4, 8, 8, requires_grad=True)
    exact = torch.autograd.grad(conv(x).square().sum(), (x, conv.weight, conv.bias))
    with torch.autocast("cpu", torch.bfloat16):
        rough = conv(x)
    assert rough.dtype == torch.bfloat16
    for ours, theirs in zip(
        torch.autograd.grad(rough.float().square().sum(), (x, conv.weight, conv.bias)), exact, strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=0.03 * theirs.abs().max().item(), rtol=0)


@ORDERS
def test_kernels_in_tritons_interpreter(monkeypatch, contiguous):
    """On the CPU, where Triton is there: TRITON_INTERPRET=1 pytest tests/test_fused.py."""
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs TRITON_INTERPRET=1 in the environment")
    from denoisers import kernels

    monkeypatch.setattr(kernels, "TILE", 16)  # so that it takes several tiles
    monkeypatch.setattr(kernels, "STEPS", 2)
    fused.check(kernels, torch.float32, contiguous, "cpu", (2, 3, 5, 6))


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=GPU) for kind in fused.TYPES])
@ORDERS
def test_kernels_on_a_gpu(kind, contiguous):
    from denoisers import kernels

    fused.check(kernels, kind, contiguous, "cuda")
    fused.check(kernels, kind, contiguous, "cuda", (3, 70, 33, 129))


@pytest.mark.parametrize("variant", [pytest.param(variant, marks=GPU) for variant in (XUnit, XUnitS, XUnitD)])
@GATES
def test_units_on_a_gpu_are_those_of_the_cpu(monkeypatch, variant, gate):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    here, x = randomize(variant(70, 9, gate)), torch.randn(3, 70, 33, 41).contiguous(memory_format=torch.channels_last)
    there, found = copy.deepcopy(here).cuda(), []
    assert fused.working(torch.float32, False) is not None
    for unit, given in ((here, x.clone()), (there, x.cuda())):
        unit(given.requires_grad_()).square().sum().backward()
        with torch.inference_mode():
            learnt = [given.grad, *(p.grad for p in unit.parameters()), *unit.buffers()]
            found.append([unit.eval()(given), *learnt])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs.cpu(), ours, atol=1e-3 * max(1, ours.abs().max().item()), rtol=0)
