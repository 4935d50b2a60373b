"""The house: folders, packages, links, scripts, and the wheel as others install it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("models", "producer", "storage", "worker")
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def files_of(folder: str) -> list[Path]:
    return [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def package_name(folder: Path) -> str:
    return ".".join(("soundmill", *folder.relative_to(ROOT).parts))


def test_every_package_under_the_four_folders_is_listed_for_installation() -> None:
    found = {
        package_name(path.parent)
        for folder in FOLDERS
        for path in files_of(folder)
        if path.name == "__init__.py"
    }

    assert set(SETUP["packages"]) == found


def test_every_folder_with_python_in_it_is_a_package() -> None:
    for folder in FOLDERS:
        for path in files_of(folder):
            if path.suffix == ".py":
                assert (path.parent / "__init__.py").exists(), path


def test_each_folder_is_the_package_of_its_name() -> None:
    assert SETUP["package-dir"] == {f"soundmill.{folder}": folder for folder in FOLDERS}


def test_type_checkers_see_each_folder_through_a_relative_link() -> None:
    links = {path.name: path.readlink() for path in (ROOT / ".typing" / "soundmill").iterdir()}

    assert links == {folder: Path("../..") / folder for folder in FOLDERS}


def test_every_script_can_be_run_and_is_valid_bash() -> None:
    scripts = [ROOT / ".ci" / "run", *(path for path in (ROOT / "scripts").iterdir() if not path.suffix)]

    assert {"demo", "lint", "test"} <= {path.name for path in scripts}
    for path in [*scripts, ROOT / "scripts" / "environment.sh"]:
        assert os.access(path, os.X_OK) == (not path.suffix), path
        subprocess.run(["bash", "-n", path], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a `build` folder in the checkout would leak old files into it."""
    copy = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.name in {"LICENSE", "NOTICE", "README.md", "pyproject.toml"}:
            shutil.copy(path, copy)
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    subprocess.run([*build, "--outdir", out, copy], check=True, cwd=out)
    shutil.rmtree(copy)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel; its dependencies are this environment's."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", f"--python={python}"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], check=True)
    # A plain path: the .pth files over there, and with them the editable install, are not read.
    site_packages = next((venv / "lib").glob("python*/site-packages"))
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(dependencies)))
    return python


def run_installed(program: Path, *arguments: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [program, *arguments], check=False, cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_four_folders_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"soundmill/{path.relative_to(ROOT)}" for folder in FOLDERS for path in files_of(folder)}
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}

    assert names - metadata == expected
    assert {"LICENSE", "NOTICE"} <= {name.rsplit("/", 1)[1] for name in metadata}


@pytest.mark.slow
def test_the_installed_packages_work_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "".join(f"import soundmill.{name}; print(soundmill.{name}.__file__)\n" for name in FOLDERS)

    places = run_installed(installed, "-c", code, cwd=tmp_path).split()

    site_packages = next((installed.parent.parent / "lib").glob("python*/site-packages"))
    assert places == [str(site_packages / "soundmill" / name / "__init__.py") for name in FOLDERS]


@pytest.mark.slow
def test_the_installed_command_has_the_commands_of_producer_and_worker(
    installed: Path, tmp_path: Path
) -> None:
    help_text = run_installed(installed.with_name("soundmill"), "--help", cwd=tmp_path)

    assert "submit" in help_text
    assert "demo" in help_text


@pytest.mark.slow
def test_the_installed_folders_have_no_top_level_names(installed: Path, tmp_path: Path) -> None:
    code = f"import importlib.util as u; print([n for n in {FOLDERS} if u.find_spec(n)])"

    assert run_installed(installed, "-c", code, cwd=tmp_path).strip() == "[]"


_IMPORT_ALL = """
import importlib, pkgutil, sys

class Spy:
    tried = set()

    def find_spec(self, name, path=None, target=None):
        self.tried.add(name)

sys.meta_path.insert(0, Spy())
package = importlib.import_module(PACKAGE)
for module in pkgutil.walk_packages(package.__path__, PACKAGE + "."):
    if "__main__" not in module.name and "migrations." not in module.name:
        importlib.import_module(module.name)
print(*[name for name in sorted(Spy.tried) if name.startswith(UNWANTED)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("package", ["soundmill.producer", "soundmill.storage"])
def test_submitting_jobs_does_not_even_try_to_load_torch_models_or_the_worker(
    installed: Path, tmp_path: Path, package: str
) -> None:
    unwanted = ("torch", "transformers", "soundmill.models", "soundmill.worker")
    code = _IMPORT_ALL.replace("PACKAGE", repr(package)).replace("UNWANTED", repr(unwanted))

    assert run_installed(installed, "-c", code, cwd=tmp_path).strip() == ""
