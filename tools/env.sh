# To be sourced by bash or zsh, after `make build`:
#   source tools/env.sh
# puts the virtual environment (VENV, or .venv), ROS 2 and the built workspace into the shell.
_semantic_matcher_root="$(cd "$(dirname "${BASH_SOURCE[0]:-${(%):-%x}}")/.." && pwd)"
_semantic_matcher_venv="${VENV:-$_semantic_matcher_root/.venv}"
if [ -x "$_semantic_matcher_venv/bin/python" ]; then
    if _semantic_matcher_lines="$(cd "$_semantic_matcher_root" &&
        "$_semantic_matcher_venv/bin/python" -m tools.ros_env --venv "$_semantic_matcher_venv" --shell)"; then
        eval "$_semantic_matcher_lines"
    fi
else
    echo "semantic_matcher: no virtual environment at $_semantic_matcher_venv; run \`make build\` first" >&2
fi
unset _semantic_matcher_root _semantic_matcher_venv _semantic_matcher_lines
