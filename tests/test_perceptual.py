"""LPIPS and perceptual losses against a plain second computation; what a module with such a loss saves and trains."""

import itertools

import backbones
import numpy as np
import pytest
import torch
from command_line import call
from hydra.utils import instantiate
from PIL import Image
from torch import nn

import train
from denoisers import features
from denoisers.checkpoint import CheckpointError
from denoisers.features import BACKBONES
from denoisers.module import DenoisingModule
from denoisers.objectives.supervised import Supervised
from denoisers.perceptual import LPIPS, TAPS, LPIPSLoss, PerceptualLoss, layer_distance

NETS = ["squeeze", "alex", "vgg"]
ODD = (37, 53)  # pooling windows hang over the edge


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Random weights of all three networks."""
    return backbones.write(tmp_path_factory.mktemp("weights"), *NETS)


def images(channels=3, size=ODD, noise=0.1):
    """An estimate and the clean image."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(2, channels, *size, generator=generator)
    return clean + noise * torch.randn(clean.shape, generator=generator), clean


@pytest.mark.parametrize("net", NETS)
def test_keys_and_shapes_are_the_published_ones(net):
    stack = nn.Sequential(*BACKBONES[net].layers().values())
    assert {key: tuple(tensor.shape) for key, tensor in stack.named_buffers()} == backbones.shapes(net)
    assert list(TAPS[net]) == backbones.TAPS[net]
    assert list(TAPS[net].values()) == backbones.WIDTHS[net]


@pytest.mark.parametrize("net", NETS)
def test_activations_equal_the_plain_ones(directory, net):
    image = images()[0]
    plain = backbones.activations(net, backbones.random_backbone(net), 2 * image - 1)
    found = features.load(net, list(plain), directory)(image)
    assert list(found) == list(plain)
    for tap, expected in plain.items():
        assert expected.std() > 0.05  # or a tolerance would say nothing
        torch.testing.assert_close(
            found[tap].double(), expected, atol=2e-5, rtol=1e-5, msg=lambda m, tap=tap: f"{tap}: {m}"
        )


@pytest.mark.parametrize("net", NETS)
def test_lpips_equals_the_plain_one(directory, net):
    estimate, clean = images()
    expected = backbones.lpips(net, backbones.random_backbone(net), backbones.random_heads(net), estimate, clean)
    found = LPIPS(net=net, directory=directory)(estimate, clean)
    torch.testing.assert_close(found.double(), expected, atol=0, rtol=1e-5)
    loss = LPIPSLoss(net=net, directory=directory)(estimate, clean)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_lpips_with_the_published_weights(real_data):
    published = real_data / "weights" / "lpips"
    if missing := LPIPS.missing(net="squeeze", directory=published):
        pytest.skip(f"no {missing[0]}")
    metric = LPIPS(net="squeeze", directory=published)
    estimate, clean = images()
    weights, heads = (backbones.read(published / f"squeeze{end}.pth") for end in (".backbone", "_lin_v0.1"))
    expected = backbones.lpips("squeeze", weights, heads, estimate, clean)
    torch.testing.assert_close(metric(estimate, clean).double(), expected, atol=0, rtol=1e-5)
    # the example in torchmetrics' documentation of its learned_perceptual_image_patch_similarity
    generator = torch.Generator().manual_seed(42)
    a, b = torch.rand(2, 3, 100, 100, generator=generator), torch.rand(2, 3, 100, 100, generator=generator)
    torch.testing.assert_close(metric(a, b), torch.tensor([0.1024, 0.0938]), atol=5e-5, rtol=0)


@pytest.mark.parametrize("net", NETS)
def test_lpips_is_zero_for_equal_images_and_grows_with_noise(directory, net):
    metric = LPIPS(net=net, directory=directory)
    clean = images()[1]
    distances = [metric(images(noise=noise)[0], clean) for noise in (0, 0.02, 0.1, 0.3)]
    assert distances[0].shape == (2,)
    assert not distances[0].any()
    for less, more in itertools.pairwise(distances):
        assert (less < more).all()


@pytest.mark.parametrize("layer", ["relu1_1", "relu3_3", "relu5_3"])
def test_perceptual_loss_equals_the_plain_one(directory, layer):
    estimate, clean = images()
    a, b = (backbones.activations("vgg", backbones.random_backbone("vgg"), 2 * i - 1)[layer] for i in (estimate, clean))
    assert PerceptualLoss(layer=layer, directory=directory)(estimate, clean).item() == pytest.approx(
        ((a - b) ** 2).mean().item(), rel=1e-5
    )
    l1 = PerceptualLoss(distance=nn.L1Loss(), layer=layer, directory=directory)
    assert l1(estimate, clean).item() == pytest.approx((a - b).abs().mean().item(), rel=1e-5)
    assert l1(clean, clean) == 0


def test_the_paper_s_layer_is_the_default(directory):
    loss = PerceptualLoss(directory=directory)
    assert list(loss.features.layers)[-1] == "relu3_3"
    assert isinstance(loss.distance, nn.MSELoss)


@pytest.mark.parametrize("make", [LPIPS, LPIPSLoss, PerceptualLoss])
def test_gradients_reach_every_pixel_of_the_estimate_only(directory, make):
    measure = make(directory=directory)
    estimate, clean = (image.requires_grad_() for image in images())
    value = measure(estimate, clean).sum()
    value.backward()
    assert clean.grad is None
    assert estimate.grad.isfinite().all()
    assert estimate.grad.abs().amax(1)[..., :36, :52].count_nonzero() > 0.99 * 2 * 36 * 52
    if make is PerceptualLoss:  # LPIPS has kinks within any finite step
        with torch.no_grad():
            nearer = measure(estimate - 1e-2 * estimate.grad / estimate.grad.norm(), clean)
        expected = value - 1e-2 * estimate.grad.norm()
        assert nearer.item() == pytest.approx(expected.item(), abs=0.05 * (value - expected).item())


def test_a_layer_s_distance_by_hand():
    a, b = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 0.0]])  # two pixels of two channels
    a, b = (x.T.reshape(1, 2, 1, 2).requires_grad_() for x in (a, b))
    head = torch.tensor([2.0, 10.0]).view(1, 2, 1, 1)
    distance = layer_distance(a, b, head)
    assert distance.tolist() == pytest.approx([(2 * 0.4**2 + 10 * 0.8**2 + 0) / 2])
    distance.sum().backward()
    assert a.grad.isfinite().all()  # also where the length of a vector of zeros has no derivative
    assert layer_distance(7 * a, 0.1 * b, head).item() == pytest.approx(distance.item())


@pytest.mark.parametrize("make", [LPIPS, LPIPSLoss, PerceptualLoss])
def test_grey_is_three_equal_channels(directory, make):
    measure = make(directory=directory)
    estimate, clean = images(channels=1)
    torch.testing.assert_close(
        measure(estimate, clean), measure(estimate.repeat(1, 3, 1, 1), clean.repeat(1, 3, 1, 1)), atol=0, rtol=1e-6
    )
    with pytest.raises(ValueError, match="1 or 3 channels, this one has 2"):
        measure(*images(channels=2))


@pytest.mark.parametrize("net", NETS)
def test_images_below_the_smallest_are_named(directory, net):
    metric, size = LPIPS(net=net, directory=directory), backbones.SMALLEST[net]
    assert metric(*images(size=(size, size))).isfinite().all()
    for shape in [(size - 1, 64), (64, size - 1)]:
        with pytest.raises(ValueError, match=f"at least {size}×{size} pixels, this image has {shape[0]}×{shape[1]}"):
            metric(*images(size=shape))
        metric.features.smallest = 1  # without that rule the layers themselves fail
        with pytest.raises(RuntimeError):
            metric(*images(size=shape))
        metric.features.smallest = size


def test_autocast_does_not_coarsen_a_distance(directory):
    metric = LPIPS(directory=directory)
    estimate, clean = images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = metric(estimate, clean)
    assert torch.equal(found, metric(estimate, clean))


# --- inside a module --------------------------------------------------------------------------------------------------


class Shift(nn.Module):
    """A network of one parameter."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.1))

    def forward(self, noisy, level=None):
        return noisy + self.shift


def module_with(loss, compose):
    return DenoisingModule(
        Shift(),
        objective=Supervised(),
        loss=loss,
        optimizer=torch.optim.SGD,
        scheduler=instantiate(compose().scheduler),
        score=instantiate(compose().protocol.score),
        record={"config": {"model": {}}},
    )


@pytest.mark.parametrize("make", [LPIPSLoss, PerceptualLoss])
def test_a_module_neither_saves_nor_trains_the_features(directory, compose, make):
    module = module_with(make(directory=directory), compose)
    assert list(module.state_dict()) == ["network.shift"]
    assert [name for name, _ in module.named_parameters()] == ["network.shift"]
    tensors = [t for name, t in module.named_buffers() if name.startswith("loss.")]
    assert len(tensors) > 14
    before = [t.clone() for t in tensors]
    clean = images()[1]
    first = module.loss(module(clean), clean)
    module.train()
    assert torch.equal(module.loss(module(clean), clean), first)
    first.backward()
    module.build_optimizer(p for p in module.parameters() if p.requires_grad).step()
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))
    assert module.loss(module(clean), clean) < first

    saved = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(saved)
    other = module_with(nn.MSELoss(), compose)
    other.on_load_checkpoint(saved)  # a run with another loss has the same keys
    module.on_load_checkpoint({"state_dict": other.state_dict(), "record": {}})
    module.load_state_dict(other.state_dict())

    module.to("meta")  # any other device
    assert {t.device.type for t in module.buffers()} == {"meta"}
    assert {t.dtype for t in module.double().buffers()} == {torch.float64}


def test_a_run_goes_on_with_such_a_loss(compose, weights_root, tmp_path):
    for index in range(4):
        ramp = np.linspace(40, 200, 24 * 24).reshape(24, 24) + 10 * index
        Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / f"{index}.png")
    data = [
        "data=folder",
        f"data.path={tmp_path}",
        "channels=1",
        "data.patch_size=20",
        "data.crops_per_image=4",
        "data.batch_size=4",
    ]
    small = ["model=dncnn", "model.num_features=4", "model.num_layers=2", "callbacks=ema"]
    quiet = ["trainer=cpu", "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false"]
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for steps, stands in [(2, None), (4, last)]:
        cfg = compose(
            "loss=perceptual", f"data_root={weights_root}", f"run_dir={tmp_path / 'run'}", f"trainer.max_steps={steps}",
            *data, *small, *quiet, "~callbacks.progress", "~callbacks.card",
        )  # fmt: skip
        datamodule, module, trainer = train.build(cfg)
        trainer.fit(module, datamodule, ckpt_path=stands, weights_only=True)
        checkpoint = backbones.read(last)
        assert checkpoint["global_step"] == steps
        assert all(key.startswith("network.") for key in checkpoint["state_dict"])
        assert last.stat().st_size < 2**18  # the features would take 7 MB


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_whole_published_files_are_read_too(directory, tmp_path, net):
    whole = {f"features.{key}": value.half() for key, value in backbones.random_backbone(net).items()}
    torch.save(whole | {"classifier.1.weight": torch.zeros(3)}, tmp_path / f"{net}.backbone.pth")
    [tap] = backbones.TAPS[net][:1]
    image = images()[0]
    here, there = (features.load(net, [tap], folder)(image)[tap] for folder in (tmp_path, directory))
    assert here.dtype == torch.float32
    torch.testing.assert_close(here, there, atol=1e-2, rtol=0)


def test_missing_files_are_named_with_where_to_get_them(tmp_path):
    for net, published in [
        ("squeeze", "squeezenet1_1-b8a52dc0"),
        ("alex", "alexnet-owt-7be5be79"),
        ("vgg", "vgg16-397923af"),
    ]:
        backbone, heads = tmp_path / f"{net}.backbone.pth", tmp_path / f"{net}_lin_v0.1.pth"
        assert LPIPS.missing(net=net, directory=tmp_path) == [backbone, heads]
        with pytest.raises(ValueError, match=f"at {backbone}\n.*{published}.pth"):
            LPIPS(net=net, directory=tmp_path)
        torch.save(backbones.random_backbone(net), backbone)
        assert LPIPS.missing(net=net, directory=tmp_path) == [heads]
        with pytest.raises(ValueError, match=f"at {heads}\n.*v0.1/{net}.pth"):
            LPIPS(net=net, directory=tmp_path)
        torch.save(backbones.random_heads(net), heads)
        assert LPIPS.missing(net=net, directory=tmp_path) == []


def test_damaged_and_other_files_are_named(tmp_path):
    good = backbones.write(tmp_path / "good", "alex", "squeeze")
    path, heads = tmp_path / "alex.backbone.pth", tmp_path / "alex_lin_v0.1.pth"
    for damaged in (b"", b"not weights", (good / "alex.backbone.pth").read_bytes()[:100_000]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{path} is damaged.*\n.*alexnet-owt-7be5be79.pth"):
            features.load("alex", ["relu1"], tmp_path)
    for foreign in ([1], {"0.weight": 3}):
        torch.save(foreign, path)
        with pytest.raises(CheckpointError, match=f"{path} holds no state dict.*AlexNet"):
            features.load("alex", ["relu1"], tmp_path)

    def refusal(weights):
        torch.save(weights, path)
        with pytest.raises(CheckpointError, match=f"{path} do not fit AlexNet") as error:
            features.load("alex", ["relu1"], tmp_path)
        assert "alexnet-owt-7be5be79.pth" in str(error.value)
        return str(error.value)

    assert r"0.weight: (64, 3, 3, 3) in the weights" in refusal(backbones.random_backbone("squeeze"))
    whole = backbones.random_backbone("alex")
    assert "10.bias: absent in the weights" in refusal({k: v for k, v in whole.items() if k != "10.bias"})
    assert "12.weight: (1,) in the weights" in refusal(whole | {"12.weight": torch.zeros(1)})

    torch.save(whole, path)
    torch.save(backbones.random_heads("squeeze"), heads)
    with pytest.raises(
        CheckpointError, match=r"(?s)do not fit LPIPS on AlexNet.*lin1.*\(1, 128, 1, 1\).*v0.1/alex.pth"
    ):
        LPIPS(net="alex", directory=tmp_path)


def test_unknown_names_are_answered_with_the_known(directory):
    with pytest.raises(ValueError, match="net='resnet': must be one of squeeze, alex, vgg"):
        LPIPS(net="resnet", directory=directory)
    with pytest.raises(ValueError, match="layer='relu3_4': must be one of .*relu3_3"):
        PerceptualLoss(layer="relu3_4", directory=directory)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["loss=perceptual"], ["VGG16", "vgg.backbone.pth", "vgg16-397923af.pth"]),
        (["loss=lpips"], ["SqueezeNet", "squeeze.backbone.pth", "squeezenet1_1-b8a52dc0.pth"]),
        (["loss=lpips", "loss.net=alx"], ["loss.net=alx", "did you mean alex"]),
    ],
    ids=["perceptual", "lpips", "net"],
)
def test_a_run_without_weights_is_refused_early(tmp_path, monkeypatch, capfd, typed, said):
    monkeypatch.chdir(tmp_path)
    code, printed = call(monkeypatch, capfd, train.main, *typed, f"data_root={tmp_path / 'sets'}", "run_dir=run")
    assert code == 2
    assert all(words in printed for words in said)
    assert "Traceback" not in printed
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_the_distance_is_chosen_by_name(compose, weights_root):
    cfg = compose("loss=perceptual", "loss@loss.distance=l1", f"data_root={weights_root}")
    assert isinstance(instantiate(cfg.loss).distance, nn.L1Loss)
    assert cfg.axes.loss == "perceptual"
