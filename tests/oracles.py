"""Slow truths, written token by token from the paper's equations."""

import math

LN_2 = math.log(2)


def memft_by_loops(rows, method, threshold=LN_2, kappa=10, tau=20, window=50, floor=0.01):
    """Eq. 8 to 10 over answers given as lists of (loss, is_argmax); one anchor an answer."""
    top = bottom = 0.0
    for answer in rows:
        anchor = None
        for place, (_, right) in enumerate(answer):
            if not right:
                anchor = place
                break
        for place, (loss, _) in enumerate(answer):
            if method == "sft":
                weight = 1.0
            elif method == "ot":
                weight = 1.0 if loss > threshold else 0.0
            else:
                weight = 1 / (1 + math.exp(-kappa * (loss - threshold)))
                if anchor is not None and place >= anchor:
                    behind = place - anchor
                    weight *= math.exp(-behind / tau) if behind <= window else floor
            top += weight * loss
            bottom += weight
    return top / (bottom + 1e-8)
