#!/bin/sh
# Installs what the build needs from the system and does not find: a C compiler and stb_image.h; with the argument
# "browser" also the Chromium that the test of JupyterLab drives. Uses apt-get where it may; elsewhere it says
# what to install.
set -eu

has_browser() {
    for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
        command -v "$name" >/dev/null 2>&1 && return 0
    done
    return 1
}

has_stb() {
    [ -n "${CLIPC_STB_INCLUDE:-}" ] && [ -f "$CLIPC_STB_INCLUDE/stb_image.h" ] && return 0
    for folder in /usr/include/stb /usr/include /usr/local/include/stb /usr/local/include \
                  /opt/homebrew/include/stb /opt/homebrew/include; do
        [ -f "$folder/stb_image.h" ] && return 0
    done
    return 1
}

missing=""
command -v "${CC:-cc}" >/dev/null 2>&1 || missing="gcc libc6-dev"
has_stb || missing="$missing libstb-dev"
if [ "${1:-}" = browser ]; then
    has_browser || missing="$missing chromium"
fi
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "clipc needs a C compiler and stb_image.h. Fedora: dnf install gcc stb_image-devel;" >&2
    echo "macOS: xcode-select --install && brew install stb" >&2
    echo "(missing, by their names in Debian: $missing)" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "clipc needs Debian packages; as root run: apt-get install $missing" >&2
        exit 1
    }
    as_root="sudo"
fi
echo "installing:$missing"
$as_root apt-get update -qq
# shellcheck disable=SC2086  # the packages are separate words
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq $missing >/dev/null
