#!/bin/sh
# Train the codec's decoder in some minutes of a GPU, on a machine that need not reach anything:
#
#   python -m training --work build/voice text         # before, where WordNet is: build/voice/text.jsonl (6 MB)
#   sh training/gpu_decoder.sh build/voice out
#
# Every core has the teacher read (9 h of speech in a minute on sixteen), then the GPU trains. A checkpoint codec.pt
# in the work folder is gone on from. Written to the second folder, each file below 16 MiB: average.pt (what
# `python -m training export` needs, under the name codec.pt), codec.pt.00, .01, ... (the whole checkpoint in parts,
# to be joined with cat and gone on from) and the log.
#
# WHEELS   folder of wheels to install where there is no registry: hibari-tts, snac, num2words, docopt, einops
# DEVICE   cuda, or cpu for a trial       MINUTES   of training (8)       SHARDS   of speech, some 35 min each (16)
# OPTIONS  more for `python -m training codec`, such as --no-compile
set -eu
work=$1 out=$2
DEVICE=${DEVICE:-cuda} MINUTES=${MINUTES:-8} SHARDS=${SHARDS:-16}
PYTHON=${PYTHON:-python3}
cd "$(dirname "$0")/.."
mkdir -p "$out"
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
    PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
fi
export OMP_NUM_THREADS=1
cores=$(nproc)
[ "$cores" -le "$SHARDS" ] || cores=$SHARDS
readers=
part=0
while [ "$part" -lt "$cores" ]; do
    "$PYTHON" -m training --work "$work" speech --part "$part" --parts "$cores" --shards "$SHARDS" >"$work/speech.$part.log" 2>&1 &
    readers="$readers $!"
    part=$((part + 1))
done
for reader in $readers; do wait "$reader"; done

"$PYTHON" -m training --work "$work" codec --device "$DEVICE" --minutes "$MINUTES" ${OPTIONS:-} | tee "$out/codec.log"
split -b 15000000 -d "$work/codec.pt" "$out/codec.pt."
"$PYTHON" - "$work/codec.pt" "$out/average.pt" <<'END'
import sys

import torch

saved = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
torch.save({"average": saved["average"], "config": saved["config"]}, sys.argv[2])
print(f"{sys.argv[2]} of step {saved['step']}")
END
ls -l "$out"
