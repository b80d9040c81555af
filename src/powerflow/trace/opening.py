"""Open a log as text, compressed or not, in several character encodings.

Files are unpacked if Python's standard library supports their compression. Other binary files are rejected; the error
message says what to do.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, TextIO, cast

from powerflow.errors import InputError

_zstd: ModuleType | None
try:
    _zstd = import_module("compression.zstd")  # Python 3.14
except ImportError:
    _zstd = None

#: Exceptions that reading a broken file can raise.
BROKEN_FILE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    *([_zstd.ZstdError] if _zstd else []),
)

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAGIC_CHARS = 264  # "ustar" stands at 257

# first bytes of files without text, their position, what the file is, and what to do
_BINARY: tuple[tuple[bytes, int, str, str], ...] = (
    (b"\x1f\x9d", 0, "is compressed (compress, .Z)", "unpack it first: uncompress"),
    (b"\x04\x22\x4d\x18", 0, "is compressed (lz4)", "unpack it first: unlz4"),
    (b"LZIP", 0, "is compressed (lzip)", "unpack it first: lzip -d"),
    (b"7z\xbc\xaf\x27\x1c", 0, "is a 7-Zip archive", "unpack it first: 7z x"),
    (b"Rar!", 0, "is a RAR archive", "unpack it first"),
    (b"ustar", 257, "is a tar archive", "unpack it first (tar -xf) and give the file inside"),
    (b"PAR1", 0, "is a Parquet file", "write it as CSV first, such as with pandas: read_parquet(…).to_csv(…)"),
    (b"SQLite format 3\x00", 0, "is an SQLite database", "write the table of jobs as CSV first"),
    (b"\x89HDF", 0, "is an HDF5 file", "write the table of jobs as CSV first"),
    (b"\xd0\xcf\x11\xe0", 0, "is an old Excel file", "save the sheet as CSV first"),
    (b"%PDF", 0, "is a PDF", "give the log itself"),
)


@contextmanager
def opened(path: Path) -> Iterator[tuple[TextIO, BinaryIO]]:
    r"""Open a file as text, unpacked and decoded. Yield the text and the raw file, whose position shows the progress.

    Unpacked are gzip, bzip2 and xz files, zip archives of one file, and zstd files if this Python supports them. The
    text is decoded as UTF-8, or as UTF-16 or UTF-32 if a byte order mark or zero bytes show this. A byte that is not
    UTF-8 becomes ``\xNN``.

    Raises:
        InputError: The file at ``path`` does not exist, is not a regular file, or has an unsupported compression or
            content.
    """
    if not path.exists():
        raise InputError("there is no such file", exit_code=3)
    if path.is_dir():
        raise InputError("is a directory", fix="give a file")
    if not path.is_file():
        raise InputError("is not a regular file", fix="write it to a file first")
    with path.open("rb") as raw:
        magic = raw.read(_MAGIC_CHARS)
        raw.seek(0)
        with io.BufferedReader(cast(io.RawIOBase, _unpacked(raw, magic))) as binary:
            start = binary.peek(_MAGIC_CHARS)[:_MAGIC_CHARS]
            _refuse_binary(start)
            # user and job names are not always UTF-8; other bytes become \xNN
            with io.TextIOWrapper(binary, encoding=_encoding(start), errors="backslashreplace", newline="") as text:
                yield text, raw


def _unpacked(raw: BinaryIO, magic: bytes) -> BinaryIO:
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if magic.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(raw))
    if magic.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
        return cast(BinaryIO, lzma.LZMAFile(raw))
    if magic.startswith(_ZSTD_MAGIC):
        if _zstd is None:
            raise InputError("is compressed (zstd)", fix="unpack it first: unzstd")
        return cast(BinaryIO, _zstd.ZstdFile(raw))
    if magic.startswith(b"PK\x03\x04"):
        return _only_member(raw)
    return raw


def _only_member(raw: BinaryIO) -> BinaryIO:
    archive = zipfile.ZipFile(raw)
    names = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_clutter(entry.filename)]
    if any(entry.filename == "[Content_Types].xml" for entry in names):
        raise InputError("is an Excel file", fix="save the sheet as CSV first")
    if len(names) != 1:
        raise InputError(f"is a zip archive of {len(names)} files", fix="unpack it first, and give one of them")
    if names[0].flag_bits & 1:
        raise InputError("is a zip archive with a password", fix="unpack it first")
    try:
        return cast(BinaryIO, archive.open(names[0]))
    except NotImplementedError:
        raise InputError("is a zip archive with an unsupported compression", fix="unpack it first") from None


def _is_clutter(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.endswith(".DS_Store")


def _refuse_binary(start: bytes) -> None:
    for magic, position, what, fix in _BINARY:
        if start[position : position + len(magic)] == magic:
            raise InputError(what, fix=fix)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", _ZSTD_MAGIC, b"PK\x03\x04")):
        raise InputError("is compressed twice", fix="unpack it first")


def _encoding(start: bytes) -> str:
    """Return the character encoding of a file, from its first bytes.

    A byte order mark shows the encoding, or zero bytes between ASCII characters (UTF-16).
    """
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"  # PowerShell writes it when a command's output is redirected
    even, odd = start[0:64:2], start[1:64:2]
    if len(odd) >= 4 and not any(odd) and all(even):
        return "utf-16-le"
    if len(odd) >= 4 and not any(even) and all(odd):
        return "utf-16-be"
    return "utf-8-sig"
