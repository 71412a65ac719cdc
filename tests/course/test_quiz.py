"""The questions at the end of the lessons: complete, answerable, and in the notebooks as their data have them."""

import copy
import re

import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from course import quiz
from course.places import NOTEBOOKS, read_notebook
from vaelib.engine.errors import InputError

ASKED = quiz.questions()
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
EACH = [pytest.param(q, id=f"{lesson}.{n}") for lesson, asked in ASKED.items() for n, q in enumerate(asked, 1)]
TEACHERS = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
SHORT = {
    "lesson": "00",
    "ask": "How much is `x`?",
    "shown": "Where?",
    "key": "ladder/patients/test",
    "answer": [
        {"text": str(n), "value": n, "says": f"It is {{ladder/patients/test|.1f}}, not {n}."} for n in range(9, 13)
    ],
}  # fmt: skip


def small():
    return new_notebook(cells=[new_markdown_cell(t) for t in ("# A\n\n## Where?", "## Key points\n\n- One.")])


def test_each_misconception_of_the_teachers_page_is_asked_about_once():
    table = TEACHERS.partition("## What learners believe")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!what is believed|-)(.+?) \|", table, re.MULTILINE)
    believed = [q["believed"] for asked in ASKED.values() for q in asked if "believed" in q]
    assert len(rows) == 25 and sorted(rows) == sorted(believed)


def test_each_lesson_has_two_or_three_questions():
    assert sorted(ASKED) == [path.name[:2] for path in LESSONS]
    assert {len(asked) for asked in ASKED.values()} <= {2, 3}


@pytest.mark.parametrize("question", EACH)
def test_a_question_has_four_answers_each_with_its_reason(question):
    answers = question["answer"]
    assert len(answers) == 4 == len({a["text"] for a in answers}) and all(a["says"].endswith(".") for a in answers)
    assert 0 <= quiz.key(question) <= 3
    assert set(question) <= {"lesson", "believed", "ask", "shown", "key", "answer"}
    assert all(set(a) <= {"text", "says", "see", "right", "value"} for a in answers)
    assert "$" not in quiz.folded(question) and "{" not in quiz.folded(question)


def test_neither_place_nor_length_gives_the_answer_away():
    questions = [q for asked in ASKED.values() for q in asked]
    places = [quiz.key(q) for q in questions]
    assert all(places.count(n) >= len(questions) / 6 for n in range(4))
    longest = [max(range(4), key=lambda n: len(q["answer"][n]["text"])) == quiz.key(q) for q in questions]
    assert sum(longest) <= 0.4 * len(questions)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_its_questions_as_the_data_make_them(path):
    assert not quiz.put(read_notebook(path), ASKED[path.name[:2]]), "run `python -m course`"


def test_the_cell_stands_before_the_key_points_and_a_second_run_changes_nothing():
    nb = small()
    assert quiz.put(nb, [SHORT]) and [c.source[:6] for c in nb.cells] == ["# A\n\n#", "## Che", "## Key"]
    once = copy.deepcopy(nb)
    assert not quiz.put(nb, [SHORT]) and nb == once
    nb.cells[1].source = nb.cells[1].source.replace("Choose", "[Choose](glossary.md#decoder)")
    assert not quiz.put(nb, [SHORT])
    nb.cells.append(nb.cells.pop(1))
    assert quiz.put(nb, [SHORT]) and nb == once


def test_a_wrong_answer_leads_to_the_heading_that_shows_it():
    text = quiz.cell([SHORT]).source
    assert text.count("<details>") == 4 and text.count('<a href="#Where?">Where?</a>') == 3
    assert text.count("<strong>Right.</strong> It is 12.0, not 12.") == 1 and "\n\n<details>" in text
    assert not re.search(r"</details>\n\n<details>", text)  # a blank line would end the block of HTML
    assert quiz.link("Too large a `beta`") == '<a href="#Too-large-a-beta">Too large a <code>beta</code></a>'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shown": "Nowhere"}, "no heading 'Nowhere'"),
        ({"key": "ladder/patients/val"}, "0 of 4 answers are right"),
        ({"key": "ladder/patients/nobody"}, "no such number"),
        ({"key": "nothing/at/all"}, "no such number"),
    ],
)
def test_what_does_not_add_up_is_an_error(change, said):
    with pytest.raises(InputError, match=said):
        quiz.put(small(), [SHORT | change])


def test_a_notebook_without_key_points_is_an_error():
    with pytest.raises(InputError, match="Key points"):
        quiz.put(new_notebook(cells=small().cells[:1]), [SHORT])
