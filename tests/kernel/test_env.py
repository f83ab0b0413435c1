from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.kernel.env import Env, parse_duration, parse_size
from controlplane.kernel.errors import ConfigurationError, ZantaraError


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), (" 1H ", 3600), ("2d", 172800), ("250ms", 0.25)]
)
def test_a_duration_is_read_in_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "1w", "1h30m", "5 parsecs", "nan", "inf"])
def test_nonsense_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "size"), [("512", 512), ("10MB", 10**7), ("16MiB", 2**24), ("1 gib", 2**30)])
def test_a_size_is_read_in_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "-1", "1.5MB", "10 furlongs"])
def test_nonsense_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@given(st.text())
def test_no_text_makes_a_reader_fail_with_anything_but_a_configuration_error(text: str) -> None:
    env = Env({"X": text})
    readers = (
        lambda: env.flag("X", False), lambda: env.integer("X", 1), lambda: env.duration("X", 1),
        lambda: env.size("X", 1), lambda: env.port("X", 1), lambda: env.choice("X", "a", ("a",)),
        lambda: env.url("X", schemes=("redis",)), lambda: env.items("X"), lambda: env.text("X", ""),
    )  # fmt: skip
    for reader in readers:
        with suppress(ConfigurationError):
            reader()


def test_an_unset_and_an_empty_variable_give_the_default() -> None:
    for env in (Env({}), Env({"X": "  "})):
        assert env.text("X") is None
        assert env.text("X", "d") == "d"
        assert env.flag("X", True) is True
        assert env.integer("X", 4) == 4
        assert env.duration("X", 1.5) == 1.5
        assert env.size("X", 9) == 9
        assert env.items("X", ["a"]) == ["a"]
        assert env.choice("X", "a", ("a",)) == "a"
        assert env.url("X", "unix:///s", schemes=("redis",)) == "unix:///s"
        assert env.secret("X") is None


@pytest.mark.parametrize(("text", "value"), [("1", True), ("YES", True), ("on", True), ("0", False), ("No", False)])
def test_a_flag_is_one_of_a_few_words(text: str, value: bool) -> None:
    assert Env({"X": text}).flag("X", not value) is value


@pytest.mark.parametrize("text", ["maybe", "2", "truee"])
def test_any_other_word_for_a_flag_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="neither true nor false"):
        Env({"X": text}).flag("X", False)


@pytest.mark.parametrize("text", ["0", "65536", "http", "80.0"])
def test_a_port_outside_its_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Env({"X": text}).port("X", 8000)


def test_a_url_of_another_scheme_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Env({"X": "ftp://alice:hunter2@h"}).url("X", schemes=("redis", "unix"))
    assert "redis://, unix://" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_secret_comes_from_its_variable_its_file_or_the_default_file(tmp_path: Path) -> None:
    file, default = tmp_path / "given", tmp_path / "default"
    file.write_text(" from file \n")
    default.write_text("from default")
    assert Env({"X": "direct"}).secret("X", default) == "direct"
    assert Env({"X_FILE": str(file)}).secret("X", default) == " from file "
    assert Env({}).secret("X", default) == "from default"
    assert Env({}).secret("X", tmp_path / "none") is None


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="X and X_FILE are both set") as caught:
        Env({"X": "hunter2", "X_FILE": str(tmp_path)}).secret("X")
    assert "hunter2" not in str(caught.value)


def test_a_secret_file_that_is_absent_empty_or_binary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, why in (("none", "No such file"), ("empty", "is empty"), ("binary", "not UTF-8 text")):
        with pytest.raises(ConfigurationError, match=why):
            Env({"X_FILE": str(tmp_path / name)}).secret("X")


def test_a_path_is_absolute_and_knows_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.chdir(tmp_path)
    assert Env({"X": "~/z"}).path("X", Path("/d")) == Path("/home/alice/z")
    assert Env({"X": "z"}).path("X", Path("/d")) == tmp_path / "z"
    assert Env({}).path("X", Path("d")) == tmp_path / "d"


def test_an_error_says_what_happened_and_what_to_do() -> None:
    assert str(ZantaraError("It broke.", remedy="Mend it.")) == "It broke. Mend it."
    assert str(ZantaraError("It broke.")) == "It broke."
