"""The page that shows every noise on the same pictures."""

import hydra
import pytest
from command_line import call
from conftest import CONF, choices
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from experiments import noises


def test_the_page_has_a_row_for_each_noise(monkeypatch, capfd, tmp_path):
    heights = []
    for asked in ("[rician]", "[rician,raw]"):
        code, printed = call(monkeypatch, capfd, noises.main, f"noises={asked}", "size=64", f"run_dir={tmp_path}")
        assert code == 0, printed
        heights.append(Image.open(tmp_path / "noises.png").size[1])
    assert heights[1] == 2 * heights[0]


@pytest.mark.parametrize(
    ("typed", "named"),
    [("noises=[snow]", "snow"), ("size=0", "size=0"), ("size=5000", "is smaller than size=5000")],
)
def test_mistakes_are_named(monkeypatch, capfd, tmp_path, typed, named):
    code, printed = call(monkeypatch, capfd, noises.main, typed, f"run_dir={tmp_path / 'page'}")
    assert code == 2
    assert named in printed
    assert not (tmp_path / "page").exists()


def test_what_needs_a_file_is_left_out():
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert set(noises.choices(None)) == set(choices("noise")) - {"none", "profile"}
