#!/usr/bin/env bash
# Makes what docker-compose.yml needs and must not be in the repository: .env and the first user's passphrase, once.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 077

random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; }

mkdir -p deploy/secrets
if [ ! -e deploy/secrets/passphrase ]; then
  random > deploy/secrets/passphrase
  chmod 0444 deploy/secrets/passphrase # the containers' user reads it; the folder is yours alone
fi
if [ ! -e .env ]; then
  cat > .env <<VALUES
POSTGRES_PASSWORD=$(random)
REDIS_PASSWORD=$(random)
FLOWER_PASSWORD=$(random)
SANDBOX_PASSWORD=$(random)
PAM_PUBLIC_HOST=router:8443
PAM_TLS_NAMES=localhost,127.0.0.1,router
GATEWAY_CONFIG=
GATEWAY_BROKER_URL=
GATEWAY_BROKER_RULE=
VALUES
fi
echo "made .env and deploy/secrets/passphrase; keep copies of both, and sign in with: pam login owner"
