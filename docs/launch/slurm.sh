#!/bin/bash
# Audit a long list of captions with an array of eight programs, one node of four GPUs each:  sbatch docs/launch/slurm.sh
# The folder AUDIT lies on a file system that all nodes share. Submitting it again does only what is missing.
#SBATCH --job-name=audit
#SBATCH --array=1-8
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue

MODEL=CompVis/stable-diffusion-v1-4
CAPTIONS=$HOME/captions
AUDIT=$HOME/audit

srun unmemorize detect --model "$MODEL" --prompts "$CAPTIONS" --threshold threshold.json -o "$AUDIT" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --workers 4

# afterwards, once, for the table of the whole:
#   unmemorize detect --model "$MODEL" --prompts "$CAPTIONS" --threshold threshold.json -o "$AUDIT"
#   unmemorize runs parquet "$AUDIT" -o audit.parquet
