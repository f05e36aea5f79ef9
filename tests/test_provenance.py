"""Tables and their records: round trip, never half a file."""

import os

import pandas as pd
import pytest

from pmlbook import models, provenance

FRAME = pd.DataFrame({"rank": [1, 2], "loss": [0.5, 0.25], "kind": ["random", "phonebook"]})


def test_a_table_comes_back_with_its_record(tmp_path):
    record = provenance.provenance("python -m something")
    provenance.save_table(FRAME, tmp_path / "deep" / "table.csv", record)
    frame, back = provenance.load_table(tmp_path / "deep" / "table.csv")
    pd.testing.assert_frame_equal(frame, FRAME, check_dtype=False)
    assert back == record
    assert back["command"] == "python -m something"
    assert back["model_sha256"] == models.GGUF_SHA256
    assert all(back[key] for key in ("date", "machine", "python", "torch", "transformers", "peft"))


def test_another_model_does_not_get_the_default_checksum():
    assert provenance.provenance("x", model="qwen3-0.6b")["model_sha256"] is None


def test_a_crash_while_writing_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    provenance.save_table(FRAME, path, {"command": "first"})
    old = path.read_text()

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        provenance.save_table(FRAME * 2, path, {"command": "second"})
    assert path.read_text() == old
    assert provenance.load_table(path)[1] == {"command": "first"}


def test_a_table_without_its_record_is_refused(tmp_path):
    FRAME.to_csv(tmp_path / "table.csv")
    with pytest.raises(FileNotFoundError, match=r"table\.json"):
        provenance.load_table(tmp_path / "table.csv")
