/* Ranks with MPI: run it under mpirun with two or more ranks. Every rank checks what it gets and
 * says on stderr what is wrong; the exit status is 1 when any rank found something. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "cluster/comm.h"
#include "cluster/comm_group.h"

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

/* --- groups: neighbours in pairs, the last rank alone where their number is odd --- */

static ks_comm_group *new_group(ks_comm *comm, int color, ks_comm_group *within, double patience)
{
    ks_error err = KS_ERROR_NONE;
    ks_comm_group *g = ks_comm_group_new(comm, color, within, patience, &err);
    expect(comm, g != NULL, err.text);
    if (!g)
        ks_comm_abort(comm, 1);
    return g;
}

static unsigned char byte_of(int rank, size_t at)
{
    return (unsigned char)((size_t)rank * 77 + at * 31 + at / 65537);
}

static size_t wrong_bytes(const unsigned char *data, int rank, size_t bytes)
{
    size_t wrong = 0;
    for (size_t i = 0; i < bytes; i++)
        wrong += data[i] != byte_of(rank, i);
    return wrong;
}

/* More than two pieces, and an odd end. */
static void group_collectives(ks_comm *comm, ks_group *g, int first)
{
    const size_t bytes = (2u << 20) + 13;
    ks_error err = KS_ERROR_NONE;
    unsigned char *own = ks_calloc(bytes, 1), *all = ks_calloc(bytes, (size_t)g->size);
    for (size_t i = 0; i < bytes; i++)
        own[i] = byte_of(first + g->rank, i);
    check(comm, g->gather(g, own, bytes, all, &err), &err);
    for (int i = 0; i < g->size; i++)
        expect(comm, !wrong_bytes(all + (size_t)i * bytes, first + i, bytes), "a gathering brings every member's bytes, in order");
    check(comm, g->broadcast(g, own, bytes, g->size - 1, &err), &err);
    expect(comm, !wrong_bytes(own, first + g->size - 1, bytes), "a broadcast brings its root's bytes");
    check(comm, g->broadcast(g, own, 0, 0, &err), &err);
    free(own);
    free(all);
}

/* Waits for a message in a group; a minute without one ends the test. */
static ks_message next_in(ks_comm *comm, ks_comm_group *g, int *from)
{
    ks_error err = KS_ERROR_NONE;
    ks_message m = {0};
    int got = 0;
    for (double begin = ks_seconds(); !got && ks_seconds() - begin < 60;)
        got = ks_comm_group_receive(g, from, &m, &err);
    expect(comm, got == 1, got < 0 ? err.text : "a message comes within a minute");
    return m;
}

static void group_messages(ks_comm *comm, ks_comm_group *g)
{
    enum { EACH = 500 };
    const ks_group *group = ks_comm_group_of(g);
    ks_error err = KS_ERROR_NONE;
    int from;
    for (uint64_t i = 0; i < EACH; i++) {
        ks_message m = {.kind = 9, .a = i};
        check(comm, ks_comm_group_send(g, &m, &err), &err);
    }
    for (uint64_t i = 0; i < EACH * (uint64_t)(group->size - 1); i++) {
        ks_message m = next_in(comm, g, &from);
        expect(comm, m.kind == 9 && m.a == i && from == 1 - group->rank, "messages in a group come in order, from the other member");
    }
}

/* The second of a pair raises the alarm: the first one's collectives fail, also those of a group within. */
static void group_alarm(ks_comm *comm, ks_comm_group *g, ks_comm_group *within)
{
    ks_group *group = ks_comm_group_of(g), *inner = ks_comm_group_of(within);
    ks_error err = KS_ERROR_NONE, again = KS_ERROR_NONE;
    char byte = 0, both[2], wanted[64];
    double begin = ks_seconds();
    if (group->rank == 1)
        ks_comm_group_alarm(g, "the device has melted");
    expect(comm, group->gather(group, &byte, 1, both, &err) < 0, "a group is broken after an alarm");
    expect(comm, ks_seconds() - begin < 20, "an alarm is heard at once");
    expect(comm, inner->broadcast(inner, &byte, 1, 0, &again) < 0, "so is a group within it");
    snprintf(wanted, sizeof wanted, "rank %d: the device has melted", ks_comm_rank(comm) + 1);
    expect(comm, !strcmp(err.text, group->rank ? "the device has melted" : wanted), "the error names who raised the alarm, and why");
    expect(comm, ks_comm_group_broken(g), "it stays broken");
    if (group->rank == 0)
        ks_comm_group_alarm(g, "another cause");
    expect(comm, ks_comm_group_alarmed_by(g, 1 - group->rank, 20), "every member raises the alarm");
}

/* The second of a pair does not come. */
static void group_patience(ks_comm *comm, ks_comm_group *g)
{
    ks_group *group = ks_comm_group_of(g);
    ks_error err = KS_ERROR_NONE;
    char byte = 0, both[2], wanted[32];
    double begin = ks_seconds();
    if (group->rank == 1)
        return;
    snprintf(wanted, sizeof wanted, "rank %d,", ks_comm_rank(comm) + 1);
    expect(comm, group->gather(group, &byte, 1, both, &err) < 0, "a member that does not come is not waited for");
    expect(comm, ks_seconds() - begin >= 0.3 && ks_seconds() - begin < 20, "it is waited for as long as was said");
    expect(comm, strstr(err.text, wanted) != NULL, "the error names the rank that has not come");
}

static void groups(ks_comm *comm)
{
    int rank = ks_comm_rank(comm), first = rank / 2 * 2, size = first + 1 < ks_comm_size(comm) ? 2 : 1;
    ks_comm_group *pair = new_group(comm, first, NULL, 60), *one = new_group(comm, rank, pair, 60);
    ks_comm_group *hasty = new_group(comm, first, NULL, 0.3);
    ks_group *g = ks_comm_group_of(pair);
    expect(comm, g->size == size && g->rank == rank - first && ks_comm_group_rank(pair, 0) == first,
           "a group has the ranks of its color, in their order");
    group_collectives(comm, g, first);
    group_collectives(comm, ks_comm_group_of(one), rank);
    group_messages(comm, pair);
    barrier(comm); /* an alarm overtakes messages */
    if (size == 2) {
        group_alarm(comm, pair, one);
        group_patience(comm, hasty);
    }
    ks_comm_group_free(hasty);
    ks_comm_group_free(one);
    ks_comm_group_free(pair);
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
                                        barrier, broadcast, reductions, groups,
                                        leave_messages};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        parts[i](comm);
    ks_comm_end(comm, failures > 0, 60);
    return failures > 0;
}
