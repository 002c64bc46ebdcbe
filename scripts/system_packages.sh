#!/usr/bin/env bash
# Programs of other projects that some tests ask: an archive (Orthanc) and a checker of DICOM objects (dicom3tools).
#
# Installed where this may be done (root on Debian or Ubuntu). Elsewhere, or where it fails, those tests skip and say
# why; so this script never fails.
set -uo pipefail

packages=(orthanc orthanc-dicomweb dicom3tools)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed: ${missing[*]}; the tests that need them skip (on Debian: apt-get install ${missing[*]})" >&2
    exit 0
fi

# Debian starts a service as soon as it is installed; a test wants an Orthanc of its own and no other.
policy=/usr/sbin/policy-rc.d
[ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && trap 'rm -f "$policy"' EXIT; }
export DEBIAN_FRONTEND=noninteractive
timeout 300 apt-get update -qq >/dev/null 2>&1
if ! timeout 600 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1; then
    echo "could not be installed: ${missing[*]}; the tests that need them skip" >&2
fi
exit 0
