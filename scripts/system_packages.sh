#!/usr/bin/env bash
# The system's own packages: the library that Open3D's wheel forgets (libusb), and programs of other projects that some
# tests ask: an archive (Orthanc) and a checker of DICOM objects (dicom3tools). With names as arguments, only those.
#
# Installed where this may be done (root on Debian or Ubuntu). Elsewhere, or where it fails, what needs them says so
# and those tests skip; so this script never fails.
set -uo pipefail

packages=(libusb-1.0-0 orthanc orthanc-dicomweb dicom3tools)
[ $# -eq 0 ] || packages=("$@")
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed: ${missing[*]}; what needs them says so (on Debian: apt-get install ${missing[*]})" >&2
    exit 0
fi

# Debian starts a service as soon as it is installed; a test wants an Orthanc of its own and no other.
policy=/usr/sbin/policy-rc.d
[ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && trap 'rm -f "$policy"' EXIT; }
export DEBIAN_FRONTEND=noninteractive
timeout 300 apt-get update -qq >/dev/null 2>&1
if ! timeout 600 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1; then
    echo "could not be installed: ${missing[*]}; what needs them says so" >&2
fi
exit 0
