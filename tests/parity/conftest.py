"""Without torch (every environment but .venv-parity) these tests are not even collected."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") and find_spec("transformers") else ["test_*.py"]
