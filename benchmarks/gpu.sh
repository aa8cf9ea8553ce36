#!/bin/sh
# Everything that only a GPU can show, unattended, the most important first, in at most MINUTES (10):
#
#     sh benchmarks/gpu.sh [MODEL_DIR [CODEC_DIR]]
#
# MODEL_DIR is a snapshot of an Orpheus model, CODEC_DIR one of SNAC 24 kHz. Without them the weights are made up, in the
# size of Orpheus 3B: the times are then as good as real, what is spoken is noise.
# Figures go to benchmarks/results/gpu_*.json, the output of each step to benchmarks/results/gpu_*.log.
# A step that fails or takes too long does not stop the others; the exit status is the number of such steps. When the
# time is over, what is left is not begun: vLLM alone takes one to two minutes to start, each time, so that two steps which
# show nothing that the others do not are left out unless they are named: ONLY="head load" runs those alone.
#
# The environment is made by .ci/install.py in $VLLM_ENV before the clock starts, unless GPU_PYTHON names a Python that has
# vLLM and this package; so are the weights (25 GB of memory, two minutes; in /dev/shm with TMPDIR=/dev/shm).
set -u
cd "$(dirname "$0")/.."
if [ -n "${GPU_PYTHON:-}" ]; then
    python=$GPU_PYTHON
else
    VLLM_ENV=${VLLM_ENV:-$PWD/.cache/vllm-env}
    "${PYTHON:-python3}" .ci/install.py "$VLLM_ENV" vllm-tests || exit 1
    python="$VLLM_ENV/bin/python"
fi
if ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "no CUDA device: nothing to do here" >&2
    exit 1
fi
mkdir -p benchmarks/results
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1

model=${1:-}
codec=${2:-}
if [ -z "$model" ]; then
    model=$("$python" -c "from benchmarks.vllm_models import crafted_3b; print(crafted_3b())") || exit 1
fi
if [ -z "$codec" ]; then
    codec=$("$python" -c "from tests.support.codecs import *; print(random_codec(FULL_SIZE))") || exit 1
fi

failed=0
began=$(date +%s)
step() { # name, most seconds, command...
    name=$1 most=$2
    shift 2
    case " ${ONLY:-tests codec engine contract fp8 torch} " in *" $name "*) ;; *) return ;; esac
    left=$((${MINUTES:-10} * 60 - 10 - $(date +%s) + began))
    echo "== $name ($left s left)"
    [ "$most" -le "$left" ] || most=$left
    if [ "$most" -lt 10 ]; then
        echo "NOT BEGUN: no time left"
        failed=$((failed + 1))
        return
    fi
    if timeout -k 10 "$most" "$@" >"benchmarks/results/gpu_$name.log" 2>&1; then
        grep -E '^\||passed|^[a-z_]+: |^[a-z_]+ [{0-9]|^ +[a-z0-9]+ ' "benchmarks/results/gpu_$name.log" || true
    else
        echo "FAILED ($?), the end of benchmarks/results/gpu_$name.log:"
        tail -n 25 "benchmarks/results/gpu_$name.log"
        failed=$((failed + 1))
    fi
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
# SNAC's captured graphs, the torch engine and the whole engine on the bundled voice.
step tests 120 "$python" -m pytest -q -m "gpu and not vllm" tests/codec \
    tests/contract/test_generator_contract.py tests/test_gpu.py
# The codec alone: milliseconds of a step for so many streams.
step codec 40 "$python" benchmarks/codec.py --device cuda --lanes 1,4,16,32,64 --rounds 10 --out gpu_codec
# One start of vLLM: listeners at once, time to their first sound, cancelling, what the engine costs over vLLM.
step engine 270 "$python" benchmarks/gpu.py ${1:+--model "$model"} ${2:+--codec "$codec"}
# vLLM's CUDA runner, graphs, sampler and restricted head under the contract that the CPU build passes.
step contract 300 "$python" -m pytest -q -m vllm tests/tokens/test_vllm_head.py tests/test_gpu.py \
    tests/contract/test_generator_contract.py -k "not completions_vllm"
# fp8 weights.
step fp8 150 "$python" benchmarks/vllm_head.py --model "$model" --streams 1 8 32 --ids 1680 --rounds 2 \
    --only restricted --quantization fp8 --out gpu_fp8
# The whole head, where "engine" and "fp8" have the restricted one.
step head 150 "$python" benchmarks/vllm_head.py --model "$model" --streams 1 8 32 --ids 1680 --rounds 2 \
    --only whole --out gpu_head
# Callers of a server, in processes of their own.
step load 200 "$python" benchmarks/load.py --model "$model" --device cuda --rates 1 4 12 --rounds 1 --seconds 20 --out gpu_load \
    -- --codec "$codec" --generator vllm
# The torch engine, which is there for processors.
step torch 60 "$python" benchmarks/generator.py --device cuda --repeats 1 --out gpu_generator

echo "== done in $(($(date +%s) - began)) s, $failed steps failed"
exit $failed
