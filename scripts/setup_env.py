"""Make the virtual environment that `make demo`, `make test` and the other targets run in. Standard library only.

Reads requirements.txt, constraints.txt and the `dev` list of pyproject.toml. Uses uv where it is there or installs,
else pip. A stamp file in the environment remembers what it was made from: run again, this returns at once; after an
interruption it goes on with what is there.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 10)
STAMP = ".idcf_setup"
IMPORT_CHECK = "import cv2, torch, torchvision"
HEADLESS = "opencv-python-headless"


class SetupError(Exception):
    """The environment could not be made; the text is one line and says the way out."""


def python_of(venv: Path) -> Path:
    """The interpreter inside a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environment_without_downloads() -> dict[str, str]:
    """The caller's environment; uv must not fetch a Python of its own, nor look at an active environment."""
    return {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(command: list[str], quiet: bool = False) -> bool:
    """Run a command in the repository root and say whether it succeeded."""
    if not quiet:
        print("+ " + shlex.join(command), flush=True)
    output = subprocess.DEVNULL if quiet else None
    try:
        return (
            subprocess.run(
                command, cwd=ROOT, env=environment_without_downloads(), stdout=output, stderr=output, check=False
            ).returncode
            == 0
        )
    except OSError as error:
        print(f"{command[0]}: {error}", flush=True)
        return False


def opencv_runs_with_a_window() -> bool:
    """Whether `opencv-python` can be imported here: on Linux it needs libGL.so.1, which bare servers lack."""
    if not sys.platform.startswith("linux"):
        return True
    try:
        ctypes.CDLL("libGL.so.1")
    except OSError:
        return False
    return True


def dev_tools(pyproject: str) -> list[str]:
    """The `dev` list of pyproject.toml. Python 3.10 has no tomllib, and nothing is installed yet."""
    match = re.search(r"^dev = (\[.*?^\])", pyproject, re.MULTILINE | re.DOTALL)
    if match is None:
        raise SetupError("pyproject.toml: no list 'dev = [' with one requirement a line under optional-dependencies.")
    return [str(item) for item in ast.literal_eval(match.group(1))]


def fingerprint(headless: bool) -> str:
    """What the environment is made from, as one hash."""
    digest = hashlib.sha256(f"{sys.version}|{platform.platform()}|{ROOT}|headless={headless}".encode())
    for name in ("requirements.txt", "constraints.txt", "pyproject.toml", "scripts/setup_env.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def exclusive(lock_path: Path) -> Iterator[None]:
    """Two `make` runs at once: the second waits for the first."""
    with lock_path.open("w") as lock_file:
        if os.name != "nt":
            import fcntl

            fcntl.flock(lock_file, fcntl.LOCK_EX)
        yield


def make_venv(venv: Path) -> None:
    """An environment with a working interpreter; what an interruption left is kept where it still runs."""
    python = python_of(venv)
    if python.exists() and run([str(python), "-c", "import pip"], quiet=True):
        return
    uv = shutil.which("uv")
    # With pip inside (--seed), because pip is the fall-back where uv reaches no index.
    if uv and run([uv, "venv", "--quiet", "--seed", "--clear", "--python", sys.executable, str(venv)]):
        return
    if run([sys.executable, "-m", "venv", "--clear", str(venv)]):
        return
    raise SetupError(
        f"{venv}: no virtual environment could be made. On Debian and Ubuntu install python3-venv, or install uv, "
        "and run again."
    )


def find_uv(venv: Path) -> str | None:
    """uv from the PATH, from the environment, or freshly installed into it; None where it cannot be had."""
    on_path = shutil.which("uv")
    if on_path:
        return on_path
    inside = python_of(venv).with_name("uv.exe" if os.name == "nt" else "uv")
    if not inside.exists():
        run([str(python_of(venv)), "-m", "pip", "install", "--quiet", "uv"])
    return str(inside) if inside.exists() else None


def uv_command(uv: str, venv: Path, tools: list[str], headless: bool, constrained: bool) -> list[str]:
    """The uv call that installs everything; an override takes opencv-python out of every package's demands."""
    command = [uv, "pip", "install", "--python", str(python_of(venv)), "-r", "requirements.txt"]
    if constrained:
        command += ["-c", "constraints.txt"]
    if headless:
        override = venv / "idcf_overrides.txt"
        override.write_text('opencv-python ; sys_platform == "never"\n', encoding="utf-8")
        command += ["--override", str(override), opencv_requirement(HEADLESS)]
    return command + tools


def opencv_requirement(name: str) -> str:
    """The OpenCV line of requirements.txt, for the distribution `name`."""
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("opencv-python"):
            return line.replace("opencv-python", name, 1)
    raise SetupError("requirements.txt: no line for opencv-python.")


def install_with_pip(venv: Path, tools: list[str], headless: bool, constrained: bool) -> bool:
    """pip knows no override: facexlib and insightface bring opencv-python, which is then exchanged."""
    pip = [str(python_of(venv)), "-m", "pip"]
    limits = ["-c", "constraints.txt"] if constrained else []
    if not run([*pip, "install", *limits, "-r", "requirements.txt", *tools]):
        return False
    return not headless or exchange_opencv(pip, limits)


def exchange_opencv(pip: list[str], limits: list[str]) -> bool:
    """Both distributions own the folder cv2/: remove the one wholly before the other comes."""
    run([*pip, "uninstall", "--yes", "--quiet", "opencv-python", HEADLESS])
    return run([*pip, "install", "--no-deps", *limits, opencv_requirement(HEADLESS)])


def install(venv: Path, installer: str, headless: bool) -> str:
    """Install the requirements and the tools, and say what did it.

    Tested versions first, by uv, then by pip; then whatever the ranges of requirements.txt allow.
    """
    tools = dev_tools((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    uv = find_uv(venv) if installer in ("auto", "uv") else None
    for constrained in (True, False):
        if not constrained:
            print("the versions of constraints.txt cannot be had here: trying the ranges of requirements.txt")
        note = "" if constrained else ", untested versions"
        if uv and run(uv_command(uv, venv, tools, headless, constrained)):
            return "uv" + note
        if installer in ("auto", "pip") and install_with_pip(venv, tools, headless, constrained):
            return "pip" + note
    raise SetupError("the requirements could not be installed, the lines above say why. Is a package index reachable?")


def check_imports(venv: Path, headless: bool) -> bool:
    """Import what most often does not. Returns whether OpenCV is the headless one now."""
    python = str(python_of(venv))
    if run([python, "-c", IMPORT_CHECK], quiet=True):
        return headless
    if not headless:
        print("opencv-python cannot be imported here: exchanging it for " + HEADLESS)
        if exchange_opencv([python, "-m", "pip"], []) and run([python, "-c", IMPORT_CHECK], quiet=True):
            return True
    run([python, "-c", IMPORT_CHECK])
    raise SetupError(f"{venv}: installed, but the imports above fail. Remove the folder {venv} and run again.")


def set_up(venv: Path, installer: str, headless: bool) -> None:
    """Bring `venv` to the state that the requirement files ask for."""
    started = time.monotonic()
    stamp, wanted = venv / STAMP, fingerprint(headless)
    if stamp.exists() and stamp.read_text(encoding="utf-8").startswith(wanted) and python_of(venv).exists():
        return
    print(f"setting up {venv} (once; a few minutes on a slow line)", flush=True)
    stamp.unlink(missing_ok=True)
    make_venv(venv)
    tool = install(venv, installer, headless)
    opencv = HEADLESS if check_imports(venv, headless) else "opencv-python"
    written = stamp.with_name(STAMP + ".new")
    written.write_text(f"{wanted}\n{tool}, {opencv}\n", encoding="utf-8")
    os.replace(written, stamp)  # a kill before this line only means that the next run goes on
    print(f"{venv} is ready: {tool}, {opencv}, {time.monotonic() - started:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the environment (.venv)")
    parser.add_argument("--installer", choices=("auto", "uv", "pip"), default="auto", help="auto: uv, else pip")
    parser.add_argument(
        "--opencv",
        choices=("auto", "full", "headless"),
        default="auto",
        help="auto: headless where libGL.so.1 is absent",
    )
    args = parser.parse_args(argv)
    if sys.version_info < OLDEST_PYTHON:
        found, needed = platform.python_version(), ".".join(map(str, OLDEST_PYTHON))
        print(
            f"error: Python {found} at {sys.executable} is too old, {needed} or newer is needed: "
            f"make PYTHON=python{needed} <target>",
            file=sys.stderr,
        )
        return 2
    headless = args.opencv == "headless" or (args.opencv == "auto" and not opencv_runs_with_a_window())
    args.venv.parent.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(args.venv.with_name(args.venv.name + ".lock")):
            set_up(args.venv, args.installer, headless)
    except (SetupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
