#!/bin/sh
# Everything that only a GPU can show, unattended, in less than ten minutes once the environment is there:
#
#     sh benchmarks/gpu.sh [MODEL_DIR [CODEC_DIR]]
#
# MODEL_DIR is a snapshot of an Orpheus model, CODEC_DIR one of SNAC 24 kHz. Without them the weights are made up, in the
# size of Orpheus 3B: the times are then as good as real, what is spoken is noise.
# Figures go to benchmarks/results/gpu_*.json, the output of each step to benchmarks/results/gpu_*.log.
# A step that fails or takes too long does not stop the others; the exit status is the number of such steps. When the ten
# minutes are over, what is left is not begun.
#
# The environment is made by .ci/vllm_env.sh in $VLLM_ENV before the clock starts, and so are weights (25 GB of memory, for
# a minute). This script never ran on a GPU.
set -u
cd "$(dirname "$0")/.."
VLLM_ENV=${VLLM_ENV:-$PWD/.cache/vllm-env}
export VLLM_ENV
sh .ci/vllm_env.sh || exit 1
python="$VLLM_ENV/bin/python"
if ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "no CUDA device: nothing to do here" >&2
    exit 1
fi
mkdir -p benchmarks/results
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

model=${1:-}
codec=${2:-}
if [ -n "$model" ]; then
    tokens="--model $model"
    speech="--model $model${codec:+ --codec $codec}"
else
    tokens="--random-3b"
    speech="--crafted-3b"
    model=$("$python" -c "from benchmarks.vllm_models import crafted_3b; print(crafted_3b())") || exit 1
fi

failed=0
began=$(date +%s)
step() { # name, most seconds, command...
    name=$1 most=$2
    shift 2
    left=$((590 - $(date +%s) + began))
    echo "== $name ($left s left)"
    [ "$most" -le "$left" ] || most=$left
    if [ "$most" -lt 10 ]; then
        echo "NOT BEGUN: no time left"
        failed=$((failed + 1))
        return
    fi
    if timeout -k 10 "$most" "$@" >"benchmarks/results/gpu_$name.log" 2>&1; then
        grep -E '^\||passed|^[a-z_]+: |^[a-z_]+ [{0-9]' "benchmarks/results/gpu_$name.log" || true
    else
        echo "FAILED ($?), the end of benchmarks/results/gpu_$name.log:"
        tail -n 15 "benchmarks/results/gpu_$name.log"
        failed=$((failed + 1))
    fi
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
# SNAC's captured graphs and whatever else is marked so.
step tests 90 "$python" -m pytest -m gpu tests/codec
# vLLM's CUDA runner, graphs, sampler and restricted head under the contract that the CPU build passes.
step contract 120 "$python" -m pytest tests/generators/test_vllm_head.py \
    "tests/contract/test_generator_contract.py" -k "not completions_vllm" -m vllm
# Listeners at once and the time to their first sound, tokens and codec on the one card.
# shellcheck disable=SC2086
step capacity 180 "$python" benchmarks/capacity.py $speech --generator vllm --streams 1 8 16 32 64 96 --out gpu_capacity
# What the wrapper costs, the first id, the time to be rid of a request.
# shellcheck disable=SC2086
step wrapper 100 "$python" benchmarks/vllm_engine.py $tokens --streams 1 8 32 --rounds 2 --cancels 100 --out gpu_engine
# The restricted head against the whole one; the same with fp8 weights.
# shellcheck disable=SC2086
step head 150 "$python" benchmarks/vllm_head.py $tokens --streams 1 32 --ids 840 --rounds 2 --out gpu_head
# shellcheck disable=SC2086
step head_fp8 70 "$python" benchmarks/vllm_head.py $tokens --streams 1 32 --ids 840 --rounds 2 \
    --only restricted --quantization fp8 --out gpu_head_fp8
# What the whole engine costs over vLLM and a codec.
step engine 100 "$python" benchmarks/engine_cost.py --model "$model" --streams 1 32 --rounds 3 --out gpu_engine_cost

echo "== done in $(($(date +%s) - began)) s, $failed of 7 steps failed"
exit $failed
