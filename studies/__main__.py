"""Run studies: ``python -m studies [NAME ...]``, all of the synthetic cohort without a name.

``python -m studies real FOLDER`` runs one on a folder of real slices, ``real_case FOLDER`` one on that and
more. Networks once trained are kept.
"""

import sys
from importlib import import_module

import studies
from vaelib.cohort import open_cohort
from vaelib.engine.errors import InputError

REAL = "real", "real_case"  # what is not in the project


def main(asked: list[str]) -> int:
    """Run the studies of these names, write their results and tables, and return the status of the command."""
    known = studies.names()
    folder, asked = (asked[1:], asked[:1]) if len(asked) == 2 and asked[0] in REAL else ([], asked)
    if not folder and (of := next((name for name in REAL if name in asked), "")):
        print(f"{of}: name the folder of slices: python -m studies {of} FOLDER", file=sys.stderr)
        return 2
    if unknown := sorted({*asked} - {*known}):
        print(f"no study is called {', '.join(unknown)}: there are {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        lab = open_cohort()
        for name in asked or [name for name in known if name not in REAL]:
            study = import_module(f"studies.{name}")
            studies.write(name, study.run(lab, *folder))
            for mark, table in getattr(study, "tables", lambda record: {})(studies.read(name)).items():
                studies.into_page(table, mark)
            print(f"{name}: done", flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
