"""Several processes on paper against rings that are simulated, and two real ones that say what they carry."""

import itertools
import re

import numpy as np
import pytest
from command_line import call
from omegaconf import OmegaConf

from experiments import scaling
from experiments.interconnect import Link, all_reduce, gpu_table, link_of, step_of

FAST = Link(gb_s=1.0, hop_us=0.0)


def ring(values):
    """A ring that sums arrays of ``n`` members: reduce-scatter, all-gather → what each holds, bytes that one sends."""
    count = len(values)
    parts, sent = [np.array_split(value.copy(), count) for value in values], [0] * count
    for gather, turn in itertools.product((False, True), range(count - 1)):
        messages = [(me, (me + gather - turn) % count) for me in range(count)]
        carried = [parts[me][which].copy() for me, which in messages]
        for (me, which), what in zip(messages, carried, strict=True):
            right = (me + 1) % count
            parts[right][which] = what if gather else parts[right][which] + what
            sent[me] += what.nbytes
    return [np.concatenate(part) for part in parts], sent


@pytest.mark.parametrize("count", [2, 4, 8])
def test_an_all_reduce_takes_as_long_as_what_a_ring_sends(count):
    values = [np.random.default_rng(rank).standard_normal(64 * count) for rank in range(count)]
    held, sent = ring(values)
    assert all(np.allclose(one, np.sum(values, axis=0)) for one in held)
    assert [all_reduce(values[0].nbytes, count, FAST)] * count == pytest.approx([size / 1e9 for size in sent])


def test_latencies_are_of_each_message_and_of_the_start():
    assert all_reduce(0, 8, Link(1.0, hop_us=3.0, start_us=5.0)) == pytest.approx((5 + 14 * 3) / 1e6)
    assert all_reduce(10**9, 1, Link(1.0, hop_us=3.0, start_us=5.0)) == 0


def test_the_backward_pass_hides_all_but_the_last_bucket_and_no_more_than_it_lasts():
    one = 10**9  # bytes that two send each other in a second
    assert step_of(10.0, 0.5, [one, one], 0, 2, FAST) == pytest.approx(11)  # the last waits, the other is hidden
    assert step_of(10.0, 0.5, [6 * one, one], 0, 2, FAST) == pytest.approx(12)  # 7 s, of which 5 are hidden
    assert step_of(10.0, 0.0, [one, one], 0, 2, FAST) == pytest.approx(12)
    assert step_of(10.0, 0.5, [one, one], 3 * one, 2, FAST) == pytest.approx(14)  # nothing hides buffers
    assert step_of(10.0, 0.5, [one, one], one, 1, FAST) == 10


@pytest.mark.parametrize("count", [2, 4])
def test_a_link_is_found_from_two_all_reduces(count):
    link = Link(gb_s=1.5, hop_us=40.0)
    found = link_of(all_reduce(0, count, link), all_reduce(10**7, count, link), 10**7, count)
    assert found == pytest.approx(link)


def test_several_gpus_by_hand():
    gpu = {"counts": [1, 2], "batch_size": 3, "step_ms": None, "tflops": 1e-6}
    gpu["links"] = {"wire": {"gb_s": 1.0, "hop_us": 10.0, "start_us": 4.0}}
    cfg = OmegaConf.create({"network": "one", "channels": 1, "patch_size": 8, "gpu": gpu})
    model = {"_target_": "denoisers.networks.dncnn.DnCNN", "num_layers": 3, "num_features": 4}
    operations = 3 * 8**2 * 9 * (4 + 16 + 4) * 2 * 3  # of three crops, forward and backward
    assumed = gpu_table(cfg, model, 0.5, [2000], 0)
    assert assumed.rows[0][1] == f"{operations / 1e6 * 1e3:.3f} (100.0%)"
    assert "assumed" in assumed.note
    cfg.gpu.step_ms = 2.0
    table = gpu_table(cfg, model, 0.5, [2600], 500)
    # start, two hops and the bytes, of gradients and of buffers
    more = ((4 + 20) * 2) / 1e3 + (2600 + 500) / 1e6
    assert table.rows[0][1:] == ["2.000 (100.0%)", f"{2 + more:.3f} ({2 / (2 + more):.1%})"]
    assert table.rows[1][1:] == ["2.000 (100.0%)", f"{1 + more:.3f} ({1 / (1 + more):.1%})"]
    assert "given" in table.note


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("batch_size=3", "must be even"),
        ("steps=0", "must be a whole number from 1"),
        ("network=median", "nothing to learn"),
        ("training=['los=mse']", "los"),
        ("gpu.step_ms=0", "above 0"),
        ("gpu.links.PCIe.gb_s=0", "above 0"),
    ],
)
def test_mistakes_are_named_before_any_process_starts(monkeypatch, capfd, tmp_path, mistake, said):
    monkeypatch.setattr(scaling, "measure", None)
    code, printed = call(monkeypatch, capfd, scaling.main, f"run_dir={tmp_path / 's'}", mistake)
    assert code == 2, printed
    assert said in printed


@pytest.mark.slow
def test_two_processes_say_what_they_carry(monkeypatch, capfd, tmp_path):
    tiny = ["batch_size=2", "patch_size=12", "steps=2", "rounds=1", f"run_dir={tmp_path / 's'}"]
    tiny += ["training=['model.num_layers=3','model.num_features=4']"]
    monkeypatch.setenv("COLUMNS", "200")
    code, printed = call(monkeypatch, capfd, scaling.main, *tiny)
    assert code == 0, printed
    rows = [line for line in printed.splitlines() if line.strip().startswith(("one process", "two"))]
    assert len(rows) == len(scaling.cases(2))
    gradients = 4 * ((9 * 4 + 4) + (9 * 16 + 4) + 2 * 4 + (9 * 4 + 1))
    buffers = 2 * 4 * 4 + 8  # of batch norm: two statistics and a count
    assert f"gradients {gradients:,} in" in printed
    assert f"buffers {buffers}" in printed
    if wire := re.search(r"loopback went ([\d.]+) MB", printed):  # each sends the other its gradients' half, twice
        assert float(wire[1]) * 1e6 > 2 * gradients + buffers
    assert "predicted / measured" in printed
    assert "NVLink" in printed
