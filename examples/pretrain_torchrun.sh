#!/usr/bin/env bash
# Pre-train on all GPUs of one machine, or of several. Run from the repository's folder.
#
#   DATA=/path/to/JetClass examples/pretrain_torchrun.sh [PROFILE] [STRATEGY]
#
# One machine: `python -m jetfm pretrain --processes N` does the same by itself. Several: run this
# on each, with NODES, and the first one's name as HEAD; they have to share work/ (JETFM_WORK).
set -euo pipefail

profile=${1:-paper}
strategy=${2:-main}
settings=(--profile "$profile" ${DATA:+--data "$DATA"})
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}

if [[ ${NODES:-1} -eq 1 ]]; then
  # the main tokenizer and its tokens, once, in one process with all cores
  .venv/bin/python -m jetfm tokenize "${settings[@]}"
  where=(--standalone)
else
  # several machines: run the line above on one of them beforehand
  where=(--nnodes "$NODES" --rdzv-backend c10d --rdzv-endpoint "$HEAD:29400" --rdzv-id jetfm)
fi

# --sharding fsdp where weights, gradients and optimiser do not fit one GPU; the result is the same
.venv/bin/python -m torch.distributed.run "${where[@]}" --nproc-per-node "$gpus" \
  -m jetfm pretrain "${settings[@]}" --strategy "$strategy" --sharding "${SHARDING:-ddp}"
