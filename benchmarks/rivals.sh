#!/bin/sh
# Makes a virtual environment for each rival under benchmarks/.venvs: sh benchmarks/rivals.sh [torchani] [mace] [ace-jax] [apax] [graph-pes] [quests] [maml] [torch-sim]
# About 8 GB in all, 3 of them for apax, which needs TensorFlow.
# One that cannot be installed is said, and the others go on. Nothing here downloads weights.
set -u
cd "$(dirname "$0")" || exit 1
PYTHON=${PYTHON:-python3}
TORCH=torch==2.13.0

# torch goes first and by exact version, as in the Makefile: pip then finds the CPU build, and does not look for one with
# several gigabytes of GPU libraries when it installs what needs torch.
install() {
    name=$1
    shift
    venv=.venvs/$name
    if [ -f "$venv/.installed" ]; then
        echo "$name: is there ($(cat "$venv/.installed"))"
        return
    fi
    mkdir -p .venvs
    [ -d "$venv" ] || "$PYTHON" -m venv "$venv" || return
    for package in "$@"; do
        if ! "$venv/bin/python" -m pip install --quiet "$package" >"$venv/pip.log" 2>&1; then
            echo "$name: $package could not be installed: $(grep ERROR "$venv/pip.log" | tail -n 1); see benchmarks/$venv/pip.log"
            return
        fi
    done
    "$venv/bin/python" -m pip freeze 2>/dev/null | grep -E '^(torch|torchani|mace-torch|ace-jax|apax|graph-pes|jax|tensorflow|quests|maml|torch-sim-atomistic|matgl|numba|scikit-learn)==' | tr '\n' ' ' >"$venv/.installed"
    echo "$name: $(cat "$venv/.installed")"
}

for rival in ${*:-torchani mace ace-jax apax graph-pes quests maml torch-sim}; do
    case $rival in
        torchani) install torchani "$TORCH" torchani ;;
        mace) install mace "$TORCH" mace-torch ;;
        # without torch; the extra is its neighbour list in C++, without which its first calls would take longer
        ace-jax) install ace-jax 'ace-jax[fast-neighbours]' ;;
        apax) install apax apax ;;
        graph-pes) install graph-pes "$TORCH" graph-pes ;;
        quests) install quests quests ;;
        maml) install maml "$TORCH" maml ;;
        # it drives our own model, which is installed beside it
        torch-sim) install torch-sim "$TORCH" .. torch-sim-atomistic ;;
        *) echo "$rival: not known; torchani, mace, ace-jax, apax, graph-pes, quests, maml and torch-sim are" ;;
    esac
done
