#!/usr/bin/env bash
# .ci/setup.sh demo|test: brings .venv up to what `make demo` or `make test` needs; does nothing when it is.
#
# Interpreter: $PYTHON if set, else the newest supported one that really runs, on PATH or known to pyenv.
# Versions: constraints-py311.txt for Python 3.11, constraints-py312.txt for later ones.
# A stamp in .venv records what was installed: pyproject.toml, the constraints, the interpreter, this folder.
# It is removed before anything changes and written last, so an interrupted set-up is seen and done again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly SUPPORTED="3.13 3.12 3.11" # newest first
readonly VENV=.venv
readonly MINE=$VENV/.made-by-sparsevdit-jax
readonly wanted=${1:-test}

fail() { printf 'set-up: %s\n' "$@" >&2; exit 1; }
say() { printf 'set-up: %s\n' "$*"; }

case $wanted in
  demo) extras=demo compile=--no-compile ;; # Python compiles what is imported, a fraction of it
  test) extras=demo,test,lint compile=--compile ;;
  *) fail "'$wanted' is not a set-up; give demo or test" ;;
esac

# Prints "minor version path" of an interpreter that can make an environment, else why not, and fails.
# -I: neither the caller's PYTHONPATH nor the working directory takes part.
probe() {
  "$1" -I -c '
import platform, sys, sysconfig
version = platform.python_version()
if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit(f"{version} is not a standard CPython")
try:
    import ensurepip, venv
except ImportError as problem:
    sys.exit(f"{version} cannot make environments ({problem}; Debian: install python3-venv)")
print("%d.%d" % sys.version_info[:2], version, sys.executable)
' 2>&1 | sed -n 1p
  return "${PIPESTATUS[0]}"
}

supported() { case " $SUPPORTED " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

candidates() {
  local minor name pyenv_root version
  for minor in $SUPPORTED; do type -ap "python$minor" || true; done
  for name in python3 python; do type -ap "$name" || true; done
  if pyenv_root=$(pyenv root 2>/dev/null); then
    for version in $(pyenv versions --bare 2>/dev/null); do
      printf '%s\n' "$pyenv_root/versions/$version/bin/python"
    done
  fi
}

# Sets `minor`, `version`, `python` to the best interpreter, or fails saying what was looked at.
choose_interpreter() {
  local path answer candidate_minor candidate_version resolved tried="" best=""
  if [ -n "${PYTHON:-}" ]; then
    answer=$(probe "$PYTHON") || fail "PYTHON=$PYTHON does not work: $answer" "name an interpreter of Python ${SUPPORTED// /, }"
    read -r minor version python <<<"$answer"
    supported "$minor" || fail "PYTHON=$PYTHON is Python $version; this project supports ${SUPPORTED// /, }"
    return
  fi
  while read -r path; do
    if ! answer=$(probe "$path"); then
      tried+=$'\n'"  $path: $answer"
      continue
    fi
    read -r candidate_minor candidate_version resolved <<<"$answer"
    if ! supported "$candidate_minor"; then
      tried+=$'\n'"  $path: Python $candidate_version"
    elif [ -z "$best" ] || [ "${candidate_minor#3.}" -gt "${best#3.}" ]; then
      best=$candidate_minor minor=$candidate_minor version=$candidate_version python=$resolved
    fi
    [ "$best" != "${SUPPORTED%% *}" ] || break # nothing newer can follow
  done < <(candidates)
  [ -n "$best" ] || fail "no supported Python found; this project needs one of ${SUPPORTED// /, }." \
    "Looked on PATH and in pyenv:${tried:- nothing there is called python}" \
    "Install one (Debian: apt-get install python3 python3-venv; or: pyenv install 3.12), or name it: make $wanted PYTHON=/path/to/python3.12"
}

constraints() { if [ "$1" = 3.11 ]; then echo constraints-py311.txt; else echo constraints-py312.txt; fi; }

# The line that a finished set-up leaves: everything that decides what .venv holds. $1 minor, $2 version.
state() {
  printf '%s python %s in %s\n' "$(cat pyproject.toml "$(constraints "$1")" .ci/setup.sh | cksum | tr ' ' -)" "$2" "$PWD"
}

# Succeeds when .venv holds set-up $1 for the interpreter in it (or for $PYTHON, when given).
current() {
  local answer own_minor own_version rest
  [ -f "$VENV/.stamp-$1" ] && answer=$(probe "$VENV/bin/python") || return 1
  read -r own_minor own_version rest <<<"$answer"
  [ "$(state "$own_minor" "$own_version")" = "$(cat "$VENV/.stamp-$1")" ] || return 1
  [ -z "${PYTHON:-}" ] || { choose_interpreter && [ "$version" = "$own_version" ]; }
}

if current test || { [ "$wanted" = demo ] && current demo; }; then exit 0; fi

began=$SECONDS
if current demo; then # only packages are missing
  read -r minor version python <<<"$(probe "$VENV/bin/python")"
else
  choose_interpreter
  if [ -e "$VENV" ] && [ ! -f "$MINE" ]; then
    fail "$PWD/$VENV exists and was not made by this set-up, so it is left alone; move or delete it, then run make $wanted again"
  fi
  if [ -e "$VENV" ]; then say "replacing $VENV: it is unfinished or for other versions"; fi
  mkdir -p "$VENV"
  echo "Made by .ci/setup.sh, which may delete it." >"$MINE"
  # Stamps first and the mark never, so that an interruption here too leaves a folder known as unfinished.
  rm -f "$VENV"/.stamp-*
  find "$VENV" -mindepth 1 -maxdepth 1 ! -path "$MINE" -exec rm -rf {} +
  say "Python $version ($python) -> $VENV"
  "$python" -I -m venv "$VENV" || fail "python -m venv failed; see above"
fi

pins=$(constraints "$minor")
say "installing [$extras] with $pins, about a minute"
rm -f "$VENV/.stamp-test"
pip() { "$VENV/bin/python" -I -m pip --disable-pip-version-check install -qq --no-input "$compile" -c "$pins" "$@"; }

# The CUDA plugin and ptxas, with which tests compile kernels for a GPU that is not there. In a folder of their own: where
# jax sees the plugin but no driver, every program prints a traceback. jax for Python 3.11 is too old for the kernels.
aot_job=
if [ "$wanted" = test ] && [ "$minor" != 3.11 ]; then
  say "installing [aot] into $VENV/aot beside it (741 MB)"
  readarray -t aot < <("$VENV/bin/python" -I -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["aot"], sep="\n")')
  rm -rf "$VENV/aot"
  pip --target "$VENV/aot" "${aot[@]}" &
  aot_job=$!
  trap 'kill "$aot_job" 2>/dev/null || true' EXIT
fi
# setuptools is pinned and installed first, so that building the project itself fetches nothing unpinned.
pip setuptools && pip --no-build-isolation -e ".[$extras]" ||
  fail "pip could not install [$extras] with $pins; see above." "Is a package index reachable? Run make $wanted again to go on."
[ -z "$aot_job" ] || wait "$aot_job" ||
  fail "pip could not install [aot] with $pins; see above." "Is a package index reachable? Run make test again to go on."

state "$minor" "$version" >"$VENV/.stamp.tmp"
mv "$VENV/.stamp.tmp" "$VENV/.stamp-$wanted"
say "done in $((SECONDS - began)) s"
