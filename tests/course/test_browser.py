"""The widgets of the lessons in a real browser, with the kernel stopped: moved by keyboard, and the picture follows.

Each lesson that has a widget runs in JupyterLab, in a headless Chromium: the cells that its widgets stand on, for nbval
runs them all. `build/browser` then holds a picture of each widget, and `latency.json` there the milliseconds from a key
to the new picture: medians by control.
"""

import ast
import builtins
import json
import shutil
import statistics

import jupyter
import nbformat
import pytest
from test_notebooks import FOLDER, PATHS, WIDGETS, calls, read, tree

OUT = FOLDER.parent / "build" / "browser"
LESSONS = {path: [call for cell in read(path).code for call in calls(cell, WIDGETS)] for path in PATHS}
LESSONS = {path: [getattr(call.func, "attr", None) for call in found] for path, found in LESSONS.items() if found}
SHOWING = {"show", "print", "fold"}
PRESSES = ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowRight", "ArrowRight")  # the last leaves it moved
STATE = "document.querySelectorAll('.jp-Notebook .jp-Cell').length + ' ' + {0}.activeCellIndex + ' ' + {0}.mode"
STATE = STATE.replace("{0}", "jupyterapp.shell.currentWidget.content")
# Before a key is pressed: `window.followed` will be the milliseconds from it to the next frame after the board was
# drawn anew, and how often it was drawn until two frames later.
WATCH = """(root) => {
  const { board } = root, before = board.draws;
  window.followed = new Promise((resolve) => {
    document.addEventListener("keydown", () => {
      const begin = performance.now();
      board.after = () => {
        board.after = null;
        requestAnimationFrame(() => {
          const took = performance.now() - begin;
          requestAnimationFrame(() => requestAnimationFrame(() => resolve([took, board.draws - before])));
        });
      };
    }, {capture: true, once: true});
    setTimeout(() => resolve([null, board.draws - before]), 20000);
  });
}"""
# The name of what has the focus.
FOCUS = """() => {
  const at = document.activeElement;
  return (at.ariaLabel || at.labels?.[0]?.innerText || at.innerText).trim();
}"""
SEEN = """(root) => [...root.querySelectorAll("canvas")].map((canvas) => canvas.toDataURL()).join()
  + root.querySelector(".pictures").innerText"""
CONTROLS = ":is(select, input, button)"
KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"


def names(nodes, *kinds):
    """The names that are read (`ast.Load`) or bound (`ast.Store`) in some nodes, imports and definitions among them."""
    found = set()
    for node in (inner for top in nodes for inner in ast.walk(top)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, kinds):
            found.add(node.id)
        elif ast.Store in kinds and isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif ast.Store in kinds and isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
    return found


def stands_on(page):
    """The code cells without which the widgets of a lesson would not be what they are, in order.

    From the last widget backwards: a cell that makes a name that is still needed, or works on one in a statement of its
    own, such as a call or a loop, and does not only show it.
    """
    needed, kept = set(), []
    imports = [part for cell in page.code for part in tree(cell).body if isinstance(part, ast.Import | ast.ImportFrom)]
    taken = names(imports, ast.Store)
    for cell in reversed(page.code):
        body = tree(cell).body
        works = [part for part in body if isinstance(part, ast.Expr | ast.For | ast.With) and not calls(cell, SHOWING)]
        if calls(cell, WIDGETS) or needed & (names(body, ast.Store) | names(works, ast.Load) - taken):
            kept.insert(0, cell)
            needed |= names(body, ast.Load) - set(dir(builtins))
    return kept


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = OUT / "notebooks"  # below the folder that holds `data/`, so that the lessons find patients and models
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(FOLDER, folder)
    for path in LESSONS:
        page = read(path)
        page.nb.cells = stands_on(page)
        nbformat.write(page.nb, folder / path.name)
    with jupyter.lab(folder, tmp_path_factory.mktemp("memory")) as address:
        yield address


@pytest.fixture(scope="module")
def latency(chromium):
    """Milliseconds by widget and control, written and printed when all lessons are through."""
    found = {}
    yield found
    OUT.mkdir(parents=True, exist_ok=True)
    medians = {name: {c: round(statistics.median(ms)) for c, ms in took.items()} for name, took in found.items()}
    for name, took in found.items():
        medians[name]["all"] = round(statistics.median(sum(took.values(), [])))
        print(f"\n{name}: {medians[name]['all']} ms from key to picture, at the median")
    (OUT / "latency.json").write_text(json.dumps(medians, indent=1) + "\n")


@pytest.fixture
def page(chromium, server, request):
    """A lesson, opened and run from the first cell to the last, its kernel stopped; and what went wrong on the page."""
    address, token = server
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    page.wrong = []
    page.on("console", lambda said: page.wrong.append(f"{said.text} {said.location}") if said.type == "error" else None)
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.goto(f"{address}/lab/tree/{request.param.name}?reset&token={token}")
    page.wait_for_function(f"{KERNEL}?.status === 'idle'")
    assert page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')"), "a cell raised"
    page.wait_for_function(f"{KERNEL}.status === 'idle'")
    drawn = "[...document.querySelectorAll('.vaelib-live')].filter((root) => root.board?.draws).length"
    page.wait_for_function(f"{drawn} === {len(LESSONS[request.param])}")
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.wait_for_function(f"!{KERNEL}")
    yield page
    page.close()


def press(page, board, control, key):
    """Press a key in a control, and wait until the picture has followed: milliseconds."""
    before = board.evaluate(SEEN)
    board.evaluate(WATCH)
    control.focus()
    page.keyboard.press(key)
    took, draws = page.evaluate("window.followed")
    assert draws == 1, f"{key}: {draws} draws"
    assert board.evaluate(SEEN) != before, f"{key}: the same picture again"
    return took


def by_tab(page, board):
    """The names of what has the focus while Tab goes through a board, from its first control to its end."""
    board.locator(CONTROLS).first.focus()
    names = []
    while board.evaluate("board => board.contains(document.activeElement)"):
        names.append(page.evaluate(FOCUS))
        page.keyboard.press("Tab")
    return names


def move_everything(page, board):
    """Change every control of a board by keyboard; milliseconds by the name of the control."""
    took = {}
    for slider in board.get_by_role("slider").all():
        name = slider.evaluate("slider => slider.labels[0].innerText")
        took[name] = [press(page, board, slider, key) for key in PRESSES]
    # where "to" and the kind of step matter: the last slider went back to a slice of the map
    board.evaluate("root => root.board.controls.morph && root.board.set({morph: 0.5, 'slider 1': 1})")
    page.wait_for_timeout(100)
    for chosen in board.get_by_role("combobox").all():
        at_end = chosen.evaluate("list => list.selectedIndex === list.length - 1")
        keys = ("ArrowUp", "ArrowUp") if at_end else ("ArrowDown", "ArrowUp")  # the last may be "as dragged"
        took[chosen.evaluate("list => list.labels[0].innerText")] = [press(page, board, chosen, key) for key in keys]
    for button in board.get_by_role("button").all():
        took[button.inner_text()] = [press(page, board, button, "Enter")]
    return took


@pytest.mark.parametrize("page", LESSONS, ids=lambda path: path.stem, indirect=True)
def test_every_control_moves_the_picture_by_keyboard_without_a_kernel(page, latency, request):
    path = request.node.callspec.params["page"]
    boards = page.locator(".vaelib-live")
    assert boards.count() == len(LESSONS[path])
    for n, name in enumerate(LESSONS[path]):
        board = boards.nth(n)
        board.scroll_into_view_if_needed()
        board.locator(CONTROLS).first.focus()  # which makes its cell the active one
        state = page.evaluate(STATE)
        took = move_everything(page, board)
        assert page.evaluate(STATE) == state, "a key went to the notebook"
        missed = set(took) - set(by_tab(page, board))
        assert not missed, f"Tab does not reach {missed}"
        words = board.locator(".caption").inner_text()
        assert all(words in one.get_attribute("aria-label") for one in board.get_by_role("img").all())
        OUT.mkdir(parents=True, exist_ok=True)
        board.screenshot(path=OUT / f"{path.stem}_{name}.png")
        latency[f"{path.stem}, {name}"] = took
    assert page.wrong == []
