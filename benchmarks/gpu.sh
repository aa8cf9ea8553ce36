#!/bin/sh
# Everything that only a GPU can show, unattended, the most important first, in at most MINUTES (9):
#
#     sh benchmarks/gpu.sh [MODEL_DIR [CODEC_DIR]]
# DRY_RUN=1 sh benchmarks/gpu.sh      on a CPU with small models: every step runs, the figures mean
# nothing
#
# MODEL_DIR is a snapshot of an Orpheus model, CODEC_DIR one of SNAC 24 kHz. Without them the
# weights are random, in the size of Orpheus 3B: the times are realistic, the sound is noise.
# Figures go to benchmarks/results/gpu_*.json (of a dry run to benchmarks/new), the output of each
# step to benchmarks/results/gpu_*.log. A step that fails or takes too long does not stop the
# others; the exit status is the number of such steps. When the time is over, the remaining steps
# are not begun. vLLM alone takes one to two minutes to start, each time, so one start measures
# several ways to run codec and sampler. ONLY="worker load" runs some of the steps.
#
# The environment is made by .ci/install.py in $VLLM_ENV before the clock starts, unless GPU_PYTHON names a Python that has
# vLLM, this package and what its tests import. A machine that has vLLM and no index gets what vLLM lacks (2 MB) as a folder:
#
#     PYTHON=python3.12 sh benchmarks/gpu.sh wheels DIR     where there is an index, with the Python version of that machine
#     GPU_PYTHON=python3 GPU_WHEELS=DIR sh benchmarks/gpu.sh
#
# PyAV (35 MB) and SciPy (35 MB) are not among them: no step here encodes sound or needs statistics. The weights are made before the
# clock starts, too (25 GB of memory, two minutes; in /dev/shm with
# TMPDIR=/dev/shm). VoxServe is left out: vox-serve 0.1.0 needs torch 2.8 with CUDA 12.8 and FlashInfer 0.2.11, several
# gigabytes beside vLLM's torch, which cannot be taken along to a machine without a network.
set -u
cd "$(dirname "$0")/.."
if [ "${1:-}" = wheels ]; then
    exec "${PYTHON:-python3}" -m pip wheel --quiet --no-deps --wheel-dir "$2" docopt execnet hypothesis iniconfig num2words \
        platformdirs pluggy pytest pytest-asyncio pytest-timeout pytest-xdist sentencex snac sortedcontainers soxr
fi
dry=${DRY_RUN:+1}
if [ -n "${GPU_PYTHON:-}" ]; then
    python=$GPU_PYTHON
else
    VLLM_ENV=${VLLM_ENV:-$PWD/.cache/vllm-env}
    export VLLM_ENV
    "${PYTHON:-python3}" .ci/install.py "$VLLM_ENV" vllm-tests || exit 1
    python="$VLLM_ENV/bin/python"
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH="$PWD"
if [ -n "${GPU_WHEELS:-}" ]; then
    "$python" -m pip install --quiet --no-deps --no-index --target "$scratch/packages" "$GPU_WHEELS"/*.whl || exit 1
    # vLLM loads what the compact sampler needs by the package's entry point, which only an installed package has.
    "$python" -c "import pathlib, sys, tomllib
points = tomllib.load(open('pyproject.toml', 'rb'))['project']['entry-points']
folder = pathlib.Path(sys.argv[1], 'orpheus_plugin-0.dist-info')
folder.mkdir()
(folder / 'METADATA').write_text('Metadata-Version: 2.1\\nName: orpheus_plugin\\nVersion: 0\\n')
lines = [f'[{group}]\\n' + ''.join(f'{k} = {v}\\n' for k, v in of.items()) for group, of in points.items()]
(folder / 'entry_points.txt').write_text(''.join(lines))" "$scratch/packages" || exit 1
    PYTHONPATH="$PWD:$scratch/packages"
fi
if [ -z "$dry" ] && ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "no CUDA device: nothing to do here (DRY_RUN=1 tries everything on the CPU)" >&2
    exit 1
fi
mkdir -p benchmarks/results
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
# vLLM does not start without FlashInfer unless it is told to.
"$python" -c "import flashinfer" 2>/dev/null || export VLLM_USE_FLASHINFER_SAMPLER=0

model=${1:-}
codec=${2:-}
speaker=$model ids=
device=cuda gpu="gpu and" minutes=${MINUTES:-9} most_turns=256 levels="16 32" seconds=15 lanes=1,4,16,32,64 prefix=gpu save=--save
if [ -n "$dry" ]; then
    device=cpu gpu="" minutes=${MINUTES:-60} most_turns=2 levels=0.5 seconds=8 lanes=1 prefix=gpu_dry save=
    stand_in=$scratch/stand_in
    mkdir "$stand_in"
    "$python" -c "import pathlib, sys; from tests.support.mps_control import write_control; \
        write_control(pathlib.Path(sys.argv[1]), clients=(1, 2))" "$stand_in" || exit 1
    PATH=$stand_in:$PATH
    if [ -z "$model" ]; then
        model=$("$python" -c "from tests.support.checkpoints import *; print(crafted_checkpoint(stop=0.0))") || exit 1
        speaker=$("$python" -c "from tests.support.checkpoints import *; print(crafted_checkpoint(stop=0.1))") || exit 1
        ids=70
    fi
    codec=${codec:-$("$python" -c "from tests.support.codecs import *; print(random_codec())")} || exit 1
fi
if [ -z "$model" ]; then
    # One that does not end, whose utterances are cut at one length, and one whose utterances of 3.4 s on average end by themselves.
    model=$("$python" -c "from benchmarks.vllm_models import crafted_3b; print(crafted_3b())") || exit 1
    speaker=$("$python" -c "from benchmarks.vllm_models import crafted_3b; print(crafted_3b(stop=1 / 40))") || exit 1
    ids=280
fi
if [ -z "$codec" ]; then
    codec=$("$python" -c "from tests.support.codecs import *; print(random_codec(FULL_SIZE))") || exit 1
fi

failed=0
began=$(date +%s)
step() { # name, most seconds, command...
    name=$1 most=$2
    shift 2
    case " ${ONLY:-ways mps replicas2 replicas3 tests contract codec} " in *" $name "*) ;; *) return ;; esac
    left=$((minutes * 60 - 10 - $(date +%s) + began))
    [ -z "$dry" ] || most=$((20 * most))
    echo "== $name ($left s left)"
    [ "$most" -le "$left" ] || most=$left
    if [ "$most" -lt 10 ]; then
        echo "NOT BEGUN: no time left"
        failed=$((failed + 1))
        return
    fi
    if timeout -k 10 "$most" "$@" >"benchmarks/results/${prefix}_$name.log" 2>&1; then
        grep -E '^\||passed|^[a-z_]+: |^[a-z_]+ [{0-9]|^ +[a-z0-9.]+ ' "benchmarks/results/${prefix}_$name.log" || true
    else
        echo "FAILED ($?), the end of benchmarks/results/${prefix}_$name.log:"
        tail -n 25 "benchmarks/results/${prefix}_$name.log"
        failed=$((failed + 1))
    fi
}
bench() { # name of the results, arguments of gpu.py...
    out=$1
    shift
    step "$out" 400 "$python" benchmarks/gpu.py ${dry:+--dry-run} --model "$model" --codec "$codec" \
        ${ids:+--ids $ids} $save --out "${prefix}_$out" "$@"
}
replicas() { # how many
    case " ${ONLY:-replicas$1} " in *" replicas$1 "*) ;; *) return ;; esac
    if ! "$python" -c "import aiohttp, prometheus_client, soxr" 2>/dev/null; then
        echo "== replicas$1"
        echo "NOT BEGUN: $python has no server: pip install '.[server]'"
        failed=$((failed + 1))
        return
    fi
    step "replicas$1" 330 "$python" benchmarks/load.py $save --out "${prefix}_replicas$1" --model "$speaker" --device "$device" \
        --max-turns "$most_turns" --rates $levels --rounds 1 --seconds "$seconds" \
        -- --codec "$codec" --generator vllm --codec-step tuned --sampler compact --mps --replicas "$1"
}

[ -n "$dry" ] || nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
# One start of vLLM: the codec in a process of its own as it always was, with the tuned step, with the compact sampler too,
# and in vLLM's worker; then turns at rising rates on the best of them.
bench ways --ways own,plain,whole own,tuned,whole own,tuned,compact vllm,tuned,compact
# The separate process under MPS.
bench mps --mps --ways own,tuned,compact
# Two and three engines on the card behind one listener.
replicas 2
replicas 3
# SNAC's captured graphs, the torch engine and the whole engine on the bundled voice.
step tests 100 "$python" -m pytest -q -m "$gpu not vllm" tests/codec tests/test_gpu.py
# vLLM's CUDA runner, graphs and both samplers under the contract that the CPU build passes, and the codec in its worker.
step contract 240 "$python" -m pytest -q -m vllm tests/tokens/test_vllm_head.py tests/tokens/test_vllm_sampler.py \
    tests/engine/test_codec_in_vllm.py tests/contract/test_generator_contract.py -k "not completions_vllm"
# The codec alone: milliseconds of a step for so many streams.
step codec 40 "$python" benchmarks/codec.py $save --device "$device" --lanes "$lanes" --rounds 10 --out "${prefix}_codec"
# What the runs before this one had, if it is named: fp8 weights, the whole head, vLLM's own figures, the torch engine.
step fp8 150 "$python" benchmarks/vllm_head.py --model "$model" --streams 1 8 32 --ids 1680 --rounds 2 \
    --only restricted --quantization fp8 $save --out "${prefix}_fp8"
step head 150 "$python" benchmarks/vllm_head.py --model "$model" --streams 1 8 32 --ids 1680 --rounds 2 \
    --only whole $save --out "${prefix}_head"
case " ${ONLY:-} " in *" details "*) bench details --ways own,plain,whole --rates --details ;; esac
step torch 60 "$python" benchmarks/generator.py $save --device "$device" --repeats 1 --out "${prefix}_generator"

echo "== done in $(($(date +%s) - began)) s, $failed steps failed"
exit $failed
