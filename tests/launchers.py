"""What launchers set for rank 3 of 4, the second one on its host."""

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
OPEN_MPI = {
    **{"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"},
    **{"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
}
MPICH = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
BATCH_SCRIPT = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"}
SRUN = {
    **{"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_PROCID": "3"},
    **{"SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "3", "SLURM_STEP_TASKS_PER_NODE": "4"},
}
SRUN_ON_TWO = {**SRUN, "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
SRUN_ON_TWO |= {"SLURM_STEP_NODELIST": "h[5-6]"}
# srun speaks PMI to MPI programs; its mpirun starts one proxy a host by srun.
SRUN_WITH_PMI = {**SRUN, "PMI_RANK": "3", "PMI_SIZE": "4"}
MPICH_BY_SRUN = {**SRUN, **MPICH, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
