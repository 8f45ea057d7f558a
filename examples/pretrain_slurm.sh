#!/usr/bin/env bash
# Pre-train on GPUs of a SLURM cluster. From the repository's folder:
#
#   DATA=/path/to/JetClass sbatch examples/pretrain_slurm.sh [PROFILE] [STRATEGY]
#
# DRY_RUN=1 takes a few jets and steps, to see that everything is in place.
# One task a GPU. Ask for GPUs by machine, as here: with --gpus-per-task a task would see one alone.
# A job that ran out of time continues when it is submitted again.
#SBATCH --job-name=jetfm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
set -euo pipefail

profile=${1:-paper}
strategy=${2:-main}
settings=(--profile "$profile" ${DATA:+--data "$DATA"})
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=$OMP_NUM_THREADS   # srun does not take it over by itself
export SLURM_KILL_BAD_EXIT=1                 # where one task fails, the others would wait for it

# the main tokenizer and its tokens, once, in one process: without srun, jetfm is alone
.venv/bin/python -m jetfm tokenize "${settings[@]}"

# --sharding fsdp where weights, gradients and optimiser do not fit one GPU; the result is the same
srun .venv/bin/python -m jetfm pretrain \
  "${settings[@]}" --strategy "$strategy" --sharding "${SHARDING:-ddp}"
