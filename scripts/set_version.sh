#!/usr/bin/env bash
# Give all packages, their pins of each other and the citation one version: scripts/set_version.sh 0.2.0
#
# The version of the root pyproject.toml is the one that counts; tests/test_packaging.py holds the others to it.
set -euo pipefail
cd "${2:-$(dirname "$0")/..}"
[[ ${1:-} =~ ^[0-9]+\.[0-9]+\.[0-9]+((a|b|rc)[0-9]+)?$ ]] || { echo "usage: $0 MAJOR.MINOR.PATCH [CHECKOUT]" >&2; exit 2; }
sed -i -E "s/^version = \"[^\"]*\"/version = \"$1\"/" pyproject.toml packages/*/pyproject.toml
sed -i -E "s/(\"pentad-[a-z-]+(\[[a-z,]+\])?==)[^\"]*\"/\1$1\"/g" packages/*/pyproject.toml
sed -i -E "s/^version: .*/version: $1/" CITATION.cff
