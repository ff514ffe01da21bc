"""The one judgement about what a Rust binding (tokenizers, minijinja) may throw at us."""

from __future__ import annotations


def is_binding_error(error: BaseException) -> bool:
    """True for a failure of a Rust binding, False for ours and for the interpreter's own.

    `tokenizers` raises bare `Exception`, and a Rust panic arrives as `PanicException`, which is a
    `BaseException`: `except Exception` would let it end the server.  Callers catch
    `BaseException`, ask here, and re-raise what is not the binding's.
    """
    if type(error).__name__ == "PanicException":
        return True
    return type(error) in (Exception, ValueError, TypeError, OverflowError, RuntimeError)
