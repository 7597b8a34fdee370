"""`ms-bert`: it lists its commands, runs each by its own name, and imports no framework to do so."""

import subprocess
import sys

import pytest

from ms_bert import __version__
from ms_bert.__main__ import COMMANDS, main


def test_help_fits_on_a_screen_and_lists_every_command(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)


def test_help_and_version_import_no_framework_and_no_command():
    script = (
        "import sys; from ms_bert.__main__ import main\n"
        "for option in ('--help', '--version', 'no-command'): main([option])\n"
        "sys.exit(bool({'mindspore', 'torch', 'numpy', 'tyro', 'conversion'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ms-bert {__version__}\n"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["convrt", "a", "b"], "there is no command 'convrt'; did you mean convert?"),
        (["pretrain_torch"], "did you mean pretrain-torch?"),
        (["\x1b[31m"], "there is no command '\\x1b[31m'; choose one of pretrain, pretrain-torch, "),
    ],
)
def test_an_unknown_command_is_one_sentence_with_the_nearest_name(arguments, words, capsys):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ms-bert: ") and words in line


def test_no_command_shows_the_help_and_is_a_mistake(capsys):
    assert main([]) == 2
    shown = capsys.readouterr()
    assert not shown.out and "usage: ms-bert " in shown.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_its_help_by_its_own_name(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: ms-bert {name} ")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["inspect", "no/such/file"], "ms-bert: "),
        (["pretrain", "--resume", "no/such/run"], "ms-bert pretrain: there is no no/such/run"),
        (["pretrain-torch", "--resume", "no/such/run"], "ms-bert pretrain-torch: there is no no/such/run"),
    ],
)
def test_a_mistake_is_told_by_the_commands_own_name(arguments, message, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)
