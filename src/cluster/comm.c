#include "cluster/comm.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "cluster/launcher.h"

enum {
    MESSAGE_TAG = 1,
    BROADCAST_PIECE = 64 << 20, /* bytes a call: MPI counts are int */
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
    int *finished; /* scratch of MPI_Testsome */
    int count, room;
} outbox;

struct ks_comm {
    bool has_mpi;
    MPI_Comm world; /* a duplicate of MPI_COMM_WORLD */
    MPI_Comm node;  /* those of it that are on this node */
    int rank, size, local_rank, local_size;
    note *first, *last;
    outbox out;
    uint64_t *sent;    /* messages to each rank */
    uint64_t received; /* messages from other ranks */
};

/* "rank 3: MPI_Isend to rank 7: <MPI's text>" into err; returns -1. */
static int mpi_failed(const ks_comm *comm, ks_error *err, int code, const char *what, int other)
{
    char text[MPI_MAX_ERROR_STRING] = "", with[32] = "";
    int length = 0;
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
            return mpi_failed(comm, err, mpi_code_, #function, other); \
    } while (0)

/* --- start and end --- */

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
    return 0;
}

static int start_mpi(ks_comm *comm, const ks_launcher *launcher, ks_error *err)
{
    int level = MPI_THREAD_SINGLE;
    MPI_CHECK(comm, err, -1, MPI_Init_thread, NULL, NULL, MPI_THREAD_FUNNELED, &level);
    comm->has_mpi = true;
    if (level < MPI_THREAD_FUNNELED)
        return ks_error_set(err, "this MPI allows no threads beside the one that calls it; "
                                 "MPI_THREAD_FUNNELED is needed");
    if (join_world(comm, err))
        return -1;
    if (comm->size == 1 && launcher->tasks > 1)
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
    free(comm->sent);
    free(comm);
}

ks_comm *ks_comm_start(ks_error *err)
{
    ks_launcher launcher;
    if (ks_launcher_find(&launcher, err))
        return NULL;
    ks_comm *comm = ks_calloc(1, sizeof *comm);
    comm->size = comm->local_size = 1;
    comm->world = comm->node = MPI_COMM_NULL;
    if (launcher.has_mpi && start_mpi(comm, &launcher, err)) {
        if (comm->has_mpi)
            MPI_Finalize();
        free_comm(comm);
        return NULL;
    }
    return comm;
}

/* Forgets the sends that have ended. */
static int progress_sends(ks_comm *comm, ks_error *err)
{
    outbox *out = &comm->out;
    int finished = 0, kept = 0;
    if (!out->count)
        return 0;
    MPI_CHECK(comm, err, -1, MPI_Testsome, out->count, out->request, &finished, out->finished,
              MPI_STATUSES_IGNORE);
    if (finished <= 0)
        return 0;
    for (int i = 0; i < out->count; i++) {
        if (out->request[i] == MPI_REQUEST_NULL) {
            free(out->message[i]);
            continue;
        }
        out->request[kept] = out->request[i];
        out->message[kept++] = out->message[i];
    }
    out->count = kept;
    return 0;
}

/* A message from another rank: 1, 0 or -1. */
static int receive_remote(ks_comm *comm, int *from, ks_message *m, ks_error *err)
{
    int is_there = 0;
    MPI_Message handle;
    MPI_Status status;
    MPI_CHECK(comm, err, -1, MPI_Improbe, MPI_ANY_SOURCE, MESSAGE_TAG, comm->world, &is_there,
              &handle, &status);
    if (!is_there)
        return 0;
    *from = status.MPI_SOURCE;
    MPI_CHECK(comm, err, *from, MPI_Mrecv, m, (int)sizeof *m, MPI_BYTE, &handle, &status);
    comm->received++;
    return 1;
}

/* Receives and drops what is under way to this rank, so that no rank leaves MPI while another still
 * sends to it. */
static int drain(ks_comm *comm, ks_error *err)
{
    uint64_t expected = 0;
    MPI_CHECK(comm, err, -1, MPI_Reduce_scatter_block, comm->sent, &expected, 1, MPI_UINT64_T,
              MPI_SUM, comm->world);
    while (comm->received < expected || comm->out.count) {
        int from;
        ks_message dropped;
        if (receive_remote(comm, &from, &dropped, err) < 0 || progress_sends(comm, err))
            return -1;
    }
    return ks_comm_barrier(comm, err);
}

void ks_comm_end(ks_comm *comm)
{
    if (!comm)
        return;
    if (comm->has_mpi) {
        ks_error err = KS_ERROR_NONE;
        if (drain(comm, &err))
            ks_log_warn("%s", err.text);
        MPI_Comm_free(&comm->node);
        MPI_Comm_free(&comm->world);
        MPI_Finalize();
    }
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
}

static int send_remote(ks_comm *comm, int to, const ks_message *m, ks_error *err)
{
    outbox *out = &comm->out;
    make_room(out);
    ks_message *copy = ks_calloc(1, sizeof *copy);
    *copy = *m;
    int code = MPI_Isend(copy, (int)sizeof *copy, MPI_BYTE, to, MESSAGE_TAG, comm->world,
                         &out->request[out->count]);
    if (code != MPI_SUCCESS) {
        free(copy);
        return mpi_failed(comm, err, code, "MPI_Isend", to);
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

int ks_comm_barrier(ks_comm *comm, ks_error *err)
{
    if (comm->has_mpi)
        MPI_CHECK(comm, err, -1, MPI_Barrier, comm->world);
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
        MPI_CHECK(comm, err, root, MPI_Bcast, (char *)data + at, count, MPI_BYTE, root,
                  comm->world);
    }
    return 0;
}

int ks_comm_node_broadcast(ks_comm *comm, void *data, int size, ks_error *err)
{
    if (comm->has_mpi)
        MPI_CHECK(comm, err, -1, MPI_Bcast, data, size, MPI_BYTE, 0, comm->node);
    return 0;
}

int ks_comm_max(ks_comm *comm, int64_t *value, ks_error *err)
{
    if (comm->has_mpi)
        MPI_CHECK(comm, err, -1, MPI_Allreduce, MPI_IN_PLACE, value, 1, MPI_INT64_T, MPI_MAX,
                  comm->world);
    return 0;
}

int ks_comm_sum(ks_comm *comm, double *values, int count, ks_error *err)
{
    if (comm->has_mpi)
        MPI_CHECK(comm, err, -1, MPI_Allreduce, MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_SUM,
                  comm->world);
    return 0;
}
