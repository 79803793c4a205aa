#!/usr/bin/env bash
# Makes a picture with curl alone and writes it to city.png. Needs AGENTNAME_API_KEY; AGENTNAME_URL has a default.
set -euo pipefail

url=${AGENTNAME_URL:-http://localhost:3001}
key="Authorization: Bearer ${AGENTNAME_API_KEY:?the key that the server printed at its first start}"

# The value of a text field of the JSON on standard input. Enough here; use jq for anything larger.
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p"; }

job=$(curl -fsS "$url/api/generate" -H "$key" -H 'Content-Type: application/json' \
    -d '{"prompt":"A futuristic city at night","type":"image","aspect_ratio":"16:9"}' | field jobId)
echo "accepted as $job"

while true; do
    reply=$(curl -fsS "$url/api/status/$job" -H "$key")
    status=$(field status <<<"$reply")
    case $status in
        completed) break ;;
        failed | canceled) echo "$reply" >&2; exit 1 ;;
    esac
    sleep 0.2
done

# The link opens without a key, until the result expires.
curl -fsS -o city.png "$url$(field url <<<"$reply")"
echo "wrote city.png"
