#!/usr/bin/env bash
# Submit prepare, train and evaluate as three jobs, each after the success of the one before.
# From the top of the checkout, with the overrides of each program in one word:
#   slurm/pipeline.sh NAME "PREPARE" "TRAIN" "EVALUATE"
#   slurm/pipeline.sh mix80 "" "+experiment=cpt/mamba2_130m" ""
# The run is runs/pipeline/NAME; a training that was stopped goes on when this is submitted again.
set -euo pipefail

if (($# != 4)) || [[ ! $1 =~ ^[A-Za-z0-9._-]+$ ]]; then
    echo 'usage: slurm/pipeline.sh NAME "PREPARE" "TRAIN" "EVALUATE"' >&2
    exit 2
fi
folder=$(dirname "$0")
run=runs/pipeline/$1
read -ra prepare <<< "$2"
read -ra train <<< "$3"
read -ra evaluate <<< "$4"

# A job whose condition cannot come true any more is removed.
after() { echo "--parsable --kill-on-invalid-dep=yes --dependency=afterok:$1"; }

first=$(sbatch --parsable "$folder/prepare.sbatch" ${prepare[@]+"${prepare[@]}"})
# shellcheck disable=SC2046
second=$(sbatch $(after "$first") "$folder/train.sbatch" \
    ${train[@]+"${train[@]}"} "paths.run_dir=$run")
# shellcheck disable=SC2046
third=$(sbatch $(after "$second") "$folder/evaluate.sbatch" "$run/model" -- \
    ${evaluate[@]+"${evaluate[@]}"})
echo "prepare $first, train $second, evaluate $third: $run"
