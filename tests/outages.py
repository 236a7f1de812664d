"""What W&B costs a run when it does not answer: ``python tests/outages.py`` trains under each fault, prints a table."""

import csv
import socket
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from command_line import command
from wandb_server import KEY, serving

ROOT = Path(__file__).resolve().parent.parent
TASK = ("experiment=debug", "model=simple_cnn", "channels=3", "trainer=cpu", "~callbacks.progress")
FAULTS = {  # what goes wrong, and after how many requests
    "refuses connections": None,
    "takes requests and never answers": ("silent", 0),
    "answers 401": (401, 0),
    "answers 500": (500, 0),
    "answers 200 with nothing in it": (200, 0),
    "stops answering in the middle": ("silent", 6),
    "answers 500 from the middle on": (500, 6),
    "answers": (None, 0),
}


@dataclass
class Outcome:
    """How a run ended: exit code, output, seconds, rows without their times, and the weights it found best."""

    code: int
    printed: str
    seconds: float
    rows: list[dict[str, str]]
    weights: dict[str, torch.Tensor]

    def same(self, other: "Outcome") -> bool:
        """Whether both found the same, to the last bit."""
        equal = all(torch.equal(value, other.weights[key]) for key, value in self.weights.items())
        return self.rows == other.rows and self.weights.keys() == other.weights.keys() and equal


@contextmanager
def server(fault):
    """The environment of a run that meets a fault."""
    if FAULTS[fault] is None:
        with socket.socket() as taken:  # bound, and nobody listens
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            yield {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
    else:
        with serving(*FAULTS[fault]) as running:
            yield running.environment


def train(folder, *arguments, **environment):
    """Trains for some steps → the outcome."""
    began = time.monotonic()
    done = command("train.py", *TASK, *arguments, f"run_dir={folder}", **environment)
    seconds, table, best = time.monotonic() - began, folder / "per_image.csv", folder / "checkpoints" / "best.ckpt"
    rows = list(csv.DictReader(table.open())) if table.is_file() else []
    weights = torch.load(best, weights_only=True)["state_dict"] if best.is_file() else {}
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return Outcome(done.returncode, done.stdout + done.stderr, seconds, rows, weights)


def main():
    faults = [fault for fault in FAULTS if not sys.argv[1:] or any(word in fault for word in sys.argv[1:])]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        train(folder / "warm")
        print(
            "| W&B | exit code | rows and weights | seconds with `logger=csv` | seconds more |\n|---|---|---|---|---|",
            flush=True,
        )
        for number, fault in enumerate(faults):
            usual = train(folder / f"csv-{number}")  # beside each: the machine may have other things to do
            with server(fault) as environment:
                found = train(folder / str(number), "logger=wandb", **environment)
            same = "the same" if found.same(usual) else "CHANGED"
            times = f"{usual.seconds:.1f} | {found.seconds - usual.seconds:.1f}"
            print(f"| {fault} | {found.code} | {same} | {times} |", flush=True)
            print("\n".join(line for line in found.printed.splitlines() if "W&B" in line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
