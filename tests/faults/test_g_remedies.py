"""Kind G: what a message tells one to do can be done: each remedy is looked up in the command that prints it."""

import ast
import inspect
import re

import house
import pytest

from vaelib import cli
from vaelib.cohorts.survey import survey
from vaelib.engine import shards, workers
from vaelib.engine.run import Plan
from vaelib.phantom import make_cohort
from vaelib.spatial import ResidualVAE

COMMANDS = {name: command for name, command in vars(cli).items() if getattr(command, "__module__", "") == "vaelib.cli"}
PRINTS = {  # by file, the commands whose messages its text becomes
    "vaelib/dicom/masks.py": ("check", "prepare"),
    "vaelib/dicom/seg.py": ("check", "prepare"),
    "vaelib/dicom/mask_series.py": ("check", "prepare"),
    "vaelib/dicom/geometry.py": ("check", "prepare"),
    "vaelib/cohorts/labels.py": ("check", "prepare"),
    "vaelib/volumes.py": ("check", "prepare"),
    "vaelib/engine/shards.py": ("check", "prepare"),
    "vaelib/dicom/write.py": ("segment",),
    "vaelib/recipes.py": ("segment",),
    "vaelib/cohorts/windows.py": ("segment",),
    "vaelib/engine/records.py": tuple(COMMANDS),
    "vaelib/cli.py": tuple(COMMANDS),
    "vaelib/engine/cards.py": ("card",),
    "vaelib/pictures/explorer.py": ("explorer",),
    "vaelib/engine/checkpoints.py": ("train",),
    "vaelib/engine/finite.py": ("train", "folds"),
    "vaelib/engine/memory.py": ("train", "folds"),
}
KEYWORDS = {  # by keyword that a message names, the functions whose messages do
    "workers": (make_cohort, survey, shards.prepare, workers.map_in_processes),
    "batch_size": (Plan,), "precision": (Plan,), "lr": (Plan,), "recompute": (ResidualVAE,),
}  # fmt: skip
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
COMMAND = re.compile(r"(?:`|-m |^ {4}|\| |&& )vaelib ([a-z]+)((?: [^`\n|;]*)?)", re.MULTILINE)
KEYWORD = re.compile(r"(?:use|pass|say|give|or|take|in Python,) ([a-z_]+)=")
VARIABLE = re.compile(r"\bVAELIB_[A-Z]+\b")


def options_of(command):
    names = inspect.signature(COMMANDS[command]).parameters
    return {"--" + name.replace("_", "-") for name in names} | {"--help", "--report"}


def texts(path):
    """Yield each text of a file that is no docstring, with {} for what is put in, and the line that it is in."""
    tree = house.tree(path)
    docs = {id(node.body[0].value) for node in ast.walk(tree) if hasattr(node, "body") and isinstance(node.body, list)
            and node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    within = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | within:
            yield node.lineno, node.value


SAID = [(house.name(path), line, text) for path in house.files("vaelib") for line, text in texts(path)]
REMEDIES = sorted({
    (file, line, text) for file, line, text in SAID
    if (" " in text and OPTION.search(text)) or COMMAND.search(text) or KEYWORD.search(text) or VARIABLE.search(text)
})  # fmt: skip


@pytest.mark.parametrize(("file", "line", "text"), REMEDIES, ids=lambda part: str(part)[:40])
def test_a_remedy_exists_where_it_is_given(file, line, text):
    for command, rest in COMMAND.findall(text):
        assert set(OPTION.findall(rest)) <= options_of(command)
    for option in OPTION.findall(COMMAND.sub("", text)):
        assert file in PRINTS, f"{file}: which command prints {option!r}?"
        assert all(option in options_of(command) for command in PRINTS[file])
    for name in KEYWORD.findall(text):
        assert all(name in inspect.signature(function).parameters for function in KEYWORDS[name])
    for name in VARIABLE.findall(text):
        asked = re.compile(rf"(environ(\.get)?[\[(]|_named\()\"{name}\"")
        assert any(asked.search(path.read_text(encoding="utf-8")) for path in house.files("vaelib"))


def test_there_are_remedies_to_look_up():
    assert len(REMEDIES) > 20 and {"vaelib/engine/finite.py", "vaelib/engine/workers.py"} <= {r[0] for r in REMEDIES}


@pytest.mark.parametrize("path", [house.ROOT / name for name in ("README.md", "data/README.md", "notebooks/README.md")]
                         + [*(house.ROOT / "vaelib").glob("cli.py")], ids=house.name)  # fmt: skip
def test_a_command_that_a_page_shows_can_be_typed(path):
    for command, rest in COMMAND.findall(path.read_text(encoding="utf-8")):
        assert command in COMMANDS and set(OPTION.findall(rest.partition(" #")[0])) <= options_of(command)


@pytest.mark.parametrize("command", ["check", "prepare"])
@pytest.mark.parametrize("option", ["--segment", "--reorient"])
def test_what_messages_on_labels_name_both_commands_have(command, option):
    assert option in options_of(command)
