"""Runs that start from trained weights, and networks of which parts are frozen."""

import json
import re

import pytest
import torch
from command_line import call
from conftest import randomize
from torch import nn
from torture import make_pictures

import train
from denoisers import checkpoint
from denoisers.checkpoint import CheckpointError
from denoisers.finetuning import freeze, start_from
from denoisers.networks.dncnn import DnCNN
from denoisers.weights import open_network


def network(**options):
    return DnCNN(**({"channels": 1, "num_layers": 4, "num_features": 4} | options))


@pytest.fixture
def small(tmp_path):
    make_pictures(tmp_path / "pictures", side=20)
    data = ["data=folder", f"data.path={tmp_path / 'pictures'}", "channels=1", "data.patch_size=12"]
    model = ["model=dncnn", "model.num_features=4", "model.num_layers=4", "trainer=cpu", "data.batch_size=4"]
    quiet = ["~callbacks.progress", "~callbacks.strips", "~callbacks.card", "trainer.enable_progress_bar=false"]
    return [*data, *model, *quiet, "data.crops_per_image=6", "trainer.max_steps=8"]


def trained(folder):
    return checkpoint.read(folder / "checkpoints" / "last.ckpt")["state_dict"]


# --- where a run starts from ------------------------------------------------------------------------------------------


def test_weights_that_fit_are_taken_whole():
    one, other = randomize(network(), 1), randomize(network(), 2)
    said = start_from(other, one.state_dict(), strict=True, source="a.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert said == f"{len(one.state_dict())} of {len(one.state_dict())} tensors are from a.ckpt"


def test_weights_of_another_depth_are_refused_and_named():
    with pytest.raises(CheckpointError, match=re.escape("body.8.weight: (1, 4, 3, 3) in its weights, (4, 4, 3, 3)")):
        start_from(network(num_layers=5), network().state_dict(), strict=True, source="a.ckpt")


def test_what_fits_is_taken_and_the_rest_is_said():
    ours, theirs = randomize(network(num_layers=5), 1), randomize(network(), 2)
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    said = start_from(ours, theirs.state_dict(), strict=False, source="a.ckpt")
    for key, tensor in ours.state_dict().items():
        fits = key in theirs.state_dict() and theirs.state_dict()[key].shape == tensor.shape
        assert torch.equal(tensor, theirs.state_dict()[key] if fits else before[key]), key
    new = [
        key for key in before if key not in theirs.state_dict() or before[key].shape != theirs.state_dict()[key].shape
    ]
    assert f"{len(new)} begin as in a new network: {', '.join(new[:5])} and {len(new) - 5} more" in said
    assert "of the file are not taken: body.8.weight" in said


def test_weights_of_which_nothing_fits_are_refused_all_the_same():
    with pytest.raises(CheckpointError, match="nothing agrees"):
        start_from(network(), {"other": torch.ones(3)}, strict=False, source="a.ckpt")


def test_a_run_starts_from_a_run_or_from_published_weights(monkeypatch, capfd, small, tmp_path):
    code, printed = call(monkeypatch, capfd, train.main, *small, f"run_dir={tmp_path / 'first'}")
    assert code == 0, printed
    published = tmp_path / "published.pth"
    torch.save({f"model.{k[5:]}": v for k, v in randomize(network(norm=False)).state_dict().items()}, published)
    for source, more in ((tmp_path / "first", []), (published, ["model.norm=false"])):
        run = tmp_path / f"from_{source.stem}"
        still = ["optimizer.lr=0", "optimizer.weight_decay=0", "freeze=null"]  # so that the weights stay what they were
        code, printed = call(
            monkeypatch, capfd, train.main, *small, *more, *still, f"init_from={source}", f"run_dir={run}"
        )
        assert code == 0, printed
        of = f"tensors are from {checkpoint.find(source)} (SHA-256 "
        assert of in printed
        expected = open_network(source).network.state_dict()
        for key, tensor in trained(run).items():
            if not re.search("running|tracked", key):
                assert torch.equal(tensor, expected[key.removeprefix("network.")]), key
        found = json.loads((run / "summary.json").read_text())["started_from"]
        assert found == {"path": str(source), "sha256": checkpoint.checksum(checkpoint.find(source))}


def test_a_run_that_goes_on_needs_its_start_no_more(monkeypatch, capfd, small, tmp_path):
    source = tmp_path / "published.pth"
    torch.save(randomize(network()).state_dict(), source)
    run = [*small, f"init_from={source}", f"run_dir={tmp_path / 'r'}"]
    code, printed = call(monkeypatch, capfd, train.main, *run)
    assert code == 0, printed
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    source.unlink()
    code, printed = call(monkeypatch, capfd, train.main, f"resume={tmp_path / 'r'}")
    assert code == 0, printed
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["started_from"] == summary["started_from"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["init_from=nowhere"], "no checkpoint at nowhere"),
        (["init_from=FILE", "model.num_layers=5"], "do not fit this run's network"),
        (["init_from=FILE", "init_sha256=0123"], "not 0123"),
        (["freeze=bdy.*"], "freeze=bdy.*: matches none of the network's 12 parameters: body.0.weight, body.0.bias"),
        (["freeze=[body.*]"], "leave something to train"),
        (["freeze=3"], "freeze=3: must be a pattern"),
    ],
)
def test_starts_that_cannot_work_are_refused(monkeypatch, capfd, small, tmp_path, arguments, said):
    torch.save(randomize(network()).state_dict(), tmp_path / "file.pth")
    arguments = [argument.replace("FILE", str(tmp_path / "file.pth")) for argument in arguments]
    code, printed = call(monkeypatch, capfd, train.main, *small, *arguments, f"run_dir={tmp_path / 'r'}")
    assert code == 2, printed
    assert said in printed
    assert not (tmp_path / "r").exists()


# --- what is frozen ---------------------------------------------------------------------------------------------------


def test_patterns_name_parameters():
    net = network()
    assert freeze(net, ["body.0.*", "*.bias"]) == [
        k for k, _ in net.named_parameters() if "body.0." in k or "bias" in k
    ]
    assert [k for k, p in net.named_parameters() if p.requires_grad] == [
        k for k, _ in net.named_parameters() if "body.0." not in k and "bias" not in k
    ]


def test_a_network_without_parameters_may_be_built_and_not_frozen():
    assert freeze(nn.Identity(), []) == []
    with pytest.raises(ValueError, match="matches none of the network's 0 parameters"):
        freeze(nn.Identity(), "*")


def test_a_frozen_norm_keeps_its_statistics_and_trains_what_is_tested():
    net = randomize(nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    freeze(net, "1.*")
    assert [net[1].training, net[3].training] == [False, True]
    batch = torch.rand(4, 1, 5, 5)
    before = {k: v.clone() for k, v in net.named_buffers()}
    of_training = net[1](net[0](batch))
    net(batch)
    assert torch.equal(of_training, net.eval()[1](net[0](batch)))
    for key, tensor in net.named_buffers():
        assert torch.equal(tensor, before[key]) == key.startswith("1."), key


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_frozen_parts_are_the_same_after_training(compose, small, tmp_path, optimizer):
    cfg = compose(*small, f"optimizer={optimizer}", "freeze=[body.2.*,body.3.*]", f"run_dir={tmp_path}")
    datamodule, module, trainer = train.build(cfg)
    randomize(module.network)
    before = {key: tensor.clone() for key, tensor in module.network.state_dict().items()}
    trainer.fit(module, datamodule)  # with validations, after which the network is put into training mode again
    for key, tensor in module.network.state_dict().items():
        frozen = key.startswith(("body.2.", "body.3."))
        assert torch.equal(tensor, before[key]) == frozen, key
    assert not module.train().network.body[3].training
