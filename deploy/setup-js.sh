#!/usr/bin/env bash
# Installs the JavaScript SDK that the compatibility test drives; without Node.js there is nothing to install.
set -euo pipefail
cd "$(dirname "$0")/../tests/integration/js" 2>/dev/null || exit 0
[ -f package-lock.json ] || exit 0
command -v npm >/dev/null || exit 0
[ node_modules/.package-lock.json -nt package-lock.json ] && exit 0
npm ci --silent --no-audit --no-fund --ignore-scripts </dev/null
touch node_modules/.package-lock.json
