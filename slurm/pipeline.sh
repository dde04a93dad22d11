#!/usr/bin/env bash
# Submit prepare, train and evaluate as three jobs, each after the success of the one before.
# From the top of the checkout, with the overrides of each program in one word; those that start
# with -- are options of sbatch for that job:
#   slurm/pipeline.sh NAME "PREPARE" "TRAIN" "EVALUATE" [MODEL]
#   slurm/pipeline.sh mix80 "--mem=90G" "--nodes=2 +experiment=cpt/mamba2_130m" "" model_ema
# MODEL is the folder of the run that is evaluated: model (default), model_ema or model_best.
# The run is runs/pipeline/NAME; a training that was stopped continues when this is submitted again.
set -euo pipefail

if (($# < 4 || $# > 5)) || [[ ! $1 =~ ^[A-Za-z0-9._-]+$ ]]; then
    echo 'usage: slurm/pipeline.sh NAME "PREPARE" "TRAIN" "EVALUATE" [MODEL]' >&2
    exit 2
fi
folder=$(dirname "$0")
run=runs/pipeline/$1

# submit SCRIPT AFTER WORDS: a job whose condition cannot come true is removed.
submit() {
    local script=$1 after=$2 word
    local options=(--parsable) overrides=()
    for word in $3; do
        if [[ $word == --?* ]]; then options+=("$word"); else overrides+=("$word"); fi
    done
    if [[ -n $after ]]; then
        options+=(--kill-on-invalid-dep=yes "--dependency=afterok:$after")
    fi
    sbatch "${options[@]}" "$folder/$script" ${overrides[@]+"${overrides[@]}"}
}

set -f # a * among the overrides stays one
first=$(submit prepare.sbatch "" "$2")
second=$(submit train.sbatch "$first" "$3 paths.run_dir=$run")
third=$(submit evaluate.sbatch "$second" "$run/${5:-model} -- $4")
echo "prepare $first, train $second, evaluate $third: $run"
