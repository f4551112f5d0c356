/* ksweep run: from a job file to the collected output, alone or as one rank of many. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backend/ops.h"
#include "base/file.h"
#include "base/log.h"
#include "base/stop.h"
#include "cluster/bitmap.h"
#include "cluster/claim.h"
#include "cluster/comm.h"
#include "cluster/coordinator.h"
#include "cluster/device.h"
#include "cluster/failures.h"
#include "cluster/layout.h"
#include "cluster/load.h"
#include "cluster/progress.h"
#include "cluster/record.h"
#include "cluster/renderer.h"
#include "cluster/replica.h"
#include "cluster/resume.h"
#include "cluster/select.h"
#include "cluster/setup.h"
#include "cluster/share.h"
#include "cluster/target.h"
#include "cluster/worker.h"
#include "ksweep/ksweep.h"
#include "sampling/sampler.h"
#include "store/store.h"

/* Ranks wait for each other so many deadlines before the rendering, as rank 0 may have a large output to look at, and no less than
 * these seconds there and at the end, however short a deadline is asked for. */
enum { SETUP_DEADLINES = 6, SETUP_SECONDS = 30, END_SECONDS = 10 };

/* One rank's run. Rank 0 alone has selection, claim, resume, coordinator and line. */
typedef struct run {
    const ks_run_options *options;
    ks_run_summary *summary;
    ks_comm *comm;
    ks_shared_file model; /* until the setup has it */
    ks_setup setup;
    ks_selection selection;
    ks_claim *claim;
    ks_resume resume;
    ks_coordinator *coordinator;
    ks_progress_line line;
    ks_ops *ops;
    ks_replica *replica;   /* NULL: every rank has the whole model */
    ks_renderer *renderer; /* of a rank that leads or is alone, */
    ks_model *part;        /* and a follower's */
    ks_worker *worker;
    ks_shard *shard;
    ks_failures failures;
    ks_record record;
    char *folder; /* OUT.d */
    int sharers;  /* ranks that share this one's device */
    int idle_gpus; /* of this rank's node */
    int rows;
    uint64_t todo;       /* points that this run is to render, */
    uint64_t left, done; /* that it and others are to, and those that are there */
    bool load_early; /* there is surely something to render */
    bool complete; /* everything that was asked for is there, collected */
    bool idle;     /* there is nothing to render, but perhaps to collect */
    bool begun;    /* rendering has begun on every rank */
    double started, flushed; /* the time of the last flush, */
    double sync_at;          /* and of the next one that waits for the disk */
    bool unflushed;          /* rows were written since the last flush */
    ks_engine_stats full; /* as of this rank's last lease being taken up */
    bool dry, pace_told;
} run;

static bool is_root(const run *r)
{
    return ks_comm_rank(r->comm) == 0;
}

/* It only works for another rank. */
static bool follows(const run *r)
{
    return r->replica && !ks_replica_leads(r->replica);
}

/* What came of work that gives up when a stop is asked for: 1 when that is why it failed. */
static int or_stopped(int rc, const ks_error *err)
{
    if (rc >= 0 || !ks_stop_requested())
        return rc;
    ks_log_info("stopping: %s", err->text);
    return 1;
}

/* Collective, where nothing is being rendered: -1 on every rank when any failed, else 1 when any has 1 or was asked to stop. The
 * lowest rank that failed keeps its sentence, so it is printed once. */
static int agree(run *r, int rc, ks_error *err)
{
    int rank = ks_comm_rank(r->comm), size = ks_comm_size(r->comm);
    bool stop = ks_stop_requested();
    rc = or_stopped(rc, err);
    int64_t worst = rc < 0 ? 1 + size - rank : rc || stop;
    ks_error failed = KS_ERROR_NONE;
    if (rc < 0 && ks_comm_broken(r->comm)) /* that is why */
        return -1;
    if (ks_comm_max(r->comm, &worst, &failed)) {
        *err = failed;
        return -1;
    }
    if (worst <= 1)
        return (int)worst;
    if (worst != 1 + size - rank)
        err->text[0] = 0;
    else if (rank)
        ks_error_wrap(err, "rank %d", rank);
    return -1;
}

/* What can be seen of the output's place is, and a file can be made there: found out before anything is rendered. */
static int check_output(const char *output, ks_error *err)
{
    if (ks_target_check(output, err))
        return -1;
    char *probe = ks_format("%s.probe-%ld", output, (long)getpid());
    FILE *f = fopen(probe, "wx");
    int rc = 0;
    if (!f)
        rc = ks_target_unwritable(output, err);
    else
        fclose(f);
    if (f)
        unlink(probe);
    free(probe);
    return rc;
}

/* An existing output goes on only with what it was begun with; its batch rows are taken over. */
static int look_at_output(run *r, ks_error *err)
{
    const ks_job *job = r->setup.job;
    ks_store_info *old;
    int rc = ks_target_open(&r->setup, r->ops, &old, err);
    uint64_t samples = old ? old->samples : 0;
    r->rows = old ? old->batch_rows : 0;
    ks_store_info_free(old);
    if (rc || ks_resume_open(&r->resume, &r->setup, job->output, err))
        return -1;
    return ks_target_check_foreign(job, samples, r->resume.foreign, err);
}

/* What is to be rendered must fit on the disk; that the merged file will not fit beside it is told now. */
static int check_space(const run *r, ks_error *err)
{
    const char *output = r->setup.job->output;
    ks_target_want want = {.todo = r->todo, .left = r->left, .done = r->done};
    ks_target_room room;
    if (r->complete)
        return 0;
    if (ks_target_find_room(&r->setup, r->ops, &want, &room, err))
        return -1;
    if (!room.renders)
        return ks_error_set(err, "%s: %s", output, room.text);
    if (!room.merges)
        ks_log_warn("%s: %s", output, room.text);
    return 0;
}

/* Takes this run's place at the output; what it cannot be written to is not waited for. */
static int claim_output(run *r, ks_error *err)
{
    const ks_selection *s = &r->selection;
    if (check_output(r->setup.job->output, err))
        return -1;
    r->claim = ks_claim_open(r->setup.job->output, s->part, s->parts, NULL, err);
    return r->claim ? 0 : -1;
}

/* Takes over how the parts that are there render. */
static int agree_with_parts(run *r, ks_error *err)
{
    const ks_job *job = r->setup.job;
    ks_layout own = {.tensor = job->tensor, .rows = job->rows, .batch_rows = r->rows};
    snprintf(own.backend, sizeof own.backend, "%s", r->ops->name);
    snprintf(own.precision, sizeof own.precision, "%s", r->ops->precision);
    int rc = ks_layout_agree(r->folder, &own, err);
    r->rows = own.batch_rows;
    return rc;
}

/* Whether the rows that a file says can be. */
static int check_rows(const run *r, const char *file, ks_error *err)
{
    int parts = r->setup.job->rows;
    if (r->rows >= 1 && r->rows <= KS_MOST_BATCH_ROWS && r->rows % parts == 0)
        return 0;
    return ks_error_set(err, "%s: it is said to have been begun with %d rows a network call: a multiple of %d of at most %d would be "
                        "right; the file is damaged, name another output.file", file, r->rows, parts, KS_MOST_BATCH_ROWS);
}

/* Rows of a network call: what the output was begun with, what the job says, or what suits the machine. */
static int choose_rows(run *r, ks_error *err)
{
    const ks_job *job = r->setup.job;
    bool begun = r->rows != 0;
    if (begun && check_rows(r, job->output, err))
        return -1;
    if (!r->rows)
        r->rows = job->batch_rows;
    if (ks_setup_choose_rows(&r->setup, r->ops, r->sharers, r->renderer != NULL, &r->rows, err))
        return -1;
    if (!r->selection.parts)
        ks_layout_clear(r->folder);
    else if (!begun && agree_with_parts(r, err))
        return -1;
    if (check_rows(r, r->folder, err))
        return -1;
    return ks_target_check_rows(job, r->rows, err);
}

/* Whether all rows lie in OUT itself. */
static bool is_collected(const run *r)
{
    struct stat status;
    return !stat(r->setup.job->output, &status) && !ks_store_has_shards(r->setup.job->output);
}

/* The points that are not to be rendered: done ones, and others' (bitmap; NULL: none). Counts those that are left, and finds out
 * whether there is nothing to do. */
static uint64_t *list_done(run *r)
{
    const ks_selection *s = &r->selection;
    const uint64_t *mine = s->mine_map ? s->mine_map : s->wanted_map;
    uint64_t done, wanted_left = 0;
    uint64_t *map = ks_resume_points(&r->resume, &done);
    if (!map && mine)
        map = ks_calloc((size_t)ks_bitmap_words(s->points), sizeof *map);
    r->todo = s->points - done;
    if (mine)
        r->todo = 0;
    for (uint64_t p = 0; mine && p < s->points; p++) {
        bool left = !ks_bit(map, p);
        wanted_left += left && (!s->wanted_map || ks_bit(s->wanted_map, p));
        if (!ks_bit(mine, p))
            ks_bit_set(map, p);
        else
            r->todo += left;
    }
    r->done = done;
    r->left = mine ? wanted_left : r->todo;
    r->idle = !r->todo;
    r->complete = r->idle && !wanted_left && is_collected(r);
    return map;
}

/* Seconds that a rank may keep a lease and say nothing; more where samples are slow. */
static double deadline(const run *r)
{
    enum { USUAL = 600 };
    return r->options->deadline_seconds > 0 ? r->options->deadline_seconds : USUAL;
}

/* Rank 0's look at all that can be wrong with the job, and at whether there is something to render for certain: then the model
 * is loaded while its digest is made. */
static int look_at_job(run *r, ks_error *err)
{
    const ks_run_options *o = r->options;
    int one = 0;
    if (ks_select(&r->selection, r->setup.job, o->filters, o->filter_count, o->shard, err) || ks_setup_check(&r->setup, err) ||
        claim_output(r, err))
        return -1;
    r->load_early = !is_collected(r);
    return r->load_early ? ks_setup_choose_rows(&r->setup, r->ops, r->sharers, false, &one, err) : 0;
}

/* The model of a rank that renders, or a follower's part of it, unless it is there. */
static int load_model(run *r, ks_error *err)
{
    const ks_setup *s = &r->setup;
    if (!follows(r) && !r->renderer)
        r->renderer = ks_renderer_new(&r->setup, r->ops, r->replica, s->job->images, err);
    if (follows(r) && !r->part) {
        r->part = ks_model_load(s->file, &s->config, r->ops, ks_replica_split(r->replica), 0, NULL, err);
        if (!r->part)
            ks_error_wrap(err, "%s", s->job->model);
    }
    return r->renderer || r->part ? 0 : -1;
}

/* Collective: every rank loads the model where rank 0 has found that it will be used. */
static int load_early(run *r, ks_error *err)
{
    int64_t early;
    int rc = agree(r, is_root(r) ? look_at_job(r, err) : 0, err);
    if (rc)
        return rc;
    early = r->load_early;
    if (ks_comm_broadcast(r->comm, &early, sizeof early, 0, err))
        return -1;
    return agree(r, early ? load_model(r, err) : 0, err);
}

/* GPUs of rank 0's node that nobody uses are told, where there is something to render: as a rule the ranks were forgotten. */
static void tell_idle_gpus(const run *r)
{
    int ranks = ks_comm_local_size(r->comm);
    if (r->todo && r->idle_gpus)
        ks_log_warn("%d rank%s on this node, and %d of its GPUs idle: start a rank for each GPU (mpirun -n, --ntasks-per-node)", ranks,
                    ranks == 1 ? "" : "s", r->idle_gpus);
}

/* Rank 0's look at the output; what it decides is sent to the others. */
static int decide(run *r, ks_error *err)
{
    if (ks_setup_digest_model(&r->setup, err) || look_at_output(r, err) || choose_rows(r, err))
        return -1;
    uint64_t *map = list_done(r);
    ks_coordinator_options options = {.points = r->selection.points, .done = map,
                                      .workers = ks_comm_size(r->comm) / ks_replica_size(r->setup.job),
                                      .deadline_seconds = deadline(r)};
    r->coordinator = ks_coordinator_new(&options, err);
    free(map);
    if (!r->coordinator || check_space(r, err))
        return -1;
    tell_idle_gpus(r);
    return 0;
}

static int share_decisions(run *r, ks_error *err)
{
    struct {
        int64_t rows, complete, idle;
    } told = {r->rows, r->complete, r->idle};
    if (ks_setup_share(&r->setup, r->comm, err) || ks_comm_broadcast(r->comm, &told, sizeof told, 0, err))
        return -1;
    r->rows = (int)told.rows;
    r->complete = told.complete != 0;
    r->idle = told.idle != 0;
    return 0;
}

static int load_job(run *r, ks_error *err)
{
    r->setup.job = ks_job_from_source(&r->options->job, err);
    return r->setup.job ? ks_replica_check(r->setup.job, ks_comm_size(r->comm), err) : -1;
}

/* Seconds that a slow file system takes to give a file. */
static double reading_seconds(const char *path)
{
    const double slow = 20e6; /* bytes a second */
    struct stat status;
    return stat(path, &status) ? 0 : (double)status.st_size / slow;
}

/* Collective: the model's bytes, read once on each node. From now on ranks wait for each other as long as that, the model's digest
 * and its loading may take. */
static int share_model(run *r, ks_error *err)
{
    const ks_job *job = r->setup.job;
    double began = ks_seconds();
    ks_comm_wait_longer(r->comm, reading_seconds(job->model));
    int rc = ks_shared_file_open(&r->model, r->comm, job->model, err);
    if (rc)
        ks_error_wrap(err, "%s: model", job->path);
    if ((rc = agree(r, rc, err)))
        return rc;
    double sums[2] = {(double)r->model.bytes_read, r->model.bytes_read > 0};
    if (ks_comm_size(r->comm) == 1 || ks_comm_sum(r->comm, sums, 2, err))
        return ks_comm_size(r->comm) == 1 ? 0 : -1;
    if (is_root(r))
        ks_log_info("%s: %.0f bytes read by %.0f of %d ranks in %.1f s", job->model, sums[0], sums[1], ks_comm_size(r->comm),
                    ks_seconds() - began);
    return 0;
}

static int open_job(run *r, ks_error *err)
{
    ks_job *job = r->setup.job;
    ks_map model = r->model.map;
    r->model.map = (ks_map){NULL, 0};
    ks_shared_file_close(&r->model);
    if (ks_setup_open_mapped(&r->setup, job, model, err))
        return -1;
    if (is_root(r))
        ks_setup_hash_ahead(&r->setup);
    r->folder = ks_format("%s.d", job->output);
    return 0;
}

/* Collective over the node: which of its devices each rank has. */
static int open_device(run *r, ks_error *err)
{
    const ks_run_options *o = r->options;
    ks_device_view own, *all = ks_calloc((size_t)ks_comm_local_size(r->comm), sizeof *all);
    ks_device_node node = {all, ks_comm_local_size(r->comm)};
    int rank = ks_comm_local_rank(r->comm);
    ks_device_look(r->setup.job, &own);
    if (!ks_comm_gather_node(r->comm, &own, sizeof own, all, err)) {
        r->ops = ks_device_open(r->setup.job, &node, rank, o->threads, o->share_gpus, err);
        r->sharers = ks_device_sharers(&node, rank, o->share_gpus);
        r->idle_gpus = ks_device_idle_gpus(&node, o->share_gpus);
    }
    free(all);
    if (r->ops && ks_replica_size(r->setup.job) > 1 && strcmp(r->ops->name, "cpu") && r->sharers > 1)
        return ks_error_set(err, "%s: parallel: ranks that have one model together need a GPU each; leave --share-gpus out",
                            r->setup.job->path);
    return r->ops ? 0 : -1;
}

/* Collective: the ranks that have one model find each other. */
static int join_replica(run *r, ks_error *err)
{
    if (ks_replica_size(r->setup.job) == 1)
        return 0;
    r->replica = ks_replica_new(r->comm, r->ops, r->setup.job, deadline(r), err);
    return r->replica ? 0 : -1;
}

/* Brings the shard to disk; how long that takes decides when to do it again, so that it never costs more than a hundredth. */
static int sync_shard(run *r, ks_error *err)
{
    enum { SYNC_SECONDS = 30, SHARE = 100 };
    double began = ks_seconds();
    int rc = ks_shard_sync(r->shard, err);
    double now = ks_seconds();
    r->sync_at = now + fmax(SYNC_SECONDS, SHARE * (now - began));
    return rc;
}

/* Rank 0 hears of rows that are safe on disk. */
static int tell_rows(run *r, ks_error *err)
{
    ks_engine_stats stats;
    ks_renderer_stats(r->renderer, &stats);
    r->unflushed = false;
    r->flushed = ks_seconds();
    return ks_worker_tell(r->worker, (double)stats.rows, (double)stats.rows_saved, err);
}

/* Rows of a shard are flushed when rank 0 is to hear of them, or when the last time was not just before. That is safe from the death
 * of the process; the machine's is met by syncing now and then. */
static int flush_shard(run *r, bool wanted, ks_error *err)
{
    enum { FLUSH_SECONDS = 2 };
    if (!r->unflushed || (!wanted && ks_seconds() - r->flushed < FLUSH_SECONDS))
        return 0;
    int rc = ks_seconds() < r->sync_at ? ks_shard_flush(r->shard, err) : sync_shard(r, err);
    return rc || tell_rows(r, err) ? -1 : 0;
}

static int append_rows(run *r, const ks_rendered *result, ks_error *err)
{
    const int *s = r->setup.shape;
    size_t latent = (size_t)s[1] * (size_t)s[2] * (size_t)s[3], image = (size_t)s[2] * (size_t)s[3] * 64 * 3;
    if (!r->shard && !(r->shard = ks_shard_create(r->folder, &r->record.info, err)))
        return -1;
    for (int b = 0; b < s[0]; b++) {
        ks_row row = ks_record_row(&r->setup, result->point * (uint64_t)s[0] + (uint64_t)b, result->nfe, result->error != NULL);
        const float *values = result->error ? NULL : result->latent + latent * (size_t)b;
        const uint8_t *rgb = result->error || !result->rgb ? NULL : result->rgb + image * (size_t)b;
        if (ks_shard_append(r->shard, &row, values, rgb, err))
            return -1;
    }
    r->unflushed = true;
    return 0;
}

static int run_next(void *self, uint64_t *point)
{
    run *r = self;
    return ks_worker_next(r->worker, point);
}

static int run_peek(void *self, uint64_t k, uint64_t *point)
{
    const run *r = self;
    return ks_worker_peek(r->worker, k, point);
}

static int run_done(void *self, const ks_rendered *result, ks_error *err)
{
    run *r = self;
    uint64_t batch = (uint64_t)r->setup.shape[0];
    int released = ks_worker_released(r->worker, err);
    if (released) /* the poll ends this rank */
        return released < 0 ? -1 : 0;
    if (result->error)
        ks_failures_add(&r->failures, result->point * batch, batch, result->error);
    if (append_rows(r, result, err))
        return -1;
    ks_worker_done(r->worker, result->point, result->error != NULL);
    if (flush_shard(r, false, err)) /* many may be done at once, and their decoding take long */
        return -1;
    return r->replica ? ks_replica_beat(r->replica, err) : 0;
}

/* How far this run is: of the points that are its own. */
static void own_progress(const run *r, double now, ks_progress *p)
{
    ks_coordinator_progress(r->coordinator, now, p);
    uint64_t others = r->selection.points - r->selection.mine;
    p->points -= others;
    p->done_before -= others;
}

static void show_progress(run *r, bool end)
{
    if (!r->coordinator)
        return;
    ks_progress p;
    double rows, saved, now = ks_seconds();
    own_progress(r, now, &p);
    p.workers_busy *= ks_replica_size(r->setup.job);
    ks_worker_rows(r->worker, &rows, &saved);
    (end ? ks_progress_end : ks_progress_show)(&r->line, &p, r->setup.shape[0], rows, ks_comm_size(r->comm), now);
}

/* After the first network call: what the slowest point of the sweep will take at this pace. */
static int tell_pace(run *r, ks_error *err)
{
    ks_engine_stats stats;
    ks_renderer_stats(r->renderer, &stats);
    if (r->pace_told || !stats.calls_timed)
        return 0;
    r->pace_told = true;
    const ks_job *job = r->setup.job;
    int steps = 1, evaluations = 1;
    for (int i = 0; i < job->steps_count; i++)
        steps = job->steps[i] > steps ? job->steps[i] : steps;
    for (int i = 0; i < job->samplers; i++) {
        int e = ks_sampler_at(job->sampler[i])->evaluations;
        evaluations = e > evaluations ? e : evaluations;
    }
    double calls = (double)steps * evaluations * ceil((double)ks_setup_rows_per_call(&r->setup) / r->rows);
    return ks_worker_expect(r->worker, calls * stats.network_seconds / (double)stats.calls_timed, err);
}

static int run_poll(void *self, bool idle, bool *finished, ks_error *err)
{
    run *r = self;
    int rc = flush_shard(r, ks_worker_should_tell(r->worker), err);
    if (!rc)
        rc = ks_worker_poll(r->worker, idle, finished, err);
    if (!r->dry) {
        r->dry = ks_worker_dry(r->worker);
        ks_renderer_stats(r->renderer, &r->full);
    }
    show_progress(r, false);
    if (rc == 0 && r->replica && ks_replica_beat(r->replica, err))
        return -1;
    if (rc == 0 && r->claim && ks_claim_check(r->claim, err))
        return -1;
    return rc == 0 && tell_pace(r, err) ? -1 : rc;
}

/* The engine starts when the first lease is there, so that its first call is full. */
static int wait_for_lease(run *r, ks_error *err)
{
    int rc = 0;
    bool finished = false;
    while (!rc && !ks_worker_ready(r->worker)) {
        rc = ks_worker_poll(r->worker, true, &finished, err);
        if (!rc && r->replica)
            rc = ks_replica_beat(r->replica, err);
    }
    return rc;
}

/* What was rendered is kept and told, however the rendering has ended (rc). */
static int keep_rows(run *r, int rc, ks_error *err)
{
    ks_error closing = KS_ERROR_NONE;
    bool failed = (r->shard && ks_shard_close(r->shard, &closing)) || (!ks_comm_broken(r->comm) && tell_rows(r, &closing));
    r->shard = NULL;
    if (!failed || rc < 0)
        return rc;
    *err = closing;
    return -1;
}

static int render(run *r, ks_error *err)
{
    ks_render_calls calls = {.self = r, .next = run_next, .peek = run_peek, .done = run_done, .poll = run_poll};
    int rc = wait_for_lease(r, err);
    if (!rc)
        rc = ks_renderer_run(r->renderer, &calls, err);
    ks_failures_end(&r->failures);
    return keep_rows(r, rc, err);
}

/* A rank whose device has failed, or whose replica is no more, renders no more; the others of the replica tell nothing new. */
static int lost_or(const run *r, int rc, const ks_error *err)
{
    if (rc >= 0 || !(r->ops->fault || (r->replica && ks_replica_lost(r->replica))) || ks_comm_broken(r->comm))
        return rc;
    if (ks_comm_size(r->comm) > ks_replica_size(r->setup.job) && !follows(r))
        ks_log_warn("%s: this rank renders no more, the others take over its points", err->text);
    return KS_WORKER_LOST;
}

/* What this rank does until the sweep is rendered, or it cannot go on: 0 done, 1 stopped, -1 failed, or KS_WORKER_LOST. */
static int work(run *r, ks_error *err)
{
    if (follows(r))
        return lost_or(r, ks_replica_follow(r->replica, r->worker, err), err);
    int rc = lost_or(r, render(r, err), err);
    if (r->replica)
        ks_replica_end(r->replica, rc < 0 || rc == KS_WORKER_LOST ? err->text : NULL);
    return rc;
}

/* As many points as fill the rows once. What is lent ahead of them while work is plentiful is the coordinator's to say: one
 * more here would queue the run's last points behind others. */
static int points_in_flight(const run *r)
{
    int per_call = ks_setup_rows_per_call(&r->setup);
    return (r->rows + per_call - 1) / per_call;
}

/* Rank 0, when points are left over because devices failed or ranks hang: the run can go on later, unless devices failed before it
 * came anywhere; then something else must change first. */
static int end_lost(const run *r, int own, ks_error *err)
{
    ks_progress p;
    ks_coordinator_progress(r->coordinator, ks_seconds(), &p);
    if (p.done || p.failed || ks_worker_missed(r->worker) || ks_stop_requested()) {
        if (own == KS_WORKER_LOST)
            ks_log_error("%s", err->text);
        return 1;
    }
    if (own != KS_WORKER_LOST)
        ks_error_set(err, "the devices failed before a sample was done: the log says why");
    return -1;
}

/* What this rank's rendering was: see summarise. */
static void own_sums(const run *r, double sums[KS_WORKER_SUMS])
{
    ks_engine_stats s;
    memset(sums, 0, KS_WORKER_SUMS * sizeof *sums);
    if (follows(r))
        return;
    ks_renderer_stats(r->renderer, &s);
    double decoding = ks_renderer_decode_seconds(r->renderer);
    const double own[KS_WORKER_SUMS] = {(double)s.rows, (double)s.rows_saved, (double)r->full.rows, (double)r->full.slots,
                                        s.network_seconds, s.seconds - s.network_seconds - decoding, decoding};
    memcpy(sums, own, sizeof own);
}

/* The model is there, and its memory for calls of so many rows. */
static int get_ready(run *r, ks_error *err)
{
    const int *shape = r->setup.shape;
    if (load_model(r, err))
        return -1;
    return follows(r) ? ks_replica_plan(r->replica, r->part, r->rows, shape[2], shape[3], err)
                      : ks_renderer_plan(r->renderer, r->rows, err);
}

/* Rank 0, when it renders no more. */
static int while_others_render(void *self, ks_error *err)
{
    run *r = self;
    show_progress(r, false);
    return r->claim ? ks_claim_check(r->claim, err) : 0;
}

/* Everything between the decisions and the collecting; the outcome of the whole run on rank 0. */
static int render_all(run *r, ks_error *err)
{
    r->worker = ks_worker_new(r->comm, r->coordinator, ks_replica_size(r->setup.job), points_in_flight(r), deadline(r));
    bool ready = !get_ready(r, err) && !ks_record_open(&r->record, &r->setup, r->ops, r->rows, err);
    int rc = agree(r, ready ? 0 : -1, err);
    if (rc)
        return rc;
    ks_setup_close_model(&r->setup);
    r->begun = true;
    ks_progress_start(&r->line, r->options->quiet, r->options->log_seconds);
    double began = ks_seconds();
    int own = work(r, err);
    double sums[KS_WORKER_SUMS];
    ks_error ending = KS_ERROR_NONE;
    own_sums(r, sums);
    int all = ks_worker_end(r->worker, own, sums, while_others_render, r, own < 0 || own == KS_WORKER_LOST ? &ending : err);
    if (is_root(r) && all == KS_WORKER_LOST)
        all = end_lost(r, own, err);
    r->summary->rendering_seconds = ks_seconds() - began;
    if (own < 0 && !is_root(r))
        ks_error_wrap(err, "rank %d", ks_comm_rank(r->comm));
    if (is_root(r))
        show_progress(r, true);
    return own < 0 ? -1 : all;
}

/* Looks at what the output holds now. */
static int look_again(run *r, ks_error *err)
{
    ks_resume_close(&r->resume);
    if (ks_resume_open(&r->resume, &r->setup, r->setup.job->output, err))
        return -1;
    r->summary->missing = ks_resume_missing(&r->resume, r->selection.wanted_map);
    return 0;
}

static int collect(run *r, ks_error *err)
{
    r->summary->collected = true;
    if (is_collected(r))
        return 0;
    r->record.info.end_time = (double)time(NULL);
    ks_layout_clear(r->folder);
    int rc = ks_store_collect(r->setup.job->output, &r->record.info, ks_record_collect_mode(&r->setup), ks_resume_index, &r->resume,
                              err);
    return rc < 0 ? ks_target_not_collected(&r->setup, err) : rc;
}

/* Rank 0, when all that it asked for is rendered: a run of the whole collects; a part does when it is the last one and nothing
 * is missing. 1 when rows turned out to be damaged, so that there is something to render again. */
static int finish(run *r, ks_error *err)
{
    char *others = NULL;
    int mine = 1;
    if (ks_claim_check(r->claim, err))
        return -1;
    if (r->selection.parts)
        mine = ks_claim_collect(r->claim, &others, err);
    int rc = mine < 0 || look_again(r, err) ? -1 : 0;
    if (!rc && others && !r->summary->missing)
        ks_log_info("%s: %s is still at it and will collect", r->setup.job->output, others);
    free(others);
    if (rc || !mine || (r->selection.parts && r->summary->missing))
        return rc;
    if (!r->summary->missing)
        return collect(r, err);
    ks_log_warn("%s: %llu samples that were rendered cannot be read again: the next run renders them",
                r->setup.job->output, (unsigned long long)r->summary->missing);
    return 1;
}

/* Fills rank 0's summary with what all ranks did. */
static void summarise(run *r)
{
    double sums[KS_WORKER_SUMS];
    ks_worker_sum(r->worker, sums);
    r->summary->rows = sums[0];
    r->summary->rows_saved = sums[1];
    r->summary->rows_filled = sums[3] > 0 ? sums[2] / sums[3] : 1;
    double all = sums[4] + sums[5] + sums[6];
    r->summary->decoding = all > 0 ? sums[6] / all : 0;
    r->summary->outside_network = all > 0 ? sums[5] / all : 0;
    ks_progress p;
    own_progress(r, ks_seconds(), &p);
    uint64_t batch = (uint64_t)r->setup.shape[0];
    r->summary->rendered = p.done * batch;
    r->summary->failed = p.failed * batch;
    r->summary->done_before = p.done_before * batch;
}

static void name_output(run *r)
{
    const ks_job *job = r->setup.job;
    ks_run_summary *s = r->summary;
    strncpy(s->output, job->output, sizeof s->output - 1);
    s->samples = r->selection.wanted * (uint64_t)r->setup.shape[0];
    s->parts = r->selection.parts;
}

/* After a failure: of several sentences the lowest rank's is kept, and says how many there were. */
static int speak_once(const run *r, ks_error *err)
{
    int failures = ks_worker_failures(r->worker);
    if (!failures)
        err->text[0] = 0;
    if (failures > 1) {
        ks_error own = *err;
        ks_error_set(err, "%s (%d more rank%s failed)", own.text, failures - 1, failures == 2 ? "" : "s");
    }
    return -1;
}

/* After the rendering, whatever came of it: rank 0 collects and lets the others go. The run's outcome. */
static int end_together(run *r, int rc, ks_error *err)
{
    ks_error other = KS_ERROR_NONE;
    if (!is_root(r)) {
        if (ks_comm_broken(r->comm) || ks_worker_wait(r->worker, &rc, rc < 0 ? &other : err))
            return -1;
    } else {
        if (rc == 0)
            rc = or_stopped(finish(r, err), err);
        summarise(r);
        if (ks_worker_release(r->worker, rc, rc < 0 && err->text[0], rc < 0 ? &other : err))
            return -1;
    }
    return rc < 0 ? speak_once(r, err) : rc;
}

/* Rank 0, when there was nothing to render. */
static int finish_idle(run *r, ks_error *err)
{
    return ks_record_open(&r->record, &r->setup, r->ops, r->rows, err) ? -1 : finish(r, err);
}

/* Collective. 0 done, 1 stopped, -1 failed. */
static int run_job(run *r, ks_error *err)
{
    int rc = agree(r, load_job(r, err), err);
    if (!rc)
        rc = share_model(r, err);
    if (!rc)
        rc = agree(r, open_job(r, err), err);
    if (!rc)
        rc = agree(r, open_device(r, err), err);
    if (!rc)
        rc = agree(r, join_replica(r, err), err);
    if (!rc)
        rc = load_early(r, err);
    if (!rc)
        rc = agree(r, is_root(r) ? decide(r, err) : 0, err);
    if (!rc)
        rc = share_decisions(r, err);
    if (rc)
        return rc;
    name_output(r);
    if (r->complete || r->idle) {
        r->summary->done_before = r->summary->samples;
        r->summary->collected = r->complete;
        return r->complete ? 0 : agree(r, is_root(r) ? finish_idle(r, err) : 0, err);
    }
    rc = render_all(r, err);
    return r->begun ? end_together(r, rc, err) : rc;
}

static void run_close(run *r)
{
    ks_record_close(&r->record);
    ks_renderer_free(r->renderer);
    ks_replica_close(r->replica);
    ks_model_free(r->part);
    ks_worker_free(r->worker);
    ks_coordinator_free(r->coordinator);
    ks_resume_close(&r->resume);
    ks_selection_free(&r->selection);
    ks_claim_close(r->claim);
    ks_map_close(&r->model.map);
    ks_shared_file_close(&r->model);
    ks_setup_close(&r->setup);
    if (r->ops)
        r->ops->free(r->ops);
    ks_replica_free(r->replica);
    free(r->folder);
}

void ks_catch_signals(void)
{
    ks_stop_catch_signals();
}

/* A run that ranks were lost from goes on with the same command, which is no fault of its input: the log tells why it ended. */
static int exit_code(const run *r, int rc, ks_error *err)
{
    if (rc < 0 && !ks_comm_broken(r->comm))
        return KS_EXIT_BAD_INPUT;
    if (rc < 0 && err->text[0])
        ks_log_error("%s", err->text);
    return rc ? KS_EXIT_RESUMABLE : r->summary->failed ? KS_EXIT_SOME_FAILED : KS_EXIT_DONE;
}

static int tell(const ks_run_options *options, int code, const ks_run_summary *summary, const ks_error *err)
{
    if (options->tell)
        options->tell(code, summary, err);
    return code;
}

int ks_run(const ks_run_options *options, ks_run_summary *summary, ks_error *err)
{
    *summary = (ks_run_summary){0};
    ks_catch_signals();
    run r = {.options = options, .summary = summary, .model = {.fd = -1}, .started = ks_seconds()};
    r.comm = ks_comm_start(fmax(SETUP_SECONDS, SETUP_DEADLINES * deadline(&r)), err);
    if (!r.comm)
        return tell(options, KS_EXIT_BAD_INPUT, summary, err);
    summary->rank = ks_comm_rank(r.comm);
    summary->ranks = ks_comm_size(r.comm);
    if (summary->ranks > 1)
        ks_log_set_rank(ks_comm_rank(r.comm));
    int rc = run_job(&r, err);
    summary->seconds = ks_seconds() - r.started;
    int code = exit_code(&r, rc, err);
    run_close(&r);
    tell(options, code, summary, err);
    ks_comm_end(r.comm, code, fmax(END_SECONDS, deadline(&r)));
    return code;
}
