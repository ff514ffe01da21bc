#!/bin/sh
# The API with nothing but curl: chat, a stream, a tool, JSON, fill in the middle.
#
#     tribody serve scripted
#     sh examples/curl.sh
set -eu
URL=${TRIBODY_URL:-http://127.0.0.1:8000}

post() { # PATH BODY
    curl -sS --fail-with-body -N "$URL$1" -H 'Content-Type: application/json' \
        -H "Authorization: Bearer ${TRIBODY_API_KEY:-unused}" -d "$2"
    echo
}

echo "# chat"
post /chat/completions '{"model": "deepseek-reasoner",
    "messages": [{"role": "user", "content": "17 + 25"}]}'

echo "# stream"
post /chat/completions '{"model": "deepseek-chat", "stream": true,
    "messages": [{"role": "user", "content": "17 + 25"}]}'

echo "# tool"
post /chat/completions '{"model": "deepseek-chat",
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "tools": [{"type": "function", "function": {"name": "get_weather", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]}'

echo "# json"
post /chat/completions '{"model": "deepseek-chat", "response_format": {"type": "json_object"},
    "messages": [{"role": "user", "content": "Answer in json."}]}'

echo "# fill in the middle"
post /beta/completions '{"model": "deepseek-chat", "max_tokens": 64,
    "prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(17, 25))"}'
