/* Some of a run's ranks that work on network calls together: a ks_group (backend/group.h) over MPI, and small messages among them.
 *
 * A member that dies (where MPI tells), that does not come to a collective in time, or that raises the alarm breaks the group: its
 * collectives fail on every other member, with what is known of the cause. The run's other ranks have nothing to do with it. */
#ifndef KS_CLUSTER_COMM_GROUP_H
#define KS_CLUSTER_COMM_GROUP_H

#include <stdbool.h>

#include "backend/group.h"
#include "base/error.h"
#include "cluster/comm.h"

typedef struct ks_comm_group ks_comm_group;

/* Collective over all ranks: those with the same color are a group, in their order. within: a larger group of the same ranks, which
 * outlives this one and whose alarms break it too, or NULL. patience: seconds that a member waits for the others. */
ks_comm_group *ks_comm_group_new(ks_comm *comm, int color, ks_comm_group *within, double patience, ks_error *err);
/* Not collective. What is still under way in a broken group is left to the end of MPI. */
void ks_comm_group_free(ks_comm_group *g);

/* The same ranks as backends see them; lives as long as the group. */
ks_group *ks_comm_group_of(ks_comm_group *g);
/* The number that a member has in the run. */
int ks_comm_group_rank(const ks_comm_group *g, int member);

/* To all other members; m is copied. Never blocks. Messages of one member come in order. */
int ks_comm_group_send(ks_comm_group *g, const ks_message *m, ks_error *err);
/* 1 a message from member *from, 0 none waits, -1 the group is broken. */
int ks_comm_group_receive(ks_comm_group *g, int *from, ks_message *m, ks_error *err);

/* -1 when something has broken the group. */
int ks_comm_group_look(ks_comm_group *g, ks_error *err);
/* This rank works with the others no more: tells them, once, and breaks the group here. An alarm that it has heard is handed on in the
 * place of why. */
void ks_comm_group_alarm(ks_comm_group *g, const char *why);
/* In a broken group: whether that member has raised the alarm as well, or does so within so many seconds. */
bool ks_comm_group_alarmed_by(ks_comm_group *g, int member, double seconds);
bool ks_comm_group_broken(const ks_comm_group *g);

#endif
