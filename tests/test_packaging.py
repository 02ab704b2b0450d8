"""What is installed and how: names, versions, requirement files, the set-up script, a foreign basicsr."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import setup_env
from packaging.requirements import Requirement

import basicsr

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
EXTRAS = {"lmdb", "wandb", "gradio", "av", "spandrel", "onnxscript", "kornia", "dev"}
HEAVY = ("torch", "numpy", "cv2", "onnxruntime", "matplotlib", "tensorboard", "basicsr.archs", "basicsr.models")


def requirements(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def extras() -> dict[str, list[Requirement]]:
    section = PYPROJECT.split("[project.optional-dependencies]")[1].split("\n[")[0]
    found = re.findall(r"^(\w+) = (\[[^\]]*\])", section, re.MULTILINE)
    return {name: [Requirement(text) for text in re.findall(r'"([^"]+)"', body)] for name, body in found}


def run_python(*arguments: str, path: tuple[Path, ...] = (), cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_the_distribution_is_not_called_basicsr():
    assert re.search(r'^name = "id-codeformer"$', PYPROJECT, re.MULTILINE)
    named = [*requirements("requirements.txt"), *(item for items in extras().values() for item in items)]
    assert {"basicsr", "gfpgan", "realesrgan"} & {item.name for item in named} == set()


def test_a_version_is_known_with_and_without_an_installation():
    assert basicsr.__version__


def test_every_extra_that_the_documents_name_is_there():
    assert set(extras()) == EXTRAS


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, basicsr; print([name for name in {HEAVY} if name in sys.modules])"
    done = run_python("-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_tested_version_lies_in_its_range_and_every_range_has_one():
    pins = {(pin.name, str(pin.marker or "")): str(pin.specifier)[2:] for pin in requirements("constraints.txt")}
    wanted = [*requirements("requirements.txt"), *(item for items in extras().values() for item in items)]
    assert {item.name for item in wanted} - {name for name, _ in pins} == set()
    outside = [
        f"{item} but constraints.txt has {version}"
        for item in wanted
        for (name, _), version in pins.items()
        if name == item.name and not item.specifier.contains(version, prereleases=True)
    ]
    assert outside == []


def test_requirements_have_a_lower_bound_and_no_pin():
    for item in requirements("requirements.txt"):
        operators = {part.operator for part in item.specifier}
        assert ">=" in operators, item
        assert "==" not in operators, item


def test_the_set_up_reads_the_dev_list_that_pip_reads():
    assert setup_env.dev_tools(PYPROJECT) == [str(item) for item in extras()["dev"]]


def test_the_set_up_installs_one_opencv_and_never_both(tmp_path):
    command = setup_env.uv_command("uv", tmp_path, ["pytest"], headless=True, constrained=True)
    assert "opencv-python-headless>=4.10,<6" in command
    override = Path(command[command.index("--override") + 1])
    assert override.read_text().strip() == 'opencv-python ; sys_platform == "never"'
    with_window = setup_env.uv_command("uv", tmp_path, ["pytest"], headless=False, constrained=True)
    assert [word for word in with_window if "headless" in word] == []


def test_the_set_up_falls_back_from_uv_to_pip_and_from_tested_versions_to_ranges(tmp_path, monkeypatch):
    tried: list[list[str]] = []

    def fails_three_times(command: list[str], quiet: bool = False) -> bool:
        tried.append(command)
        return len(tried) == 4

    monkeypatch.setattr(setup_env, "find_uv", lambda venv: "uv")
    monkeypatch.setattr(setup_env, "run", fails_three_times)
    assert setup_env.install(tmp_path, "auto", headless=False) == "pip, untested versions"
    assert ["uv" if command[0] == "uv" else "pip" for command in tried] == ["uv", "pip", "uv", "pip"]
    assert ["constraints.txt" in command for command in tried] == [True, True, False, False]


def test_an_environment_that_is_ready_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_env, "make_venv", lambda venv: pytest.fail("made the environment again"))
    python = setup_env.python_of(tmp_path)
    python.parent.mkdir()
    python.touch()
    stamp = setup_env.fingerprint(headless=False) + "\nuv\n"
    (tmp_path / setup_env.STAMP).write_text(stamp)
    setup_env.set_up(tmp_path, "auto", headless=False)
    assert (tmp_path / setup_env.STAMP).read_text() == stamp


def test_an_interrupted_set_up_leaves_no_stamp_and_is_taken_up_again(tmp_path, monkeypatch):
    steps = []

    def interrupted(venv: Path, installer: str, headless: bool) -> str:
        steps.append("install")
        if steps.count("install") == 1:
            raise KeyboardInterrupt
        return "uv"

    monkeypatch.setattr(setup_env, "make_venv", lambda venv: steps.append("venv"))
    monkeypatch.setattr(setup_env, "install", interrupted)
    monkeypatch.setattr(setup_env, "check_imports", lambda venv, headless: headless)
    with pytest.raises(KeyboardInterrupt):
        setup_env.set_up(tmp_path, "auto", headless=True)
    assert not (tmp_path / setup_env.STAMP).exists()
    setup_env.set_up(tmp_path, "auto", headless=True)
    assert steps == ["venv", "install"] * 2
    assert (tmp_path / setup_env.STAMP).read_text().endswith("uv, opencv-python-headless\n")


def test_other_requirements_or_another_opencv_mean_another_environment(monkeypatch, tmp_path):
    plain = setup_env.fingerprint(headless=False)
    assert plain != setup_env.fingerprint(headless=True)
    for name in ("requirements.txt", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_text("other")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "setup_env.py").write_text("other")
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    assert plain != setup_env.fingerprint(headless=False)


def test_an_old_python_gets_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(setup_env, "OLDEST_PYTHON", (99, 0))
    assert setup_env.main(["--venv", str(tmp_path / "venv")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Python ")
    assert error.count("\n") == 1
    assert not (tmp_path / "venv").exists()


@pytest.fixture
def foreign_basicsr(tmp_path: Path) -> Path:
    """A site folder with PyPI's basicsr, as far as the import system can tell."""
    site = tmp_path / "site"
    (site / "basicsr").mkdir(parents=True)
    (site / "basicsr" / "__init__.py").write_text("__version__ = '1.4.2'\n")
    record = site / "basicsr-1.4.2.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: basicsr\nVersion: 1.4.2\n")
    (record / "RECORD").write_text("basicsr/__init__.py,,\nbasicsr-1.4.2.dist-info/METADATA,,\n")
    return site


@pytest.mark.parametrize(
    "script", ["scripts/download_pretrained_models.py", "basicsr/train.py", "inference_codeformer.py"]
)
def test_a_foreign_basicsr_stops_a_script_and_both_paths_are_named(foreign_basicsr, script):
    done = run_python(script, "--help", path=(foreign_basicsr,))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert str(foreign_basicsr / "basicsr") in done.stderr
    assert str(ROOT / "basicsr") in done.stderr
    assert "pip uninstall basicsr" in done.stderr


@pytest.mark.parametrize("script", ["scripts/download_pretrained_models.py", "basicsr/train.py"])
def test_a_script_runs_from_any_folder_without_an_installation(script, tmp_path):
    done = run_python(str(ROOT / script), "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_make_help_names_every_target_of_the_readme():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "demo-train", "test", "test-slow", "lint", "bench", "gpu-check", "clean"):
        assert re.search(rf"^  make {target}\s", done.stdout, re.MULTILINE), target
