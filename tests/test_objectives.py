"""The mathematics of each objective against independent computations; and each as a run."""

import csv
import itertools

import numpy as np
import pytest
import torch
from command_line import call
from conftest import choices, randomize
from hydra.errors import InstantiationException
from PIL import Image
from torch import nn

import train
from datamodules.noise.gaussian import GaussianNoise
from datamodules.noise.poisson_gaussian import PoissonGaussianNoise
from denoisers.networks.dncnn import DnCNN
from denoisers.objectives import blindspots, neighbor2neighbor
from denoisers.objectives.adversarial import Adversarial, PatchCritic, gradient_penalty
from denoisers.objectives.blind2unblind import Blind2Unblind
from denoisers.objectives.distill import Distill, last_convolution
from denoisers.objectives.neighbor2neighbor import Neighbor2Neighbor
from denoisers.objectives.noise2noise import Noise2Noise
from denoisers.objectives.noise2self import Noise2Self
from denoisers.objectives.noise2void import Noise2Void
from denoisers.objectives.r2r import Recorrupted2Recorrupted
from denoisers.objectives.sure import SURE
from experiments.results import Rows

MSE = nn.MSELoss()


def batch(noisy, seed=0, **more):
    return {"noisy": noisy, "level": torch.full((len(noisy), 1, 1, 1), 0.1), "seed": seed, **more}


def random():
    return torch.Generator().manual_seed(3)


class Linear(nn.Module):
    """f(y) = W y, of pictures of 4 × 4 pixels."""

    def __init__(self):
        super().__init__()
        self.matrix = 0.9 * torch.eye(16) + torch.randn(16, 16, generator=random()) / 40

    def forward(self, noisy, level=None):
        return (noisy.flatten(1) @ self.matrix.T).view_as(noisy)


# --- SURE


def test_the_divergence_is_the_trace():
    network, sigma, number = Linear().double(), 0.1, 40_000
    network.matrix = network.matrix.double()
    noisy = torch.rand(1, 1, 4, 4, dtype=torch.float64).expand(number, 1, 4, 4)
    line = torch.tensor([[0.0, sigma**2]], dtype=torch.float64).expand(number, 2)
    learnt = SURE()(network, batch(noisy, line=line), MSE, 0.0)
    expected = sigma**2 * network.matrix.trace() / 16
    # of one direction the variance is twice the sum of the squares beside the diagonal, symmetric part
    symmetric = (network.matrix + network.matrix.T) / 2
    spread = sigma**2 / 16 * (2 * (symmetric - torch.diag(symmetric.diagonal())).square().sum() / number).sqrt()
    assert abs(learnt.terms["divergence"] - expected) < 4 * spread < 0.02 * abs(expected)
    step = 0.02**2 * network.matrix.square().sum() / 16  # what ε adds to the first term, in the mean over directions
    by_hand = (network(noisy[:1]) - noisy[:1]).square().mean() + step - sigma**2 + 2 * learnt.terms["divergence"]
    torch.testing.assert_close(learnt.loss, by_hand, rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    "noise",
    [GaussianNoise(sigma=25), PoissonGaussianNoise(gain=0.02, read=10), PoissonGaussianNoise(gain=0.05, read=0)],
)
def test_the_estimated_error_is_the_error(noise):
    """In expectation, for a network that is linear; of another one for Gaussian noise alone."""
    clean = torch.rand(1, 1, 4, 4, generator=random()).expand(30_000, 1, 4, 4)
    params = noise.draws(clean.shape)
    noisy, _ = noise.corrupt(clean, params)
    networks = [Linear()] + [lambda noisy, level: noisy.relu() * noisy] * isinstance(noise, GaussianNoise)
    for network in networks:
        learnt = SURE(epsilon=0.002)(network, batch(noisy, line=noise.line(params)), MSE, 0.0)
        errors = (network(noisy, None) - clean).square().mean((1, 2, 3))
        assert abs(learnt.loss - errors.mean()) < 0.02 * errors.mean()
        assert abs(learnt.terms["fidelity"] - errors.mean()) > 0.1 * errors.mean()  # which alone is no estimate


def test_who_knows_the_noises_strength_gains_nothing_by_it():
    """The identity where the noise is as strong as it says, a flat picture where a step makes it stronger."""
    sigma, step, clean = 0.1, 0.1, torch.full((500, 1, 16, 16), 0.5)
    noisy = clean + sigma * torch.randn(clean.shape, generator=random())
    line = torch.tensor([[0.0, sigma**2]]).expand(500, 2)

    def cheat(shown, level):
        strong = shown.var((1, 2, 3), keepdim=True) > sigma**2 + step**2 / 2
        return torch.where(strong, clean[:1], shown)

    learnt = SURE(epsilon=step)(cheat, batch(noisy, line=line), MSE, 0.0)
    assert learnt.loss > -0.1 * sigma**2  # the error is none; with the middle it would be −σ²


def test_the_line_is_the_noises_variance():
    clean = torch.full((2, 1, 300, 300), 0.5)
    for noise in (GaussianNoise(sigma=[10, 40]), PoissonGaussianNoise(gain=[0.01, 0.1], read=[0, 30], black=0.1)):
        params = noise.draws(clean.shape)
        noisy, _ = noise.corrupt(clean, params)
        gain, floor = noise.line(params).T
        torch.testing.assert_close((noisy - clean).var((1, 2, 3)), gain * 0.5 + floor, rtol=0.03, atol=0)


# --- blind spots


def hidden_by(objective, noisy, generator):
    """Masks [M, B, 1, H, W] and what is shown, [M, B, C, H, W]."""
    if isinstance(objective, Noise2Void):
        masks, window = [blindspots.scattered(noisy.shape, objective.cell, objective.window // 2, generator)], 5
    else:
        masks, window = [blindspots.grid(noisy, objective.side, place) for place in range(objective.side**2)], 3
    shown = [blindspots.hide(noisy, mask, objective.fill, window, generator) for mask in masks]
    return torch.stack(masks), torch.stack(shown)


@pytest.mark.parametrize("fill", ["uniform", "median", "interpolated"])
@pytest.mark.parametrize("objective", [Noise2Void, Noise2Self, Blind2Unblind])
def test_a_blind_spot_leaks_nothing(objective, fill):
    objective = objective(fill=fill)
    network = randomize(DnCNN(channels=2, num_layers=5, num_features=6, norm=False)).double()
    noisy = torch.rand(2, 2, 14, 11, dtype=torch.float64, requires_grad=True)
    masks, shown = hidden_by(objective, noisy, random())
    estimates = network(shown.flatten(0, 1)).view_as(shown)
    places = masks[:, :, 0].nonzero()
    assert len(places) > 3
    corners = {(0, 0), (0, 10), (13, 0), (13, 10)}
    if masks.shape[0] > 1:
        assert corners <= {(int(p[2]), int(p[3])) for p in places}
    for mask, number, row, column in places[:: max(1, len(places) // 40)].tolist():
        (gradient,) = torch.autograd.grad(estimates[mask, number, :, row, column].sum(), noisy, retain_graph=True)
        assert (gradient[number, :, row, column] == 0).all()
        assert gradient[number].abs().sum() > 0
    (gradient,) = torch.autograd.grad(network(noisy)[0, :, 5, 5].sum(), noisy)
    assert (gradient[0, :, 5, 5] != 0).any()  # without a mask it does


def test_hidden_pixels_are_one_of_a_cell_and_apart():
    hidden = blindspots.scattered(torch.Size((3, 1, 40, 56)), 8, 2, random())
    assert abs(hidden.sum((1, 2, 3)) - 35).max() <= 12  # cells that the border cuts may have none
    for image in hidden[:, 0]:
        places = image.nonzero()
        apart = (places[:, None] - places[None]).abs().amax(-1)
        assert apart[~torch.eye(len(places), dtype=bool)].min() > 2
    generator, one = random(), torch.Size((1, 1, 12, 12))
    counts = sum(blindspots.scattered(one, 4, 1, generator)[0].int() for _ in range(2000))
    assert counts.min() > 0.6 * counts.float().mean()  # every pixel comes


def test_what_is_shown_in_place_of_a_hidden_pixel():
    noisy = torch.rand(2, 3, 9, 9)
    hidden = blindspots.scattered(noisy.shape, 4, 2, random())
    shown = blindspots.hide(noisy, hidden, "median", 5, random())
    assert torch.equal(shown.masked_select(~hidden), noisy.masked_select(~hidden))
    for number, _, row, column in hidden.nonzero().tolist():
        top, left = max(0, row - 2), max(0, column - 2)
        window = noisy[number, :, top : row + 3, left : column + 3].flatten(1)
        own = (row - top) * (min(9, column + 3) - left) + column - left
        others = torch.cat([window[:, :own], window[:, own + 1 :]], 1).numpy()
        np.testing.assert_allclose(shown[number, :, row, column], np.median(others, axis=1), rtol=1e-6)
    shown = blindspots.hide(noisy, hidden, "uniform", 5, random())
    for number, _, row, column in hidden.nonzero().tolist():
        window = noisy[number, :, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].flatten(1)
        same = (window == shown[number, :, row, column, None]).all(0)  # one place for all channels
        assert same.sum() == 1


def test_interpolation_is_a_weighted_mean_of_eight():
    image = torch.rand(1, 2, 5, 6)
    found = blindspots.interpolated(image)
    padded = np.pad(image[0].numpy(), ((0, 0), (1, 1), (1, 1)), mode="reflect")
    weights = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12
    for row, column in itertools.product(range(5), range(6)):
        expected = (padded[:, row : row + 3, column : column + 3] * weights).sum((1, 2))
        np.testing.assert_allclose(found[0, :, row, column], expected, rtol=1e-5)


# --- pairs made of one picture


def test_sub_images_partition():
    image = torch.arange(4 * 6 * 2.0).view(1, 2, 4, 6).repeat(300, 1, 1, 1)
    pair = neighbor2neighbor.draw(image, random())
    first, second = neighbor2neighbor.sub_images(image, pair)
    rows, columns = (first[:, 0] // 6, first[:, 0] % 6), (second[:, 0] // 6, second[:, 0] % 6)
    cell = torch.arange(2)[:, None], torch.arange(3)[None]
    for place in (rows, columns):  # each from its own cell, both from one
        assert (place[0] // 2 == cell[0]).all()
        assert (place[1] // 2 == cell[1]).all()
    distance = sum((a - b).abs() for a, b in zip(rows, columns, strict=True))
    assert (distance == 1).all()  # two pixels, one beside the other
    assert torch.equal(first[:, 1] - first[:, 0], torch.full_like(first[:, 0], 24))  # the same in all channels
    choice = (rows[0] % 2 * 2 + rows[1] % 2).flatten()
    assert all(0.22 < (choice == place).float().mean() < 0.28 for place in range(4))


def test_neighbours_regularisation_by_hand():
    noisy, network = torch.rand(2, 1, 8, 8), lambda noisy, level: noisy * 0.5 + 0.1
    learnt = Neighbor2Neighbor(gamma=3, draws=2)(network, batch(noisy), MSE, 0.5)
    generator = torch.Generator().manual_seed(0)
    twice = noisy.repeat(2, 1, 1, 1)
    first, second = neighbor2neighbor.sub_images(twice, neighbor2neighbor.draw(twice, generator))
    gap = (first * 0.5 + 0.1 - second) - 0.5 * (first - second)
    expected = (first * 0.5 + 0.1 - second).square().mean() + 1.5 * gap.square().mean()
    torch.testing.assert_close(learnt.loss, expected)


def test_recorrupted_noises_are_uncorrelated_and_unbiased():
    sigma, alpha, clean = 0.1, 0.5, torch.full((4, 1, 300, 300), 0.4)
    noisy = clean + sigma * torch.randn(clean.shape)
    line = torch.tensor([[0.0, sigma**2]]).expand(4, 2)
    shown, target = Recorrupted2Recorrupted(alpha=alpha).recorrupted(noisy, line, random())
    torch.testing.assert_close(shown[4:] - noisy, noisy - shown[:4])
    torch.testing.assert_close(target[4:] - noisy, noisy - target[:4])
    one, other = (shown[:4] - clean).flatten(), (target[:4] - clean).flatten()
    number = len(one)
    torch.testing.assert_close(one.var(), torch.tensor(sigma**2 * (1 + alpha**2)), rtol=0.02, atol=0)
    torch.testing.assert_close(other.var(), torch.tensor(sigma**2 * (1 + alpha**-2)), rtol=0.02, atol=0)
    for noise in (one, other):
        assert abs(noise.mean()) < 4 * noise.std() / number**0.5
    assert abs((one * other).mean()) < 4 * one.std() * other.std() / number**0.5
    assert abs(((noisy - clean).flatten() * other).mean()) > 0.9 * sigma**2  # the noisy one itself is correlated


def test_two_views_change_places():
    noisy, twin = torch.rand(64, 1, 2, 2), torch.rand(64, 1, 2, 2)
    seen = []
    learnt = Noise2Noise()(lambda shown, level: seen.append(shown) or shown, batch(noisy, twin=twin), MSE, 0.0)
    kept = (seen[0] == noisy).flatten(1).all(1)
    assert 16 < kept.sum() < 48
    assert torch.equal(seen[0][~kept], twin[~kept])
    torch.testing.assert_close(learnt.loss, (noisy - twin).square().mean())


def test_revisible_loss_by_hand():
    noisy, network = torch.rand(1, 1, 6, 6), lambda noisy, level: 0.5 * noisy
    objective = Blind2Unblind(masks=4, visible=(2, 20), eta=0.7, fill="interpolated")
    learnt = objective(network, batch(noisy), MSE, 0.25)
    hidden, seen, weight = 0.5 * blindspots.interpolated(noisy), 0.5 * noisy, 6.5
    expected = (hidden + weight * seen - 7.5 * noisy).square().mean() + 0.7 * (hidden - noisy).square().mean()
    torch.testing.assert_close(learnt.loss, expected)
    of_one = [Blind2Unblind(fill="interpolated")(network, batch(noisy, seed), MSE, 0.0).loss for seed in range(40)]
    whole = Blind2Unblind(masks=4, fill="interpolated")(network, batch(noisy), MSE, 0.0).loss
    values = torch.stack(of_one).unique()
    assert len(values) == 4
    torch.testing.assert_close(values.mean(), whole)  # one mask at a step, the same in expectation


# --- learning from others


def test_gradient_penalty_by_hand():
    """Of a critic whose gradient is known: c(x) = Σ w x² / n."""
    real, fake, weights = torch.rand(3, 1, 2, 2), torch.rand(3, 1, 2, 2), torch.rand(1, 1, 2, 2)

    class Critic(nn.Module):
        def forward(self, image):
            return (weights * image.square()).mean((2, 3), keepdim=True)

    share = torch.rand(3, 1, 1, 1, generator=random())
    between = real + share * (fake - real)
    lengths = (2 * weights * between / 4).square().sum((1, 2, 3)).sqrt()
    found = gradient_penalty(Critic(), real, fake, random())
    torch.testing.assert_close(found, (lengths - 1).square().mean())


@pytest.mark.parametrize("kind", ["wgan_gp", "relativistic"])
def test_network_and_critic_do_not_reach_each_others_weights(kind):
    """The gradients of the sum are those of the two losses, each taken by itself."""
    critic, network = PatchCritic(num_features=4, num_layers=2), DnCNN(num_layers=2, num_features=3)
    randomize(network)
    objective = Adversarial(critic=critic, build_optimizer=torch.optim.Adam, kind=kind, weight=0.3, penalty=2.0)
    clean = torch.rand(2, 1, 16, 16)
    noisy = clean + 0.1 * torch.randn(clean.shape)
    objective(network, batch(noisy, clean=clean), MSE, 0.0).loss.backward()
    together = [p.grad.clone() for learner in (network, critic) for p in learner.parameters()]
    network.zero_grad()
    critic.zero_grad()
    estimate = network(noisy)
    of_network = MSE(estimate, clean) + 0.3 * objective.losses(critic(clean), critic(estimate))[1]
    apart = list(torch.autograd.grad(of_network, list(network.parameters())))
    fake = network(noisy).detach()
    penalty = gradient_penalty(critic, clean, fake, torch.Generator().manual_seed(0))
    of_critic = objective.losses(critic(clean), critic(fake))[0] + 2.0 * penalty
    apart += torch.autograd.grad(of_critic, list(critic.parameters()))
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)


def test_adversarial_losses_by_hand():
    real, fake = torch.tensor([0.3, 1.2]), torch.tensor([-0.4, 0.9])
    wasserstein = Adversarial(critic=PatchCritic(), build_optimizer=torch.optim.Adam, kind="wgan_gp")
    critic, network = wasserstein.losses(real, fake)
    torch.testing.assert_close((critic, network), (torch.tensor(-0.5), torch.tensor(-0.25)))
    relativistic = Adversarial(critic=PatchCritic(), build_optimizer=torch.optim.Adam, kind="relativistic")
    entropy = nn.functional.binary_cross_entropy_with_logits
    above, below = real - fake.mean(), fake - real.mean()
    expected = (entropy(above, torch.ones(2)) + entropy(below, torch.zeros(2))) / 2
    mirrored = (entropy(above, torch.zeros(2)) + entropy(below, torch.ones(2))) / 2
    torch.testing.assert_close(relativistic.losses(real, fake), (expected, mirrored))


def test_a_student_learns_from_its_teacher_and_is_saved_without(teacher):
    path, teacher = teacher
    student, noisy, clean = randomize(DnCNN(num_layers=3, num_features=5), 1), *torch.rand(2, 3, 1, 12, 12)
    objective = Distill(teacher=path, weight=0.75, features=0.1)
    objective.attach(student)
    assert set(objective.state_dict()) == {"adapter.weight", "adapter.bias"}
    assert objective.adapter.weight.shape == (7, 5, 1, 1)
    assert sum(p.numel() for p in objective.parameters()) == 7 * 5 + 7
    learnt = objective(student, batch(noisy, clean=clean), MSE, 0.0)
    with torch.no_grad():
        target, estimate = teacher(noisy), student(noisy)
    total = 0.75 * MSE(estimate, target) + 0.25 * MSE(estimate, clean)
    torch.testing.assert_close(learnt.loss, total * (1 + 0.1 * learnt.terms["features"]), rtol=1e-4, atol=1e-6)
    learnt.loss.backward()
    assert all(p.grad is not None for p in [*student.parameters(), *objective.parameters()])
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert objective.double().teacher.body[0].weight.dtype == torch.float64  # it moves with the objective
    assert last_convolution(teacher, noisy[:1], torch.zeros(1, 1, 1, 1)) is teacher.body[-1]


# --- as runs


@pytest.fixture
def pictures(tmp_path):
    """Six small pictures, and noisy ones of the same names."""
    rng = np.random.default_rng(0)
    for index in range(6):
        clean = np.linspace(40, 200, 24 * 24).reshape(24, 24) + 8 * index
        noisy = clean + rng.normal(0, 20, clean.shape)
        for kind, image in {"clean": clean, "noisy": noisy}.items():
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / kind / f"{index}.png")
    return tmp_path


def small(tmp_path, *more):
    return [
        "model=simple_cnn",
        "model.num_features=6",
        "channels=1",
        "data.patch_size=16",
        "data.crops_per_image=8",
        "data.batch_size=4",
        "trainer.max_steps=6",
        "trainer.accelerator=cpu",
        "logger=csv",
        f"run_dir={tmp_path / 'run'}",
        *more,
    ]


def fit(compose, *overrides):
    cfg = compose(*overrides)
    datamodule, module, trainer = train.build(cfg)
    train.refuse_early(datamodule, module, None, [], False)
    trainer.fit(module, datamodule)
    return datamodule, module, trainer


@pytest.mark.parametrize("objective", choices("objective"))
def test_every_objective_learns(compose, pictures, objective, tmp_path, teacher):
    more = [f"objective={objective}", "data=folder", f"data.path={pictures / 'clean'}"]
    if objective == "distill":
        more.append(f"objective.teacher={teacher[0]}")
    _, module, trainer = fit(compose, *small(tmp_path, *more))
    assert trainer.global_step == 6  # one step at a time, whoever learns beside the network
    assert trainer.callback_metrics["val/psnr"] > 0
    assert ("train/psnr" in trainer.callback_metrics) == module.objective.clean


@pytest.mark.parametrize("objective", ["noise2void", "neighbor2neighbor"])
def test_learning_from_noisy_pictures_opens_no_clean_one(compose, pictures, objective):
    """The clean files are there, as pairs, and hold nothing that could be read; but for those of the test images."""
    for number in range(4):
        (pictures / "clean" / f"{number}.png").write_bytes(b"no picture")
    pairs = ["data=pairs", f"data.noisy={pictures / 'noisy'}", f"data.clean={pictures / 'clean'}", "noise=none"]
    asked = small(pictures, f"objective={objective}", *pairs, "data.test='[45]'", "scheduler=plateau")
    datamodule, module, trainer = fit(compose, *asked, "data.unpaired=true")
    assert "val/psnr" not in trainer.callback_metrics
    assert trainer.checkpoint_callback.monitor == "val/loss"
    assert trainer.checkpoint_callback.best_model_score == pytest.approx(trainer.callback_metrics["val/loss"].item())
    trainer.test(module, datamodule, verbose=False)
    rows = next(callback.rows for callback in trainer.callbacks if isinstance(callback, Rows))
    assert [(row["image"], row["psnr"] > 5) for row in rows] == [("4", True), ("5", True)]
    with pytest.raises(InstantiationException, match=r"[0-3]\.png: not an image"):
        fit(compose, *asked, "data.unpaired=false")


def test_captures_of_one_scene_learn_from_each_other(compose, pictures):
    """Two scenes of four captures, of which two are one file; no clean file is opened but those of the test images."""
    for folder in ("noisy", "clean"):
        for number in range(8):
            source = pictures / folder / f"{number % 6}.png"
            (pictures / folder / f"{'ab'[number % 2]}_{number // 2}.png").write_bytes(source.read_bytes())
        for number in range(6):
            (pictures / folder / f"{number}.png").unlink()
    (pictures / "noisy" / "b_1.png").write_bytes((pictures / "noisy" / "b_0.png").read_bytes())
    for name in ("a_0", "a_1", "a_2", "b_0", "b_1", "b_2"):
        (pictures / "clean" / f"{name}.png").write_bytes(b"no picture")
    data = ["data=pairs", f"data.noisy={pictures / 'noisy'}", f"data.clean={pictures / 'clean'}", "noise=none"]
    asked = small(pictures, "objective=noise2noise", *data, "data.test=_3$", "data.fractions=[0.7,0.15,0.15]")
    with pytest.raises(InstantiationException, match="no two of the .* training images are of one scene"):
        fit(compose, *asked, "data.captures='^(._.)$'")
    datamodule, _, trainer = fit(compose, *asked, "data.captures='^(.)_'")
    assert trainer.global_step == 6
    assert "val/loss" in trainer.callback_metrics
    learnt = [(item.noisy.stem, item.twin.stem) for item in datamodule.splits.train]
    assert all(one[0] == other[0] and one != other for one, other in learnt)
    assert not {("b_0", "b_1"), ("b_1", "b_0")} & set(learnt)
    assert {one[0] for one, _ in learnt} == {"a", "b"}
    assert all(item.clean is None for item in datamodule.splits.train + datamodule.splits.val)


def test_a_folder_of_noisy_pictures_is_learnt_from_and_cleaned(monkeypatch, capfd, pictures):
    data = ["data=noisy", f"data.path={pictures / 'noisy'}", "noise=none", "trainer=cpu"]
    code, printed = call(monkeypatch, capfd, train.main, *small(pictures, "objective=noise2self", *data))
    assert code == 0, printed
    assert "val/loss" in printed
    rows = list(csv.DictReader((pictures / "run" / "per_image.csv").open()))
    assert [row["image"] for row in rows] == [str(number) for number in range(6)]
    assert {row["psnr"] for row in rows} == {""}  # nothing is invented
    assert (pictures / "run" / "pictures" / "test" / "noisy" / "0" / "estimate.png").is_file()


REFUSED = [
    (
        ["objective=neighbor2neighbor", "noise=correlated"],
        "from pixel to pixel; learn with objective=noise2noise",
    ),
    (["objective=noise2noise", "noise=salt_and_pepper"], "which is not the clean one; learn with objective=supervised"),
    (["objective=noise2void", "noise=clipped"], "which is not the clean one"),
    (["objective=r2r", "noise=poisson"], "normal noise alone balances"),
    (["objective=r2r", "noise=clipped"], "normal noise alone balances"),
    (["objective=sure", "noise=speckle"], "Stein's identity"),
    (["objective=sure", "loss=l1"], "use loss=mse"),
    (["objective=noise2void", "loss=ssim"], "loss=ssim is not defined: use loss=mse, l1 or charbonnier"),
    (["objective=noise2void", "objective.window=4"], "window=4: must be odd"),
    (["objective=adversarial", "objective.kind=gan"], "kind=gan: Input should be 'wgan_gp' or 'relativistic'"),
    (["objective=distill", "objective.teacher=nowhere"], "no checkpoint at nowhere"),
    (["objective=distill"], "objective.teacher"),
    (["objective=sure", "REAL"], "give objective.gain and objective.read"),
    (["objective=supervised", "NOISY"], "has noisy ones alone"),
    (["objective=noise2noise", "NOISY"], "needs 2 noisy images of each scene"),
]


@pytest.mark.parametrize(("asked", "said"), REFUSED, ids=[" ".join(asked) for asked, _ in REFUSED])
def test_what_does_not_fit_is_refused_with_its_reason(monkeypatch, capfd, pictures, asked, said):
    data = ["data=folder", f"data.path={pictures / 'clean'}"]
    if {"REAL", "NOISY"} & set(asked):
        data = ["data=noisy", f"data.path={pictures / 'noisy'}", "noise=none"]
    asked = [word for word in asked if word.islower() or "=" in word]
    code, printed = call(monkeypatch, capfd, train.main, *small(pictures, *data, *asked))
    assert code == 2, printed
    assert said in " ".join(printed.split())
    assert not (pictures / "run").exists()


@pytest.mark.parametrize("noise", [name for name in choices("noise") if name != "profile"])
def test_properties_hold(build_noise, noise):
    """What a noise says of itself, measured on a flat grey picture."""
    if noise == "none":
        pytest.skip("of pictures that bring their own noise it is taken on trust")
    built = build_noise(noise, 1)
    clean = torch.full((24, 1, 128, 128), 0.15)
    noisy, _ = built.corrupt(clean)
    error = (noisy - clean)[:, :, 8:-8, 8:-8]
    spread = error.std()
    if "unbiased" in built.properties:
        slack = 5 * spread / error.numel() ** 0.5 * (1 if "independent" in built.properties else 12)
        assert abs(error.mean()) < slack + 1e-5
    if "independent" in built.properties:
        error = error - error.mean((2, 3), keepdim=True)
        beside = (error[..., 1:] * error[..., :-1]).mean() / spread**2
        assert abs(beside) < 5 / error.numel() ** 0.5
    if "gaussian" in built.properties:
        scaled = error / error.std((2, 3), keepdim=True)
        assert abs(scaled.pow(4).mean() - 3) < 0.1
    assert ("stein" in built.properties) == (built.line(built.draws(clean.shape)) is not None)


def test_fixed_noise_is_one_realisation(compose, pictures):
    more = ["objective=noise2noise", "data=folder", f"data.path={pictures / 'clean'}", "data.patch_size=24"]

    def noisy_pictures(seed):
        datamodule, *_ = train.build(compose(*small(pictures, *more, f"seed={seed}")))
        datamodule.setup("fit")
        found = {}
        for epoch_batch in itertools.islice(datamodule.train_dataloader(), 20):
            for index, name in enumerate(epoch_batch["name"]):
                for view in ("noisy", "twin"):
                    crop = epoch_batch[view][index]
                    turns = [torch.rot90(f, k, (1, 2)) for f in (crop, crop.flip(2)) for k in range(4)]
                    found.setdefault((name, view), set()).add(min(t.numpy().tobytes() for t in turns))
        return found

    first, again, other = noisy_pictures(0), noisy_pictures(0), noisy_pictures(1)
    assert all(len(realisations) == 1 for realisations in first.values())
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[key] != other[key] for key in first)
    assert all(first[name, "noisy"] != first[name, "twin"] for name, _ in first)
