"""A JupyterLab of this environment on loopback, with a root folder and a memory of its own, for the browser tests."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil

# Nothing is asked of a server outside, and the page gets `window.jupyterapp`, to run a notebook by its own command.
OPTIONS = """--no-browser --allow-root --expose-app-in-browser --ServerApp.ip=127.0.0.1 --ServerApp.port_retries=0
--LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate
--LabApp.extension_manager=readonly""".split()
# Should the tests be killed, nobody ends the server: it then ends its idle kernels, and itself.
OPTIONS += """--MappingKernelManager.cull_idle_timeout=300 --MappingKernelManager.cull_interval=60
--ServerApp.shutdown_no_activity_timeout=300""".split()
SUBFOLDERS = {
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTERLAB_SETTINGS_DIR": "settings",
    "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    "IPYTHONDIR": "ipython",
    "MPLCONFIGDIR": "matplotlib",
}


@contextlib.contextmanager
def lab(root, memory):
    """Start JupyterLab on the folder `root`, what it remembers in `memory`; give its address with the token in it."""
    silent = memory / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    silent.parent.mkdir(parents=True)
    silent.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # or a dialogue asks, over the picture
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    env = {k: v for k, v in os.environ.items() if k != "VAELIB_DATA" and not k.startswith(("JUPYTER", "MAKE"))}
    env |= {name: str(memory / folder) for name, folder in SUBFOLDERS.items()}
    env |= {"TQDM_DISABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # a thread that waits must leave its core to the browser
    options = [f"--ServerApp.port={port}", f"--ServerApp.root_dir={root}", f"--IdentityProvider.token={token}"]
    log = memory / "server.log"
    with log.open("w") as out:
        command = [sys.executable, "-m", "jupyterlab", *OPTIONS, *options]
        server = subprocess.Popen(command, cwd=root, env=env, stdout=out, stderr=out, start_new_session=True)
        try:
            _wait(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
            yield f"http://127.0.0.1:{port}", token
        finally:
            _stop(server)


def _wait(url, server, log):
    for _ in range(240):
        if server.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            return urllib.request.urlopen(url, timeout=5).close()
        time.sleep(0.25)
    raise RuntimeError(f"JupyterLab did not come up:\n{log.read_text()[-2000:]}")


def _stop(server):
    """End the server, which ends its kernels, and then whatever of them is left."""
    family = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(20)
    _, left = psutil.wait_procs(family, timeout=5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    server.wait()
