#!/usr/bin/env bash
# Make the virtual environment $1 with the first Python that can be used, unless it is there and works.
set -eu
place=$1

usable() {
  # runs at all (version switchers leave commands that do not), is new enough, and can make environments
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' 2>/dev/null
}

if [ -x "$place/bin/python" ] && "$place/bin/python" -m pip --version >/dev/null 2>&1; then
  exit 0
fi
for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3 python; do
  if command -v "$candidate" >/dev/null && usable "$candidate"; then
    rm -rf "$place"
    exec "$candidate" -m venv "$place"
  fi
done
{
  echo 'fleetpulse needs Python 3.11, 3.12 or 3.13 with its venv module, and found none on the PATH.'
  if command -v python3 >/dev/null; then
    echo "  found: $(python3 --version 2>&1) at $(command -v python3)$(python3 -c 'import venv, ensurepip' 2>/dev/null || echo ', without venv')"
  fi
  echo '  Debian, Ubuntu: apt-get install python3 python3-venv    macOS is not supported: NVML and the kernel log are Linux'
  echo '  or name one:    make setup PYTHON=/path/to/python3.12'
} >&2
exit 1
