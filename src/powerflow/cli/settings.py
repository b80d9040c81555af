"""Find the controller's URL and token. Flags come first, then the environment, the user's file and the system's file.

The files have the keys ``url``, ``token``, ``token_file``, ``state_dir`` and ``secret_env``. Without a URL, commands
use the controller on this machine. ``powerflow serve`` writes its address to ``<state dir>/server.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from powerflow.errors import InputError

#: Keys of the settings, each with its environment variable.
KEYS = {
    "url": "POWERFLOW_URL",
    "token": "POWERFLOW_TOKEN",
    "token_file": "POWERFLOW_TOKEN_FILE",
    "state_dir": "POWERFLOW_STATE",
    "secret_env": "POWERFLOW_SECRET_ENV",
}
SYSTEM_FILE = Path("/etc/powerflow/config.yaml")
SERVER_FILE = "server.json"


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """URL of the controller (None if none is known), token for requests, and the controller's state directory."""

    url: str | None
    token: str | None = field(repr=False)
    state_dir: Path


def load(*, url: str | None = None, token_file: str | None = None, state_dir: str | None = None) -> ClientSettings:
    """Load settings from flags (the arguments), the environment and the files.

    A token that a controller on this machine has written is used only for this controller, not for another ``url``.

    Raises:
        InputError: A file has an unknown key, or cannot be read.
    """
    flags = {"url": url, "token_file": token_file, "state_dir": state_dir}
    layers = [
        {key: value for key, value in flags.items() if value},
        {key: os.environ[name] for key, name in KEYS.items() if os.environ.get(name)},
        *map(_file, _files()),
    ]
    state = Path(_first(layers, "state_dir") or default_state())
    chosen = _first(layers, "url")
    if chosen is None:
        layers.append(_server(state / SERVER_FILE))
        chosen = layers[-1].get("url")
    if chosen is not None and not _is_url(chosen):
        raise InputError(
            f"{chosen!r} is not the URL of a controller", where="url", fix="give a URL such as http://127.0.0.1:7733"
        )
    return ClientSettings(chosen.rstrip("/") if chosen else None, _token(layers), state)


def secret_env() -> list[str]:
    """Return the names of environment variables that no job gets, from all sources; ``*`` stands for any characters.

    Raises:
        InputError: A file has an unknown key, or cannot be read.
    """
    told = [os.environ.get(KEYS["secret_env"], ""), *(_file(path).get("secret_env", "") for path in _files())]
    return [name.strip() for text in told for name in text.split(",") if name.strip()]


def _first(layers: list[Mapping[str, str]], key: str) -> str | None:
    return next((layer[key] for layer in layers if key in layer), None)


def _token(layers: list[Mapping[str, str]]) -> str | None:
    """Return the token from the first source that has one, either directly or as the path of a file."""
    for layer in layers:
        if "token" in layer:
            return _printable(layer["token"], "token")
        if "token_file" in layer:
            path = Path(layer["token_file"]).expanduser()
            return _printable(_text(path).strip(), os.fspath(path))
    return None


def _printable(token: str, where: str) -> str:
    """Return the token if an HTTP header can contain it.

    Raises:
        InputError: An HTTP header cannot contain it; the message does not show the token.
    """
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError("holds no token", where=where, fix="powerflow token create makes a token")
    return token


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket is not closed, or the port is not valid
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError("is not text in UTF-8", where=os.fspath(path)) from None


def default_state() -> Path:
    """Return the folder of a controller, and of what else this user keeps, by default."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "powerflow"


def _files() -> tuple[Path, Path]:
    """Return the paths of the user's file and the system's file."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "powerflow" / "config.yaml", SYSTEM_FILE


def _server(path: Path) -> Mapping[str, str]:
    """Read the address that a controller on this machine has left; return an empty mapping if there is none."""
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")).items())
        return {key: str(content[key]) for key in ("url", "token_file") if key in content}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise InputError(f"was not written by a controller ({error})", where=os.fspath(path), exit_code=1) from None


def _file(path: Path) -> Mapping[str, str]:
    """Read keys and values of a YAML file; return an empty mapping if the file does not exist."""
    try:
        text = _text(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    import yaml

    from powerflow.yaml_lines import at, compose

    top = compose(text, os.fspath(path))
    if top is None:
        return {}
    if not isinstance(top, yaml.MappingNode):
        raise InputError(
            "is not a list of settings", where=f"{path}:1", fix="write lines such as url: http://127.0.0.1:7733"
        )
    found: dict[str, str] = {}
    for key, value in top.value:
        where = at(os.fspath(path), key)
        if key.value not in KEYS:
            raise InputError(f"{key.value!r} is not a setting", where=where, fix=f"give one of {', '.join(KEYS)}")
        if not isinstance(value, yaml.ScalarNode) or not value.value:
            raise InputError(f"{key.value} has no text as its value", where=where)
        found[key.value] = value.value
    return found
