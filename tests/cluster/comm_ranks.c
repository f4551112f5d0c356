/* Ranks with MPI: run it under mpirun with two or more ranks. Every rank checks what it gets and
 * says on stderr what is wrong; the exit status is 1 when any rank found something. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "cluster/comm.h"

static int failures;

static void expect(const ks_comm *comm, int holds, const char *what)
{
    if (holds)
        return;
    failures++;
    fprintf(stderr, "rank %d of %d: not so: %s\n", ks_comm_rank(comm), ks_comm_size(comm), what);
}

/* A call that must succeed. */
static void check(const ks_comm *comm, int rc, const ks_error *err)
{
    expect(comm, rc >= 0, err->text);
}

static void send_to(ks_comm *comm, int to, uint32_t kind, uint64_t a, uint64_t b)
{
    ks_error err = KS_ERROR_NONE;
    ks_message m = {.kind = kind, .a = a, .b = b};
    check(comm, ks_comm_send(comm, to, &m, &err), &err);
    memset(&m, 0xee, sizeof m); /* it was copied */
}

/* Waits for the next message of any rank; a minute without one ends the test. */
static ks_message next(ks_comm *comm, int *from)
{
    ks_error err = KS_ERROR_NONE;
    ks_message m = {0};
    int got = 0;
    for (double begin = ks_seconds(); !got && ks_seconds() - begin < 60;)
        got = ks_comm_receive(comm, from, &m, &err);
    expect(comm, got == 1, got < 0 ? err.text : "a message comes within a minute");
    if (got != 1)
        ks_comm_abort(comm, 1);
    return m;
}

/* A counter goes round the ring of ranks ten times, each adding one. */
static void ring(ks_comm *comm)
{
    int rank = ks_comm_rank(comm), size = ks_comm_size(comm), from;
    if (rank == 0)
        send_to(comm, 1 % size, 1, 1, 0);
    for (uint64_t lap = 0; lap < 10; lap++) {
        ks_message m = next(comm, &from);
        expect(comm, from == (rank + size - 1) % size,
               "the ring's message comes from the rank before");
        expect(comm,
               m.kind == 1 &&
                   m.a == lap * (uint64_t)size + (rank ? (uint64_t)rank : (uint64_t)size),
               "the ring's counter has grown by one a rank");
        if (rank || lap < 9)
            send_to(comm, (rank + 1) % size, 1, m.a + 1, 0);
    }
}

/* Everybody sends everybody, itself too, many messages before it receives any: sending must not
 * block. */
static void all_to_all(ks_comm *comm)
{
    enum { EACH = 2000 };
    int rank = ks_comm_rank(comm), size = ks_comm_size(comm), from;
    uint64_t *seen = ks_calloc((size_t)size, sizeof *seen);
    for (uint64_t i = 0; i < EACH; i++) {
        for (int to = 0; to < size; to++)
            send_to(comm, to, 2, i, (uint64_t)rank);
    }
    for (int i = 0; i < EACH * size; i++) {
        ks_message m = next(comm, &from);
        expect(comm, m.kind == 2 && m.b == (uint64_t)from, "a message tells the rank it is from");
        expect(comm, m.a == seen[from]++, "messages of one rank come in order");
    }
    free(seen);
}

/* More than one piece, and an odd end. */
static void broadcast(ks_comm *comm)
{
    const uint64_t size = (64u << 20) + 13;
    int root = ks_comm_size(comm) - 1;
    unsigned char *data = ks_calloc(size, 1);
    if (ks_comm_rank(comm) == root) {
        for (uint64_t i = 0; i < size; i++)
            data[i] = (unsigned char)(i * 31 + i / 65537);
    }
    ks_error err = KS_ERROR_NONE;
    check(comm, ks_comm_broadcast(comm, data, size, root, &err), &err);
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < size; i++)
        wrong += data[i] != (unsigned char)(i * 31 + i / 65537);
    expect(comm, wrong == 0, "every byte of a broadcast arrives");
    check(comm, ks_comm_broadcast(comm, data, 0, 0, &err), &err);
    free(data);
}

static void reductions(ks_comm *comm)
{
    int rank = ks_comm_rank(comm), size = ks_comm_size(comm);
    ks_error err = KS_ERROR_NONE;
    double sums[3] = {1, rank, 0.5 * rank};
    int64_t most = -10 - rank, large = INT64_MAX - size + rank;
    check(comm, ks_comm_sum(comm, sums, 3, &err), &err);
    expect(comm, sums[0] == size && sums[1] == size * (size - 1) / 2 && sums[2] == 0.5 * sums[1],
           "sums are right");
    check(comm, ks_comm_max(comm, &most, &err), &err);
    check(comm, ks_comm_max(comm, &large, &err), &err);
    expect(comm, most == -10 && large == INT64_MAX - 1, "the largest value is found");
}

/* All ranks of this test are on one machine. */
static void node(ks_comm *comm)
{
    ks_error err = KS_ERROR_NONE;
    int mine[2] = {ks_comm_rank(comm), 7}, *all = ks_calloc((size_t)ks_comm_size(comm), sizeof mine);
    check(comm, ks_comm_gather_node(comm, mine, sizeof mine, all, &err), &err);
    for (int i = 0; i < ks_comm_size(comm); i++)
        expect(comm, all[2 * i] == i && all[2 * i + 1] == 7, "every rank of the node is heard, in order");
    free(all);
    expect(comm, ks_comm_local_size(comm) == ks_comm_size(comm),
           "all ranks of one machine share a node");
    expect(comm, ks_comm_local_rank(comm) == ks_comm_rank(comm),
           "local ranks follow the ranks' order");
}

static void barrier(ks_comm *comm)
{
    ks_error err = KS_ERROR_NONE;
    check(comm, ks_comm_barrier(comm, &err), &err);
}

/* Receives nothing of what all send at the end: ks_comm_end must neither hang nor fail for it. */
static void leave_messages(ks_comm *comm)
{
    for (uint64_t i = 0; i < 5000; i++) {
        for (int to = 0; to < ks_comm_size(comm); to++)
            send_to(comm, to, 3, i, 0);
    }
}

int main(int argc, char **argv)
{
    ks_error err = KS_ERROR_NONE;
    ks_comm *comm = ks_comm_start(60, &err);
    if (!comm) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    if (argc == 2 && !strcmp(argv[1], "abort")) { /* one rank ends all, the others wait for ever */
        if (ks_comm_rank(comm) == ks_comm_size(comm) - 1)
            ks_comm_abort(comm, 75);
        barrier(comm);
    }
    if (argc == 2 && !strcmp(argv[1], "hang")) { /* one rank does not come to the end */
        if (ks_comm_rank(comm) == ks_comm_size(comm) - 1)
            raise(SIGSTOP);
        ks_comm_end(comm, 0, 1);
        return 0;
    }
    expect(comm, argc < 2 || ks_comm_size(comm) == atoi(argv[1]),
           "the ranks that were started find each other");
    void (*const parts[])(ks_comm *) = {node,    ring,      barrier,    all_to_all,
                                        barrier, broadcast, reductions, leave_messages};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        parts[i](comm);
    ks_comm_end(comm, failures > 0, 60);
    return failures > 0;
}
