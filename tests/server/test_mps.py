"""`serve --mps` with a stand-in for NVIDIA's control program."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.server.mps import CONTROL, LOG_VARIABLE, PIPE_VARIABLE, mps
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint
from tests.support.codecs import random_codec
from tests.support.mps_control import on_path, write_control


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (PIPE_VARIABLE, LOG_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the control program, first on the PATH; two processes are attached."""
    write_control(tmp_path, clients=(11, 12))
    monkeypatch.setenv("PATH", on_path(tmp_path))
    return tmp_path


def directories_of(control: Path) -> list[Path]:
    """The directory of the daemon that was started, if it still exists."""
    directory = Path((control / "directory").read_text())
    return [directory] if directory.exists() else []


def test_a_daemon_is_started_for_this_process_and_ended(control: Path) -> None:
    with mps() as daemon:
        assert os.environ[PIPE_VARIABLE] == os.environ[LOG_VARIABLE] == str(daemon.directory)
        assert (daemon.directory / "control").exists()
        assert daemon.clients() == [11, 12]
    assert not daemon.directory.exists()
    assert PIPE_VARIABLE not in os.environ
    assert LOG_VARIABLE not in os.environ
    assert daemon.check(2).startswith("MPS is not in use")
    daemon.close()


def test_the_daemon_is_ended_after_an_exception(control: Path) -> None:
    with pytest.raises(KeyboardInterrupt), mps() as daemon:
        raise KeyboardInterrupt
    assert not daemon.directory.exists()


def test_a_log_line_says_whether_all_processes_are_attached(control: Path) -> None:
    with mps() as daemon:
        assert daemon.check(2) == "MPS is in use: 2 processes attached"
        said = daemon.check(3)
    for part in ("not fully in use", "2 processes", "3 were expected", "--ipc=host"):
        assert part in said


def test_a_running_daemon_is_used_and_not_stopped(
    control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "control").touch()
    monkeypatch.setenv(PIPE_VARIABLE, str(folder))
    with mps() as daemon:
        assert daemon.directory == folder
        assert len(daemon.clients()) == 2
    assert (folder / "control").exists()
    assert os.environ[PIPE_VARIABLE] == str(folder)


def test_a_named_daemon_that_does_not_run_is_an_error(
    control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PIPE_VARIABLE, str(tmp_path))
    with pytest.raises(InvalidOptions, match=f"{PIPE_VARIABLE}.*unset"), mps():
        pass


def test_a_missing_control_program_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidOptions, match=f"{CONTROL}.*driver.*PATH"), mps():
        pass


def test_a_daemon_that_does_not_start_is_reported_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_control(tmp_path, broken="An instance of this daemon is already running")
    monkeypatch.setenv("PATH", on_path(tmp_path))
    with pytest.raises(InvalidOptions, match=r"does not start: An instance .* running$"), mps():
        pass
    assert PIPE_VARIABLE not in os.environ


def test_a_program_that_cannot_be_run_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_control(tmp_path)
    path.write_text("#!/no/such/interpreter\n")
    monkeypatch.setenv("PATH", on_path(tmp_path))
    with pytest.raises(InvalidOptions, match="does not start"), mps():
        pass


def test_a_long_temporary_directory_does_not_make_the_path_too_long_for_a_socket(
    control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with mps() as daemon:
        assert len(str(daemon.directory / "control_privileged")) < 107
    assert not list(deep.iterdir())


@pytest.mark.timeout(240)
async def test_a_server_starts_the_daemon_logs_it_and_ends_it(control: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orpheus_plugin", "serve", "--mps", "--port", "0"),
        *("--model", str(crafted_checkpoint(text=SMALL_TEXT)), "--codec", str(random_codec())),
        *("--device", "cpu", "--max-turns", "1"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(200):
            said = b""
            while b"MPS is" not in (line := await process.stderr.readline()):
                said += line
                assert line, said.decode()
            assert b"in use: 2 processes attached" in line
            assert directories_of(control)
            process.send_signal(signal.SIGTERM)
            await process.communicate()
        assert process.returncode == 0
        assert not directories_of(control)
    finally:
        if process.returncode is None:
            process.kill()


def test_a_server_without_mps_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from orpheus_plugin.cli.main import main

    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["serve", "--mps", "--model", "mini", "--port", "0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert CONTROL in line
