#!/usr/bin/env bash
# Make .venv: the locked requirements, shared by every clone with the same lock, and this clone's packages.
#
# The heavy part (torch and its libraries) lives in the user's cache under the digest of the lock and the Python
# version, so a second clone installs nothing. The clone's own .venv sees it through a path file.
set -euo pipefail
cd "$(dirname "$0")/.."

PATH=${PATH//"$PWD/.venv/bin:"/} # the environment is made by the system's Python, never by itself
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "pentad needs Python 3.11 or newer; name one with PYTHON=python3.11 make …" >&2; exit 2; }
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    { echo "this Python cannot make virtual environments; install the system's package python3-venv" >&2; exit 2; }

digest=$({ "$python" -c 'import sys, platform; print(sys.version, platform.machine())'; cat requirements.lock; } |
    sha256sum | cut -c1-16)
shared=${XDG_CACHE_HOME:-$HOME/.cache}/pentad/venv-$digest
mkdir -p "$(dirname "$shared")"
exec 9>"$shared.lock"
flock 9 # two clones set up at once: the second waits for the first
if [ ! -e "$shared/.complete" ]; then
    echo "installing the locked requirements once for this machine"
    rm -rf "$shared"
    "$python" -m venv "$shared"
    # Unpacking keeps one processor busy, so two installers share it: torch with its libraries, and the rest.
    awk -v torch="$shared/torch.txt" -v rest="$shared/rest.txt" \
        'BEGIN { to = rest } /^[A-Za-z0-9]/ { to = /^(torch|triton|nvidia-|cuda-)/ ? torch : rest } { print > to }' \
        requirements.lock
    install() {
        "$shared/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r "$1"
    }
    install "$shared/torch.txt" &
    install "$shared/rest.txt"
    wait $!
    touch "$shared/.complete"
fi
flock -u 9

stamp=$(cat packages/*/pyproject.toml scripts/setup.sh | sha256sum | cut -c1-16)-$digest
if [ "$(cat .venv/.stamp 2>/dev/null)" != "$stamp" ]; then
    rm -rf .venv
    "$python" -m venv --without-pip .venv
    site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # As a site folder of its own, so that the path files in it work too: coverage's starts it in every process.
    "$shared/bin/python" -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
        >"$site/shared.pth"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
        $(printf -- '-e %s ' packages/*/)
    # The shared environment's commands, run by this clone's Python so that they see its packages.
    for script in "$shared"/bin/*; do
        own=.venv/bin/$(basename "$script")
        [ -e "$own" ] || [ ! -f "$script" ] || ! head -c 256 "$script" | head -n 1 | grep -aq "$shared/bin/python" || {
            sed "1s|.*|#!$PWD/.venv/bin/python|" "$script" >"$own"
            chmod +x "$own"
        }
    done
    [ -e .venv/bin/ruff ] || ln -s "$shared/bin/ruff" .venv/bin/ruff
    echo "$stamp" >.venv/.stamp
fi

# Open3D's wheel loads it and does not bring it. Its readers (PLY, text PCD) are all that misses it.
if ! /sbin/ldconfig -p 2>/dev/null | grep -q 'libusb-1\.0\.so\.0'; then
    scripts/system_packages.sh libusb-1.0-0
fi
