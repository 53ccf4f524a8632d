#!/bin/sh
# Makes a virtual environment for each rival under benchmarks/.venvs, or for those that are named:
# sh benchmarks/rivals.sh [torchani] [mace] [ace-jax] [apax] [graph-pes] [grace] [deepmd] [quests] [maml] [torch-sim]
# About 12 GB in all, most of it for TensorFlow, which apax, GRACE and DeePMD-kit need each.
# One that cannot be installed is said, and the others go on. Nothing here downloads weights.
set -uf
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
        # unquoted: a word may hold several packages, or an option before one
        if ! "$venv/bin/python" -m pip install --quiet $package >"$venv/pip.log" 2>&1; then
            echo "$name: $package could not be installed: $(grep ERROR "$venv/pip.log" | tail -n 1); see benchmarks/$venv/pip.log"
            return
        fi
    done
    "$venv/bin/python" -m pip freeze 2>/dev/null | grep -E '^(torch|torchani|mace-torch|ace-jax|apax|graph-pes|jax|tensorflow|tensorflow.cpu|tensorpotential|deepmd-kit|quests|maml|torch-sim-atomistic|matgl|numba|scikit-learn)==' | tr '\n' ' ' >"$venv/.installed"
    echo "$name: $(cat "$venv/.installed")"
}

for rival in ${*:-torchani mace ace-jax apax graph-pes grace deepmd quests maml torch-sim}; do
    case $rival in
        torchani) install torchani "$TORCH" torchani ;;
        mace) install mace "$TORCH" mace-torch ;;
        # without torch; the extra is its neighbour list in C++, without which its first calls would take longer
        ace-jax) install ace-jax 'ace-jax[fast-neighbours]' ;;
        apax) install apax 'apax click' ;; # its batch selection imports click, which it does not ask for
        graph-pes) install graph-pes "$TORCH" graph-pes ;;
        quests) install quests quests ;;
        maml) install maml "$TORCH" maml ;;
        # it drives our own model, which is installed beside it
        torch-sim) install torch-sim "$TORCH" .. torch-sim-atomistic ;;
        # it asks for TensorFlow with several gigabytes of GPU libraries, so what it needs else goes first
        grace)
            install grace 'tensorflow-cpu<=2.20' '--no-deps tf_keras<2.21' \
                'ase matscipy pandas<3 pyyaml questionary requests rich scikit-learn scipy sympy tqdm' \
                '--no-deps tensorpotential'
            ;;
        # with TensorFlow: its operators for torch are built for 2.11, of which PyPI has the GPU build alone
        deepmd) install deepmd 'deepmd-kit[cpu]' ase ;;
        *) echo "$rival: not known; see the head of this file" ;;
    esac
done
