"""Named data sets, what they are and where they come from: ``python -m datamodules.catalog list|get|check NAME``.

The sets are listed in sets.yaml; the checksums of their files, where they are known, in sums/NAME.sha256.
"""

import argparse
import contextlib
import functools
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from datamodules.archives import unpack
from datamodules.download import fetch
from datamodules.files import digest
from datamodules.images import SUFFIXES, DataError, each, listing, read_header
from datamodules.overlaps import overlaps

HERE = Path(__file__).parent
ROOT = "DENOISERS_DATA"  # the environment variable that says where the sets lie
DOWNLOADS = ".downloads"  # below the root: archives, until they are unpacked


@dataclass(frozen=True)
class ImageSet:
    """A published set, as sets.yaml says it."""

    name: str
    about: str
    mode: str
    count: int
    use: str
    terms: str
    cite: str
    folder: str
    sources: list[dict[str, str]] = field(default_factory=list)
    members: dict[str, str] = field(default_factory=dict)
    by_hand: str = ""
    video: bool = False

    @functools.cached_property
    def sums(self) -> dict[str, str]:
        """File → its SHA-256, where they are known."""
        path = HERE / "sums" / f"{self.name}.sha256"
        lines = path.read_text().splitlines() if path.exists() else []
        return {name: found for found, name in (line.split("  ", 1) for line in lines)}

    def place(self, member: str) -> str | None:
        """The name that a member of an archive gets in the folder; None if it is none of the set's."""
        for pattern, name in self.members.items():
            if match := re.fullmatch(pattern, member):
                wanted = match.expand(name)
                return wanted if not self.sums or wanted in self.sums else None
        return None

    @property
    def remedy(self) -> str:
        """How somebody comes by it."""
        if self.sources:
            return f"python -m datamodules.catalog get {self.name}"
        return f"by hand, from {self.by_hand}"


@functools.cache
def sets() -> dict[str, ImageSet]:
    """Name → the set."""
    listed = yaml.safe_load((HERE / "sets.yaml").read_text(encoding="utf-8"))
    return {name: ImageSet(name=name, **({"folder": name} | about)) for name, about in listed.items()}


def known(name: str) -> ImageSet:
    """The set of that name.

    Raises:
        DataError: there is none.
    """
    if name not in sets():
        raise DataError(f"there is no set {name!r}; the named sets are {', '.join(sets())}")
    return sets()[name]


def directory(name: str, root: str | Path) -> Path:
    """Where a set lies below the data root.

    Raises:
        DataError: it is not there: what was looked for, where, how to get it.
    """
    wanted = known(name)
    folder = Path(root).resolve() / wanted.folder
    if not folder.is_dir():
        raise DataError(_absent(wanted, folder, "does not exist"))
    return folder


def find(name: str, root: str | Path) -> list[Path]:
    """The images of a set below the data root, sorted by file name.

    Raises:
        DataError: the root, the set or some of its images are missing: what was looked for, where, how to get it.
    """
    folder, wanted = directory(name, root), known(name)
    found = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES]
    if len(found) != wanted.count:
        raise DataError(_absent(wanted, folder, f"holds {len(found)} images"))
    return sorted(found)


def _absent(wanted: ImageSet, folder: Path, state: str) -> str:
    return (
        f"data set {wanted.name}: looked for {wanted.count} images in {folder}, which {state}.\n"
        f"  Get it: {wanted.remedy},\n"
        f"  or point the environment variable {ROOT} (or data_root=DIR) at the folder that holds {wanted.folder}."
    )


def problems(wanted: ImageSet, folder: Path) -> list[str]:
    """What is wrong with the files of a set in a folder: missing, other, unreadable or too many or few images."""
    found = [f"{name}: missing" for name in wanted.sums if not (folder / name).is_file()]
    there = [name for name in wanted.sums if (folder / name).is_file()]
    found += [f"{name}: not the published file" for name in there if digest(folder / name) != wanted.sums[name]]
    images = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    if len(images) != wanted.count:
        found.append(f"{len(images)} images instead of {wanted.count}")
    try:
        each(read_header, images)
    except DataError as error:
        found.append(str(error))
    return found


def shown(wanted: ImageSet, root: Path) -> list[str]:
    """Images of a training set that show a part of an image of one of the test sets that are there."""
    if wanted.use != "training":
        return []
    test = [one for one in sets().values() if one.use == "test" and (root / one.folder).is_dir()]
    pairs = overlaps(find(wanted.name, root), [path for one in test for path in find(one.name, root)])
    return [f"{path} shows a part of {other}" for path, other in pairs]


def get(name: str, root: Path, bar: Progress) -> Path:
    """Downloads a set into the data root, where it is seen when it is complete and right; what is there is left alone.

    Raises:
        DataError: it cannot be got, or what is there is not right; the message says what to do.
    """
    wanted = known(name)
    folder = root.resolve() / wanted.folder
    if folder.exists():
        if wrong := problems(wanted, folder):
            raise DataError(f"{folder} is there, but not right; move it away and get it again:\n{listing(wrong)}")
        return folder
    if not wanted.sources:
        raise DataError(f"{name} cannot be downloaded by a command. Get it {wanted.remedy}; put it in {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part")
    with _alone(folder):
        failures = []
        for source in wanted.sources:
            try:
                (_archive if "archive" in source else _files)(wanted, source, root, part, bar)
                if wrong := problems(wanted, part):
                    raise DataError(f"what came is not {name}:\n{listing(wrong)}")
                break
            except DataError as error:
                failures.append(str(error))
        else:
            raise DataError(
                f"{name} could not be got:\n{listing(failures)}\n  Put its {wanted.count} images in {folder} yourself"
                + (f" (their checksums: {HERE / 'sums' / name}.sha256)" if wanted.sums else "")
            )
        os.sync()  # or a machine that stops now might find the folder's name, and not what is in it
        part.rename(folder)
    return folder


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a lock that ends with the process; DataError if another one has it."""
    path = folder.with_name(f".{folder.name}.lock")
    try:
        with FileLock(path, timeout=0):
            yield
            path.unlink(missing_ok=True)
    except Timeout as error:
        raise DataError(f"another process is getting {folder.name} already") from error


def _files(wanted: ImageSet, source: dict[str, str], root: Path, part: Path, bar: Progress) -> None:
    """Each file by itself; those that are there already are kept."""
    task = bar.add_task(wanted.name, total=len(wanted.sums))
    for name, sha256 in wanted.sums.items():
        path = part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or digest(path) != sha256:
            fetch(source["files"] + name, path, sha256)
        bar.advance(task)


def _archive(wanted: ImageSet, source: dict[str, str], root: Path, part: Path, bar: Progress) -> None:
    """An archive, and of it what is wanted."""
    url = source["archive"]
    path = root / DOWNLOADS / re.sub(r"[^\w.-]+", "-", urlsplit(url).netloc + urlsplit(url).path)
    path.parent.mkdir(parents=True, exist_ok=True)
    task = bar.add_task(wanted.name, total=None)
    if not path.exists():
        fetch(url, path, progress=lambda have, whole: bar.update(task, completed=have, total=whole))
    shutil.rmtree(part, ignore_errors=True)
    try:
        unpack(path, part, wanted.place)
    except DataError:
        path.unlink()  # the next attempt needs another
        raise
    path.unlink()
    with contextlib.suppress(OSError):
        path.parent.rmdir()


# --- the command ------------------------------------------------------------------------------------------------------


def show(root: Path, console: Console) -> None:
    """All sets, and whether they are there."""
    table = Table(title=f"Data sets; here: in {root}")
    for column in ("set", "images", "mode", "here", "terms", "what it is"):
        table.add_column(column, justify="right" if column == "images" else "left")
    for name, wanted in sets().items():
        here = "yes" if (root / wanted.folder).is_dir() else ""
        table.add_row(name, f"{wanted.count:,}", wanted.mode, here, wanted.terms, wanted.about)
    console.print(table)


def details(wanted: ImageSet) -> str:
    """What sets.yaml says of a set, as text."""
    sources = [next(iter(source.values())) for source in wanted.sources] or [wanted.remedy]
    known_files = f"{len(wanted.sums)} files with their SHA-256" if wanted.sums else "no checksums"
    return (
        f"{wanted.name}: {wanted.about}\n  {wanted.count:,} images, {wanted.mode}; {wanted.terms}; {known_files}\n"
        f"  cite: {wanted.cite}\n" + "\n".join(f"  from: {source} (not verified here)" for source in sources)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 something is to be put right, 130 ended by Ctrl-C."""
    parser = argparse.ArgumentParser("datamodules.catalog", description="Named data sets: list, get and check them.")
    parser.add_argument("verb", choices=["list", "get", "check"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="sets; check without a name: those that are there")
    parser.add_argument(
        "--root", type=Path, default=Path(os.environ.get(ROOT, "data")), help=f"default: ${ROOT}, or data"
    )
    asked = parser.parse_args(arguments)
    console = Console()
    try:
        wanted = [known(name) for name in asked.names]
        if asked.verb == "list" and not wanted:
            show(asked.root, console)
        elif asked.verb == "list":
            print("\n".join(map(details, wanted)))
        elif asked.verb == "get":
            if not wanted:
                raise DataError("get needs the name of a set; python -m datamodules.catalog list has them")
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            with Progress(*columns, console=console) as bar:
                for one in wanted:
                    console.print(f"{one.name}: {get(one.name, asked.root, bar)}")
        else:
            wanted = wanted or [one for one in sets().values() if (asked.root / one.folder).is_dir()]
            wrong = {}
            for one in wanted:
                wrong[one.name] = problems(one, directory(one.name, asked.root)) or shown(one, asked.root)
            for name, found in wrong.items():
                print(f"{name}: {'right' if not found else 'not right'}" + "".join(f"\n{listing(found)}" * bool(found)))
            return 2 if any(wrong.values()) else 0
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what has come is kept, the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
