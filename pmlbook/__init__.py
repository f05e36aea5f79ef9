"""pmlbook: the helper package of the executable book *How LoRA Remembers*.

One module, one idea, in the order of the book's argument (each imports only from those above it):

- `models`: a frozen base model and its tokenizer.
- `data`: exact memories, that is pairs of a key and an answer, as token ids.
- `lora`: the low-rank update, by hand and by peft.
- `threshold`: the p > 1/2 argument and what a mean loss can promise.
- `recall`: what a model recites, token by token.
- `head`: the output layer, with a gradient only where it is wanted.
- `memft`: which tokens the gradient is spent on; `curriculum`: which samples.
- `probe`: write memories into one adapter and keep the whole history.
- `stacked`: many memories in one batch, each as if it were alone.
- `benchmarks`: the paper's two tests, for any tokenizer.
- `cost`, `sweep`: every rank, length and seed, one tidy table.
- `law`: fit the table, doubt the fit, predict with it.
- `trainers`, `trl_trainer`: MemFT in transformers' Trainer, in TRL's SFTTrainer.
- `robustness`: what a finished memory withstands; `generalization`: a rule, and unseen pairs.
- `figures`, `law_figures`, `memft_figures`: the book's pictures; they draw, they do not compute.
- `widgets`: pictures with a slider, for notebooks and pages.
"""

__version__ = "0.1.0"
