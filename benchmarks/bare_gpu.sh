#!/usr/bin/env bash
# Everything that a GPU has to show, on a machine that has Python, torch with CUDA, and no network:
#
#   tar xf gpu-bundle.tar && bash gpu-bundle/benchmarks/bare_gpu.sh --out RESULTS [--minutes 8] [--only tests,bench]
#
# (`make gpu-bundle` makes the archive.) Installs the wheels that came along into a folder of its own, then runs, each
# with its own time limit and its output written at once to RESULTS: the tests that need a GPU, parity and times
# (benchmarks.gpu), and both stages of training of compact for the minutes that are left. `--rehearse` does the same on a CPU with tiny
# sizes.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"

site="${TMPDIR:-/tmp}/semantic-matcher-gpu-site"
if compgen -G "$root/wheels/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$site" "$root"/wheels/*.whl
fi
export PYTHONPATH="$root:$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "$python" -m benchmarks.bare_gpu "$@"
