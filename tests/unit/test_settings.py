"""Settings: keyword > environment > file > default, each with a clear complaint."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from shmq.errors import InvalidOption, InvalidOptionType, StorageError
from shmq.settings import Settings, pack_defaults, ram_bytes, unpack_defaults, unpack_metrics


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_are_those_of_the_documentation() -> None:
    settings = Settings.load({}, {})
    assert settings == Settings(
        storage="memory",
        data_dir="./data",
        default_ttl=86400,
        max_message_size=1 << 20,
        max_queue_depth=100_000,
        max_retries=3,
        listen_addr="127.0.0.1:5672",
        metrics=True,
        metrics_interval=1,
        shm="posix",
        memory_limit=ram_bytes(),
    )


def test_each_source_wins_over_the_next(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('max_retries = 1\nmax_queue_depth = 1\ndefault_ttl = "1s"\n')
    environ = {"SHMQ_MAX_RETRIES": "2", "SHMQ_MAX_QUEUE_DEPTH": "2", "SHMQ_CONFIG": str(file)}
    settings = Settings.load({"max_retries": 3}, environ)
    assert (settings.max_retries, settings.max_queue_depth, settings.default_ttl) == (3, 2, 1.0)


def test_the_file_in_the_working_directory_is_found_and_may_have_a_table(tmp_path: Path) -> None:
    (tmp_path / "shmq.toml").write_text('[shmq]\nmax_message_size = "2MB"\nmetrics = false\n')
    settings = Settings.load({}, {})
    assert (settings.max_message_size, settings.metrics) == (2 << 20, False)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max_retrys = 1", "did you mean 'max_retries'"),
        ("max_retries = -1", "0 to 4094"),
        ("not toml", "valid TOML"),
        ("shmq = 5", "a table"),
    ],
)
def test_what_is_wrong_in_a_file_names_the_file(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    with pytest.raises(InvalidOption, match=complaint) as caught:
        Settings.load({}, {}, config=file)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_an_error_when_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"nothing\.toml"):
        Settings.load({}, {}, config=tmp_path / "nothing.toml")


def test_what_is_wrong_in_the_environment_names_the_variable() -> None:
    with pytest.raises(InvalidOption, match="SHMQ_MAX_QUEUE_DEPTH"):
        Settings.load({}, {"SHMQ_MAX_QUEUE_DEPTH": "0"})


def test_an_empty_variable_is_none_at_all() -> None:
    assert Settings.load({}, {"SHMQ_MAX_QUEUE_DEPTH": ""}).max_queue_depth == 100_000


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("storage", "tape"), ("shm", "mmap"), ("max_message_size", 0), ("max_message_size", "2GB"),
        ("max_queue_depth", 0), ("metrics", "perhaps"), ("metrics_interval", 0), ("data_dir", ""),
        ("memory_limit", 5), ("default_ttl", 0), ("default_ttl", "soon"), ("listen_addr", 5),
    ],
)  # fmt: skip
def test_impossible_values_name_the_setting(keyword: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=keyword):
        Settings.load({keyword: value}, {})


def test_unknown_keywords_suggest_the_nearest() -> None:
    with pytest.raises(InvalidOptionType, match="did you mean 'memory_limit'"):
        Settings.load({"memory_limits": 1}, {})


@pytest.mark.parametrize("storage", ["disk", "hybrid"])
def test_storage_that_this_version_lacks_is_refused(storage: str) -> None:
    with pytest.raises(StorageError, match="this version"):
        Settings.load({"storage": storage}, {})


def test_a_message_fits_into_the_memory() -> None:
    with pytest.raises(InvalidOption, match="memory_limit"):
        Settings(max_message_size=4 << 20, memory_limit=2 << 20)


def test_defaults_survive_the_way_through_the_user_word() -> None:
    assert unpack_defaults(0) is None
    assert unpack_defaults(pack_defaults(100_000, 3)) == (100_000, 3)
    assert unpack_defaults(pack_defaults(1 << 23, 4094)) == (1 << 23, 4094)
    assert pack_defaults(1 << 23, 4094) < 1 << 64


def test_ram_is_a_plausible_number() -> None:
    assert os.sysconf("SC_PAGE_SIZE") < ram_bytes() < 1 << 50


def test_a_misspelt_variable_suggests_the_nearest_and_foreign_ones_are_left_alone() -> None:
    with pytest.raises(InvalidOption, match=r"did you mean SHMQ_DEFAULT_TTL\?"):
        Settings.load({}, {"SHMQ_DEFALT_TTL": "1h"})
    Settings.load({}, {"SHMQ_DEBUG": "x", "SHMQ_BENCH_ROUNDS": "3", "SHMQ_NO_ACCEL": "1"})


def test_metrics_settings_travel_in_the_segment() -> None:
    for metrics, interval in ((True, 1.0), (False, 0.01), (True, 60.0)):
        word = pack_defaults(1 << 23, 4094, metrics, interval)
        assert word < 1 << 64
        assert unpack_metrics(word) == (metrics, interval)
        assert unpack_defaults(word) == (1 << 23, 4094)
    assert unpack_metrics(0) == (True, 1.0)


# setting -> (as text in the environment, as a value in a file, as a keyword, what each of them means)
SOURCES: dict[str, tuple[str, str, object, tuple[object, object, object]]] = {
    "storage": ("memory", '"memory"', "memory", ("memory", "memory", "memory")),
    "data_dir": ("/a", '"/b"', Path("/c"), ("/a", "/b", "/c")),
    "default_ttl": ("90s", '"250ms"', "2h", (90.0, 0.25, 7200.0)),
    "max_message_size": ("64KiB", '"2MB"', "1g", (1 << 16, 2 << 20, 1 << 30)),
    "max_queue_depth": ("5", "6", "7", (5, 6, 7)),
    "max_retries": ("0", "6", 7, (0, 6, 7)),
    "listen_addr": ("a:1", '"b:2"', "c:3", ("a:1", "b:2", "c:3")),
    "metrics": ("off", "true", False, (False, True, False)),
    "metrics_interval": ("500ms", "2", "1m", (0.5, 2.0, 60.0)),
    "shm": ("sysv", '"posix"', "sysv", ("sysv", "posix", "sysv")),
    "memory_limit": ("2GB", '"3g"', 4 << 30, (2 << 30, 3 << 30, 4 << 30)),
    "max_queues": ("5", "6", 7, (5, 6, 7)),
    "max_processes": ("5", "6", 7, (5, 6, 7)),
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
def test_every_setting_is_read_from_every_source(tmp_path: Path, name: str) -> None:
    """keyword > SHMQ_MAX_RETRIES, SHMQ_STORAGE, SHMQ_DEFAULT_TTL, SHMQ_MAX_MESSAGE_SIZE, … > file."""
    text, in_file, keyword, (from_environ, from_file, from_keyword) = SOURCES[name]
    file = tmp_path / "broker.toml"
    file.write_text(f"{name} = {in_file}\n")
    variables = {f"SHMQ_{name.upper()}": text, "SHMQ_CONFIG": str(file)}
    assert getattr(Settings.load({}, {}, file), name) == from_file
    assert getattr(Settings.load({}, variables), name) == from_environ
    assert getattr(Settings.load({name: keyword}, variables), name) == from_keyword


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
def test_every_misspelt_setting_suggests_the_right_one(tmp_path: Path, name: str) -> None:
    typo = name.replace("_", "") if "_" in name else name + "s"
    file = tmp_path / "broker.toml"
    file.write_text(f"[shmq]\n{typo} = 1\n")
    for keywords, path in (({typo: 1}, None), ({}, file)):
        with pytest.raises(InvalidOptionType, match=f"did you mean '{name}'"):
            Settings.load(keywords, {}, path)
    with pytest.raises(InvalidOptionType, match=f"did you mean SHMQ_{name.upper()}"):
        Settings.load({}, {f"SHMQ_{typo.upper()}": "1"})


# ---- whose file it is ----------------------------------------------------------------------------

FILE = "max_retries = 7\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def found(folder: Path, mode: int = 0o755) -> Path:
    """A shmq.toml in a folder of that mode, which is the working directory."""
    file = folder / "shmq.toml"
    file.write_text(FILE)
    file.chmod(0o644)
    folder.chmod(mode)
    os.chdir(folder)
    return file


@pytest.mark.parametrize("mode", [0o755, 0o700, 0o555, 0o1777, 0o1770])
def test_a_file_that_only_its_owner_may_write_is_read(tmp_path: Path, mode: int) -> None:
    found(tmp_path, mode)
    assert Settings.load({}, {}).max_retries == 7


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    found(tmp_path).chmod(mode)
    with pytest.raises(InvalidOption, match=rf"shmq\.toml: found mode {mode:04o}.*chmod go-w"):
        Settings.load({}, {})


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_file_in_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    found(tmp_path, mode)
    with pytest.raises(InvalidOption, match=rf"folder of shmq\.toml: found mode {mode:04o}"):
        Settings.load({}, {})
    assert Settings.load({}, {"SHMQ_CONFIG": "/dev/null"}).max_retries == 3
    assert Settings.load({}, {}, config="shmq.toml").max_retries == 7


@needs_root
def test_another_users_file_is_refused_found_or_named(tmp_path: Path) -> None:
    file = found(tmp_path, 0o1777)
    os.chown(file, 54321, 54321)
    for environ in ({}, {"SHMQ_CONFIG": str(file)}):
        with pytest.raises(InvalidOption, match="found owner uid 54321"):
            Settings.load({}, environ)
    os.chown(file, 0, 0)
    assert Settings.load({}, {}).max_retries == 7
    tmp_path.chmod(0o755)
    os.chown(tmp_path, 54321, 54321)
    with pytest.raises(InvalidOption, match=r"folder of shmq\.toml: found owner uid 54321"):
        Settings.load({}, {})
    os.chown(tmp_path, 0, 0)


def test_in_a_shared_folder_a_link_is_not_followed(tmp_path: Path) -> None:
    file = found(tmp_path)
    file.rename(tmp_path / "other.toml")
    file.symlink_to("other.toml")
    assert Settings.load({}, {}).max_retries == 7
    tmp_path.chmod(0o1777)
    with pytest.raises(InvalidOption, match="found a link"):
        Settings.load({}, {})
    file.unlink()
    file.hardlink_to(tmp_path / "other.toml")
    with pytest.raises(InvalidOption, match="found a link"):
        Settings.load({}, {})


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    file = found(tmp_path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InvalidOption, match="expected a regular file"):
        Settings.load({}, {})
    file.unlink()
    file.mkdir()
    with pytest.raises(InvalidOption, match="expected a regular file"):
        Settings.load({}, {})
    with pytest.raises(InvalidOption, match="directory"):
        Settings.load({}, {"SHMQ_CONFIG": str(file)})


def test_a_named_file_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    file = found(tmp_path)
    file.chmod(0o646)
    with pytest.raises(InvalidOption, match="writable by everybody"):
        Settings.load({}, {}, config=file)
    file.chmod(0o664)
    assert Settings.load({}, {}, config=file).max_retries == 7


def test_a_named_file_may_be_a_pipe_of_ours() -> None:
    reader, writer = os.pipe()
    os.write(writer, FILE.encode())
    os.close(writer)
    assert Settings.load({}, {}, config=f"/dev/fd/{reader}").max_retries == 7
    os.close(reader)
