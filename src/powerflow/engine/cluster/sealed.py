"""Seal the messages between the controller and the agents of machines.

An agent may run as root, so it obeys the controller only. Each side has a key pair. Every message is a NaCl box
(Curve25519, XSalsa20-Poly1305): only the owner of the sender's key can have written it, and only the receiver can read
it. So a message may travel over any transport, and secrets in it stay secret.

1. The controller says ``hello`` in the open: its public key, and a random number.
2. The agent knows the controller's key from its **join token**. It answers in the open: its own public key, another
   random number, and a proof that it knows the secret of the join token.
3. From then on all messages are sealed. Each carries the id of the **session** (both random numbers) and a number, and
   an agent takes each number once. So a recorded message cannot be played again.

A join token is a file that the administrator copies to each machine. Whoever has it can offer a machine to the
cluster, and so get the secrets of the jobs that run there, but cannot give orders to agents.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

from powerflow.errors import InputError
from powerflow.osutil.files import replaced

_TOKEN = "powerflow-join"
_OPEN, _SEALED = b"o", b"s"
_SESSION_BYTES = 16
#: Sessions that an agent keeps, and numbers of messages that it remembers in each.
_SESSIONS, _NUMBERS = 8, 4096


class NotGenuine(Exception):
    """A message that was not written by the other side of this session, or was played again."""


class JoinToken(NamedTuple):
    """What an agent needs to join a cluster: the controller's public key, and a secret. 32 bytes each."""

    controller: bytes
    secret: bytes

    def text(self) -> str:
        """Return the token as one line of text."""
        return ".".join([_TOKEN, *(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in self)])

    @staticmethod
    def parse(text: str, where: str = "join token") -> JoinToken:
        """Return the token that a text from `text` stands for.

        Raises:
            InputError: The text is not a join token.
        """
        parts = text.strip().split(".")
        if len(parts) == 3 and parts[0] == _TOKEN:
            with contextlib.suppress(binascii.Error, ValueError):
                token = JoinToken(*(base64.urlsafe_b64decode(part + "=") for part in parts[1:]))
                if all(len(part) == 32 for part in token):
                    return token
        raise InputError(
            "is not a join token", where=where, fix="copy the file join-token from the controller's state directory"
        )


def own_key(path: Path) -> PrivateKey:
    """Return the private key in a file; make a new key if there is no file.

    Raises:
        InputError: The file holds no key.
    """
    with contextlib.suppress(FileExistsError), os.fdopen(_new(path), "wb") as file:
        file.write(bytes(PrivateKey.generate()).hex().encode() + b"\n")
    try:
        return PrivateKey(bytes.fromhex(path.read_text("ascii")))
    except (ValueError, TypeError, CryptoError) as error:
        raise InputError(f"holds no key ({error})", where=str(path), fix="delete it: a new one is made") from None


def own_token(directory: Path) -> JoinToken:
    """Return the join token of a controller, and write it to the file ``join-token`` of its directory.

    Raises:
        InputError: A file holds something else.
    """
    path = directory / "join-token"
    controller = bytes(own_key(directory / "controller.key").public_key)
    if path.exists():
        token = JoinToken.parse(path.read_text("ascii"), str(path))
        if token.controller == controller:
            return token
    token = JoinToken(controller, os.urandom(32))
    with replaced(path, mode=0o600) as file:  # whoever finds the file finds all of it
        file.write(token.text().encode() + b"\n")
    return token


def _new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


class Session:
    """The controller's side of one session with an agent.

    Attributes:
        agent: Public key of the agent.
        incarnation: Incarnation of the agent: it changes with each start of the agent.
    """

    def __init__(self, key: PrivateKey, agent: bytes, incarnation: str, name: bytes) -> None:
        self.agent, self.incarnation = agent, incarnation
        self._box = Box(key, PublicKey(agent))
        self._name = name
        self._number = 0

    def seal(self, order: dict[str, Any]) -> tuple[int, bytes]:
        """Return the number of a new message and the sealed message."""
        self._number += 1
        text = json.dumps({"session": self._name.hex(), "number": self._number, "order": order})
        return self._number, _SEALED + self._name + self._box.encrypt(text.encode())

    def open(self, number: int, answer: bytes) -> dict[str, Any]:
        """Return the answer to the message with this number.

        Raises:
            NotGenuine: The answer is not the agent's answer to this message.
        """
        try:
            content: dict[str, Any] = json.loads(self._box.decrypt(answer))
        except (CryptoError, ValueError) as error:
            raise NotGenuine(f"the answer cannot be opened ({error})") from None
        if content["session"] != self._name.hex() or content["number"] != number:
            raise NotGenuine("the answer belongs to another message")
        found: dict[str, Any] = content["answer"]
        return found


class Hello:
    """The first message of the controller to an agent, in the open."""

    def __init__(self, key: PrivateKey, secret: bytes) -> None:
        self._key, self._secret, self._nonce = key, secret, os.urandom(_SESSION_BYTES)

    def message(self) -> bytes:
        """Return the message."""
        return (
            _OPEN + json.dumps({"controller": bytes(self._key.public_key).hex(), "nonce": self._nonce.hex()}).encode()
        )

    def accept(self, answer: bytes) -> Session:
        """Return the session that an agent's answer begins.

        Raises:
            NotGenuine: The agent does not know the secret of the join token, or does not know this controller.
        """
        try:
            said = json.loads(answer)
            if "error" in said:
                raise NotGenuine(str(said["error"]))
            agent, challenge = bytes.fromhex(said["agent"]), bytes.fromhex(said["challenge"])
            incarnation, proof = str(said["incarnation"]), bytes.fromhex(said["proof"])
        except (ValueError, KeyError, TypeError) as error:
            raise NotGenuine(f"the answer is no greeting of an agent ({error})") from None
        if not hmac.compare_digest(proof, _proof(self._secret, self._nonce, challenge, agent, incarnation)):
            raise NotGenuine("the agent's join token has another secret")
        return Session(self._key, agent, incarnation, _name(self._nonce, challenge))


class AgentSide:
    """The agent's side of all its sessions.

    Args:
        key: The agent's key.
        token: The join token.
        incarnation: Text that no other start of the agent has had.

    Attributes:
        refusal: Why the last greeting was refused; "" if it was not.
    """

    def __init__(self, key: PrivateKey, token: JoinToken, incarnation: str) -> None:
        self._key, self._token, self._incarnation = key, token, incarnation
        self._box = Box(key, PublicKey(token.controller))
        self._seen: OrderedDict[bytes, tuple[set[int], list[int]]] = OrderedDict()
        self.refusal = ""

    def greets(self, message: bytes) -> bool:
        """Return True if a message is a greeting (`Hello.message`)."""
        return message[:1] == _OPEN

    def answer_hello(self, message: bytes) -> bytes:
        """Return the answer to a greeting."""
        try:
            said = json.loads(message[1:])
            nonce, controller = bytes.fromhex(said["nonce"]), bytes.fromhex(said["controller"])
        except (ValueError, KeyError, TypeError):
            return json.dumps({"error": "this is no greeting of a controller"}).encode()
        if controller != self._token.controller:
            self.refusal = "the controller has another key than the join token says: copy the token anew"
            return json.dumps({"error": "the agent's join token is that of another controller"}).encode()
        self.refusal = ""
        challenge = os.urandom(_SESSION_BYTES)
        self._seen[_name(nonce, challenge)] = set(), [0]
        while len(self._seen) > _SESSIONS:
            self._seen.popitem(last=False)
        agent = bytes(self._key.public_key)
        proof = _proof(self._token.secret, nonce, challenge, agent, self._incarnation)
        greeting = {
            "agent": agent.hex(),
            "challenge": challenge.hex(),
            "incarnation": self._incarnation,
            "proof": proof.hex(),
        }
        return json.dumps(greeting).encode()

    def open(self, message: bytes) -> tuple[str, int, dict[str, Any]]:
        """Return session, number and order of a sealed message.

        Raises:
            NotGenuine: The message is not the controller's, belongs to no session, or has come before.
        """
        name = message[1 : 1 + _SESSION_BYTES]
        if name not in self._seen:
            raise NotGenuine("the session is not known")
        try:
            content = json.loads(self._box.decrypt(message[1 + _SESSION_BYTES :]))
        except (CryptoError, ValueError) as error:
            raise NotGenuine(f"the message cannot be opened ({error})") from None
        number = int(content["number"])
        if content["session"] != name.hex():
            raise NotGenuine("the message belongs to another session")
        numbers, highest = self._seen[name]
        if number in numbers or number <= highest[0] - _NUMBERS:
            raise NotGenuine("the message has come before")
        numbers.add(number)
        if number > highest[0]:
            highest[0] = number
            if len(numbers) > 2 * _NUMBERS:
                numbers.difference_update([old for old in numbers if old <= number - _NUMBERS])
        return name.hex(), number, content["order"]

    def seal(self, session: str, number: int, answer: dict[str, Any]) -> bytes:
        """Return the sealed answer to the message with this number."""
        text = json.dumps({"session": session, "number": number, "answer": answer})
        return bytes(self._box.encrypt(text.encode()))


def _name(nonce: bytes, challenge: bytes) -> bytes:
    return hashlib.sha256(nonce + challenge).digest()[:_SESSION_BYTES]


def _proof(secret: bytes, nonce: bytes, challenge: bytes, agent: bytes, incarnation: str) -> bytes:
    return hmac.digest(secret, b"\0".join([nonce, challenge, agent, incarnation.encode()]), "sha256")
