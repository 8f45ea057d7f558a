"""Notebooks are thin, clean and parametrised; nbval executes them beside these tests."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from jetfm import figures, notebooks
from jetfm.errors import JetfmError
from jetfm.runtime.kernels import OwnKernelManager
from jetfm.settings.profiles import available_profiles, load_profile

FOLDER = Path(__file__).parents[1] / "notebooks"
NUMBERED = (
    "00_data", "01_tokenizer", "02_token_quality", "03_pretraining", "04_generation",
    "05_finetuning", "06_figures",
)  # fmt: skip
NAMES = (*NUMBERED, "explore")


@pytest.fixture(params=NAMES)
def notebook(request):
    return nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)


def test_every_notebook_is_there_and_no_other():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


def test_it_is_valid_and_starts_with_prose(notebook):
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"


def test_one_parameters_cell_defaults_to_smoke(notebook):
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    values = {}
    exec(cells[0].source, values)
    assert {k: v for k, v in values.items() if k != "__builtins__"} == {"profile": "smoke"}


def test_it_defines_nothing_and_its_cells_are_short(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.Lambda)
            assert not any(isinstance(node, kinds) for node in ast.walk(tree))
            assert len(cell.source.splitlines()) <= 8


def test_outputs_are_stored_only_where_nbval_checks_them(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if cell.source.startswith("# NBVAL_CHECK_OUTPUT"):
                assert [output.output_type for output in cell.outputs] == ["stream"]
            else:
                assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("name", NUMBERED)
def test_something_of_every_numbered_notebook_is_checked(name):
    assert "# NBVAL_CHECK_OUTPUT" in _code(FOLDER / f"{name}.ipynb")


def test_it_names_no_tokenizer_that_another_profile_lacks(notebook):
    """Patterns such as 'mpm-pairs *' may find nothing; a name that is looked up may not."""
    profiles = [load_profile(name) for name in available_profiles()]
    names = [set(profile.token_quality.tokenizers) for profile in profiles]
    somewhere = set.union(*names) - set.intersection(*names)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            constants = {
                n.value for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Constant)
            }
            assert not constants & somewhere


@pytest.mark.parametrize("name", figures.CAPTIONS)
def test_every_figure_of_the_gallery_is_made_by_the_notebook_of_its_number(name):
    sources = [path for path in FOLDER.glob("*.ipynb") if f'"{name}"' in _code(path)]
    assert [path.name[:2] for path in sources] == [name[3:5]]


def _code(path):
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one notebook that makes one figure."""
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("JETFM_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setattr(notebooks, "project_folder", lambda: tmp_path)
    write_notebook(tmp_path, "open(f'{folder}/fig00.png', 'w').write(profile)")
    return tmp_path


def write_notebook(project, last_line):
    source = "from jetfm.storage.paths import figures_folder\n"
    source += f"folder = figures_folder('smoke')\n{last_line}"
    cells = [nbformat.v4.new_code_cell(text) for text in ("profile = 'none'", source)]
    cells[0].metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    (project / "notebooks").mkdir(exist_ok=True)
    nbformat.write(notebook, project / "notebooks" / "00_one.ipynb")


def run(**changes):
    return notebooks.run_all(load_profile("smoke", **changes), say=lambda text: None)


def test_a_notebook_runs_once_until_something_it_shows_changes(project):
    figure = project / "figures" / "smoke" / "fig00.png"
    source = project / "notebooks" / "00_one.ipynb"
    before = source.read_bytes()
    assert run() == ["00_one"] and figure.read_text() == "smoke"
    assert source.read_bytes() == before, "the source stays clean"
    assert run() == []
    figure.unlink()
    assert run() == ["00_one"] and figure.exists()
    figure.write_text("scribbled over")
    assert run() == ["00_one"]
    write_notebook(project, "open(f'{folder}/fig00.png', 'w').write('new')")
    assert run() == ["00_one"] and figure.read_text() == "new"
    assert run(seed=2) == ["00_one"]


def test_copies_are_not_run(project):
    for name in ("00_one-Copy1", "00_one (2)", "explore", "01_two.autosave"):
        shutil.copy(project / "notebooks/00_one.ipynb", project / f"notebooks/{name}.ipynb")
    assert run() == ["00_one"]


def test_kernels_of_others_are_not_used(project, monkeypatch):
    """One in JUPYTER_PATH, one in the user's folder, both called python3 and both gone."""
    monkeypatch.setenv("JUPYTER_PATH", str(project / "share"))
    monkeypatch.setenv("HOME", str(project / "home"))
    for folder in ("share/kernels", "home/.local/share/jupyter/kernels"):
        (project / folder / "python3").mkdir(parents=True)
        spec = {
            "argv": ["/gone/python", "-m", "ipykernel"],
            "display_name": "",
            "language": "python",
        }
        (project / folder / "python3/kernel.json").write_text(json.dumps(spec))
    write_notebook(project, "import sys; open(f'{folder}/fig00.png', 'w').write(sys.executable)")
    assert run() == ["00_one"]
    assert (project / "figures/smoke/fig00.png").read_text() == sys.executable
    assert [path.name for path in (project / "notebooks").iterdir()] == ["00_one.ipynb"]


@pytest.mark.parametrize("where", ["HOME", "IPYTHONDIR"])
def test_startup_files_of_a_user_are_not_run(project, monkeypatch, where):
    """What they define, import or set would be in every notebook."""
    home = project / "home"
    folder = home / ".ipython" if where == "HOME" else home
    monkeypatch.setenv(where, str(home))
    startup = folder / "profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00-mine.py").write_text("mine = True\n")
    (folder / "profile_default/ipython_config.py").write_text(
        "c.InteractiveShellApp.exec_lines = ['mine = 1']"
    )
    write_notebook(project, "open(f'{folder}/fig00.png', 'w').write(str('mine' in globals()))")
    assert run() == ["00_one"]
    assert (project / "figures/smoke/fig00.png").read_text() == "False"


def test_no_two_kernels_share_a_socket(tmp_path):
    script = "from jetfm.runtime.kernels import OwnKernelManager as Own; print(Own().ip, Own().ip)"
    command = [sys.executable, "-c", script]
    there = subprocess.check_output(command, text=True, cwd=tmp_path).split()
    here = [OwnKernelManager().ip, OwnKernelManager().ip]
    assert len({*here, *there}) == 4
    if os.name == "posix":
        assert not any(Path(address).parent.exists() for address in there), "none is left"


def test_a_failing_notebook_is_named_and_runs_again(project):
    write_notebook(project, "raise ValueError('the axis is bent')")
    with pytest.raises(JetfmError, match="00_one.*the axis is bent"):
        run()
    write_notebook(project, "pass")
    assert run() == ["00_one"]


def test_captions_and_index_agree_about_the_papers_figures():
    after = re.compile(r"\(after figures? ([\d ,and]+?) of arXiv ([\d.]+)\)")
    claimed = {
        (paper, number, name)
        for name, caption in figures.CAPTIONS.items()
        for numbers, paper in after.findall(caption)
        for number in re.findall(r"\d+", numbers)
    }
    indexed = {(one.paper, one.number, one.name) for one in figures.PAPER_FIGURES if one.name}
    assert claimed == indexed


def test_what_a_busy_kernel_prints_in_pieces_is_stored_in_one():
    def printed(text, name="stdout"):
        return nbformat.v4.new_output("stream", name=name, text=text)

    joined = notebooks._joined([printed("a\n"), printed("b\n"), printed("c", "stderr")])
    assert joined == [printed("a\nb\n"), printed("c", "stderr")]
    assert notebooks._joined([]) == []
