"""Where the controller is: flag, environment, user file, system file, then what a local controller left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from powerflow.cli import settings
from powerflow.errors import InputError


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in settings.KEYS.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(settings, "SYSTEM_FILE", tmp_path / "etc" / "config.yaml")
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_higher_layer_wins(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().url is None
    write(places / "etc/config.yaml", "url: http://system:1\n")
    assert settings.load().url == "http://system:1"
    write(places / "config/powerflow/config.yaml", "url: http://user:1/\n")
    assert settings.load().url == "http://user:1"
    monkeypatch.setenv("POWERFLOW_URL", "http://env:1")
    assert settings.load().url == "http://env:1"
    assert settings.load(url="http://flag:1").url == "http://flag:1"


def test_a_token_of_a_higher_layer_wins_however_it_is_given(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(places / "token", "pf_file\n")
    write(places / "config/powerflow/config.yaml", "token: pf_user\n")
    assert settings.load().token == "pf_user"
    monkeypatch.setenv("POWERFLOW_TOKEN_FILE", str(file))
    assert settings.load().token == "pf_file"
    monkeypatch.setenv("POWERFLOW_TOKEN", "pf_env")
    assert settings.load().token == "pf_env"
    assert settings.load(token_file=str(file)).token == "pf_file"
    assert "pf_" not in repr(settings.load())


def test_a_controller_on_this_machine_is_found(places: Path) -> None:
    file = write(places / "token", "pf_local\n")
    server = {"url": "http://127.0.0.1:7733", "token_file": str(file)}
    write(places / "state/powerflow/server.json", json.dumps(server))
    assert (settings.load().url, settings.load().token) == ("http://127.0.0.1:7733", "pf_local")
    write(places / "other/server.json", json.dumps({**server, "url": "http://127.0.0.1:8"}))
    assert settings.load(state_dir=str(places / "other")).url == "http://127.0.0.1:8"


def test_its_token_goes_nowhere_else(places: Path) -> None:
    file = write(places / "token", "pf_local\n")
    server = {"url": "http://127.0.0.1:7733", "token_file": str(file)}
    write(places / "state/powerflow/server.json", json.dumps(server))
    assert settings.load(url="http://elsewhere:1").token is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("url: http://a:1\nurls: x\n", r"config.yaml:2: 'urls' is not a setting; give one of url, token"),
        ("url: [a]\n", r"config.yaml:1: url has no text as its value"),
        ("url:\n", r"config.yaml:1: url has no text as its value"),
        ("- url\n", r"config.yaml:1: is not a list of settings"),
        ("a: b: c\n", r"config.yaml:1: not YAML: mapping values are not allowed here"),
        ("url: ftp://a\n", r"url: 'ftp://a' is not the URL"),
    ],
)
def test_a_file_that_says_something_else_is_refused(places: Path, text: str, why: str) -> None:
    write(places / "config/powerflow/config.yaml", text)
    with pytest.raises(InputError, match=why):
        settings.load()


def test_an_empty_file_says_nothing(places: Path) -> None:
    write(places / "config/powerflow/config.yaml", "# nothing yet\n")
    assert settings.load().url is None


@pytest.mark.parametrize("text", ["", "[", "[]", "3"])
def test_a_damaged_server_file_is_said_so(places: Path, text: str) -> None:
    write(places / "state/powerflow/server.json", text)
    with pytest.raises(InputError, match=r"server\.json: was not written by a controller"):
        settings.load()


@pytest.mark.parametrize("url", ["ftp://x", "http://[::1", "http://", "http://x:99999", "x:7733"])
def test_what_is_no_url_is_said_so(url: str) -> None:
    with pytest.raises(InputError, match="not the URL of a controller"):
        settings.load(url=url)


@pytest.mark.parametrize("content", [b"two words", b"pf_a\npf_b\n", "pf_ü".encode(), b"\xff\xfe\x00"])
def test_a_file_that_holds_no_token_is_said_so_and_not_shown(places: Path, content: bytes) -> None:
    file = places / "token"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"token: (holds no token|is not text in UTF-8)") as told:
        settings.load(token_file=str(file))
    assert "pf_" not in str(told.value)


def test_a_settings_file_that_is_no_text_is_said_so(places: Path) -> None:
    write(places / "config/powerflow/config.yaml", "").write_bytes(b"url: \xbd\n")
    with pytest.raises(InputError, match=r"config\.yaml: is not text in UTF-8"):
        settings.load()
