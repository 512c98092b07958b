#!/usr/bin/env bash
# A certificate authority and a serving certificate for development: certs/{ca,tls}.pem and certs/tls.key.
# Names beside localhost are given as arguments: certs/make.sh latebind.latebind.svc 10.0.0.5
set -euo pipefail
cd "$(dirname "$0")"
command -v openssl >/dev/null || { echo "certs: openssl is missing; on Debian: apt-get install openssl" >&2; exit 1; }

names="DNS:localhost,IP:127.0.0.1,IP:::1"
for name in "$@"; do
  if [[ $name =~ ^[0-9.]+$|: ]]; then names+=",IP:$name"; else names+=",DNS:$name"; fi
done
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
openssl req -x509 "${key[@]}" -days 365 -subj "/CN=latebind development CA" -keyout "$work/ca.key" -out ca.pem \
  -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign" 2>/dev/null
openssl req "${key[@]}" -subj "/CN=latebind" -keyout tls.key -out "$work/tls.csr" 2>/dev/null
openssl x509 -req -in "$work/tls.csr" -CA ca.pem -CAkey "$work/ca.key" -CAcreateserial -CAserial "$work/serial" -days 90 \
  -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "$names") \
  -out tls.pem 2>/dev/null
openssl verify -CAfile ca.pem tls.pem >/dev/null
echo "certs/ca.pem certs/tls.pem certs/tls.key for $names"
echo "latebind webhook --objects DIR --tls-cert certs/tls.pem --tls-key certs/tls.key"
