#include "cluster/comm.h"

#include <math.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/stop.h"
#include "cluster/comm_mpi.h"
#include "cluster/death.h"
#include "cluster/guard.h"
#include "cluster/launcher.h"
#include "ksweep/ksweep.h"

enum {
    MESSAGE_TAG = 1,
    BROADCAST_PIECE = 64 << 20, /* bytes a call: MPI counts are int */
    END_SECONDS = 60,           /* for leaving MPI, which some MPIs never do when a rank has died */
};

/* A message to oneself, waiting. */
typedef struct note {
    struct note *next;
    ks_message message;
} note;

/* Sends under way: request[i] sends *message[i]. */
typedef struct outbox {
    MPI_Request *request;
    ks_message **message;
    int *finished; /* scratch of MPI_Testsome, */
    MPI_Status *status; /* and more of it */
    int count, room;
} outbox;

static const double SPIN_SECONDS = 0.05; /* a collective that takes longer waits asleep */

struct ks_comm {
    bool has_mpi;
    MPI_Comm world; /* a duplicate of MPI_COMM_WORLD */
    MPI_Comm node;  /* the ranks of it on this node */
    int rank, size, local_rank, local_size;
    note *first, *last;
    outbox out;
    uint64_t *sent;    /* messages to each rank */
    uint64_t received; /* messages from other ranks, */
    uint64_t expected; /* of so many, at the end */
    double patience;   /* seconds for a collective */
    bool alone;        /* the launcher started more ranks than MPI sees */
    bool survives;     /* the others go on when a rank dies */
    bool broken;       /* an MPI call has failed */
    bool given_up;     /* some rank hangs */
    bool *dead, *told; /* of each rank: it is known to be dead; ks_comm_next_dead has said so */
};

int ks_comm_failed(ks_comm *comm, ks_error *err, int code, const char *what, int other)
{
    char text[MPI_MAX_ERROR_STRING] = "", with[32] = "";
    int length = 0;
    comm->broken = true;
    MPI_Error_string(code, text, &length);
    if (other >= 0)
        snprintf(with, sizeof with, " with rank %d", other);
    return ks_error_set(err, "rank %d of %d: %s%s failed: %s", comm->rank, comm->size, what, with,
                        text);
}

/* Returns -1 from the calling function when an MPI call fails. other: the rank it concerns, or -1.
 */
#define MPI_CHECK(comm, err, other, function, ...)                     \
    do {                                                               \
        int mpi_code_ = function(__VA_ARGS__);                         \
        if (mpi_code_ != MPI_SUCCESS)                                  \
            return ks_comm_failed(comm, err, mpi_code_, #function, other); \
    } while (0)

/* A nap of less than a second. */
static void nap(double seconds)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)(1e9 * seconds)}, NULL);
}

/* --- the start --- */

/* Our own communicator, and who else is on this node. */
static int join_world(ks_comm *comm, ks_error *err)
{
    MPI_CHECK(comm, err, -1, MPI_Comm_set_errhandler, MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_CHECK(comm, err, -1, MPI_Comm_dup, MPI_COMM_WORLD, &comm->world);
    MPI_CHECK(comm, err, -1, MPI_Comm_set_errhandler, comm->world, MPI_ERRORS_RETURN);
    MPI_CHECK(comm, err, -1, MPI_Comm_rank, comm->world, &comm->rank);
    MPI_CHECK(comm, err, -1, MPI_Comm_size, comm->world, &comm->size);
    MPI_CHECK(comm, err, -1, MPI_Comm_split_type, comm->world, MPI_COMM_TYPE_SHARED, comm->rank,
              MPI_INFO_NULL, &comm->node);
    MPI_CHECK(comm, err, -1, MPI_Comm_rank, comm->node, &comm->local_rank);
    MPI_CHECK(comm, err, -1, MPI_Comm_size, comm->node, &comm->local_size);
    comm->sent = ks_calloc((size_t)comm->size, sizeof *comm->sent);
    comm->dead = ks_calloc((size_t)comm->size, sizeof *comm->dead);
    comm->told = ks_calloc((size_t)comm->size, sizeof *comm->told);
    comm->survives = ks_death_survived();
    return 0;
}

static int start_mpi(ks_comm *comm, const ks_launcher *launcher, ks_error *err)
{
    int level = MPI_THREAD_SINGLE;
    ks_guard guard;
    ks_guard_start(&guard, comm->patience, KS_EXIT_RESUMABLE, "the start of MPI");
    int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
    ks_guard_end(&guard);
    if (code != MPI_SUCCESS)
        return ks_comm_failed(comm, err, code, "MPI_Init_thread", -1);
    comm->has_mpi = true;
    if (level < MPI_THREAD_FUNNELED)
        return ks_error_set(err, "this MPI allows no threads beside the one that calls it; "
                                 "MPI_THREAD_FUNNELED is needed");
    if (join_world(comm, err))
        return -1;
    comm->alone = comm->size == 1 && launcher->tasks > 1;
    if (comm->alone)
        return ks_error_set(err,
                            "%s started %d tasks but MPI sees one alone, as it does not speak the "
                            "launcher's protocol: use `srun --mpi=pmix` or mpirun",
                            launcher->name, launcher->tasks);
    return 0;
}

static void free_comm(ks_comm *comm)
{
    for (note *n; (n = comm->first);) {
        comm->first = n->next;
        free(n);
    }
    for (int i = 0; i < comm->out.count; i++)
        free(comm->out.message[i]);
    free(comm->out.request);
    free(comm->out.message);
    free(comm->out.finished);
    free(comm->out.status);
    free(comm->sent);
    free(comm->dead);
    free(comm->told);
    free(comm);
}

/* --- the dead --- */

/* After a call that failed with this code: 0 when that was for ranks that have died, who are then known; else -1. */
static int note_dead(ks_comm *comm, int code, const char *what, int other, ks_error *err)
{
    if (!ks_death_is(code))
        return ks_comm_failed(comm, err, code, what, other);
    MPI_CHECK(comm, err, -1, ks_death_find, comm->world, comm->size, comm->dead);
    return 0;
}

MPI_Comm ks_comm_mpi(const ks_comm *comm)
{
    return comm->world;
}

double ks_comm_patience(const ks_comm *comm)
{
    return comm->patience;
}

int ks_comm_look_for_dead(ks_comm *comm, ks_error *err)
{
    int there;
    if (!comm->survives)
        return 0;
    int code = MPI_Iprobe(MPI_ANY_SOURCE, MESSAGE_TAG, comm->world, &there, MPI_STATUS_IGNORE);
    return code == MPI_SUCCESS ? 0 : note_dead(comm, code, "MPI_Iprobe", -1, err);
}

bool ks_comm_is_dead(const ks_comm *comm, int rank)
{
    return comm->dead && comm->dead[rank];
}

int ks_comm_next_dead(ks_comm *comm, int *rank)
{
    for (int i = 0; comm->dead && i < comm->size; i++) {
        if (!comm->dead[i] || comm->told[i])
            continue;
        comm->told[i] = true;
        *rank = i;
        return 1;
    }
    return 0;
}

void ks_comm_wait_longer(ks_comm *comm, double seconds)
{
    comm->patience += seconds;
}

void ks_comm_give_up(ks_comm *comm)
{
    comm->given_up = true;
}

void ks_comm_break(ks_comm *comm)
{
    comm->broken = true;
}

bool ks_comm_broken(const ks_comm *comm)
{
    return comm->broken;
}

/* Takes what has ended off the list of sends. */
static void forget_ended(outbox *out)
{
    int kept = 0;
    for (int i = 0; i < out->count; i++) {
        if (out->request[i] == MPI_REQUEST_NULL) {
            free(out->message[i]);
            continue;
        }
        out->request[kept] = out->request[i];
        out->message[kept++] = out->message[i];
    }
    out->count = kept;
}

/* Forgets the sends that have ended, those to dead ranks among them. */
static int progress_sends(ks_comm *comm, ks_error *err)
{
    outbox *out = &comm->out;
    int finished = 0, class = MPI_SUCCESS;
    if (!out->count)
        return 0;
    int code = MPI_Testsome(out->count, out->request, &finished, out->finished, out->status);
    if (code != MPI_SUCCESS)
        MPI_Error_class(code, &class);
    if (class != MPI_SUCCESS && class != MPI_ERR_IN_STATUS)
        return note_dead(comm, code, "MPI_Testsome", -1, err);
    for (int i = 0; class == MPI_ERR_IN_STATUS && i < finished; i++) {
        int own = out->status[i].MPI_ERROR;
        if (own != MPI_SUCCESS && own != MPI_ERR_PENDING && note_dead(comm, own, "MPI_Isend", -1, err))
            return -1;
    }
    if (finished > 0)
        forget_ended(out);
    return 0;
}

/* A message from another rank: 1, 0 or -1. */
static int receive_remote(ks_comm *comm, int *from, ks_message *m, ks_error *err)
{
    int is_there = 0;
    MPI_Message handle;
    MPI_Status status;
    int code = MPI_Improbe(MPI_ANY_SOURCE, MESSAGE_TAG, comm->world, &is_there, &handle, &status);
    if (code != MPI_SUCCESS)
        return note_dead(comm, code, "MPI_Improbe", -1, err);
    if (!is_there)
        return 0;
    *from = status.MPI_SOURCE;
    code = MPI_Mrecv(m, (int)sizeof *m, MPI_BYTE, &handle, &status);
    if (code != MPI_SUCCESS)
        return note_dead(comm, code, "MPI_Mrecv", *from, err);
    comm->received++;
    return 1;
}

/* --- start and end --- */

/* Waits for a collective until the time `end`; receives and drops messages meanwhile. 1: it has ended, 0: it has not. */
static int wait_for_all(ks_comm *comm, MPI_Request *collective, double end, ks_error *err)
{
    for (int done = 0, from; ks_seconds() < end;) {
        ks_message dropped;
        MPI_CHECK(comm, err, -1, MPI_Test, collective, &done, MPI_STATUS_IGNORE);
        if (done)
            return 1;
        int got = receive_remote(comm, &from, &dropped, err);
        if (got < 0 || progress_sends(comm, err))
            return -1;
        if (!got)
            nap(0.0005);
    }
    return 0;
}

/* Receives and drops what is under way to this rank, so that no rank leaves MPI while another still
 * sends to it. 1, or 0 when some rank has not come here until the time `end`. */
static int drain(ks_comm *comm, double end, ks_error *err)
{
    MPI_Request request;
    MPI_CHECK(comm, err, -1, MPI_Ireduce_scatter_block, comm->sent, &comm->expected, 1, MPI_UINT64_T,
              MPI_SUM, comm->world, &request);
    int rc = wait_for_all(comm, &request, end, err);
    if (rc <= 0)
        return rc;
    while (comm->received < comm->expected || comm->out.count) {
        int from;
        ks_message dropped;
        if (receive_remote(comm, &from, &dropped, err) < 0 || progress_sends(comm, err))
            return -1;
    }
    MPI_CHECK(comm, err, -1, MPI_Ibarrier, comm->world, &request);
    return wait_for_all(comm, &request, end, err);
}

/* The same where ranks may die: what was sent is on its way, and all that live have come here. */
static int part(ks_comm *comm, int *living, ks_error *err)
{
    while (comm->out.count) {
        if (progress_sends(comm, err))
            return -1;
    }
    MPI_CHECK(comm, err, -1, ks_death_barrier, comm->world, living);
    return 1;
}

/* How this process leaves MPI when it exits, after the caller has said how the run went. */
static struct {
    ks_comm *comm; /* whose ranks are all ended, or NULL */
    int code;
} leaving;

static void at_exit(void)
{
    fflush(NULL);
    if (leaving.comm)
        ks_comm_abort(leaving.comm, leaving.code);
    _exit(leaving.code);
}

static void leave_at_exit(ks_comm *ended, int code)
{
    leaving.comm = ended;
    leaving.code = code;
    atexit(at_exit);
}

/* Leaves MPI in an orderly way: 1, or 0 when some rank does not come, or -1. With some ranks dead Open MPI 5.0.11 often hangs in
 * MPI_Finalize (13 of 25 times on a busy machine) and takes an exit without it from all the others (20 of 20). */
static int finalize(ks_comm *comm, int code, double seconds, ks_error *err)
{
    ks_guard guard; /* all work is done, and the exit code is known */
    ks_guard_start(&guard, 2 * END_SECONDS, code, "the end of MPI");
    int living = comm->size;
    int rc = comm->survives ? part(comm, &living, err) : drain(comm, ks_seconds() + fmin(seconds, END_SECONDS), err);
    if (rc > 0 && living < comm->size) {
        leave_at_exit(NULL, code);
    } else if (rc > 0) {
        MPI_Comm_free(&comm->node);
        MPI_Comm_free(&comm->world);
        MPI_Finalize();
    }
    ks_guard_end(&guard);
    return rc;
}

/* Without an orderly end. Rank 0 has yet to say how the run went, and ends all when it exits; the others wait for that. */
static void leave(ks_comm *comm, int code)
{
    bool waits = comm->given_up && !comm->broken && comm->rank != 0;
    for (double begin = ks_seconds(); waits && ks_seconds() - begin < END_SECONDS / 10.0;)
        nap(0.05);
    /* An MPI that goes on without its dead does so too when one aborts with 0: its mpirun would wait for the hanging one. */
    leave_at_exit(comm, code == KS_EXIT_DONE && comm->survives ? KS_EXIT_RESUMABLE : code);
}

/* Tasks that do not know each other all find the same: the first one says it. */
static ks_comm *launcher_failed(const ks_launcher *launcher, ks_error *err)
{
    if (launcher->task > 0 && err)
        err->text[0] = 0;
    return NULL;
}

/* Where MPI itself has failed, all ranks are ended as those of a run that can go on. */
static ks_comm *start_failed(ks_comm *comm, const ks_launcher *launcher, ks_error *err)
{
    bool alone = comm->alone;
    if (comm->has_mpi && comm->broken) {
        leave(comm, KS_EXIT_RESUMABLE);
        return NULL;
    }
    if (comm->has_mpi)
        MPI_Finalize();
    free_comm(comm);
    return alone ? launcher_failed(launcher, err) : NULL;
}

ks_comm *ks_comm_start(double patience, ks_error *err)
{
    ks_launcher launcher;
    if (ks_launcher_find(&launcher, err))
        return launcher_failed(&launcher, err);
    ks_comm *comm = ks_calloc(1, sizeof *comm);
    comm->size = comm->local_size = 1;
    comm->patience = patience;
    comm->world = comm->node = MPI_COMM_NULL;
    if (launcher.has_mpi && start_mpi(comm, &launcher, err))
        return start_failed(comm, &launcher, err);
    return comm;
}

void ks_comm_end(ks_comm *comm, int code, double seconds)
{
    ks_error err = KS_ERROR_NONE;
    if (!comm)
        return;
    bool orderly = comm->has_mpi && !comm->broken && !comm->given_up;
    int rc = orderly ? finalize(comm, code, seconds, &err) : 0;
    if (rc < 0)
        ks_log_warn("%s", err.text);
    else if (orderly && !rc)
        ks_comm_give_up(comm);
    if (comm->has_mpi && rc <= 0)
        leave(comm, code);
    else
        free_comm(comm);
}

void ks_comm_abort(ks_comm *comm, int code)
{
    fflush(NULL);
    if (comm && comm->has_mpi)
        MPI_Abort(comm->world, code);
    _exit(code);
}

/* --- who --- */

int ks_comm_rank(const ks_comm *comm)
{
    return comm->rank;
}

int ks_comm_size(const ks_comm *comm)
{
    return comm->size;
}

int ks_comm_local_rank(const ks_comm *comm)
{
    return comm->local_rank;
}

int ks_comm_local_size(const ks_comm *comm)
{
    return comm->local_size;
}

/* --- messages --- */

static void send_to_self(ks_comm *comm, const ks_message *m)
{
    note *n = ks_calloc(1, sizeof *n);
    n->message = *m;
    if (comm->last)
        comm->last->next = n;
    else
        comm->first = n;
    comm->last = n;
}

static bool receive_from_self(ks_comm *comm, ks_message *m)
{
    note *n = comm->first;
    if (!n)
        return false;
    *m = n->message;
    comm->first = n->next;
    if (!comm->first)
        comm->last = NULL;
    free(n);
    return true;
}

static void make_room(outbox *out)
{
    if (out->count < out->room)
        return;
    out->room = out->room ? 2 * out->room : 64;
    out->request = ks_realloc(out->request, (size_t)out->room, sizeof *out->request);
    out->message = ks_realloc(out->message, (size_t)out->room, sizeof *out->message);
    out->finished = ks_realloc(out->finished, (size_t)out->room, sizeof *out->finished);
    out->status = ks_realloc(out->status, (size_t)out->room, sizeof *out->status);
}

static int send_remote(ks_comm *comm, int to, const ks_message *m, ks_error *err)
{
    outbox *out = &comm->out;
    if (comm->dead[to])
        return 0;
    make_room(out);
    ks_message *copy = ks_calloc(1, sizeof *copy);
    *copy = *m;
    int code = MPI_Isend(copy, (int)sizeof *copy, MPI_BYTE, to, MESSAGE_TAG, comm->world,
                         &out->request[out->count]);
    if (code != MPI_SUCCESS) {
        free(copy);
        return note_dead(comm, code, "MPI_Isend", to, err);
    }
    out->message[out->count++] = copy;
    comm->sent[to]++;
    return progress_sends(comm, err);
}

int ks_comm_send(ks_comm *comm, int to, const ks_message *m, ks_error *err)
{
    if (to < 0 || to >= comm->size)
        return ks_error_set(err, "rank %d of %d: a message to rank %d; 0 to %d would be right",
                            comm->rank, comm->size, to, comm->size - 1);
    if (to != comm->rank)
        return send_remote(comm, to, m, err);
    send_to_self(comm, m);
    return 0;
}

int ks_comm_receive(ks_comm *comm, int *from, ks_message *m, ks_error *err)
{
    if (receive_from_self(comm, m)) {
        *from = comm->rank;
        return 1;
    }
    if (!comm->has_mpi)
        return 0;
    if (progress_sends(comm, err))
        return -1;
    return receive_remote(comm, from, m, err);
}

/* --- collectives --- */

/* A run that is to stop waits less, but a moment always. */
static bool is_patient(const ks_comm *comm, double waited)
{
    return waited < comm->patience && (waited < 1 || ks_stop_age() <= KS_STOP_SECONDS);
}

/* Waits for a collective, not for ever and without keeping a CPU from ranks that still work. A death that the MPI tells of fails
 * it too. */
static int await(ks_comm *comm, MPI_Request *request, const char *what, ks_error *err)
{
    double begin = ks_seconds(), waited;
    for (int done = 0, there; is_patient(comm, waited = ks_seconds() - begin);) {
        int code = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (code == MPI_SUCCESS && done)
            return 0;
        if (code == MPI_SUCCESS && comm->survives)
            code = MPI_Iprobe(MPI_ANY_SOURCE, MESSAGE_TAG, comm->world, &there, MPI_STATUS_IGNORE);
        if (code != MPI_SUCCESS)
            return ks_comm_failed(comm, err, code, what, -1);
        if (waited < SPIN_SECONDS)
            sched_yield();
        else
            nap(0.001);
    }
    comm->broken = true;
    return ks_error_set(err, "rank %d of %d: some rank has not come to %s within %.0f s: does it hang?", comm->rank, comm->size,
                        what, waited);
}

/* What a collective that was given up writes to may be gone: MPI is called no more. */
static int refuse_broken(const ks_comm *comm, const char *what, ks_error *err)
{
    return comm->broken ? ks_error_set(err, "rank %d of %d: %s: some rank is missing already", comm->rank, comm->size, what) : 0;
}

/* Starts a collective and waits for it; -1 from the calling function when it fails. */
#define COLLECTIVE(comm, err, function, ...)                             \
    do {                                                                 \
        MPI_Request request_;                                            \
        if (refuse_broken(comm, #function, err))                         \
            return -1;                                                   \
        MPI_CHECK(comm, err, -1, function, __VA_ARGS__, &request_);      \
        if (await(comm, &request_, #function, err))                      \
            return -1;                                                   \
    } while (0)

int ks_comm_barrier(ks_comm *comm, ks_error *err)
{
    if (comm->has_mpi)
        COLLECTIVE(comm, err, MPI_Ibarrier, comm->world);
    return 0;
}

int ks_comm_broadcast(ks_comm *comm, void *data, uint64_t size, int root, ks_error *err)
{
    if (root < 0 || root >= comm->size)
        return ks_error_set(err, "rank %d of %d: a broadcast from rank %d; 0 to %d would be right",
                            comm->rank, comm->size, root, comm->size - 1);
    if (!comm->has_mpi)
        return 0;
    for (uint64_t at = 0; at < size; at += BROADCAST_PIECE) {
        int count = size - at < BROADCAST_PIECE ? (int)(size - at) : BROADCAST_PIECE;
        COLLECTIVE(comm, err, MPI_Ibcast, (char *)data + at, count, MPI_BYTE, root, comm->world);
    }
    return 0;
}

int ks_comm_node_broadcast(ks_comm *comm, void *data, int size, ks_error *err)
{
    if (comm->has_mpi)
        COLLECTIVE(comm, err, MPI_Ibcast, data, size, MPI_BYTE, 0, comm->node);
    return 0;
}

int ks_comm_max(ks_comm *comm, int64_t *value, ks_error *err)
{
    if (comm->has_mpi)
        COLLECTIVE(comm, err, MPI_Iallreduce, MPI_IN_PLACE, value, 1, MPI_INT64_T, MPI_MAX, comm->world);
    return 0;
}

int ks_comm_sum(ks_comm *comm, double *values, int count, ks_error *err)
{
    if (comm->has_mpi)
        COLLECTIVE(comm, err, MPI_Iallreduce, MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_SUM, comm->world);
    return 0;
}

int ks_comm_gather_node(ks_comm *comm, const void *mine, int size, void *all, ks_error *err)
{
    if (comm->has_mpi)
        COLLECTIVE(comm, err, MPI_Iallgather, mine, size, MPI_BYTE, all, size, MPI_BYTE, comm->node);
    else
        memcpy(all, mine, (size_t)size);
    return 0;
}
