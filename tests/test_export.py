"""Exported files: the numbers of PyTorch, what the files say of themselves, and what is refused."""

import csv
import json
import pickle
import sys
import zipfile

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import safetensors.torch
import torch
from command_line import call
from conftest import TRAINABLE, randomize, small
from hydra.utils import instantiate
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

import denoisers
from datamodules.files import replacing_together
from denoisers import exporting
from denoisers.checkpoint import CheckpointError, read
from denoisers.clips import reach_of
from denoisers.exported import Facts, OnnxNetwork, OpenVinoNetwork, TorchProgram
from denoisers.exporting import FORMATS, Exporter, ExportError, require_parity, takes_level, to_onnx
from denoisers.layers import LevelError
from denoisers.memory import bytes_per_pixel
from denoisers.networks.dncnn import DnCNN
from denoisers.networks.ircnn import IRCNNBank
from denoisers.ranged import ranged
from denoisers.receptive import halo_of, sight_of
from denoisers.weights import open_network
from experiments import denoise, evaluate, export, exports

QUICK = ["dncnn", "ffdnet", "xdncnn"]  # others take up to a minute
SUFFIXES = {form: suffix for form, (suffix, _) in FORMATS.items()}
NOISE = {"_target_": "datamodules.noise.gaussian.Gaussian", "sigma": 25}


def facts_for(network, name="a network", channels=1, **more):
    return Facts(name, channels, takes_level(network, channels), reach_of(network), **more)


def scaled(network):
    """A small random network whose estimates are of the images' own size, not thousands of times that."""
    for weight in randomize(network).parameters():
        if weight.ndim > 1:
            weight.data.mul_(7 / weight[0].numel() ** 0.5)
    return network.eval()


@torch.no_grad()
def assert_same(network, other, channels, told, clips):
    generator = torch.Generator().manual_seed(1)
    for batch, frames, height, width in [(1, 2, 1, 1), (2, 1, 7, 32), (1, 6, 29, 71), (3, 3, 16, 8)]:
        lead = (batch, frames) if clips else (batch,)
        noisy = torch.rand(*lead, channels, height, width, generator=generator)
        number, of_pixels = torch.rand(*lead, 1, 1, 1), torch.rand(*lead, 1, height, width)
        for level in (number, of_pixels) if told else (None, number):  # of which blind ones take no notice
            estimate = other(noisy, level)
            assert estimate.shape == noisy.shape
            torch.testing.assert_close(estimate, network(noisy, level), atol=1e-5, rtol=1e-5)


@pytest.fixture
def published(tmp_path):
    """Files of weights as others publish them: an FFDNet, and a DnCNN with batch norm; and their networks."""
    told = scaled(instantiate({"_target_": "denoisers.networks.ffdnet.FFDNet", "num_layers": 3, "num_features": 6}))
    state = {key.replace("body.", "model."): tensor for key, tensor in told.state_dict().items()}
    torch.save(state, tmp_path / "ffdnet.pth")
    return tmp_path / "ffdnet.pth", told


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of ours, trained in [-1, 1] at σ = 25, and its network."""
    arguments = {"_target_": "denoisers.networks.dncnn.DnCNN", "num_layers": 4, "num_features": 7}
    network = ranged(scaled(instantiate(arguments)), [-1, 1]).eval()
    config = {"model": arguments, "channels": 1, "value_range": [-1, 1], "seed": 5, "noise": NOISE, "secret": "x"}
    config["axes"] = {"model": "dncnn", "noise": "gaussian"}
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "record": {"config": config}}, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt", network


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """``run("checkpoint=…", …)`` → exit code and what was printed, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(monkeypatch, capfd, export.main, *arguments)


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in TRAINABLE]
)
def test_every_network_computes_the_same_in_every_format_at_any_size(spec, tmp_path, model):
    channels = 1 if model in QUICK else 3
    network = scaled(instantiate(small(spec(model, channels))))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    facts = facts_for(network, channels=channels, record={"config": {"model": small(spec(model, channels))}})
    exporter = Exporter(network, facts)
    for form, of_runtime in {"onnx": OnnxNetwork, "openvino": OpenVinoNetwork, "torch_export": TorchProgram}.items():
        path = tmp_path / f"network{SUFFIXES[form]}"
        FORMATS[form][1](exporter, path)
        other = of_runtime(path)
        assert not list(other.parameters())
        assert_same(network, other, channels, facts.level, facts.reach)
        assert require_parity(network, other, facts, path) <= 1e-4
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_an_onnx_file_says_what_it_is_and_batch_norm_is_gone(tmp_path):
    network = randomize(DnCNN(num_layers=5, num_features=4)).eval()
    to_onnx(network, tmp_path / "n.onnx", facts_for(network, "dncnn", receptive_field=11, commit="abc"))
    model = onnx.load(tmp_path / "n.onnx")
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Conv") == 5
    assert "BatchNormalization" not in operators
    said = json.loads({entry.key: entry.value for entry in model.metadata_props}["denoisers"])
    assert {key: said[key] for key in ("network", "channels", "level", "receptive_field", "commit")} == {
        "network": "dncnn", "channels": 1, "level": False, "receptive_field": 11, "commit": "abc"
    }  # fmt: skip
    [noisy], [estimate] = model.graph.input, model.graph.output
    for value in (noisy, estimate):
        assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == ["batch", 1, "height", "width"]
    assert (noisy.name, estimate.name) == ("noisy", "estimate")


def test_files_can_be_used_without_this_project(published, run, tmp_path):
    path, network = published
    code, printed = run(f"checkpoint={path}", "to=[onnx,openvino,torch_export]", "output=files/ffdnet")
    assert code == 0, printed
    noisy, level = torch.rand(2, 1, 19, 22), torch.full((2, 1, 1, 1), 0.1)
    expected = network(noisy, level).detach()
    inputs = {"noisy": noisy.numpy(), "level": level.numpy()}
    session = onnxruntime.InferenceSession("files/ffdnet.onnx", providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, inputs)[0]), expected)
    compiled = openvino.Core().compile_model("files/ffdnet.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    torch.testing.assert_close(torch.from_numpy(compiled(inputs)[0]), expected)
    program = torch.export.load("files/ffdnet.pt2").module()
    torch.testing.assert_close(program(noisy, level.expand(2, 1, 19, 22)), expected)


def test_files_that_do_not_say_their_alignment_have_the_largest(tmp_path):
    said = json.loads(facts_for(DnCNN(num_layers=2, num_features=2), alignment=2).to_json())
    assert Facts.read(json.dumps(said), tmp_path, "a file").alignment == 2
    del said["alignment"]
    assert Facts.read(json.dumps(said), tmp_path, "a file").alignment == 64
    with pytest.raises(CheckpointError, match="damaged"):
        Facts.read(json.dumps(said | {"alignment": "2"}), tmp_path, "a file")


def test_a_checkpoint_becomes_files_that_commands_take_in_its_place(trained, run, monkeypatch, capfd, tmp_path):
    path, network = trained
    code, printed = run(f"checkpoint={path}", f"to=[{','.join(FORMATS)}]", "output=files/net")
    assert code == 0, printed
    assert sorted(p.name for p in (tmp_path / "files").iterdir()) == [
        "net.bin", "net.onnx", "net.pt2", "net.safetensors", "net.xml"
    ]  # fmt: skip
    monkeypatch.setenv("DENOISERS_TRUST_PT2", "1")
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(generator.integers(0, 255, (33, 41), np.uint8)).save(folder / f"{name}.png")
    rows, cleaned = {}, {}
    for file in (path, *(f"files/net{suffix}" for suffix in SUFFIXES.values())):
        opened = open_network(file)
        assert (opened.channels, opened.name, opened.record["config"]["seed"]) == (1, "dncnn", 5)
        assert halo_of(network, 1) <= halo_of(opened.network, 1) <= halo_of(network, 1) + 1
        assert sight_of(opened.network, 1).alignment == 1
        times = 2 if str(file).endswith(".onnx") else 1
        assert bytes_per_pixel(opened.network, 1) == pytest.approx(times * bytes_per_pixel(network, 1))
        out = tmp_path / f"evaluation{len(rows)}"
        arguments = [f"checkpoint={file}", "data=folder", f"data.path={folder}", "data.fractions=[0,0,1]"]
        arguments += ["noise=sigma25", f"run_dir={out}", "processes=1", "metrics=[psnr]", "pictures=false"]
        code, printed = call(monkeypatch, capfd, evaluate.main, *arguments)
        assert code == 0, printed
        rows[file] = [float(row["psnr"]) for row in csv.DictReader((out / "per_image.csv").open())]
        assert json.loads((out / "summary.json").read_text())["trained"].startswith("gaussian")
        out = tmp_path / f"clean{len(rows)}.png"
        code, printed = call(
            monkeypatch, capfd, denoise.main, f"checkpoint={file}", f"input={folder}/a.png", f"output={out}"
        )
        assert code == 0, printed
        cleaned[file] = np.asarray(Image.open(out)).astype(int)
    for file, psnrs in rows.items():
        assert psnrs == pytest.approx(rows[path], abs=1e-3)
        assert np.abs(cleaned[file] - cleaned[path]).max() <= 1
    content = read("files/net.safetensors")  # what training starts from, too
    assert "secret" not in content["record"]["config"]
    assert content["state_dict"].keys() == {f"network.{key}" for key in network.state_dict()}


def test_a_network_of_clips_takes_images_and_levels_of_each_frame(tmp_path):
    network = scaled(
        instantiate({"_target_": "denoisers.networks.fastdvd.FastDVDnet", "channels": 1, "num_features": 4})
    )
    to_onnx(network, tmp_path / "n.onnx", facts_for(network))
    other = OnnxNetwork(tmp_path / "n.onnx")
    assert other.reach == network.reach
    noisy, level = torch.rand(2, 1, 21, 30), torch.rand(2, 1, 1, 1)
    torch.testing.assert_close(other(noisy, level), network(noisy, level).detach(), atol=1e-5, rtol=1e-5)


def test_a_network_that_is_told_the_noise_says_so(published, tmp_path):
    path, network = published
    to_onnx(network, tmp_path / "n.onnx", facts_for(network, "ffdnet"))
    with pytest.raises(LevelError, match="ffdnet has to be told"):
        OnnxNetwork(tmp_path / "n.onnx")(torch.rand(1, 1, 8, 8))
    image = np.random.default_rng(0).random((20, 30, 3)).astype(np.float32)
    given, exported = (denoisers.load(file)(image, 0.1) for file in (path, tmp_path / "n.onnx"))
    np.testing.assert_allclose(exported, given, atol=1e-5)


def test_an_exported_network_goes_to_other_processes_and_takes_the_threads_of_pytorch(tmp_path):
    network = randomize(DnCNN(num_layers=3, num_features=4)).eval()
    to_onnx(network, tmp_path / "n.onnx", facts_for(network))
    exported = OnnxNetwork(tmp_path / "n.onnx")
    sent = pickle.loads(pickle.dumps(exported))
    noisy = torch.rand(1, 1, 9, 9)
    torch.testing.assert_close(sent(noisy), network(noisy).detach())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        sent(noisy)
        assert sent.program.get_session_options().intra_op_num_threads == 3
    finally:
        torch.set_num_threads(before)

    def full(inputs):
        raise RuntimeError("Failed to allocate memory for requested buffer of size 123")

    sent.run = full
    with pytest.raises(MemoryError, match="n.onnx"):  # so that smaller tiles are tried
        sent(noisy)


class Forked(nn.Module):
    """A network that does otherwise with wide images, which no graph shows."""

    def forward(self, noisy, level=None):
        return (0.75 if noisy.shape[-1] < 50 else 0.25) * noisy


def test_a_file_that_computes_something_else_is_refused_with_the_sizes(tmp_path):
    network = Forked()
    to_onnx(network, tmp_path / "n.onnx", facts_for(network, "forked"))
    with pytest.raises(ExportError) as refusal:
        require_parity(network, OnnxNetwork(tmp_path / "n.onnx"), facts_for(network, "forked"), tmp_path / "n.onnx")
    said = str(refusal.value)
    assert "would not compute what forked does" in said
    assert said.endswith("\n  1 × 1 × 31 × 53: 0.5")
    assert "64 × 48" not in said

    def lost(noisy, level=None):
        return noisy * torch.nan

    with pytest.raises(ExportError, match="nan"):
        require_parity(network, lost, facts_for(network), tmp_path / "n.onnx")


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_no_file_appears_and_an_older_one_stays_if_parity_fails(trained, run, monkeypatch, tmp_path, form):
    old = tmp_path / f"net{SUFFIXES[form]}"
    old.write_text("old")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(exporting, "TOLERANCE", -1)
    code, printed = run(f"checkpoint={trained[0]}", f"to={form}", "output=net", "overwrite=true")
    assert code == 2
    assert "1 × 1 × 31 × 53" in printed
    assert sorted(tmp_path.iterdir()) == before
    assert old.read_text() == "old"


def test_what_cannot_be_exported_is_refused_by_name(tmp_path):
    bank = IRCNNBank(num_features=4, num_networks=2).eval()
    with pytest.raises(ExportError, match="bank cannot be exported.*safetensors"):
        to_onnx(bank, tmp_path / "n.onnx", facts_for(bank, "bank"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["to=tensorrt"], "there is no 'tensorrt'"),
        (["to=onx"], "did you mean onnx?"),
        (["to=[]"], "name at least one of onnx"),
        (["output=taken"], "taken.onnx exists: name another file, or add overwrite=true"),
        (["to=[safetensors,onnx]", "output=taken.onnx"], "taken.onnx exists"),
        (["to=openvino", "output=weights"], "weights.bin exists"),
        (["checkpoint=absent.ckpt"], "no checkpoint at absent.ckpt"),
        (["checkpoint=taken.onnx"], "cannot be read as an ONNX file"),
    ],
)
def test_mistakes_are_named_and_exit_with_2(trained, run, tmp_path, arguments, said):
    (tmp_path / "taken.onnx").write_text("x")
    (tmp_path / "weights.bin").write_text("x")
    before = sorted(tmp_path.iterdir())
    if not arguments[0].startswith("checkpoint"):
        arguments = [f"checkpoint={trained[0]}", *arguments]
    code, printed = run(*arguments)
    assert code == 2
    assert said in printed
    assert sorted(tmp_path.iterdir()) == before


def test_the_checkpoint_is_never_overwritten(run, tmp_path):
    state = {
        f"model.{2 * i}.{key}": t for i in range(3) for key, t in nn.Conv2d(1 if not i else 4, 4, 3).named_parameters()
    }
    state["model.4.weight"], state["model.4.bias"] = torch.zeros(1, 4, 3, 3), torch.zeros(1)
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    before = (tmp_path / "net.safetensors").read_bytes()
    code, printed = run("checkpoint=net.safetensors", "to=safetensors", "output=net", "overwrite=true")
    assert (code, "never overwritten" in printed) == (2, True)
    assert (tmp_path / "net.safetensors").read_bytes() == before


def test_an_exported_graph_is_not_exported_again(trained, run):
    assert run(f"checkpoint={trained[0]}")[0] == 0
    code, printed = run("checkpoint=dncnn.onnx", "to=openvino")
    assert (code, "is an exported file already" in printed) == (2, True)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_damaged_files_are_named(tmp_path, form, damage):
    network = randomize(DnCNN(num_layers=3, num_features=4)).eval()
    path = tmp_path / f"net{SUFFIXES[form]}"
    record = {"config": {"model": {"_target_": "denoisers.networks.dncnn.DnCNN"}, "channels": 1}}
    FORMATS[form][1](Exporter(network, facts_for(network, record=record)), path)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": bytes(1000)}[damage])
    with pytest.raises(CheckpointError, match=f"{path.name} (cannot be read|is)"):
        open_network(path, trusted=True)


def test_openvino_weights_that_are_missing_or_cut_are_named(tmp_path):
    network = randomize(DnCNN(num_layers=3, num_features=4)).eval()
    Exporter(network, facts_for(network)).openvino(tmp_path / "net.xml")
    weights = tmp_path / "net.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="net.xml"):
        open_network(tmp_path / "net.xml")
    weights.unlink()
    with pytest.raises(CheckpointError, match="net.xml"):
        open_network(tmp_path / "net.xml")


def test_files_of_others_are_told_from_ours(tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    ])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "theirs.onnx")
    openvino.save_model(openvino.Core().read_model(tmp_path / "theirs.onnx"), tmp_path / "theirs.xml")
    torch.export.save(torch.export.export(nn.Identity(), (torch.rand(1),)), tmp_path / "theirs.pt2")
    for suffix in (".onnx", ".xml", ".pt2"):
        with pytest.raises(CheckpointError, match=f"theirs{suffix} is .*, but not of this project"):
            open_network(tmp_path / f"theirs{suffix}", trusted=True)
    entry = model.metadata_props.add()
    entry.key, entry.value = "denoisers", '{"network": "dncnn"}'
    onnx.save(model, tmp_path / "theirs.onnx")
    with pytest.raises(CheckpointError, match="its metadata 'denoisers' cannot be read"):
        open_network(tmp_path / "theirs.onnx")


class Trap:
    def __reduce__(self):
        return open, ("trapped", "w")


def test_files_of_torch_export_are_not_read_unless_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = randomize(DnCNN(num_layers=3, num_features=4)).eval()
    Exporter(network, facts_for(network)).torch_export(tmp_path / "net.pt2")
    with zipfile.ZipFile("net.pt2") as archive, zipfile.ZipFile("trap.pt2", "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            trapped = "sample_inputs" in name
            other.writestr(name, pickle.dumps(Trap()) if trapped else content)
    monkeypatch.delenv("DENOISERS_TRUST_PT2", raising=False)
    for file in ("net.pt2", "trap.pt2"):
        with pytest.raises(CheckpointError, match=f"{file} is refused.*DENOISERS_TRUST_PT2=1"):
            open_network(file)
    assert not (tmp_path / "trapped").exists()
    monkeypatch.setenv("DENOISERS_TRUST_PT2", "1")
    assert open_network("net.pt2").name == "a network"


def test_a_safetensors_file_builds_networks_of_this_project_alone(tmp_path):
    record = {"config": {"model": {"_target_": "shutil.rmtree", "path": str(tmp_path)}, "channels": 1}}
    metadata = {"denoisers": json.dumps({"record": record})}
    safetensors.torch.save_file({"network.x": torch.zeros(1)}, tmp_path / "net.safetensors", metadata)
    with pytest.raises(CheckpointError, match=r"'shutil.rmtree'.*only networks under denoisers\."):
        open_network(tmp_path / "net.safetensors")


@pytest.mark.parametrize(("package", "form"), [("onnxscript", "onnx"), ("openvino", "openvino")])
def test_a_missing_package_is_named_with_its_extra(trained, run, monkeypatch, package, form):
    monkeypatch.setitem(sys.modules, package, None)
    code, printed = run(f"checkpoint={trained[0]}", f"to={form}")
    assert code == 2
    assert f"needs {package}, pip install -e '.[export]'" in printed


def test_a_missing_runtime_is_named_with_its_extra(tmp_path, monkeypatch):
    (tmp_path / "net.onnx").write_text("x")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match=r"net.onnx is an ONNX file: that needs onnxruntime, .*\[export\]"):
        open_network(tmp_path / "net.onnx")


def test_files_that_belong_together_appear_together(tmp_path):
    seen = []
    (tmp_path / "net.xml").write_text("old")
    (tmp_path / "net.bin").write_text("old")
    with replacing_together(tmp_path / "net.xml") as path:
        path.write_text("new")
        path.with_suffix(".bin").write_text("new")
        seen = [(tmp_path / f"net.{end}").read_text() for end in ("xml", "bin")]
    assert seen == ["old", "old"]
    assert [(tmp_path / f"net.{end}").read_text() for end in ("xml", "bin")] == ["new", "new"]
    with pytest.raises(FileNotFoundError, match="net.xml"), replacing_together(tmp_path / "net.xml") as path:
        path.with_suffix(".absent").read_text()
    assert (tmp_path / "net.xml").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_table_of_formats(monkeypatch, capfd, tmp_path):
    arguments = ["models=[simple_cnn]", f"run_dir={tmp_path}/table"]
    code, printed = call(monkeypatch, capfd, exports.main, *arguments)
    assert code == 0, printed
    assert "| simple_cnn | 0.2 MB" in (tmp_path / "table" / "exports.md").read_text()
    kept = tmp_path / "table" / "files" / "simple_cnn.json"
    found = json.loads(kept.read_text())
    found["onnx"] = {"refused": "it is a teapot"}
    kept.write_text(json.dumps(found))
    code, printed = call(monkeypatch, capfd, exports.main, *arguments)
    table = (tmp_path / "table" / "exports.md").read_text()
    assert "| simple_cnn | refused | 0.2 MB" in table
    assert "simple_cnn to onnx: it is a teapot" in table


def test_published_weights_score_the_same_from_every_file(real_data, run, tmp_path):
    source = real_data / "weights" / "saoyan" / "dncnn_s25.pth"
    assert run(f"checkpoint={source}", "to=[onnx,openvino,safetensors]", "output=net")[0] == 0
    image = np.asarray(Image.open(next((real_data / "BSD68").glob("*.png"))))
    noisy = (image / 255 + np.random.default_rng(0).normal(0, 25 / 255, image.shape)).astype(np.float32)
    expected = denoisers.load(source)(noisy)
    for suffix in (".onnx", ".xml", ".safetensors"):
        np.testing.assert_allclose(denoisers.load(tmp_path / f"net{suffix}")(noisy), expected, atol=1e-5)
