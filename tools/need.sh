#!/usr/bin/env bash
# need.sh TOOL...: make sure that each tool is on PATH, installing the Debian package of the same
# name where that is possible without asking anybody. Otherwise say what to do and exit 3.
# TOOL may be PACKAGE:PATH for a package that is recognised by a file instead (relacy-dev:/usr/include/relacy).
set -euo pipefail

install() {
    if [ "$(id -u)" = 0 ]; then
        as_root=()
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        return 1
    fi
    command -v apt-get >/dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    # Package lists may be absent or old: refresh them only if the first try fails.
    "${as_root[@]}" apt-get install -y --no-install-recommends "$1" >&2 ||
        { "${as_root[@]}" apt-get update >&2 &&
            "${as_root[@]}" apt-get install -y --no-install-recommends "$1" >&2; }
}

have() {
    case "$1" in
        *:*) [ -e "${1#*:}" ] ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

missing=()
for tool in "$@"; do
    have "$tool" || install "${tool%%:*}" || true
    have "$tool" || missing+=("${tool%%:*}")
done

if [ "${#missing[@]}" -gt 0 ]; then
    echo "missing: ${missing[*]}. Install it with your package manager" \
        "(Debian, Ubuntu: apt-get install ${missing[*]}) and run this again." >&2
    exit 3
fi
