#!/usr/bin/env bash
# Record the first `make run` of a fresh clone as a moving picture: scripts/first_run.sh docs/pictures/first-run.svg
#
# It needs git, Node (npx) and the uv of `make run`, and writes nothing but the picture.
set -euo pipefail

# Inside the recording: what is typed, and what answers.
if [ "${1:-}" = --record ]; then
    set -m  # a process group for what runs in the background, which Ctrl-C reaches then
    typed() { printf '\033[1m$ %s\033[0m\n' "$1"; sleep 1; }
    typed "make run"
    make run &
    run=$!
    answer() { curl --silent --output /dev/null --fail --max-time 2 http://127.0.0.1:8000/api/v1/public/health/ready; }
    for _ in $(seq 300); do
        if answer; then break; fi
        sleep 1
    done
    sleep 2
    token=$(.venv/bin/plinth token --sub alice)
    asks() {
        curl --silent --output /dev/null --header "Authorization: Bearer $token" --json "$2" "http://127.0.0.1:8000/api/v1/$1"
        sleep 1
    }
    asks items '{"name": "a lamp"}'
    asks exports '{"format": "csv"}'
    sleep 3
    kill -INT -- "-$run"
    wait "$run" 2> /dev/null || true
    exit
fi

picture=$(realpath "$1")
root=$(realpath "$(dirname "$0")/..")
clone=$(mktemp -d)/plinth
trap 'rm -rf "$(dirname "$clone")"' EXIT
git clone --quiet "$root" "$clone"
cd "$clone"
"$root/.venv/bin/uv" tool run asciinema@2.4.0 rec --quiet --idle-time-limit 2 --cols 110 --rows 34 \
    --command "$root/scripts/first_run.sh --record" first-run.cast
# Not the indexes of this machine, and of a token its beginning.
sed --in-place --regexp-extended '/Looking in /d; s/(eyJ[[:alnum:]]{8})[-_.[:alnum:]]+/\1…/g' first-run.cast
npx --yes svg-term-cli@2.1.1 --in first-run.cast --out "$picture" --window --no-cursor
