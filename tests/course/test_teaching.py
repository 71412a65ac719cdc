"""The teacher's page agrees with the lessons it speaks of; Binder and Colab are given what the project needs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from course import checks, teaching
from course.places import read_notebook
from vaelib import InputError
from vaelib.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = teaching.PAGE.read_text()
LESSONS = teaching.lessons()
TIMES = json.loads(teaching.TIMES.read_text())
SLOWEST = 180  # seconds of the slowest lesson


def block(mark):
    return PAGE.split(f"<!-- {mark} -->\n")[1].split(f"\n<!-- end of {mark} -->")[0]


def section(title):
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text):
    """The cells of each line of the tables in a text, without their heads."""
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line[:2] == "| "]
    return [line for line in lines if line[0] not in ("from", "what is believed", "")]


def headings(name):
    nb = read_notebook(teaching.NOTEBOOKS / name)
    prose = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose)  # a term in a heading may lead to the glossary
    return re.findall(r"^#{2,3} (.*)$", plain, re.MULTILINE)


def test_the_table_is_made_of_the_lessons_and_their_times():
    assert block("times") == teaching.table(LESSONS, TIMES), "run `python -m course`"
    assert [line[0] for line in rows(block("times"))] == [*LESSONS] == [*teaching.ABOUT]


def test_each_lesson_was_measured_and_none_is_slow():
    assert {*TIMES} == {path.stem for path in teaching.NOTEBOOKS.glob("[0-9]*.ipynb")}
    assert all(0 < time["run"] < SLOWEST for time in TIMES.values())
    assert all(abs(TIMES[lesson.stem]["read"] - lesson.minutes) <= 5 for lesson in LESSONS.values())


def test_times_come_from_the_last_build_and_else_from_before(tmp_path):
    build, file = tmp_path / "build.json", tmp_path / "times.json"
    with pytest.raises(InputError, match="no time of 00_start_here, .*run `make tutorial`"):
        teaching.measure(LESSONS, build, file)
    build.write_text(json.dumps({lesson.stem: 20.4 for lesson in LESSONS.values()}))
    assert teaching.measure(LESSONS, build, file)["05_segmentation_decoding"]["run"] == 20
    build.write_text('{"05_segmentation_decoding": 31}')
    found = teaching.measure(LESSONS, build, file)
    assert [found[stem]["run"] for stem in ("04_latent_space", "05_segmentation_decoding")] == [20, 31]
    assert json.loads(file.read_text()) == found


def test_what_follows_from_others_is_not_drawn():
    needs = {"00": (), "01": ("00",), "02": ("00", "01"), "03": ("01",), "04": ("00", "02", "03")}
    found = {number: teaching.Lesson(number, "", need, 0, 5) for number, need in needs.items()}
    edges = [("00", "01"), ("01", "02"), ("01", "03"), ("02", "04"), ("03", "04")]
    assert teaching.builds_on(found) == edges
    assert teaching.builds_on(LESSONS)[:5] == [("00", "01"), ("01", "02"), ("02", "03"), ("03", "04"), ("04", "05")]


def test_the_names_and_exercises_of_the_lessons_are_read_from_them():
    assert LESSONS["06"].name == "Against a U-Net" and LESSONS["05"].needs == ("03", "04")
    for number, lesson in LESSONS.items():
        drill = teaching.NOTEBOOKS / "exercises" / f"{lesson.stem}.ipynb"
        stubs = len(re.findall(rf"# Exercise {number}\.\d", drill.read_text())) if drill.exists() else 0
        assert lesson.exercises == stubs


def test_the_links_of_the_page_lead_somewhere():
    links = re.findall(r"\]\(([^)#\s]+)\)", PAGE)
    assert len(links) > 60
    assert not [link for link in links if "://" not in link and not (teaching.NOTEBOOKS / link).exists()]


def test_each_section_that_the_page_sends_to_is_there():
    quoted = re.findall(r'\[\d\d, "([^\]]+)"\]\((\d\d_\w+\.ipynb)\)', PAGE)
    for plan in ("In two hours", "In two days"):
        for line in rows(section(plan)):
            names = re.findall(r"\((\d\d_\w+\.ipynb)\)", line[2])
            quoted += [(title, name) for title in re.findall(r'"([^"]+)"', line[3]) for name in names[:1]]
    assert len(quoted) > 50
    assert not [(title, name) for title, name in quoted if not any(h.startswith(title) for h in headings(name))]


def test_a_plan_leaves_no_minute_open():
    def clock(text):
        hours, minutes = text.split(":")
        return 60 * int(hours) + int(minutes)

    first, second = section("In two days").split("| from | minutes | day 2 |")
    for text, length in ((section("In two hours"), 120), (first, 450), (second, 450)):
        plan = [(clock(line[0]), int(line[1])) for line in rows(text)]
        assert all(start + minutes == following for (start, minutes), (following, _) in pairwise(plan))
        assert sum(minutes for _, minutes in plan) == length


def test_each_lesson_has_a_belief_and_a_question():
    beliefs = rows(section("What learners believe"))
    assert len(beliefs) >= 12 and all(question.endswith("?") for _, question, _ in beliefs)
    assert {number for *_, where in beliefs for number in re.findall(r"\[(\d\d),", where)} == {*LESSONS}


def test_the_hint_that_the_page_shows_is_the_one_that_is_given(capsys):
    checks.check("03.1", lambda mu, logvar, noise: mu + logvar.exp() * noise)
    assert f"```\n{capsys.readouterr().out}```" in section("Exercises and solutions")


# --- the address, Binder and Colab -----------------------------------------------------------------------


SERVICES = r"https://(?:colab\.research\.google\.com/github|mybinder\.org/v2)/[^)\s]+"


def test_no_badge_leads_elsewhere_than_to_the_address_in_pyproject():
    right = {open_at(lesson.stem) for lesson in LESSONS.values() for open_at in (teaching.colab, teaching.binder)}
    for page in (PAGE, (ROOT / "README.md").read_text()):
        assert {*re.findall(SERVICES, page)} <= (right if teaching.address() else set())
    assert f'ADDRESS = "{teaching.address()}"' in (ROOT / "binder" / "colab.py").read_text()


def test_badges_appear_when_an_address_is_set(monkeypatch):
    monkeypatch.setattr(teaching, "address", lambda: "https://github.com/somebody/something")
    lines = teaching.table(LESSONS, TIMES).splitlines()
    for line, lesson in zip(lines[2:], LESSONS.values(), strict=True):
        assert re.findall(SERVICES, line) == [teaching.colab(lesson.stem), teaching.binder(lesson.stem)]
        assert all("somebody/something" in link for link in re.findall(SERVICES, line))
    assert lines[0].endswith("| open it |") and len({line.count(" | ") for line in (lines[0], lines[2])}) == 1


def test_the_page_shows_the_cell_for_colab_as_it_is():
    assert block("colab") == f"```python\n{(ROOT / 'binder' / 'colab.py').read_text()}```"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def needs():
    """What the library and the lessons need, as `pyproject.toml` says."""
    return PROJECT["dependencies"] + PROJECT["optional-dependencies"]["notebooks"]


def test_binder_asks_for_what_the_package_needs():
    conda = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text())
    assert conda["channels"] == ["conda-forge"]
    *lines, last = conda["dependencies"]
    called = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}  # as conda-forge calls the smaller builds
    found = {}
    for need in map(Requirement, [*lines, *last["pip"]]):
        name = canonicalize_name(need.name)
        assert name not in found, f"{name} comes twice"
        found[called.get(name, name)] = need.specifier
    wanted = {canonicalize_name(need.name): need.specifier for need in map(Requirement, needs())}
    python = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert found == wanted | {"python": python, "pip": Requirement("pip").specifier}


def recorder(folder, *names):
    """Programs of these names that only write down where and with what they were called."""
    folder.mkdir()
    for name in names:
        program = folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $* in $(basename "$PWD")" >> "{folder}/called"\n')
        program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def test_binder_builds_the_package_and_then_the_cohort(tmp_path):
    copy = tmp_path / "repository"
    shutil.copytree(ROOT / "binder", copy / "binder")
    env = recorder(tmp_path / "bin", "python", "vaelib")
    subprocess.run([copy / "binder" / "postBuild"], cwd=copy, env=env, check=True)
    called = (tmp_path / "bin" / "called").read_text().splitlines()
    assert called == [
        "python -m pip install --quiet --no-deps --editable . in repository",
        "vaelib phantom data/synthetic in repository",
        "vaelib prepare data/synthetic in repository",
    ]
    for line in called[1:]:
        assert line.split()[1] in app


def test_binder_starts_with_the_threads_of_the_tasks():
    said = subprocess.run(
        [ROOT / "binder" / "start", "sh", "-c", "echo $OMP_NUM_THREADS $0", "kept"], capture_output=True, text=True
    )
    threads = re.search(r'environ\.get\("OMP_NUM_THREADS", "(\d+)"\)', (ROOT / "noxfile.py").read_text())[1]
    assert (said.returncode, said.stdout) == (0, f"{threads} kept\n")


PUBLIC = "https://example.org/vaelib"  # stands for the address that the project does not have yet


@pytest.fixture
def colab(tmp_path):
    """A machine like Colab's as far as the cell can tell: a package of that name, a pip that only writes down."""
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    there = tmp_path / "there"
    for name in ("vaelib", "notebooks"):
        keep = shutil.ignore_patterns("__pycache__", "figures", "checkpoints", "*.ipynb")
        shutil.copytree(ROOT / name, there / name, ignore=keep)
    shutil.copy(ROOT / "pyproject.toml", there)
    for step in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=all"]):
        subprocess.run([*git, *step], cwd=there, check=True)
    stand_ins = tmp_path / "stand-ins"
    (stand_ins / "google" / "colab").mkdir(parents=True)
    (stand_ins / "google" / "colab" / "__init__.py").write_text("")
    (stand_ins / "pip").mkdir()
    (stand_ins / "pip" / "__init__.py").write_text("")
    (stand_ins / "pip" / "__main__.py").write_text(
        f"import sys\nopen({str(tmp_path / 'pip')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
    )
    env = recorder(tmp_path / "bin", "vaelib") | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(stand_ins)}
    rule = f"url.{there.as_uri()}.insteadOf"
    env |= {"PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1"}  # should the real one be called after all
    return env | {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": rule, "GIT_CONFIG_VALUE_0": PUBLIC}


def test_the_cell_for_colab_brings_a_machine_to_the_first_lesson(colab, tmp_path):
    (tmp_path / "home").mkdir()
    cell = re.sub('ADDRESS = ".*"', f'ADDRESS = "{PUBLIC}"', (ROOT / "binder" / "colab.py").read_text())
    check = "\nimport vaelib\nprint(vaelib.__file__, Path.cwd(), sep='|')\n"
    for _ in range(2):  # a cell is run twice before long
        done = subprocess.run(
            [sys.executable, "-c", cell + check], cwd=tmp_path, env=colab, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    home = tmp_path / "home" / "vaelib"
    assert done.stdout.strip() == f"{home / 'vaelib' / '__init__.py'}|{home / 'notebooks'}"
    lines, itself = (tmp_path / "pip").read_text().splitlines()[:2]
    found = {canonicalize_name(Requirement(word).name) for word in lines.split()[2:]}
    assert {canonicalize_name(Requirement(line).name) for line in needs()} - found == {
        "torch", "ipython", "ipywidgets", "jupyterlab"
    }  # fmt: skip
    assert itself == f"install --quiet --no-deps --editable {home}"
    called = (tmp_path / "bin" / "called").read_text().splitlines()
    assert called == 2 * ["vaelib phantom in vaelib", "vaelib prepare in vaelib"]


def test_the_cell_for_colab_stops_where_it_does_not_belong(tmp_path):
    cell = (ROOT / "binder" / "colab.py").read_text()
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", cell], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode and "google" in done.stderr and not [*tmp_path.iterdir()]
