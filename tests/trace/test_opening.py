"""Whatever packed a log and however its characters are written: it is read, or a sentence says what to do."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from powerflow.errors import InputError
from powerflow.trace.read import read_trace
from tests.trace import examples

PLAIN = examples.SACCT.replace("|train", "|träin")


@pytest.fixture
def plain(tmp_path: Path) -> tuple[object, ...]:
    path = tmp_path / "plain"
    path.write_text(PLAIN, encoding="utf-8")
    return tuple(read_trace(path).jobs)


def zipped(text: str, *names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, text)
    return content.getvalue()


def tarred(text: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        entry = tarfile.TarInfo("log.txt")
        entry.size = len(text.encode())
        archive.addfile(entry, io.BytesIO(text.encode()))
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(PLAIN.encode()),
        bz2.compress(PLAIN.encode()),
        lzma.compress(PLAIN.encode()),
        lzma.compress(PLAIN.encode(), format=lzma.FORMAT_ALONE),
        zipped(PLAIN, "log.txt"),
        zipped(PLAIN, "log.txt", "__MACOSX/._log.txt"),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),  # with a byte order mark, as PowerShell redirects output
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-16-be"),
        PLAIN.encode("utf-32"),
        gzip.compress(PLAIN.encode("utf-16")),
        PLAIN.replace("\n", "\r\n").encode(),
    ],
)
def test_read(content: bytes, plain: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    assert read_trace(path).jobs == plain


def test_latin_1_costs_nothing_but_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(PLAIN.encode("latin-1"))
    assert read_trace(path).jobs[0].name == r"tr\xe4in"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x1f\x9d\x90" + b"x" * 50, r"is compressed \(compress, .Z\); unpack it first"),
        (b"\x04\x22\x4d\x18" + b"x" * 50, r"is compressed \(lz4\); unpack it first"),
        (b"7z\xbc\xaf\x27\x1c" + b"x" * 50, "is a 7-Zip archive; unpack it first"),
        (tarred(PLAIN), "is a tar archive; unpack it first"),
        (gzip.compress(tarred(PLAIN)), "is a tar archive; unpack it first"),
        (zipped(PLAIN, "a.txt", "b.txt"), "is a zip archive of 2 files; unpack it first"),
        (zipped(PLAIN, "[Content_Types].xml", "xl/workbook.xml"), "is an Excel file; save the sheet as CSV"),
        (gzip.compress(lzma.compress(PLAIN.encode())), "is compressed twice"),
        (b"PAR1\x15\x04" + b"x" * 50, "is a Parquet file; write it as CSV"),
        (b"SQLite format 3\x00" + b"x" * 50, "is an SQLite database"),
        (lzma.compress(PLAIN.encode())[:-20], "cannot be read"),
        (bz2.compress(PLAIN.encode())[:-20], "cannot be read"),
        (zipped(PLAIN, "log.txt")[:-20], "cannot be read"),
    ],
)
def test_told_what_to_do(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(InputError, match=what) as caught:
        read_trace(path)
    assert "\n" not in str(caught.value)


def test_zstd_is_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes.fromhex("28b52ffd2400010000") + b"x" * 20)  # the magic number, and nothing that unpacks
    with pytest.raises(InputError, match=r"is compressed \(zstd\); unpack it first|cannot be read"):
        read_trace(path)


def test_spreadsheet_and_pandas_tables_of_sacct(plain: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / "log"
    rows = [line.split("|") for line in PLAIN.splitlines()]
    for mark in (";", "\t", ",", "^", "@@"):
        quoted = "\n".join(mark.join(f'"{f}"' if "," in f and mark == "," else f for f in row) for row in rows)
        path.write_text(quoted + "\n")
        assert read_trace(path).jobs == plain, mark
    index = "\n".join(",".join([str(n - 1) * (n > 0), *(f'"{f}"' for f in row)]) for n, row in enumerate(rows))
    path.write_text(index)
    assert read_trace(path).jobs == plain
    path.write_text("\n".join(",".join(row) for row in rows))  # sacct --delimiter=, with commas in AllocTRES
    trace = read_trace(path)
    assert any("the delimiter ',' occurs inside a field: use sacct -P" in line.why for line in trace.skipped)


def test_lines_of_a_shell_before_the_header(plain: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(f"Loading module slurm/23.02\n$ sacct -a -P\n{PLAIN}")
    trace = read_trace(path)
    assert trace.jobs == plain
    assert [line.line for line in trace.skipped if line.why == "text before the header"] == [1, 2]
