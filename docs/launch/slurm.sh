#!/bin/bash
# Screen a long list of captions with an array of eight programs, one node of four GPUs each:  sbatch docs/launch/slurm.sh
# The folder SCREEN lies on a file system that all nodes share. Submitting it again does only what is missing.
#SBATCH --job-name=screen
#SBATCH --array=1-8
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue

MODEL=CompVis/stable-diffusion-v1-4
CAPTIONS=$HOME/captions
SCREEN=$HOME/screen

srun --cpus-per-task="$SLURM_CPUS_PER_TASK" unmemorize detect --model "$MODEL" --prompts "$CAPTIONS" --threshold threshold.json -o "$SCREEN" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --workers 4

# the last program to finish writes the table of the whole; if one failed, submit this file again. For R or DuckDB:
#   unmemorize runs parquet "$SCREEN" -o screen.parquet
