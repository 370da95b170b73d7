/* Lets pyslurm 25.11 compile against Slurm 26.05, whose calls take a slurm_step_id_t where a job's number was. */
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
static inline slurm_step_id_t sluice_whole_job(uint32_t job)
{
	slurm_step_id_t id;
	__builtin_memset(&id, 0, sizeof id);
	id.job_id = job;
	id.step_het_comp = NO_VAL;
	id.step_id = NO_VAL;
	return id;
}
#define slurm_kill_job(job, signal, flags) slurm_kill_job(sluice_whole_job(job), signal, flags)
#define slurm_load_job(answer, job, flags) slurm_load_job(answer, sluice_whole_job(job), flags)
#define slurm_suspend(job) slurm_suspend(sluice_whole_job(job))
#define slurm_resume(job) slurm_resume(sluice_whole_job(job))
#define slurm_requeue(job, flags) slurm_requeue(sluice_whole_job(job), flags)
#define slurm_notify_job(job, text) slurm_notify_job(sluice_whole_job(job), text)
#define slurm_get_end_time(job, end) slurm_get_end_time(sluice_whole_job(job), end)
#define slurm_get_rem_time(job) slurm_get_rem_time(sluice_whole_job(job))
#define slurm_job_node_ready(job) slurm_job_node_ready(sluice_whole_job(job))
static inline int sluice_pid2jobid(pid_t pid, uint32_t *job)
{
	slurm_step_id_t id;
	int rc = slurm_pid2jobid(pid, &id);
	*job = id.job_id;
	return rc;
}
#define slurm_pid2jobid(pid, job) sluice_pid2jobid(pid, job)
/* Renamed, and gone. */
#define slurm_free_ctl_conf slurm_free_conf
#define ESLURM_ERROR_ON_DESC_TO_RECORD_COPY 2999
