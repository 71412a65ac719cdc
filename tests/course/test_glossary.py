"""The glossary is one list in three places: its page, the spellings of its words, and the links of the lessons."""

import copy
import re

import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from course.book.link_terms import SPELLINGS, link
from course.places import NOTEBOOKS, read_notebook

PAGE = NOTEBOOKS / "glossary.md"
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
ENTRIES = dict(re.findall(r"^## (.+)\n\n((?:(?!^## |^<a id).*\n?)*)", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def anchor(word: str) -> str:
    """What a code host, and the book, make of a heading."""
    return re.sub(r"[^\w-]", "", word.lower().replace(" ", "-"))


def test_each_word_has_spellings_and_each_spelling_a_word():
    assert list(map(anchor, ENTRIES)) == sorted(SPELLINGS)


def test_the_words_stand_in_order():
    assert list(ENTRIES) == sorted(ENTRIES, key=str.lower)


@pytest.mark.parametrize("word", ENTRIES)
def test_a_word_is_found_by_its_anchor_everywhere(word):
    # JupyterLab keeps the capitals of a heading in its anchor, a code host does not: where the two differ, an anchor
    # of its own stands above the heading.
    text, name = PAGE.read_text(encoding="utf-8"), anchor(word)
    assert (f'<a id="{name}"></a>\n\n## {word}\n' in text) == (name != word.replace(" ", "-"))


@pytest.mark.parametrize("word", ENTRIES)
def test_an_entry_is_short_and_says_where_its_word_is_taught(word):
    said, taught = ENTRIES[word].strip().split("\n\n")
    assert 2 <= len(re.findall(r"[.?](?=\s|$)", said)) <= 4
    assert taught.startswith("*Taught in* [")
    for lesson in re.findall(r"\]\((\w+\.ipynb)\)", taught.split("*Source:*")[0]):
        prose = "\n\n".join(c.source for c in read_notebook(NOTEBOOKS / lesson).cells if c.cell_type == "markdown")
        assert SPELLINGS[anchor(word)].search(prose), f"{lesson} has no {word}"


def test_the_entries_link_to_each_other():
    links = [name for text in ENTRIES.values() for name in re.findall(r"\]\(#([\w-]+)\)", text)]
    assert len(links) > 20 and set(links) <= set(SPELLINGS)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_first_use_of_each_word_is_linked(path):
    was = read_notebook(path)
    wanted = link(copy.deepcopy(was))
    for old, new in zip(was.cells, wanted.cells, strict=True):
        assert old.source == new.source, "run `python -m course.book.link_terms`"


def cells(*texts):
    """A notebook of a title and these cells, after its words have been linked; the cells alone."""
    nb = link(new_notebook(cells=[new_markdown_cell(text) for text in ("# A prior\n\nOf a prior.", *texts)]))
    return [cell.source for cell in nb.cells]


def test_a_word_is_linked_once_and_not_in_the_title():
    title, first, second = cells("No such thing.\n\nOf a *prior* and a prior.", "The prior.")
    assert (title, second) == ("# A prior\n\nOf a prior.", "The prior.")
    assert first == "No such thing.\n\nOf a *[prior](glossary.md#prior)* and a prior."


@pytest.mark.parametrize(
    "kept",
    [
        "## A prior",
        "| a prior | b |",
        "`prior`",
        "```\nprior\n```",
        "- a list\n\n  ```python\n  prior\n  ```",
        "$prior$ and $$\nprior\n$$",
        "[a prior](03_vae_training.ipynb)",
        "![a prior](figures/a.png)",
        "<details><summary>prior</summary>\n\nprior\n</details>",
        "**0.58**<!--gap/prior/mean-->",
        '<a name="prior">',
        "https://example.org/prior",
        "a priority, priors-of, un/prior",
    ],
)
def test_what_is_no_prose_keeps_its_words(kept):
    _, first, second = cells(kept, "The prior.")
    assert (first, second) == (kept, "The [prior](glossary.md#prior).")


def test_a_longer_word_is_not_taken_for_a_shorter_one():
    _, text = cells("In the aggregate\nposterior, a DICOM SEG, posterior collapse, the posterior.")
    assert re.findall(r"\[([^\]]+)\]\(glossary.md#([\w-]+)\)", text) == [
        ("aggregate\nposterior", "aggregate-posterior"),
        ("DICOM SEG", "dicom-seg"),
        ("posterior collapse", "posterior-collapse"),
        ("posterior", "posterior"),
    ]


def test_a_name_in_code_may_be_a_word():
    assert cells("The `beta` of it.")[1] == "The [`beta`](glossary.md#beta) of it."


def test_a_link_moves_to_the_first_use_and_a_second_run_changes_nothing():
    once = cells("A prior.", "The [prior](glossary.md#prior), and a [word](glossary.md#gone).")
    assert once[1:] == ["A [prior](glossary.md#prior).", "The prior, and a word."]
    assert cells(*once[1:]) == once
