"""Row ranges of tensors: the checked form of the `rows` argument of `Checkpoint.read`."""

from __future__ import annotations

from tribody.core.errors import BadModel


def checked_rows(where: str, shape: tuple[int, ...], rows: slice | None) -> slice:
    """`rows` with both ends filled in; the whole first axis when it is None.

    Raises: BadModel, starting with `where`, when the range is not inside the first axis, has a
    step, or the tensor has no axis.
    """
    num_rows = shape[0] if shape else 1
    if rows is None:
        return slice(0, num_rows)
    start = 0 if rows.start is None else rows.start
    stop = num_rows if rows.stop is None else rows.stop
    if not shape or rows.step not in (None, 1) or not 0 <= start <= stop <= num_rows:
        raise BadModel(f"{where}: rows [{start}, {stop}) are wanted but its shape is {shape}")
    return slice(start, stop)
