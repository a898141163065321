#!/bin/sh
# Starts the sandbox's Linux machine: users admin (sudo) and app, both with the password of SANDBOX_PASSWORD.
set -eu
printf 'admin:%s\napp:%s\n' "${SANDBOX_PASSWORD:?}" "${SANDBOX_PASSWORD:?}" | chpasswd
unset SANDBOX_PASSWORD
exec /usr/sbin/sshd -D -e
