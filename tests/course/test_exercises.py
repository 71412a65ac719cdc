"""The exercises: each stub runs and gets its hint, each solution passes, and a wrong answer is told what is wrong.

What the two notebooks of a lesson print was compared with a run by nbval; here the committed prints are read. The
typical wrong answers stand in `tests/course/wrong/`, one file a lesson.
"""

import inspect
import re
import runpy
import sys
from importlib import import_module
from pathlib import Path

import pytest
import test_notebooks as standards

from course import checks
from vaelib import InputError

FOLDER = standards.FOLDER
LESSONS = [path.stem for path in standards.PATHS]
TASK = re.compile(r"# Exercise (\d\d\.\d+)$")
SHARED = """the_format_is_valid its_cells_are_short its_code_is_plain_python an_ignored_output_is_asserted it_is_small
every_picture_has_words it_was_executed_in_order it_carries_nothing_of_one_machine it_has_one_setup_cell
it_uses_the_library it_states_a_measured_time""".split()


def pages(lesson):
    """The notebooks of exercises and of solutions that belong to a lesson."""
    return [standards.read(FOLDER / kind / f"{lesson}.ipynb") for kind in ("exercises", "solutions")]


def task(cell) -> str | None:
    """The name of the exercise whose answer stands in a cell."""
    found = TASK.match(standards.first_line(cell)) if cell.cell_type == "code" else None
    return found and found[1]


def told(page) -> dict[str, str]:
    """What the committed check of each exercise said, by its name."""
    said = ["".join(o.get("text", "") for o in c.outputs) for c in page.code if standards.calls(c, {"check"})]
    return {text.partition(":")[0]: text for text in said}


def docstring(name: str) -> str:
    """The first hint of an exercise."""
    lesson, number = name.split(".")
    return " ".join(
        inspect.getdoc(getattr(import_module(f"course.checks.lesson_{lesson}"), f"exercise_{number}")).split()
    )


@pytest.mark.parametrize("kind", ["exercises", "solutions"])
@pytest.mark.parametrize("lesson", LESSONS)
def test_a_notebook_of_exercises_keeps_the_standards(lesson, kind):
    page = standards.read(FOLDER / kind / f"{lesson}.ipynb")
    wrong = [f"{name}: {line}" for name in SHARED for line in standards.RULES[name](page)]
    first = page.cells[0].source
    if not first.startswith(f"# {kind.title()} to {lesson[:2]} "):
        wrong.append("it has another title")
    links = [link for c in page.markdown for link in standards.LINK.findall(c.source) if "://" not in link]
    wrong += [f"link to {link}, which does not exist" for link in links if not (page.path.parent / link).exists()]
    other = {"exercises": "solutions", "solutions": "exercises"}[kind]
    wrong += [f"no link to {to}" for to in (f"../{lesson}.ipynb", f"../{other}/{lesson}.ipynb") if to not in links]
    assert not wrong, wrong


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_lesson_sends_its_reader_there(lesson):
    text = standards.read(FOLDER / f"{lesson}.ipynb").section("Exercises")
    assert f"(exercises/{lesson}.ipynb)" in text and f"(solutions/{lesson}.ipynb)" in text
    names = [task(cell) for cell in pages(lesson)[0].code if task(cell)]
    assert len(re.findall(r"^\d\. ", text, re.MULTILINE)) == len(names)


@pytest.mark.parametrize("lesson", LESSONS)
def test_there_are_three_exercises_or_more_and_each_is_checked(lesson):
    page, _ = pages(lesson)
    names = [task(cell) for cell in page.code if task(cell)]
    assert names == [f"{lesson[:2]}.{k + 1}" for k in range(max(3, len(names)))]
    for name in names:
        n = next(n for n, cell in enumerate(page.cells) if task(cell) == name)
        assert page.cells[n - 1].cell_type == "markdown" and page.cells[n - 1].source.startswith("## ")
        (call,) = standards.calls(page.cells[n + 1], {"check"})
        assert call.args[0].value == name
        assert "..." in page.cells[n].source, f"{name} is no stub"


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_solution_changes_nothing_but_the_answers(lesson):
    def common(cell):
        looks = "# Look" in cell.source.splitlines()[:2]  # the marker for nbval may stand above it
        return not (cell.source.startswith("**What comes out.**") or looks or task(cell))

    ours, theirs = ([cell.source for cell in page.cells[1:] if common(cell)] for page in pages(lesson))
    assert ours == theirs
    assert [task(c) for c in pages(lesson)[0].code if task(c)] == [task(c) for c in pages(lesson)[1].code if task(c)]


@pytest.mark.parametrize("lesson", LESSONS)
def test_each_stub_got_its_hint_and_each_solution_passed(lesson):
    stubs, solved = map(told, pages(lesson))
    assert stubs.keys() == solved.keys() and stubs
    for name in stubs:
        assert stubs[name].startswith(f"{name}: not yet.") and docstring(name) in stubs[name]
        assert "Traceback" not in stubs[name]
        assert solved[name] == f"{name}: right.\n"


def wrong_answers(lesson):
    """Typical wrong answers by exercise, each with words that its hint must contain."""
    path = Path(__file__).parent / "wrong" / f"lesson_{lesson[:2]}.py"
    return runpy.run_path(str(path))["WRONG"] if path.is_file() else {}


@pytest.mark.parametrize("lesson", LESSONS)
def test_each_exercise_has_a_wrong_answer(lesson):
    assert {name for name, cases in wrong_answers(lesson).items() if cases} == set(told(pages(lesson)[0]))


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        pytest.param(name, *case, id=f"{name}-{k}")
        for lesson in LESSONS
        for name, cases in wrong_answers(lesson).items()
        for k, case in enumerate(cases)
    ],
)
def test_a_wrong_answer_is_told_what_is_wrong(name, answer, words, capsys):
    checks.check(name, *answer)
    said = capsys.readouterr().out
    assert said.startswith(f"{name}: not yet.") and words in said


# --- the machinery ---------------------------------------------------------------------------------------


@pytest.fixture
def lesson(monkeypatch):
    """A lesson 99 with one exercise: a function that doubles."""

    def exercise_1(answer):
        """Twice a number
        is the number plus itself.
        """
        checks.expect(checks.attempt(answer, 3) == 6, "twice 3 is not what it returns")

    module = type(inspect)("course.checks.lesson_99")
    module.exercise_1 = exercise_1
    monkeypatch.setitem(sys.modules, module.__name__, module)


FIRST = "Twice a number is the number plus itself."


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda n: 2 * n, "99.1: right."),
        (lambda n: n, f"99.1: not yet. twice 3 is not what it returns\n      Hint: {FIRST}"),
        (lambda n: None, f"99.1: not yet. it returns nothing yet\n      Hint: {FIRST}"),
        (lambda n: n / 0, f"99.1: not yet. it stops with ZeroDivisionError: division by zero\n      Hint: {FIRST}"),
        (lambda: 6, f"99.1: not yet. it stops with TypeError: .* takes 0 positional .*\n      Hint: {FIRST}"),
        (6, f"99.1: not yet. a function is wanted here, and this is int\n      Hint: {FIRST}"),
        (None, f"99.1: not yet. {FIRST}"),
        (..., f"99.1: not yet. {FIRST}"),
    ],
)
def test_a_check_prints_a_hint_and_never_a_traceback(lesson, answer, said, capsys):
    assert checks.check("99.1", answer) is None  # a value would be shown below what is printed
    assert re.fullmatch(said, capsys.readouterr().out.rstrip("\n"))


def test_an_answer_that_cannot_be_looked_at_is_a_hint_too(lesson, capsys):
    checks.check("99.1", 1, 2)  # two values where one is wanted
    assert "cannot be looked at (TypeError" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["99.1", "00.99", "00", "", "00.1.1", "../x.1"])
def test_an_exercise_that_does_not_exist_is_an_error_of_ours(name):
    with pytest.raises(InputError, match="no such exercise"):
        checks.check(name, 1)


def test_a_folded_answer_is_escaped():
    assert checks.fold("1 < 2\nso").data == "<details><summary>Answer</summary><p>1 &lt; 2</p><p>so</p></details>"
