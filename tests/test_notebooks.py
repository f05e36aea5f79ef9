"""The lint refuses one notebook per fault; the chapters pass it; staleness is seen."""

import subprocess
import sys
from pathlib import Path

import chapters
import lint_notebooks
import nbformat
import pytest

BROKEN = Path(__file__).parent / "broken"
COMPLAINTS = {
    "alt_repeats_caption": "the figure of cell c02 has no alt text that says what is drawn",
    "caption_without_claim": "the figure of cell c02 has no caption that starts with a **claim**",
    "compares_a_picture": "cell c02 is marked to be compared, and prints nothing",
    "compares_nothing": "cell c01 is marked to be compared, and prints nothing",
    "exercise_without_solution": "exercise ex-fine-3 wants a folded solution right after it",
    "figure_without_alt": "the figure of cell c02 has no alt text that says what is drawn",
    "figure_without_caption": "the figure of cell c02 has no caption that starts with a **claim**",
    "figure_without_name": "the figure of cell c02 has no name to refer to it",
    "long_cell": "cell c01 has 41 lines: want at most 30",
    "missing_exercises": "it has no section '## Exercises'",
    "missing_summary": "it has no section '## Summary'",
    "never_executed": "cells were never executed: c01, c02",
    "out_of_order": "cells were not executed in order from a clean kernel: [2, 1]",
    "prints_address": "cell c01 prints the address https://example.org",
    "prints_machine_path": "cell c01 prints a path of one machine",
    "prose_machine_path": "cell c03 holds a path of one machine",
    "raises_name_error": "cell c01 ends in NameError",
    "reads_machine_path": "cell c01 holds a path of one machine",
    "says_todo": "its prose says TODO",
    "solution_not_folded": "exercise ex-fine-3 wants a folded solution right after it",
    "solution_too_late": "exercise ex-fine-2 wants a folded solution right after it",
    "stale_outputs": "its outputs are stale: run book/_tools/execute.py",
    "title_not_first": "it does not begin with its title",
    "too_few_exercises": "it has 3 exercises: want at least 4",
    "two_titles": "it has 2 titles: want one",
    "widget_state": "it holds widget state: a page with it asks another host for its code",
    "writes_to_stderr": "cell c01 writes to stderr: 'UserWarning: mind'",
}


def specimen(name: str, folder: Path) -> Path:
    """A copy of a broken notebook whose hash is right, but for the one about hashes."""
    notebook = chapters.read(BROKEN / f"{name}.ipynb")
    good = chapters.read(BROKEN / "fine.ipynb") if name == "stale_outputs" else notebook
    notebook.metadata["pmlbook"]["hash"] = chapters.fingerprint(good)
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def test_every_specimen_has_its_complaint():
    assert {path.stem for path in BROKEN.glob("*.ipynb")} == {*COMPLAINTS, "fine"}


def test_nothing_is_wrong_with_fine(tmp_path):
    assert lint_notebooks.problems(specimen("fine", tmp_path)) == []


@pytest.mark.parametrize("name", COMPLAINTS)
def test_one_fault_one_complaint(name, tmp_path):
    found = lint_notebooks.problems(specimen(name, tmp_path))
    assert found == [f"{name}.ipynb: {COMPLAINTS[name]}"]


@pytest.mark.parametrize("path", chapters.chapters(), ids=lambda path: path.stem)
def test_chapters_are_as_they_must_be(path):
    found = lint_notebooks.problems(path)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", chapters.chapters(), ids=lambda path: path.stem)
def test_chapters_begin_with_set_up(path):
    assert chapters.begins_with_setup(path)
    source = path.read_text()
    assert source.count("github.com") == chapters.setup_cell().count("github.com") == 1


@pytest.mark.parametrize("path", chapters.chapters()[1:], ids=lambda path: path.stem)
def test_nbval_has_something_to_compare(path):
    cells = chapters.code_cells(chapters.read(path))
    compared = [c for c in cells if "nbval-check-output" in c.metadata.get("tags", [])]
    assert len(compared) >= 4


def test_figure_names_are_unique():
    assert lint_notebooks.repeated_names(chapters.chapters()) == []


def test_a_figure_name_taken_twice_is_told(tmp_path):
    paths = [specimen("fine", tmp_path), specimen("two_titles", tmp_path)]
    found = lint_notebooks.repeated_names(paths)
    assert found == ["two_titles.ipynb: the figure name fig-fine is taken by fine.ipynb"]


def test_a_heavy_notebook_is_refused(tmp_path, monkeypatch):
    path = specimen("fine", tmp_path)
    monkeypatch.setattr(lint_notebooks, "MAX_BYTES", path.stat().st_size - 1)
    (found,) = lint_notebooks.problems(path)
    assert "bytes: want at most" in found


def test_the_lint_prints_all_and_exits_1(tmp_path):
    paths = [specimen(name, tmp_path) for name in ("says_todo", "two_titles")]
    command = [sys.executable, lint_notebooks.__file__]
    done = subprocess.run([*command, *paths], capture_output=True, text=True)
    assert done.returncode == 1
    assert "says_todo.ipynb: its prose says TODO" in done.stderr
    assert "two_titles.ipynb: it has 2 titles" in done.stderr
    done = subprocess.run([*command, specimen("fine", tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of one notebook, two modules and two tables, whose files a test may change."""
    for name, text in {
        "pmlbook/__init__.py": "",
        "pmlbook/models.py": "x = 1\n",
        "pmlbook/probe.py": "from pmlbook.models import x\n",
        "pmlbook/law.py": "y = 1\n",
        "pmlbook/pml.mplstyle": "font.size: 10\n",
        "book/data/half.csv": "1\n",
        "book/data/grid.csv": "1\n",
        "requirements.txt": "torch==2.0  # the field's own\nSphinx==7.0\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    notebook = chapters.read(BROKEN / "fine.ipynb")
    notebook.cells[1].source = "from pmlbook.probe import x\nload_table('data/half.csv')"
    return tmp_path, notebook


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [
        ("pmlbook/probe.py", "from pmlbook.models import x  # new\n", True),
        ("pmlbook/models.py", "x = 2\n", True),  # imported by what is imported
        ("pmlbook/law.py", "y = 2\n", False),  # not imported
        ("pmlbook/pml.mplstyle", "font.size: 11\n", True),
        ("book/data/half.csv", "2\n", True),
        ("book/data/grid.csv", "2\n", False),  # not named in the notebook
        ("requirements.txt", "torch==2.1\nSphinx==7.0\n", True),
        ("requirements.txt", "torch==2.0\nSphinx==7.1\n", False),  # dresses the page only
    ],
)
def test_fingerprint_follows_what_outputs_depend_on(book, name, text, changes):
    root, notebook = book
    before = chapters.fingerprint(notebook)
    assert chapters.fingerprint(notebook) == before
    (root / name).write_text(text)
    assert (chapters.fingerprint(notebook) != before) == changes


def test_fingerprint_follows_code_and_not_prose(book):
    _, notebook = book
    before = chapters.fingerprint(notebook)
    notebook.cells[0].source += "\nMore prose."
    assert chapters.fingerprint(notebook) == before
    notebook.cells[1].source += "\nx"
    assert chapters.fingerprint(notebook) != before


def test_a_notebook_with_an_unexecuted_cell_is_stale(tmp_path):
    assert not chapters.is_stale(specimen("fine", tmp_path))
    assert chapters.is_stale(specimen("never_executed", tmp_path))
    assert chapters.is_stale(specimen("stale_outputs", tmp_path))
