#!/usr/bin/env bash
# Print the key of the try-outs that are installed from this folder. The first time it makes one, in .plinth/secret-key,
# which no other user may read: `make deploy` gives it to the chart as secretKey.value. With --values it prints the name of
# a file of values that has it, for skaffold.
set -euo pipefail
cd "$(dirname "$0")/.."
file=.plinth/secret-key
values=.plinth/secret-key.yaml
if [ ! -s $file ]; then
    mkdir -p .plinth
    # Under its name only when it is whole, and never over another one: two may run at once.
    new=$(umask 077 && mktemp $file.XXXXXX)
    head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' > "$new"
    ln "$new" $file 2>/dev/null || [ -s $file ]
    rm "$new"
fi
if [ "${1:-}" = --values ]; then
    new=$(umask 077 && mktemp $values.XXXXXX)
    printf 'secretKey:\n  value: "%s"\n' "$(cat $file)" > "$new"
    mv "$new" $values
    echo $values
else
    cat $file
fi
