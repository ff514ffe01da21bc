#!/bin/sh
# Builds the native module into build/dev and copies it into src/tribody for in-tree work.
# The wheel build (scikit-build-core) uses the same CMakeLists.txt and needs none of this.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv-dev/bin/python}
tools=$(dirname "$python")
PATH="$tools:$PATH"
export PATH
mkdir -p build
exec 9>build/dev.lock
flock 9 # two builds at once would share object files
cmake -G Ninja -S . -B build/dev -DPython_EXECUTABLE="$python" -DCMAKE_BUILD_TYPE=Release "$@" >build/dev-configure.log 2>&1 || {
  cat build/dev-configure.log >&2
  exit 1
}
cmake --build build/dev
cp build/dev/_native*.so src/tribody/
