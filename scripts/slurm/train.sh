#!/bin/bash
# Train on one or several nodes; the job is put back into the queue when its time is up and goes on where it stood.
#   sbatch --nodes=2 scripts/slurm/train.sh options/stage2_id.yml
# Slurm sends SIGUSR1 two minutes before the end (--signal). The run then writes a checkpoint and leaves with code 75.
#SBATCH --job-name=id-codeformer
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm_%j.log

set -u
options=${1:?which option file? sbatch scripts/slurm/train.sh options/stage2_id.yml}
shift
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# one process per task; --kill-on-bad-exit ends the others when one of them fails. Without this trap SIGUSR1 would end
# the batch script before the run has written its checkpoint.
trap ':' USR1
srun --kill-on-bad-exit=1 "${PYTHON:-python}" basicsr/train.py -opt "$options" --launcher slurm --auto_resume "$@" &
step=$!
code=138 # what `wait` returns when SIGUSR1 interrupts it: 128 + 10
while [ "$code" -eq 138 ]; do
    wait "$step"
    code=$?
done

if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
