#!/usr/bin/env bash
# Installs the peers of the conformance suite: Debian packages (as root), packages of npm and PyPI into build/conformance.
# What is there already is left alone.
set -euo pipefail
cd "$(dirname "$0")"
target=../../build/conformance

packages=(orthanc orthanc-dicomweb dcmtk libpixelmed-java chromium iproute2 libatomic1 libpangoft2-1.0-0 libharfbuzz-subset0)
command -v node >/dev/null && command -v npm >/dev/null || packages+=(nodejs npm)
command -v java >/dev/null || packages+=(default-jre-headless)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "conformance: install ${missing[*]} first (as root: apt-get install ${missing[*]})" >&2
        exit 1
    fi
    guard=/usr/sbin/policy-rc.d # while it is there, no service is started
    if [ ! -e "$guard" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$guard" && chmod +x "$guard"
        trap 'rm -f "$guard"' EXIT
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
fi

mkdir -p "$target"
if ! cmp -s package-lock.json "$target/package-lock.json" || [ ! -d "$target/node_modules" ]; then
    cp package.json "$target/"
    cp package-lock.json "$target/.package-lock.new"
    (cd "$target" && cp .package-lock.new package-lock.json && npm ci --ignore-scripts --no-audit --no-fund --silent)
fi

if [ ! -f "$target/pyrofile/.0.3.0" ]; then
    rm -rf "$target/pyrofile"
    ../../.venv/bin/python -m venv "$target/pyrofile"
    "$target/pyrofile/bin/pip" install --quiet --disable-pip-version-check --constraint pyrofile.txt pyrofile-validator
    touch "$target/pyrofile/.0.3.0"
fi

# OHIF's package names parts of itself that are on no registry; its built viewer needs none of them.
ohif=3.12.10
integrity=0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA==
if [ ! -f "$target/ohif/.$ohif" ]; then
    (cd "$target" && npm pack --silent "@ohif/app@$ohif" >/dev/null)
    archive="$target/ohif-app-$ohif.tgz"
    [ "$(openssl dgst -sha512 -binary "$archive" | base64 -w0)" = "$integrity" ] || {
        echo "conformance: $archive is not the pinned one" >&2
        exit 1
    }
    rm -rf "$target/ohif" && mkdir "$target/ohif"
    tar -xzf "$archive" -C "$target/ohif" --strip-components=2 package/dist
    rm "$archive"
    touch "$target/ohif/.$ohif"
fi
