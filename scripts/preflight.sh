#!/bin/sh
# Finds a Python that can build tribody and names what is missing on this machine.
#
# Prints the interpreter's path on stdout, or on stderr one line per missing piece with the
# package that brings it (apt for Debian and Ubuntu, dnf for Fedora and RHEL), and fails.
# The Makefile calls it before it makes an environment; it can be run by hand at any time:
#
#     sh scripts/preflight.sh [PYTHON]
set -u

missing=0
need() { # what, apt packages, dnf packages
    echo "missing: $1" >&2
    echo "    Debian, Ubuntu:  sudo apt-get install $2" >&2
    echo "    Fedora, RHEL:    sudo dnf install $3" >&2
    missing=1
}

is_new_enough() { # a name may exist and still not run (pyenv's shims), so it is run
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

python=""
for candidate in ${1:-python3.13 python3.12 python3.11 python3 python}; do
    if command -v "$candidate" >/dev/null 2>&1 && is_new_enough "$candidate"; then
        python=$(command -v "$candidate")
        break
    fi
done

if [ -z "$python" ]; then
    if [ -n "${1:-}" ]; then
        echo "PYTHON=$1 does not run, or is older than Python 3.11" >&2
    fi
    need "Python 3.11 or newer (or name one: make PYTHON=/path/to/python3)" \
        "python3 python3-venv python3-dev" "python3.11 python3.11-devel"
else
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        need "the venv and ensurepip modules of $python" "python$version-venv" "python$version"
    fi
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    if [ ! -f "$headers/Python.h" ]; then
        need "Python.h, the C headers of $python" "python$version-dev" "python$version-devel"
    fi
fi

compiler=""
for candidate in ${CXX:-c++ g++ clang++}; do
    if command -v "$candidate" >/dev/null 2>&1; then
        compiler=$candidate
        break
    fi
done
if [ -z "$compiler" ]; then
    need "a C++ compiler" "g++" "gcc-c++"
elif ! echo '#include <atomic>
int main() { std::atomic<int> a{0}; a.wait(1); return a; }' |
    "$compiler" -std=c++20 -x c++ -fsyntax-only - >/dev/null 2>&1; then
    need "a C++20 compiler with its standard library ($compiler is too old or incomplete)" \
        "g++" "gcc-c++"
fi

if ! command -v make >/dev/null 2>&1; then
    need "make" "make" "make"
fi

[ "$missing" -eq 0 ] || exit 1
echo "$python"
