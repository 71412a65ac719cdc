"""Make the numbers anew: ``python -m studies [NAME ...]``, all without a name. Trained networks are kept.

The last two make no numbers, but pages of them: slides for a lecture, and the tables of the teacher's page.
"""

import sys
from importlib import import_module

STUDIES = ("against", "gap", "sizes", "volumes", "only", "bugs", "slides", "teaching")
if __name__ == "__main__":
    if unknown := {*sys.argv[1:]} - {*STUDIES}:
        sys.exit(f"no study is called {', '.join(sorted(unknown))}: there are {', '.join(STUDIES)}")
    for name in sys.argv[1:] or STUDIES:
        import_module(f"studies.{name}").run()
        print(f"{name}: done", flush=True)
    import_module("studies.tables").write()
