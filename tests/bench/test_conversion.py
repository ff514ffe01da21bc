"""Whether two engines compute the same model, from their logits."""

import numpy as np

from conversion import compare


def test_equal_tokens_near_ties_and_disagreements() -> None:
    """Rows: the same token, two that are nearly equal, two that are not."""
    ours = np.array([[5, 1, 0, -6], [3, 2.99, 0, -6], [5, 1, 0, -6]], np.float32)
    theirs = np.array([[5, 1, 0, -6], [2.99, 3, 0, -6], [1, 5, 0, -6]], np.float32)
    agreement = compare("m", ours.argmax(axis=1), ours, theirs)
    assert (agreement.positions, agreement.equal, agreement.near_ties) == (3, 1, 1)
    assert not agreement.holds
    assert agreement.difference_median < 0.01 < agreement.difference_max
    assert compare("m", ours[:2].argmax(axis=1), ours[:2], theirs[:2]).holds
