"""The lint refuses one notebook per fault; the chapters pass it; staleness is seen."""

from pathlib import Path

import chapters
import lint_notebooks
import nbformat
import pytest

BROKEN = Path(__file__).parent / "broken"
COMPLAINTS = {
    "compares_nothing": "cell c01 is marked to be compared, and prints nothing",
    "exercise_without_solution": "exercise ex-fine-3 wants one folded solution",
    "figure_without_alt": "the figure of cell c02 has no alt text that says what is drawn",
    "figure_without_caption": "the figure of cell c02 has no caption that starts with a **claim**",
    "figure_without_name": "the figure of cell c02 has no name to refer to it",
    "long_cell": "cell c01 has 41 lines: want at most 30",
    "missing_summary": "it has no section '## Summary'",
    "never_executed": "2 code cells were never executed",
    "out_of_order": "cells were not executed in order from a clean kernel: [2, 1]",
    "prints_address": "cell c01 prints the address https://example.org",
    "prints_machine_path": "cell c01 prints a path of one machine",
    "raises_name_error": "cell c01 ends in NameError",
    "reads_machine_path": "cell c01 holds a path of one machine",
    "says_todo": "its prose says TODO",
    "stale_outputs": "its outputs are stale: run book/_tools/execute.py",
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
    assert lint_notebooks.problems(path) == []


@pytest.mark.parametrize("path", chapters.chapters()[1:], ids=lambda path: path.stem)
def test_nbval_has_something_to_compare(path):
    cells = chapters.code_cells(chapters.read(path))
    compared = [c for c in cells if "nbval-check-output" in c.metadata.get("tags", [])]
    assert len(compared) >= 5


def test_figure_names_are_unique():
    names = [name for path in chapters.chapters() for name in lint_notebooks.figure_names(path)]
    assert len(names) == len(set(names)) > 5


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
