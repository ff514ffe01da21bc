"""llm-comply's checks of three APIs against the published schemas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LLM_COMPLY = str(Path(sys.executable).parent / "llm-comply")

# Not asked: images, which no model here sees and which are refused; compaction of stored responses,
# of which there are none (the suite passes a 404 there, so its pass would say nothing).
CHAT = {
    "chat-basic-response", "chat-system-prompt", "chat-multi-turn", "chat-tool-calling",
    "chat-streaming-response", "chat-streaming-usage", "chat-error-handling",
}  # fmt: skip
ANTHROPIC = {
    "anth-basic-response", "anth-system-prompt", "anth-multi-turn", "anth-tool-calling",
    "anth-streaming-response", "anth-streaming-usage", "anth-error-handling",
}  # fmt: skip
RESPONSES = {
    "basic-response", "system-prompt", "multi-turn", "tool-calling", "streaming-response",
    "streaming-usage", "assistant-phase", "response-output-phase-schema", "error-handling",
}  # fmt: skip


@pytest.mark.parametrize(
    ("api", "path", "model", "checks"),
    [
        ("openai-chat", "/v1", "deepseek-chat", CHAT),
        ("openai-chat", "/v1", "deepseek-reasoner", {"chat-reasoning-summary"}),
        ("anthropic", "/anthropic/v1", "deepseek-chat", ANTHROPIC),
        ("anthropic", "/anthropic/v1", "claude-sonnet-4-5", {"anth-thinking-display"}),
        ("open-responses", "/v1", "deepseek-chat", RESPONSES),
        ("open-responses", "/v1", "deepseek-reasoner", {"reasoning-summary"}),
    ],
)
def test_checks_pass(url: str, api: str, path: str, model: str, checks: set[str]) -> None:
    command = [LLM_COMPLY, "--format", api, "-u", url + path, "-k", "unused", "-m", model]
    command += ["-f", ",".join(sorted(checks)), "--json"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    results = json.loads(told.stdout)["results"]
    print(f"llm-comply {api} {model}: {len(results)}")
    assert {result["id"]: result.get("errors") or [] for result in results} == {
        check: [] for check in checks
    }
    assert {result["status"] for result in results} == {"passed"}
