"""The reference of the library: a page for each file of its root and for each of its folders."""

from pathlib import Path

from course import rooms


def title(text: str, line: str) -> str:
    """Make a heading in reStructuredText."""
    return f"{text}\n{line * len(text)}\n"


def page(room: str) -> str:
    """Write the page of one file or folder."""
    first, *_ = names = rooms.modules(room)
    blocks = [title(f"``{first}``" + (", the command line" if room == "cli" else ""), "=")]
    for name in names:
        if name != first:
            blocks.append(title(f"``{name}``", "-"))
        blocks.append(f".. automodule:: {name}\n   :members:\n   :ignore-module-all:\n   :member-order: bysource\n")
    return "\n".join(blocks)


def overview() -> str:
    """Write the page above them: what each is for, and which lesson teaches it."""
    groups = {"What the lessons teach": rooms.root_files(), "What it stands on": rooms.folders()}
    blocks = [Path(__file__).with_name("api.rst").read_text(encoding="utf-8")]
    for group, names in groups.items():
        lessons = {name: rooms.TAUGHT.get(name, ("", ""))[0] for name in names}
        said = {name: f" Lesson {number}." if number else "" for name, number in lessons.items()}
        blocks += [title(group, "-"), *(f":doc:`api/{n}`\n   {rooms.purpose(n)}{said[n]}\n" for n in names)]
    tree = "".join(f"   api/{name}\n" for name in sum(groups.values(), []))
    return "\n".join([*blocks, f".. toctree::\n   :hidden:\n\n{tree}"])


def write(folder: Path) -> None:
    """Write the reference into the sources of the book."""
    (folder / "api").mkdir(parents=True, exist_ok=True)
    (folder / "api.rst").write_text(overview(), encoding="utf-8")
    for room in rooms.root_files() + rooms.folders():
        (folder / "api" / f"{room}.rst").write_text(page(room), encoding="utf-8")
