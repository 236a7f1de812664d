"""Named data sets: downloads from a server that truncates, stalls, redirects and lies; archives that would do harm."""

import hashlib
import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from web import serving

from datamodules import archives, catalog, download
from datamodules.catalog import ImageSet
from datamodules.download import Gone, fetch
from datamodules.images import DataError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(download, "STALL", 0.4)
    monkeypatch.setattr(download, "PAUSE", 0.001)


@pytest.fixture
def server():
    with serving({"/x.bin": CONTENT}) as running:
        yield running


# --- downloads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [[], ["truncate"], ["stall"], ["error"], ["truncate", "stall", "error", "truncate"]])
def test_a_download_goes_on_where_it_broke_off(server, tmp_path, faults):
    server.faults["/x.bin"] = list(faults)
    told = []
    fetch(f"{server.url}/x.bin", tmp_path / "x.bin", SHA, lambda have, whole: told.append((have, whole)))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
    assert told[-1] == (300_000, 300_000)
    assert [have for have, _ in told] == sorted(have for have, _ in told)  # nothing came twice
    halves = sum(fault != "error" for fault in faults)
    assert len(server.asked) == 1 + len(faults)
    assert server.asked[-1][1] == (f"bytes={300_000 - 300_000 // 2**halves}-" if halves else None)


def test_a_server_that_begins_again_is_followed(server, tmp_path):
    server.faults["/x.bin"] = ["truncate", "ignore"]
    fetch(f"{server.url}/x.bin", tmp_path / "x.bin", SHA)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_what_came_in_an_earlier_session_is_used(server, tmp_path):
    (tmp_path / ".x.bin.part").write_bytes(CONTENT[:200_000])
    fetch(f"{server.url}/x.bin", tmp_path / "x.bin", SHA)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    assert server.asked == [("/x.bin", "bytes=200000-")]


@pytest.mark.parametrize("length", [300_000, 300_001])
def test_a_part_that_is_whole_or_too_long(server, tmp_path, length):
    (tmp_path / ".x.bin.part").write_bytes((CONTENT + b"x")[:length])
    fetch(f"{server.url}/x.bin", tmp_path / "x.bin", SHA)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_redirects_are_followed(server, tmp_path):
    server.redirects = {"/a": "/b", "/b": f"{server.url}/x.bin"}
    fetch(f"{server.url}/a", tmp_path / "x.bin", SHA)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["/loop", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_to_nowhere_or_elsewhere_are_not(server, tmp_path, target):
    server.redirects = {"/loop": target}
    with pytest.raises(DataError):
        fetch(f"{server.url}/loop", tmp_path / "x.bin", SHA)
    assert not (tmp_path / "x.bin").exists()


def test_wrong_bytes_are_never_used(server, tmp_path):
    server.faults["/x.bin"] = ["wrong"]
    with pytest.raises(DataError, match=f"not {SHA}"):
        fetch(f"{server.url}/x.bin", tmp_path / "x.bin", SHA)
    assert list(tmp_path.iterdir()) == []
    fetch(f"{server.url}/x.bin", tmp_path / "x.bin", SHA)  # nothing of them is left


def test_wrong_bytes_in_the_first_half_are_found_too(server, tmp_path):
    (tmp_path / ".x.bin.part").write_bytes(bytes(1000))
    with pytest.raises(DataError, match="not the file that was expected"):
        fetch(f"{server.url}/x.bin", tmp_path / "x.bin", SHA)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_gives_nothing_is_given_up_and_what_came_is_kept(server, tmp_path):
    server.faults["/x.bin"] = ["truncate"] + ["error"] * download.ATTEMPTS
    with pytest.raises(DataError, match="given up after 5 attempts"):
        fetch(f"{server.url}/x.bin", tmp_path / "x.bin", SHA)
    assert (tmp_path / ".x.bin.part").stat().st_size == 150_000
    assert not (tmp_path / "x.bin").exists()


def test_what_the_server_does_not_have_is_not_asked_for_again(server, tmp_path):
    with pytest.raises(Gone, match="404"):
        fetch(f"{server.url}/y.bin", tmp_path / "y.bin")
    assert len(server.asked) == 1


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "x.bin"])
def test_only_web_addresses_are_downloaded(tmp_path, url):
    with pytest.raises(DataError, match="only http and https"):
        fetch(url, tmp_path / "x")


def test_offline_it_says_so(tmp_path):
    with serving({}) as gone:
        url = gone.url
    with pytest.raises(DataError, match=r"refused.*given up"):
        fetch(f"{url}/x.bin", tmp_path / "x.bin")


def test_no_room_is_known_before(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match=r"needs 300,000 bytes.*1,000 are free"):
        fetch(f"{server.url}/x.bin", tmp_path / "x.bin")


# --- archives ---------------------------------------------------------------------------------------------------------


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(members, mode="w:gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members.items():
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return file.getvalue()


def unpack(tmp_path, content, place=lambda name: name):
    (tmp_path / "archive").write_bytes(content)
    return archives.unpack(tmp_path / "archive", tmp_path / "out", place)


@pytest.mark.parametrize("pack", [zipped, tarred, lambda members: tarred(members, "w")])
def test_the_wanted_members_are_unpacked(tmp_path, pack):
    content = pack({"top/a.png": b"one", "top/sub/b.png": b"two", "top/readme.txt": b"no"})
    count = unpack(tmp_path, content, lambda name: name.split("/")[-1] if name.endswith("png") else None)
    assert count == 2
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found == {"a.png": b"one", "b.png": b"two"}


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil"])
def test_no_member_escapes(tmp_path, pack, name):
    with pytest.raises(DataError, match="outside of the folder"):
        unpack(tmp_path, pack({"ok.png": b"x", name: b"y"}))
    assert not (tmp_path / "evil").exists()


def linked(kind):
    info = tarfile.TarInfo("link.png")
    info.type, info.linkname = kind, "/etc/passwd"
    return tarred({info: None})


def zip_link():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return file.getvalue()


@pytest.mark.parametrize(
    "content", [linked(tarfile.SYMTYPE), linked(tarfile.LNKTYPE), linked(tarfile.FIFOTYPE), zip_link()]
)
def test_links_and_devices_are_refused(tmp_path, content):
    with pytest.raises(DataError, match="link or a device"):
        unpack(tmp_path, content)
    assert not (tmp_path / "out" / "link.png").exists()


def test_bombs_do_not_go_off(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 10**6)
    with pytest.raises(DataError, match="no room"):
        unpack(tmp_path, zipped({f"{n}.png": bytes(300_000) for n in range(5)}))
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert written <= 10**6


def test_a_member_that_lies_about_its_length(tmp_path):
    content = bytearray(zipped({"a.png": bytes(100_000)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + offset
        content[at : at + 4] = (100).to_bytes(4, "little")
    with pytest.raises(DataError, match=r"longer than|cannot be unpacked"):
        unpack(tmp_path, bytes(content))
    target = tmp_path / "out" / "a.png"
    assert not target.exists() or target.stat().st_size <= 100


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", zipped({"a.png": CONTENT})[:2000], tarred({"a": CONTENT})[:2000]]
)
def test_damaged_archives_are_named(tmp_path, content):
    with pytest.raises(DataError, match=r"neither a zip nor a tar|cannot be unpacked|ends .* early"):
        unpack(tmp_path, content)


def test_two_members_of_one_name(tmp_path):
    with pytest.raises(DataError, match="two of its members"):
        unpack(tmp_path, zipped({"a/x.png": b"1", "b/x.png": b"2"}), lambda name: name[-5:])


# --- sets -------------------------------------------------------------------------------------------------------------


def png(number):
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16), number, np.uint8)).save(file, "PNG")
    return file.getvalue()


PICTURES = {f"{number}.png": png(number) for number in range(3)}


@pytest.fixture
def listed(monkeypatch, server):
    """``listed(sources=…)`` puts a set ``Toy`` of three pictures into the catalogue."""

    def put(**about):
        about = {
            "about": "a toy",
            "mode": "grey",
            "count": 3,
            "use": "any",
            "terms": "none",
            "cite": "nobody",
            "folder": "toys/Toy",
        } | about
        toy = ImageSet(name="Toy", **about)
        toy.__dict__["sums"] = {name: hashlib.sha256(content).hexdigest() for name, content in PICTURES.items()}
        everything = catalog.sets() | {"Toy": toy}
        monkeypatch.setattr(catalog, "sets", lambda: everything)

    server.files |= {f"/toy/{name}": content for name, content in PICTURES.items()}
    server.files["/toy.zip"] = zipped(
        {f"main/data/{name}": content for name, content in PICTURES.items()} | {"main/x.png": b"x"}
    )
    return put


def run(tmp_path, *arguments):
    return catalog.main([*arguments, "--root", str(tmp_path / "root")])


@pytest.mark.parametrize("kind", ["files", "archive"])
@pytest.mark.parametrize("fault", [None, "truncate", "stall", "error"])
def test_a_set_is_got_whole(listed, server, tmp_path, capsys, kind, fault):
    address = "/toy/" if kind == "files" else "/toy.zip"
    listed(sources=[{kind: server.url + address}], members={r"main/data/(\d\.png)": r"\1"})
    server.faults = {path: [fault] for path in server.files if fault}
    assert run(tmp_path, "get", "Toy") == 0
    folder = tmp_path / "root" / "toys" / "Toy"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == PICTURES
    assert [path.name for path in catalog.find("Toy", tmp_path / "root")] == sorted(PICTURES)
    assert [path.name for path in folder.parent.iterdir()] == ["Toy"]  # no part, no lock
    assert not (tmp_path / "root" / catalog.DOWNLOADS).exists()
    asked = len(server.asked)
    assert run(tmp_path, "get", "Toy") == 0  # it is there
    assert len(server.asked) == asked
    assert run(tmp_path, "check", "Toy") == 0
    assert "Toy: right" in capsys.readouterr().out


def test_the_next_source_is_tried(listed, server, tmp_path):
    listed(
        sources=[{"files": f"{server.url}/gone/"}, {"archive": f"{server.url}/toy.zip"}],
        members={r".*data/(.*)": r"\1"},
    )
    assert run(tmp_path, "get", "Toy") == 0


@pytest.mark.parametrize("kind", ["files", "archive"])
def test_wrong_files_never_become_a_set(listed, server, tmp_path, capsys, kind):
    address = "/toy/" if kind == "files" else "/toy.zip"
    listed(sources=[{kind: server.url + address}], members={r"main/data/(\d\.png)": r"\1"})
    server.files["/toy/1.png"] = png(9)
    server.files["/toy.zip"] = zipped({f"main/data/{name}": png(9) for name in PICTURES})
    assert run(tmp_path, "get", "Toy") == 2
    assert "could not be got" in capsys.readouterr().err
    assert not (tmp_path / "root" / "toys" / "Toy").exists()
    with pytest.raises(DataError, match="does not exist"):
        catalog.find("Toy", tmp_path / "root")
    server.files["/toy/1.png"] = PICTURES["1.png"]
    server.files["/toy.zip"] = zipped({f"main/data/{name}": content for name, content in PICTURES.items()})
    asked = len(server.asked)
    assert run(tmp_path, "get", "Toy") == 0
    assert ("/toy/0.png", None) not in server.asked[asked:]  # what was right is kept


def test_offline_it_says_what_to_put_where(listed, tmp_path, capsys):
    listed(sources=[{"files": "http://127.0.0.1:9/"}])
    assert run(tmp_path, "get", "Toy") == 2
    said = capsys.readouterr().err
    assert f"Put its 3 images in {tmp_path / 'root' / 'toys' / 'Toy'} yourself" in said
    assert "Toy.sha256" in said
    listed(by_hand="the library")
    assert run(tmp_path, "get", "Toy") == 2
    assert "by hand, from the library" in capsys.readouterr().err


def test_a_set_that_is_not_right_is_named_and_left_alone(listed, server, tmp_path, capsys):
    listed(sources=[{"files": f"{server.url}/toy/"}])
    folder = tmp_path / "root" / "toys" / "Toy"
    folder.mkdir(parents=True)
    for name, content in PICTURES.items():
        (folder / name).write_bytes(content)
    (folder / "1.png").write_bytes(PICTURES["1.png"][:40])
    (folder / "2.png").unlink()
    for verb in ("check", "get"):
        assert run(tmp_path, verb, "Toy") == 2
        said = "".join(capsys.readouterr())
        for part in ("1.png: not the published file", "2.png: missing", "2 images instead of 3"):
            assert part in said
    assert server.asked == []


def test_two_at_once_are_refused(listed, server, tmp_path, capsys):
    listed(sources=[{"files": f"{server.url}/toy/"}])
    folder = tmp_path / "root" / "toys" / "Toy"
    folder.parent.mkdir(parents=True)
    with catalog._alone(folder):
        assert run(tmp_path, "get", "Toy") == 2
    assert "another process" in capsys.readouterr().err
    assert run(tmp_path, "get", "Toy") == 0


def test_ctrl_c_keeps_what_has_come(tmp_path):
    """The real command, stopped while a server stalls; it goes on afterwards."""
    content = {f"/t10k-{kind}-ubyte.gz": CONTENT for kind in ("images-idx3", "labels-idx1")}
    with serving(content) as server:
        server.faults["/t10k-images-idx3-ubyte.gz"] = ["stall"]
        script = (
            "import sys\nfrom datamodules import catalog, download\n"
            f"catalog.sets()['MNIST'].sources[:] = [{{'files': '{server.url}/'}}]\n"
            f"sys.exit(catalog.main(['get', 'MNIST', '--root', r'{tmp_path}']))"
        )
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        part = tmp_path / ".MNIST.part" / ".t10k-images-idx3-ubyte.gz.part"
        deadline = time.monotonic() + 60
        while not part.exists() or part.stat().st_size < 150_000:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert part.stat().st_size == 150_000
    assert not (tmp_path / "MNIST").exists()


def test_every_set_is_described_and_its_checksums_fit(capsys, tmp_path):
    assert catalog.main(["list", "--root", str(tmp_path)]) == 0
    assert catalog.main(["list", *catalog.sets()]) == 0
    said = capsys.readouterr().out
    for name, wanted in catalog.sets().items():
        assert name in said
        assert bool(wanted.sources) != bool(wanted.by_hand)
        if wanted.sums:
            images = [file for file in wanted.sums if not file.endswith(".gz")]
            assert len(images) == wanted.count
            assert all(len(sha) == 64 for sha in wanted.sums.values())
        if any("files" in source for source in wanted.sources):
            assert wanted.sums, f"{name}: files are named by their checksums"
        if any("archive" in source for source in wanted.sources):
            assert wanted.members, f"{name}: nothing of the archive is wanted"
    assert "not verified here" in said
    polyu = catalog.sets()["PolyU"]
    member = "PolyU-Real-World-Noisy-Images-Dataset-master/CroppedImages/Canon5D2_5_160_3200_chair_11_mean.JPG"
    assert polyu.place(member) == "clean/Canon5D2_5_160_3200_chair_11.JPG"
    assert polyu.place(member.replace("chair_11", "chair_99")) is None
    assert catalog.main(["get", "Nowhere"]) == 2
    assert "the named sets are Train400" in capsys.readouterr().err


def test_real_sets_are_right(real_data):
    for name in ("Set12", "BSD68", "Kodak24", "FMDD", "MNIST"):
        wanted = catalog.sets()[name]
        assert catalog.problems(wanted, catalog.directory(name, real_data)) == []
    assert os.access(real_data, os.R_OK)
