#!/bin/sh
# A tenant from nothing to its statement, with nothing but curl: prices, a tenant, a key, money, a
# request, the balance, the statement, and the ledger verified.
#
#     tribody serve scripted --accounts --data-dir DIR
#     DATA_DIR=DIR sh examples/admin.sh
set -eu
URL=${TRIBODY_URL:-http://127.0.0.1:8000}
ADMIN=${TRIBODY_ADMIN_URL:-http://127.0.0.1:8001}
TOKEN=$(cat "$DATA_DIR/admin-token")

admin() { # METHOD PATH [BODY [IDEMPOTENCY_KEY]]
    curl -sS --fail-with-body -X "$1" "$ADMIN/admin$2" -H "Authorization: Bearer $TOKEN" \
        -H 'Content-Type: application/json' ${4:+-H "Idempotency-Key: $4"} ${3:+-d "$3"}
    echo
}

field() { # NAME: a field of text from the JSON on standard input
    sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"
}

echo "# prices: 0.5 yuan per million tokens from the cache, 2 for others, 8 for answers"
admin PUT /tariff '{"text": "title = \"Ours\"\ncurrency = \"CNY\"\ntime_zone = \"Asia/Shanghai\"\n'\
'[[rule]]\nid = \"all\"\nmodels = [\"*\"]\nfrom = 2020-01-01T00:00:00+08:00\n'\
'hit = \"0.5\"\nmiss = 2\noutput = 8\n"}'

echo "# a tenant that may spend 50 yuan a day, with a gift of 10"
admin POST /tenants '{"id": "acme", "name": "Acme", "limits": {"money_per_day": "50"}}'
admin POST /tenants/acme/grants '{"amount": "10.00", "note": "welcome"}' welcome-acme

echo "# it pays 100 yuan; sent twice, booked once"
admin POST /tenants/acme/top-ups '{"amount": "100.00", "note": "invoice 7"}' invoice-7
admin POST /tenants/acme/top-ups '{"amount": "100.00", "note": "invoice 7"}' invoice-7

echo "# a key for its chats, shown this once"
made=$(admin POST /keys '{"tenant_id": "acme", "name": "laptop", "routes": ["chat", "balance"]}')
key=$(printf '%s\n' "$made" | field key)
printf '%s\n' "$made" | sed "s/$key/sk-.../"

echo "# a request, once the server has noticed the key"
sleep 1
curl -sS --fail-with-body "$URL/chat/completions" -H "Authorization: Bearer $key" \
    -H 'Content-Type: application/json' -d '{"model": "deepseek-chat",
    "messages": [{"role": "user", "content": "17 + 25"}]}'
echo

echo "# what is left: as the tenant sees it, and as we do"
curl -sS --fail-with-body "$URL/user/balance" -H "Authorization: Bearer $key"
echo
admin GET /tenants/acme/balance

echo "# what it was for"
admin GET /tenants/acme/statement
admin GET '/usage?tenant_id=acme&group_by=day,model'

echo "# is the ledger right?"
job=$(admin POST /ledger/verifications | field id)
while admin GET "/ledger/verifications/$job" | grep -q '"state":"running"'; do sleep 0.1; done
admin GET "/ledger/verifications/$job"

echo "# the key is gone"
admin POST "/keys/$(printf '%s\n' "$made" | field id)/revoke"
