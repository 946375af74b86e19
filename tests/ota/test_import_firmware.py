"""`import_firmware`: files, folders and standard input, and what can be wrong with them."""

import io
import json
import os
import subprocess
import sys
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from ota.models import FirmwarePackage
from simulator.packages import build
from tests.calls import Run, refusal
from tests.make import NEW, OLD, make_model
from tests.processes import ROOT

pytestmark = pytest.mark.django_db

DAY = date(2024, 11, 7)
MODEL = ("--model", "3-2-0")


@pytest.fixture(autouse=True)
def media(settings: Settings, tmp_path: Path) -> Path:
    make_model("3-2-0")
    place = tmp_path / "media"
    backend = "django.core.files.storage.FileSystemStorage"
    entry = {"BACKEND": backend, "OPTIONS": {"location": str(place)}}
    settings.STORAGES = settings.STORAGES | {"default": entry}
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a zip, and another one further down."""
    place = tmp_path / "downloads"
    (place / "more").mkdir(parents=True)
    build(place, "DOCK2", NEW, DAY, 50_000)
    build(place / "more", "DOCK2", OLD, DAY, 50_000)
    return place


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def names(documents: list[dict[str, Any]]) -> list[str]:
    return [each["file_name"] for each in documents]


# Folders


def test_all_zips_of_a_folder_are_imported_in_the_order_of_their_names(
    run: Run, folder: Path
) -> None:
    (folder / "read.me").write_text("no zip")
    told = run.answer("import_firmware", str(folder), *MODEL)
    assert names(told) == ["DOCK2_V10.01.3205.zip", "DOCK2_V10.01.1607.zip"]
    assert [each["error"] for each in told] == [None, None]


def test_what_a_zip_does_not_tell_is_asked_for_with_the_option_that_says_it(
    run: Run, folder: Path
) -> None:
    told = run.answer("import_firmware", str(folder), code=1)
    assert "Name its models, or teach the code" in told[0]["error"]
    assert "--model 3-2-0" in told[0]["error"]


def test_a_date_that_contradicts_the_zip_is_confirmed_with_the_option_that_says_so(
    run: Run, folder: Path
) -> None:
    file = str(folder / "DOCK2_V10.01.3205.zip")
    call = ("import_firmware", file, *MODEL, "--released", "2025-01-01")
    assert "--confirm" in run.answer(*call, code=1)[0]["error"]
    assert run.answer(*call, "--confirm")[0]["released_on"] == "2025-01-01"


def test_what_is_hidden_is_left_alone(run: Run, folder: Path) -> None:
    (folder / "._DOCK2_V10.01.3205.zip").write_bytes(b"what a Mac leaves behind")
    (folder / "more").rename(folder / ".trash")
    assert names(run.answer("import_firmware", str(folder), *MODEL)) == ["DOCK2_V10.01.3205.zip"]


def test_links_that_lead_in_circles_do_not_keep_it_busy(run: Run, folder: Path) -> None:
    (folder / "more" / "again").symlink_to(folder)
    (folder / "more" / "self.zip").symlink_to(folder / "more" / "self.zip")
    told = run.answer("import_firmware", str(folder), *MODEL, code=1)
    assert names(told)[2:] == ["self.zip"]
    assert "cannot be read" in told[2]["error"]


def test_a_link_that_leads_nowhere_does_not_keep_the_others_out(run: Run, folder: Path) -> None:
    (folder / "A.zip").symlink_to(folder / "nowhere.zip")
    told = run.answer("import_firmware", str(folder), *MODEL, code=1)
    assert told[0]["error"] == "A.zip is not there. Check the path."
    assert [each["created"] for each in told] == [False, True, True]


def test_a_pipe_that_is_called_zip_is_not_waited_for(run: Run, folder: Path) -> None:
    os.mkfifo(folder / "pipe.zip")
    assert len(run.answer("import_firmware", str(folder), *MODEL)) == 2


@pytest.mark.parametrize("depth", ["", "/inside"])
def test_a_folder_without_zips_is_a_wrong_call(tmp_path: Path, depth: str) -> None:
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    asked = f"{tmp_path}/empty{depth}"
    assert refusal("import_firmware", asked) == (2, f"There is no zip in {asked} nor below it.")


def test_a_folder_that_does_not_exist_is_a_wrong_call(folder: Path) -> None:
    code, message = refusal("import_firmware", f"{folder}/nowhere", str(folder))
    assert (code, message) == (2, f"No such file or folder: {folder}/nowhere")
    assert not FirmwarePackage.objects.exists()


def test_an_empty_path_is_refused_and_not_taken_for_this_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(CommandError, match="argument FILE: the path is empty"):
        call_command("import_firmware", "", *MODEL)
    assert not FirmwarePackage.objects.exists()


def test_a_file_whose_name_is_not_utf_8_is_told_in_utf_8(run: Run, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"bad\xff.zip")
    file.touch()
    (told,) = run.answer("import_firmware", str(file), code=1)
    assert told["file_name"] == "bad\N{REPLACEMENT CHARACTER}.zip"
    assert told["error"].encode()


# Standard input


def test_a_zip_from_standard_input_is_named_as_it_is_signed(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, media: Path
) -> None:
    content = (folder / "DOCK2_V10.01.3205.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as package:
        (signed,) = (name for name in package.namelist() if name.endswith(".cfg.sig"))
    pipe(monkeypatch, content)
    (told,) = run.answer("import_firmware", "-", "--product-version", NEW, *MODEL)
    assert told["file_name"] == signed.removesuffix(".cfg.sig") + ".zip"
    assert (told["size"], told["created"]) == (len(content), True)
    assert [file.suffix for file in (media / "firmware").iterdir()] == [".zip"]


def test_a_zip_from_standard_input_may_be_given_its_name(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, (folder / "DOCK2_V10.01.3205.zip").read_bytes())
    options = ("--file-name", "DOCK2_V10.01.3205.zip", *MODEL)
    assert names(run.answer("import_firmware", "-", *options)) == ["DOCK2_V10.01.3205.zip"]


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"", "Nothing came from standard input."), (b"PK\3\4 cut off", "standard input is no zip")],
)
def test_what_is_no_zip_on_standard_input_leaves_nothing_behind(
    run: Run, monkeypatch: pytest.MonkeyPatch, media: Path, content: bytes, error: str
) -> None:
    pipe(monkeypatch, content)
    (told,) = run.answer("import_firmware", "-", *MODEL, code=1)
    assert told["file_name"] == "standard input"
    assert told["error"].startswith(error)
    assert not list((media / "firmware").iterdir())


def test_a_standard_input_that_is_closed_is_an_empty_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)  # as Python has it after <&-
    (told,) = run.answer("import_firmware", "-", *MODEL, code=1)
    assert told["error"].startswith("Nothing came from standard input.")


def test_a_name_that_is_not_safe_is_refused(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, (folder / "DOCK2_V10.01.3205.zip").read_bytes())
    (told,) = run.answer("import_firmware", "-", "--file-name", "../evil.zip", *MODEL, code=1)
    assert "path separators" in told["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "-"], "Standard input (-) can be read only once."),
        (["a.zip", "--file-name", "b.zip"], "--file-name is for standard input (-) alone"),
        (["-", "a.zip", "--file-name", "b.zip"], "--file-name is for standard input (-) alone"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str], message: str) -> None:
    code, told = refusal("import_firmware", *arguments)
    assert code == 2
    assert told.startswith(message)


# What is said


def test_the_version_that_has_to_come_first_is_stored(run: Run, folder: Path) -> None:
    file = str(folder / "DOCK2_V10.01.3205.zip")
    (told,) = run.answer("import_firmware", file, *MODEL, "--needs-first", "10.01.16.07")
    package = FirmwarePackage.objects.get()
    assert told["minimum_version"] == package.minimum_version == OLD
    assert package.minimum_number == 10011607


def test_a_first_version_that_is_not_older_is_refused(run: Run, folder: Path) -> None:
    file = str(folder / "DOCK2_V10.01.3205.zip")
    (told,) = run.answer("import_firmware", file, *MODEL, "--needs-first", NEW, code=1)
    assert "cannot need 10.01.3205 first" in told["error"]


# In a process


def begin(database_url: str, media: Path, *arguments: str, **streams: Any) -> Any:
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "STORAGE_URL": f"file://{media}",
        "SECRET_KEY": "only for this test",
    }
    command = [sys.executable, "manage.py", "import_firmware", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, **streams)


@pytest.mark.services
def test_a_terminal_shows_how_far_it_is(database_url: str, media: Path, folder: Path) -> None:
    controller, terminal = os.openpty()
    file = str(folder / "DOCK2_V10.01.3205.zip")
    streams = {"stdout": terminal, "stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = begin(database_url, media, file, *MODEL, **streams)
    os.close(terminal)
    shown = b""
    while piece := _read(controller):
        shown += piece
    assert process.wait() == 0
    assert b"DOCK2_V10.01.3205.zip" in shown
    assert b"%" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.services
def test_a_pipe_whose_writer_ends_early_is_an_error_in_words(
    database_url: str, media: Path, folder: Path
) -> None:
    content = (folder / "DOCK2_V10.01.3205.zip").read_bytes()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = begin(database_url, media, "-", "--json", *MODEL, **streams)
    answer, said = process.communicate(content[: len(content) // 2])
    (told,) = json.loads(answer)
    assert "damaged or cut off" in told["error"]
    assert process.returncode == 1
    assert b"Traceback" not in said


@pytest.mark.services
def test_an_answer_that_nobody_reads_ends_in_words(
    database_url: str, media: Path, folder: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": writer, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    process = begin(database_url, media, str(folder), "--json", *MODEL, **streams)
    os.close(writer)
    said = process.communicate()[1]
    assert b"The answer was not read to its end." in said
    assert b"Traceback" not in said
    assert process.returncode == 1
    assert FirmwarePackage.objects.count() == 2
