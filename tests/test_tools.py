"""The set-up's stamps and messages; the execution writes nothing when a chapter fails."""

import subprocess
import sys

import chapters
import execute
import nbformat
import pytest
import setup
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook


@pytest.fixture
def venv(tmp_path, monkeypatch):
    """A pretended environment in which steps leave their stamps."""
    (tmp_path / "python").touch()
    (tmp_path / "requirements.txt").write_text("torch==1\n")
    monkeypatch.setattr(setup, "VENV", tmp_path)
    monkeypatch.setattr(setup, "PYTHON", tmp_path / "python")
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    return tmp_path


def test_a_step_is_done_once_and_again_when_its_input_changes(venv):
    calls = []

    def step():
        setup.step(2, "requirements", ["requirements.txt"], lambda: calls.append(1))

    step()
    step()
    assert len(calls) == 1
    (venv / "requirements.txt").write_text("torch==2\n")
    step()
    assert len(calls) == 2


def test_a_failed_step_is_tried_again(venv):
    def fail():
        raise setup.Failure("no")

    with pytest.raises(setup.Failure):
        setup.step(2, "requirements", ["requirements.txt"], fail)
    calls = []
    setup.step(2, "requirements", ["requirements.txt"], lambda: calls.append(1))
    assert calls


def test_a_failed_command_gives_its_reason_and_a_guess():
    command = [sys.executable, "-c", "print('could not resolve host'); raise SystemExit(1)"]
    with pytest.raises(setup.Failure, match=r"pip failed \(is the network there\?\)"):
        setup.run(command, "pip failed")


def test_the_makefile_names_a_missing_python(tmp_path):
    make = ["make", "-C", str(execute.ROOT), "setup", "FIND=true"]  # a search that finds nothing
    done = subprocess.run(make, capture_output=True, text=True)
    assert done.returncode != 0
    assert "No working Python 3.11, 3.12 or 3.13" in done.stdout


def notebook(folder, source):
    path = folder / "chapter.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
    return path


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ("1 / 0", CellExecutionError, "ZeroDivisionError"),
        ("import sys; print('mind', file=sys.stderr)", RuntimeError, "writes to stderr"),
    ],
)
def test_a_failing_chapter_is_left_as_it_was(tmp_path, source, error, says):
    path = notebook(tmp_path, source)
    before = path.read_text()
    with pytest.raises(error, match=says):
        execute.execute(path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["chapter.ipynb"]


def test_an_executed_chapter_is_fresh(tmp_path):
    path = notebook(tmp_path, "print(1 + 1)")
    assert execute.is_stale(path)
    execute.execute(path)
    assert not execute.is_stale(path)
    setup, cell = nbformat.read(path, as_version=4).cells
    assert setup.source == chapters.setup_cell() and not setup.outputs
    assert cell.outputs[0].text == "2\n" and cell.execution_count == 2
    execute.execute(path)  # again: there is still one
    assert len(nbformat.read(path, as_version=4).cells) == 2


def test_check_names_the_stale_chapter_and_runs_nothing(tmp_path, monkeypatch):
    path = notebook(tmp_path, "1 / 0")
    monkeypatch.setattr(sys, "argv", ["execute.py", "--check", str(path)])
    with pytest.raises(SystemExit, match=r"stale: chapter\.ipynb"):
        execute.main()


def test_the_run_log_has_a_row_a_chapter_and_a_row_a_table(tmp_path):
    path = notebook(tmp_path, "1")
    run = {"seconds": 7, "date": "2026-01-02", "python": "3.11.1"}
    run |= {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"}
    chapter = nbformat.read(path, as_version=4)
    chapter.metadata["pmlbook"] = run
    nbformat.write(chapter, path)
    execute.write_run_log([path], tmp_path / "runlog.md")
    page = (tmp_path / "runlog.md").read_text()
    row = "| [](chapter.ipynb) | 7 | 2026-01-02 | 3.11.1 | 2.13.0 | 5.23.0 | 0.21.2 |"
    assert row in page.splitlines()
    for table in (execute.ROOT / "book" / "data").glob("*.csv"):
        assert f"| `{table.name}` | " in page
