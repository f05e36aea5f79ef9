"""A tiny random Llama and a byte tokenizer: plain logic is tested in milliseconds, offline."""

import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# Tensors here are tiny: a second thread only waits, and on a busy machine it waits for long.
torch.set_num_threads(1)

# Specimens, each with one fault: nbval must not run them.
collect_ignore_glob = ["broken/*"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

SPECIAL = ["<end>", "<start>"]


def tiny_llama(seed=0, **changes) -> LlamaForCausalLM:
    """A random Llama with 4 layers, in eval mode, frozen; `changes` go to its config."""
    settings = {
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,  # large enough that logits are not all alike
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes)))
    return model.eval().requires_grad_(False)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, after two special tokens; with a chat template of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    core = Tokenizer(BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", bos_token="<start>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<start>{{ m['content'] }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<start>{% endif %}"
    )
    return tokenizer


@pytest.fixture(autouse=True)
def same_environment():
    """What a test's libraries put into the environment goes with it.

    A Dask cluster leaves OMP_NUM_THREADS=1 behind, and every chapter that nbval runs after it would
    have one core.
    """
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def model():
    return tiny_llama()


@pytest.fixture
def styled():
    """Draw in the book's style, on no screen, and leave nothing open."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from pmlbook.figures import use_style

    with plt.style.context("default"):
        use_style()
        yield
    plt.close("all")


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def smollm():
    """The real default model and its tokenizer; a test must leave it as it found it."""
    from pmlbook.models import load_model

    return load_model()


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium without a screen; where there is none, a skip, but never in CI."""
    if CHROMIUM is None:
        reason = "no Chromium here: the pages are not opened"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
