"""The p > 1/2 argument (chapter: The p > 1/2 argument; paper Eq. 7).

A target token with probability above 1/2 is the argmax, whatever the rest of the distribution
does. In nats: its loss is below L_crit = −ln(1/2) = ln 2. Sufficient, not necessary.
"""

import math

L_CRIT = math.log(2)  # nats


def is_ordered(token_losses):
    """Which tokens have p > 1/2, that is loss < ln 2: the ordered phase (array or tensor)."""
    return token_losses < L_CRIT


def certain_mean_loss(length: int) -> float:
    """The mean loss (nats) below which an answer of `length` tokens is recited for certain.

    The losses sum to length · L. If that sum is below ln 2, no single token can reach ln 2.
    """
    if length < 1:
        raise ValueError(f"length is {length}: an answer has at least 1 token")
    return L_CRIT / length


def most_disordered(mean_loss: float, length: int) -> int:
    """The most tokens of an answer that can be at p <= 1/2 when its mean loss is `mean_loss`.

    Each such token costs ln 2 or more of the total length · L, so there are at most
    floor(length · L / ln 2) of them; an answer that has exactly so many exists (the bound is
    tight, the other tokens then having p = 1).
    """
    if mean_loss < 0:
        raise ValueError(f"mean_loss is {mean_loss}: cross-entropy is never negative")
    return min(length, math.floor(length * mean_loss / L_CRIT + 1e-12))


def least_accuracy(mean_loss: float) -> float:
    """The share of answer tokens that are certainly right under teacher forcing: 1 − L / ln 2."""
    return max(0.0, 1 - mean_loss / L_CRIT)
