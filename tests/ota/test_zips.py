"""Zips that are damaged, built to do harm, or only odd: refused with a clear reason, or taken."""

import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ota import zips
from ota.packages.facts import safe_name
from ota.zips import Inspection, PackageRefused

SIGNED = "wm265_0000_v10.01.3205_20241107.pro.cfg.sig"
Entry = str | zipfile.ZipInfo


def zipped(*entries: Entry, content: bytes = b"content", method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of a signature and these entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as package:
        for entry in (SIGNED, *entries):
            package.writestr(entry, content)
    return file.getvalue()


def entry(name: str, mode: int = 0, system: int = 3) -> zipfile.ZipInfo:
    """An entry with attributes of Unix (3) or DOS (0)."""
    found = zipfile.ZipInfo(name)
    found.create_system = system
    found.external_attr = mode << 16 if system else mode
    return found


def inspect(raw: bytes) -> Inspection:
    return zips.inspect(io.BytesIO(raw), "a.zip")


def verify(raw: bytes) -> None:
    inspect(raw)
    zips.verify(io.BytesIO(raw), "a.zip")


def refusal(check: Callable[[bytes], object], raw: bytes) -> str:
    with pytest.raises(PackageRefused) as found:
        check(raw)
    return str(found.value)


# Damaged


@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_zip_that_was_cut_off_is_refused(tenths: int) -> None:
    whole = zipped("module.bin", content=bytes(range(256)) * 40)
    assert "no zip, or it is damaged or cut off" in refusal(
        inspect, whole[: len(whole) * tenths // 10]
    )


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_changed_byte_is_found_and_its_entry_named(method: int) -> None:
    raw = bytearray(zipped("module.bin", content=bytes(range(256)) * 40, method=method))
    raw[raw.index(b"module.bin") + 60] ^= 1
    assert "a.zip is damaged: 'module.bin' cannot be read" in refusal(verify, bytes(raw))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_whole_zip_is_taken(method: int) -> None:
    told: list[int] = []
    raw = zipped("module.bin", content=bytes(range(256)) * 40, method=method)
    zips.verify(io.BytesIO(raw), "a.zip", told.append)
    with zipfile.ZipFile(io.BytesIO(raw)) as package:
        assert sum(told) == sum(each.compress_size for each in package.infolist())


def test_an_entry_that_ends_before_its_size_is_found() -> None:
    raw = bytearray(zipped("module.bin", content=b"x" * 1000, method=zipfile.ZIP_DEFLATED))
    directory = raw.rindex(b"PK\x01\x02")
    raw[directory + 24 : directory + 28] = struct.pack("<I", 2000)
    assert "1,000 of 2,000 bytes" in refusal(verify, bytes(raw))


def test_a_directory_that_points_beyond_the_file_is_refused() -> None:
    raw = bytearray(zipped())
    directory = raw.rindex(b"PK\x01\x02")
    raw[directory + 42 : directory + 46] = struct.pack("<I", 0x7FFFFFFF)
    assert "does not fit its content" in refusal(inspect, bytes(raw))


# Built to do harm


def overlapping(kernel: int, entries: int) -> bytes:
    """A bomb whose entries share one kernel of zeros, as David Fifield's do.

    Each entry but the last is the header of the next one, quoted in a stored block, and goes on
    with what that one holds.
    """
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = squeezer.compress(bytes(kernel)) + squeezer.flush()
    content, whole = bytes(kernel), b""
    heads: list[tuple[tuple[int, ...], bytes]] = []
    for number in reversed(range(entries)):
        name = (SIGNED if number == 0 else f"{number:04}").encode()
        facts: tuple[int, ...] = (
            8,
            0,
            0x21,
            zlib.crc32(content),
            len(body),
            len(content),
            len(name),
        )
        local = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, *facts, 0) + name
        heads.insert(0, (facts, name))
        whole = local + body
        quote = b"\x00" + struct.pack("<HH", len(local), len(local) ^ 0xFFFF)
        body, content = quote + local + body, local + content
    directory, offset = b"", 0
    for facts, name in heads:
        after = (0, 0, 0, 0, 0, offset)
        directory += (
            b"PK\x01\x02" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, *facts, *after) + name
        )
        offset += 30 + len(name) + 5
    end = struct.pack("<HHHHIIH", 0, 0, entries, entries, len(directory), len(whole), 0)
    return whole + directory + b"PK\x05\x06" + end


def test_the_bomb_of_overlapping_entries_is_one() -> None:
    with zipfile.ZipFile(io.BytesIO(overlapping(10_000, 5))) as bomb:
        assert bomb.testzip() is None
        assert sum(each.file_size for each in bomb.infolist()) > 50_000


def test_a_bomb_of_overlapping_entries_is_refused() -> None:
    assert f"'{SIGNED}' and '0001' overlap" in refusal(inspect, overlapping(10_000, 5))
    assert "more than 100 times its size" in refusal(inspect, overlapping(1_000_000, 200))


def test_data_that_begins_in_the_next_entry_is_refused() -> None:
    raw = bytearray(zipped("module.bin"))
    raw[28:30] = struct.pack("<H", 40)  # the local header's extra field, which the directory lacks
    assert "it overlaps with another entry" in refusal(verify, bytes(raw))


def test_one_entry_that_unpacks_to_a_mountain_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr(SIGNED, bytes(2_000_000))
        package.writestr("bomb", bytes(20_000_000), zipfile.ZIP_DEFLATED)
    assert "'bomb' would unpack to more than 100 times" in refusal(inspect, path.read_bytes())


def test_nested_zips_are_not_unpacked() -> None:
    inner = zipped(content=bytes(2_000_000), method=zipfile.ZIP_DEFLATED)
    verify(zipped("inner.zip", content=inner))


def test_more_than_a_worker_reads_in_a_minute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MOST_UNPACKED", 1000)
    assert "at most 1,000 are taken" in refusal(inspect, zipped("module.bin", content=bytes(600)))


def test_a_hundred_thousand_entries_are_refused_in_little_memory(
    tmp_path: Path,
) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as package:
        for number in range(100_000):
            package.writestr(str(number), b"")
    tracemalloc.start()
    try:
        with path.open("rb") as file, pytest.raises(PackageRefused, match="directory is too large"):
            zips.inspect(file, "many.zip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_as_many_entries_as_a_directory_may_hold_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as package:
        for number in range(35_000):
            package.writestr(str(number), b"")
    tracemalloc.start()
    try:
        with path.open("rb") as file, pytest.raises(PackageRefused, match="35,000 entries"):
            zips.inspect(file, "many.zip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48_000_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_whose_bombs_fill_the_memory_are_refused(method: int) -> None:
    raw = zipped("module.bin", method=method)
    assert f"by a method that is not taken (number {method})" in refusal(inspect, raw)


def test_a_method_that_nobody_knows_is_refused() -> None:
    raw = bytearray(zipped("module.bin"))
    directory = raw.rindex(b"PK\x01\x02")
    raw[directory + 10 : directory + 12] = struct.pack("<H", 97)
    assert "'module.bin' by a method that is not taken (number 97)" in refusal(inspect, bytes(raw))


@pytest.mark.parametrize("mode", [0o120777, 0o010644, 0o060644, 0o140644])
def test_links_and_devices_are_refused(mode: int) -> None:
    assert "is a link or a device" in refusal(inspect, zipped(entry("odd", mode)))


def test_plain_files_and_folders_of_unix_and_dos_are_taken() -> None:
    verify(
        zipped(
            entry("a", 0o100644), entry("b/", 0o040755), entry("c", 0x20, 0), entry("d/", 0x10, 0)
        )
    )


# Which version it is


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused() -> None:
    assert "a.zip has two entries 'module.bin'" in refusal(
        inspect, zipped("module.bin", "module.bin")
    )


@pytest.mark.parametrize(
    "other",
    [
        "wm265_0000_v10.01.3206_20241107.pro.cfg.sig",
        "wm265_0000_v10.01.3205_20241108.pro.cfg.sig",
        "wm266_0000_v10.01.3205_20241107.pro.cfg.sig",
    ],
)
def test_signatures_that_contradict_each_other_are_refused(other: str) -> None:
    told = refusal(inspect, zipped(other))
    assert "contradicts itself" in told
    assert SIGNED in told
    assert other in told


def test_signatures_that_agree_are_taken_together() -> None:
    assert (
        inspect(zipped("wm265_10.01.3205.cfg.sig", "extra.cfg.sig")).entry
        == inspect(zipped()).entry
    )


@pytest.mark.parametrize(
    "folder",
    [entry(f"{SIGNED}/"), entry(SIGNED, 0o040755), entry(SIGNED, 0x10, 0)],
    ids=["by name", "by mode", "by attribute"],
)
def test_a_folder_that_is_called_like_a_signature_is_none(folder: zipfile.ZipInfo) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as package:
        package.writestr(folder, b"")
    assert "it has no .cfg.sig file" in refusal(inspect, file.getvalue())


# Names


@pytest.mark.parametrize(
    "name",
    [
        "grüße.bin".encode("cp437"),
        "grüße.bin".encode("cp1252"),
        "ファームウェア.bin".encode("shift-jis"),
        "固件.bin".encode("gbk"),
        bytes(range(128, 256)),
    ],
)
def test_names_in_other_encodings_are_taken(name: bytes) -> None:
    blank = "x" * len(name)
    verify(zipped(blank).replace(blank.encode(), name))


def test_a_name_that_claims_to_be_utf_8_and_is_not_is_refused() -> None:
    raw = zipped("ü" * 4).replace("ü".encode() * 4, b"\xff" * 8)
    assert "no zip, or it is damaged" in refusal(inspect, raw)


@pytest.mark.parametrize(
    "name",
    ["n" * 300, "a/" * 150 + "b", "quotes '\" `", "line\r\nfeed", "bidi\u202efed\u2066", "\x1b[2J"],
)
def test_odd_names_are_taken(name: str) -> None:
    verify(zipped(name))


@pytest.mark.parametrize(
    "name", ["line\r\nfeed", "bidi\u202efed\u2066", "\x1b[2J", "n" * 300, "\u2028"]
)
def test_odd_names_are_harmless_in_messages(name: str) -> None:
    told = refusal(inspect, zipped(f"../{name}"))
    assert told.isprintable()
    assert len(told) < 250


@pytest.mark.parametrize(
    "name",
    [
        "n" * 300 + ".zip",
        "a/b.zip",
        "a\r\nb.zip",
        "a\u202eb.zip",
        "a\u2066b.zip",
        "a\x00b.zip",
        "\x1b.zip",
    ],
)
def test_file_names_that_could_do_harm_are_refused_and_shown_harmlessly(name: str) -> None:
    with pytest.raises(PackageRefused, match="Give the file the vendor's name") as refused:
        safe_name(name)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_quotes_in_a_file_name_are_taken() -> None:
    assert safe_name("a\"b'c.zip") == "a\"b'c.zip"


# Large ones


def test_a_zip_in_the_form_for_large_ones_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    raw = zipped("module.bin", content=bytes(1000))
    assert b"PK\x06\x06" in raw
    verify(raw)
    assert inspect(raw).entry.version == "10.01.3205"
