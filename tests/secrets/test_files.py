"""A directory of files as Docker and Kubernetes mount it, and a .env file; python-dotenv is the second opinion."""

from __future__ import annotations

import io
import os
from pathlib import Path

import dotenv as oracle
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.secrets.places import texts

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, SecretUnavailable
from moorline.secrets.locker import SecretAt, Secrets
from moorline.secrets.sources import files
from moorline.secrets.sources.dotenv import parsed

NAME = "FILED_KEY"


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for end in ("", "_PREVIOUS", "_PREVIOUS_UNTIL", "_FILE", "_PREVIOUS_FILE"):
        monkeypatch.delenv(NAME + end, raising=False)


@pytest.fixture
def clock() -> ManualClock:
    """Time that moves when told."""
    return ManualClock()


def looked_for(url: str, clock: ManualClock, **names: str) -> Secrets:
    held = Secrets(clock=clock, background=False)
    held.configure([url], names)
    return held


def test_each_name_is_a_file(tmp_path: Path, clock: ManualClock) -> None:
    """One newline at its end is not a part of the value, anything else is; older ones stand beside it, with an end."""
    (tmp_path / NAME).write_text("new value,\n\n")
    (tmp_path / f"{NAME}_PREVIOUS").write_text("old-value\r\n")
    (tmp_path / f"{NAME}_PREVIOUS_UNTIL").write_text("2027-01-31T12:00:00Z\n")
    held = looked_for(f"file:{tmp_path}", clock)
    found = held.versions(NAME)
    assert [(one.secret.reveal(), one.stage, one.secret.not_after) for one in found] == [
        ("new value,\n", "current", None),
        ("old-value", "previous", 1_801_396_800.0),
    ]
    assert found[0].origin == f"file:{tmp_path}/{NAME}"
    assert held.load("NO_SUCH_KEY") is None
    assert held.where("NO_SUCH_KEY") == f"file:{tmp_path}/NO_SUCH_KEY"


def test_a_byte_order_mark_is_no_part_of_the_value(tmp_path: Path, clock: ManualClock) -> None:
    """Editors of Windows put one there; a file with nothing but that is empty."""
    (tmp_path / NAME).write_bytes(b"\xef\xbb\xbfnew-value\r\n")
    assert texts(looked_for(f"file:{tmp_path}", clock).load_all(NAME)) == ["new-value"]
    (tmp_path / "OTHER_KEY").write_bytes(b"\xef\xbb\xbf\r\n")
    with pytest.raises(ConfigurationError, match="is empty"):
        looked_for(f"file:{tmp_path}", clock).versions("OTHER_KEY")


def test_docker_names_them_in_lower_case(tmp_path: Path, clock: ManualClock) -> None:
    """The name as it is goes first."""
    (tmp_path / NAME.lower()).write_text("of docker")
    held = looked_for(f"file:{tmp_path}", clock)
    assert texts(held.load_all(NAME)) == ["of docker"]
    (tmp_path / NAME).write_text("exact")
    clock.advance(1)
    held.tend()
    assert texts(held.load_all(NAME)) == ["exact"]


def test_the_environment_may_name_the_file(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """``NAME_FILE``, as the images of many servers have it; it goes before the directory."""
    (tmp_path / NAME).write_text("of the directory")
    (tmp_path / "elsewhere").write_text("of the variable")
    monkeypatch.setenv(f"{NAME}_FILE", str(tmp_path / "elsewhere"))
    assert texts(looked_for(f"file:{tmp_path}", clock).load_all(NAME)) == ["of the variable"]
    assert texts(looked_for("file:", clock).load_all(NAME)) == ["of the variable"]


def test_a_name_may_be_a_file_of_its_own(tmp_path: Path, clock: ManualClock) -> None:
    """Or lie in a directory of its own; in code too."""
    (tmp_path / "stripe").write_text("alone\n")
    (tmp_path / "stripe_previous").write_text("before\n")
    (tmp_path / NAME).write_text("within\n")
    assert texts(looked_for("env:", clock, **{NAME: f"file:{tmp_path}/stripe"}).load_all(NAME)) == ["alone", "before"]
    assert texts(looked_for("env:", clock, **{NAME: f"file:{tmp_path}"}).load_all(NAME)) == ["within"]
    assert texts(looked_for("env:", clock, OTHER=f"file:{tmp_path}#{NAME}").load_all("OTHER")) == ["within"]
    held = Secrets(clock=clock, background=False)
    assert SecretAt(f"file:{tmp_path}/stripe", among=held)().reveal() == "alone"


def test_a_swap_of_kubernetes_is_seen(tmp_path: Path, clock: ManualClock) -> None:
    """The files are links through ``..data``, which is renamed onto another directory: all change at one moment."""

    def mounted(number: int) -> None:
        folder = tmp_path / f"..2026_{number}"
        folder.mkdir()
        (folder / NAME).write_text(f"value of swap {number}")
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    mounted(1)
    (tmp_path / NAME).symlink_to(f"..data/{NAME}")
    held = looked_for(f"file:{tmp_path}", clock)
    for number in (2, 3):
        assert texts(held.load_all(NAME)) == [f"value of swap {number - 1}"]
        mounted(number)
        clock.advance(1)
        held.tend()
        assert texts(held.load_all(NAME)) == [f"value of swap {number}"]


def test_what_cannot_be_used_leaves_the_last_good_value(tmp_path: Path, clock: ManualClock) -> None:
    """An empty file is one that is being written; one that is no text, too large, or a pipe is a mistake."""
    file = tmp_path / NAME
    file.write_text("good-value")
    held = looked_for(f"file:{tmp_path}", clock)
    assert held.load(NAME)
    for wrong in (b"", b"\n", b"\xff\xfe\x00", b"x" * 70_000):
        file.write_bytes(wrong)
        clock.advance(61)
        held.tend()
        assert texts(held.load_all(NAME)) == ["good-value"]
        with pytest.raises(ConfigurationError, match=f"{NAME} is (empty|not valid UTF-8|larger than 65536 bytes)"):
            looked_for(f"file:{tmp_path}", clock).load(NAME)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ConfigurationError, match=f"{NAME} is no file"):
        looked_for(f"file:{tmp_path}", clock).load(NAME)


def test_an_end_that_is_no_moment_is_an_error(tmp_path: Path, clock: ManualClock) -> None:
    """Better than a secret that never ends."""
    for end, text in (("", "new"), ("_PREVIOUS", "old"), ("_PREVIOUS_UNTIL", "tomorrow")):
        (tmp_path / (NAME + end)).write_text(text)
    with pytest.raises(ConfigurationError, match=f"{NAME}_PREVIOUS_UNTIL: expected a date"):
        looked_for(f"file:{tmp_path}", clock).load(NAME)


def test_a_value_and_the_one_before_it_are_of_one_moment(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that change while they are read are read again; those that do so all the time are an error."""
    (tmp_path / NAME).write_text("value 0")
    changes, reading = iter(range(1, 100)), files.read_file

    def change_and_read(path: Path, most: int, *, shy: bool = False) -> bytes:
        found = reading(path, most, shy=shy)
        if (number := next(changes)) < limit:
            (tmp_path / NAME).write_text(f"value {number:0{number}}")
        return found

    monkeypatch.setattr(files, "read_file", change_and_read)
    limit = 3
    assert texts(looked_for(f"file:{tmp_path}", clock).load_all(NAME)) == ["value 02"]
    limit = 1000
    with pytest.raises(SecretUnavailable, match="it changes all the time"):
        looked_for(f"file:{tmp_path}", clock).load(NAME)


def test_names_do_not_lead_out_of_the_directory(tmp_path: Path, clock: ManualClock) -> None:
    """Nor do those that a caller makes up."""
    (tmp_path / "outside").write_text("outside")
    (tmp_path / "inside").mkdir()
    held = looked_for(f"file:{tmp_path}/inside", clock)
    assert held.load("../outside") is None
    assert held.load("..") is None
    with pytest.raises(ConfigurationError, match="must begin with /"):
        looked_for("file:relative", clock).load(NAME)


# .env ------------------------------------------------------------------------------------------------------------------


def test_a_dotenv_file_reads_as_the_environment(tmp_path: Path, clock: ManualClock) -> None:
    """Several values, previous ones and their end."""
    file = tmp_path / ".env"
    file.write_text(f"export {NAME}=new-value,second\n{NAME}_PREVIOUS='old'\n{NAME}_PREVIOUS_UNTIL=2000000000\n")
    held = looked_for(f"dotenv:{file}", clock)
    assert [(one.secret.reveal(), one.stage, one.origin) for one in held.versions(NAME)] == [
        ("new-value", "current", f"dotenv:{file}#{NAME}"),
        ("second", "previous", f"dotenv:{file}#{NAME}#2"),
        ("old", "previous", f"dotenv:{file}#{NAME}_PREVIOUS"),
    ]
    file.write_text(f"{NAME}=changed-value\n")
    clock.advance(1)
    held.tend()
    assert texts(held.load_all(NAME)) == ["changed-value"]
    file.write_text("what\n")
    clock.advance(1)
    held.tend()
    assert texts(held.load_all(NAME)) == ["changed-value"]
    assert looked_for(f"dotenv:{tmp_path}/none", clock).load(NAME) is None


def test_a_dotenv_file_that_all_may_read_is_warned_of(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Once."""
    file = tmp_path / ".env"
    file.write_text(f"{NAME}=value")
    for mode, warnings in ((0o600, 0), (0o640, 0), (0o644, 1), (0o644, 1)):
        file.chmod(mode)
        assert looked_for(f"dotenv:{file}", clock).load(NAME)
        assert caplog.text.count("secret_file_open_to_all") == warnings


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A=1\nsecret-canary", "line 2: expected NAME=value"),
        ("\r\n\r\nA B=secret-canary", "line 3: expected NAME=value"),
        ('A="secret-canary\nmore', "line 1: the quotation mark is not closed"),
        ("A=1\nB='secret-canary' more", "line 2: something follows the closing quotation mark"),
        ("1A=secret-canary", "line 1: expected"),
    ],
)
def test_a_line_that_is_none_is_named_and_not_shown(text: str, says: str) -> None:
    """python-dotenv would skip it."""
    with pytest.raises(ConfigurationError, match=f"dotenv:x, {says}") as caught:
        parsed(text, "x")
    assert "canary" not in str(caught.value)


VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=20)


def written(value: str, style: str) -> str:
    """A value in one of the three ways, where it can be written so."""
    if style == "double":
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if style == "single":
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return value


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["A", "B", "LONG_NAME_2"]), VALUES, st.sampled_from(["double", "single"]),
            st.sampled_from(["", "export ", "  "]), st.sampled_from(["\n", "\r\n", "   # a comment\n", "\n# more\n\n"]),
        ), max_size=5,
    )
)  # fmt: skip
def test_what_is_written_is_read(lines: list[tuple[str, str, str, str, str]]) -> None:
    """Quoted in either way, whatever it is; as python-dotenv reads it."""
    text = "".join(f"{before}{name}={written(value, style)}{end}" for name, value, style, before, end in lines)
    expected = {name: value for name, value, *_ in lines}
    assert parsed(text) == expected
    assert oracle.dotenv_values(stream=io.StringIO(text), interpolate=False) == expected


@given(st.text(st.sampled_from("AB=='\"\\ \t\n\r#nexport$é\u00a0"), max_size=25))
@example("A=a#b # c")
@example("export A='x\ny'#c")
def test_what_we_take_python_dotenv_reads_alike(text: str) -> None:
    """We refuse more, and never read anything else."""
    try:
        found = parsed(text)
    except ConfigurationError:
        return
    assert oracle.dotenv_values(stream=io.StringIO(text, newline=""), interpolate=False) == found


def test_a_value_is_what_is_written():
    """Nothing is put in the place of a dollar sign."""
    assert parsed('A=1\nB=${A}$A\nC="$A"\nD=a=b#c\nE=\nF=#x\nA=2') == {
        "A": "2", "B": "${A}$A", "C": "$A", "D": "a=b#c", "E": "", "F": "",
    }  # fmt: skip
