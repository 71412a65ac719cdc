# For Colab: paste this above the first cell of a lesson, and run it once. It takes some minutes.
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import google.colab  # noqa: F401 - anywhere else `make` does all of this

OWN = {"torch", "ipython", "ipywidgets", "jupyterlab"}  # Colab runs on its own versions of these; leave them alone
ADDRESS = ""  # of the repository, once it is public
home = Path.home() / "vaelib"
if not home.exists():
    subprocess.run(["git", "clone", "--depth=1", ADDRESS, str(home)], check=True)
project = tomllib.loads((home / "pyproject.toml").read_text())["project"]
wanted = project["dependencies"] + project["optional-dependencies"]["notebooks"]
wanted = [line for line in wanted if re.match(r"[\w-]+", line)[0].lower() not in OWN]
pip = [sys.executable, "-m", "pip", "install", "--quiet"]
subprocess.run([*pip, *wanted], check=True)
subprocess.run([*pip, "--no-deps", "--editable", str(home)], check=True)
sys.path.insert(0, str(home))  # this kernel began before the package was there
for step in ("phantom", "prepare"):  # the synthetic patients; each notebook gets a machine of its own
    subprocess.run(["vaelib", step], cwd=home, check=True)
os.chdir(home / "notebooks")
