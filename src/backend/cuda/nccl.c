/* The communicators' life: from joining the others to parting from them, or giving them up. */
#include "backend/cuda/nccl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"

#if NCCL_VERSION_CODE < NCCL_VERSION(2, 14, 0)
#error "communicators that do not block came with NCCL 2.14"
#endif

/* What an end is given before the communicator, with whatever it holds, is left to the end of the process. */
static const double end_seconds = 20;

/* --- joining --- */

/* What rank 0 tells the others. */
typedef struct hello {
    ncclUniqueId id;
    ncclResult_t status;
} hello;

static int link_group(ks_cuda *c, ks_cuda_link *l, ks_group *group, ks_error *err)
{
    hello first = {.status = ncclSuccess};
    *l = (ks_cuda_link){.group = group};
    if (group->size == 1)
        return 0;
    if (group->rank == 0)
        first.status = ncclGetUniqueId(&first.id);
    if (group->broadcast(group, &first, sizeof first, 0, err) != 0)
        return -1;
    if (first.status != ncclSuccess)
        return ks_error_set(err, "GPU %d: NCCL cannot make a group of %d ranks: %s", c->device, group->size,
                            ncclGetErrorString(first.status));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    if (KS_CUDA_NCCL(c, l, ncclCommInitRankConfig(&l->comm, group->size, first.id, group->rank, &config)))
        return 0;
    return ks_error_set(err, "%s", c->failure.text);
}

int ks_cuda_join(ks_ops *ops, ks_group *tensor, ks_group *replica, ks_error *err)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (c->others)
        return ks_error_set(err, "cuda backend: this rank has joined others already");
    c->others = calloc(1, sizeof *c->others);
    if (!c->others)
        return ks_error_set(err, "no memory for the groups of a rank");
    if (KS_CUDA_CALL(c, cudaSetDevice(c->device)) && link_group(c, &c->others->tensor, tensor, err) == 0 &&
        link_group(c, &c->others->replica, replica, err) == 0 && ks_cuda_peer_join(c, &c->others->peer, tensor, err) == 0)
        return 0;
    c->others->broken = true;
    ks_cuda_part(c);
    return -1;
}

/* --- calls --- */

bool ks_cuda_taken(ks_cuda *c, ks_cuda_link *l, ncclResult_t status, const char *what)
{
    const double begin = ks_seconds();
    bool late = false;
    for (int looks = 0; status == ncclInProgress && l->comm && !late; looks++) {
        ncclResult_t looked = ncclCommGetAsyncError(l->comm, &status);
        status = looked == ncclSuccess ? status : looked;
        late = ks_seconds() - begin > l->group->patience;
        ks_cuda_pause(looks);
    }
    if (status == ncclSuccess)
        return true;
    c->others->broken = true;
    ks_cuda_fail(c, "GPU %d: %.*s: %s", c->device, (int)sizeof c->failure.text / 2, what,
                 late ? "other ranks did not come in time" : ncclGetErrorString(status));
    return false;
}

/* --- waiting --- */

static bool is_live(const ks_cuda_link *l)
{
    return l->comm != NULL;
}

bool ks_cuda_has_others(const ks_cuda *c)
{
    return c->others && !c->others->left && (is_live(&c->others->tensor) || is_live(&c->others->replica));
}

/* Keeps the failure of a link, if there is one. */
static void look_at(ks_cuda *c, const ks_cuda_link *l, double waited)
{
    ncclResult_t status = ncclSuccess;
    ks_error heard = KS_ERROR_NONE;
    if (!is_live(l) || c->others->broken)
        return;
    if (l->group->look && l->group->look(l->group, &heard) != 0) {
        c->others->broken = true;
        ks_cuda_fail(c, "%s", heard.text);
        return;
    }
    if (ncclCommGetAsyncError(l->comm, &status) == ncclSuccess && (status == ncclSuccess || status == ncclInProgress) &&
        waited <= l->group->patience)
        return;
    c->others->broken = true;
    if (status == ncclSuccess || status == ncclInProgress)
        ks_cuda_fail(c, "GPU %d: rank %d of %d waited %.0f seconds for what it shares with the others: one of them is gone, or slower "
                     "than that", c->device, l->group->rank, l->group->size, waited);
    else
        ks_cuda_fail(c, "GPU %d: NCCL: %s", c->device, ncclGetErrorString(status));
}

static void give_up(ks_cuda *c);

bool ks_cuda_others_there(ks_cuda *c, double waited)
{
    look_at(c, &c->others->tensor, waited);
    look_at(c, &c->others->replica, waited);
    if (c->others->broken)
        give_up(c);
    return !c->others->broken;
}

/* --- parting --- */

/* Ends a communicator, in a thread of its own: NCCL may wait for the others here. */
static void *end(void *arg)
{
    ks_cuda_link *l = arg;
    ncclResult_t status = l->aborted ? ncclInternalError : ncclCommFinalize(l->comm);
    for (int looks = 0; status == ncclInProgress; looks++) {
        ks_cuda_pause(looks);
        if (ncclCommGetAsyncError(l->comm, &status) != ncclSuccess)
            status = ncclInternalError;
    }
    if (status == ncclSuccess)
        ncclCommDestroy(l->comm);
    else
        ncclCommAbort(l->comm);
    return NULL;
}

static bool begin_end(ks_cuda_link *l, bool abort)
{
    l->aborted = abort;
    return !is_live(l) || pthread_create(&l->ending, NULL, end, l) == 0;
}

/* Whether it came to its end in time. */
static bool has_ended(ks_cuda_link *l)
{
    struct timespec until;
    if (!is_live(l))
        return true;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)ceil(end_seconds);
    if (pthread_timedjoin_np(l->ending, NULL, &until) != 0) {
        pthread_detach(l->ending);
        return false;
    }
    l->comm = NULL;
    return true;
}

/* Leaves the others in spite of what is under way. An abort ends at once what is on the device, and itself only when no kept
 * work holds the communicator any more; so the two go on side by side. */
static void give_up(ks_cuda *c)
{
    struct ks_cuda_others *o = c->others;
    if (o->left || c->capturing)
        return;
    o->left = true;
    ks_cuda_peer_give_up(&o->peer);
    c->stuck = !begin_end(&o->tensor, true) || !begin_end(&o->replica, true) || !ks_cuda_drains(c, end_seconds);
    if (c->stuck)
        return;
    ks_cuda_graphs_free(c);
    bool ended = has_ended(&o->tensor);
    c->stuck = !has_ended(&o->replica) || !ended;
}

void ks_cuda_part(ks_cuda *c)
{
    struct ks_cuda_others *o = c->others;
    if (!o)
        return;
    if (!o->left) {
        look_at(c, &o->tensor, 0);
        look_at(c, &o->replica, 0);
    }
    if (o->broken) {
        give_up(c);
    } else if (!o->left) {
        o->left = true;
        ks_cuda_graphs_free(c);
        ks_cuda_peer_close(&o->peer); /* and the communicator's end waits for the other to have done so */
        bool began = begin_end(&o->tensor, false) && begin_end(&o->replica, false);
        bool ended = began && has_ended(&o->tensor);
        c->stuck = !ended || !has_ended(&o->replica);
    }
    if (c->stuck)
        return; /* a thread that has not ended still looks at it */
    ks_cuda_peer_free(&o->peer);
    free(o);
    c->others = NULL;
}
