/* A replica: tensor x rows consecutive ranks that hold one model together (the job's "parallel").
 *
 * Rank i of a replica has part i % tensor of every layer and computes part i / tensor of a call's rows. Its first rank, the leader,
 * renders as a rank alone would: engine, text encoders, decoder, leases and shard are its own. The followers have their part of the
 * UNet only and serve its network calls. For each of them the leader sends one message, the call's order (for each row its scale,
 * timestep and conditioning, and what is new of the conditionings) and the latents; the rows' outputs come together on it again.
 *
 * Conditionings lie in a fixed number of slots on every follower; the leader knows which is where and sends one when it gets a slot.
 *
 * A member that fails, dies or hangs ends its replica: the others' calls fail within the group's patience, and they are lost to the
 * run as a rank is whose device has failed. */
#ifndef KS_CLUSTER_REPLICA_H
#define KS_CLUSTER_REPLICA_H

#include <stdbool.h>

#include "backend/ops.h"
#include "base/error.h"
#include "cluster/comm.h"
#include "cluster/setup.h"
#include "cluster/worker.h"
#include "job/job.h"
#include "model/model.h"
#include "model/split.h"

typedef struct ks_replica ks_replica;

/* Ranks that the job wants for one model. */
int ks_replica_size(const ks_job *job);
/* Refuses a number of ranks that makes no whole replicas. */
int ks_replica_check(const ks_job *job, int ranks, ks_error *err);

/* Collective over all ranks, whose devices are open; of more than one rank a replica. patience: seconds that a member is waited for.
 * comm and ops outlive it, but for its groups, which ops needs until it is freed: ks_replica_close first, then ops, then free. */
ks_replica *ks_replica_new(ks_comm *comm, ks_ops *ops, const ks_job *job, double patience, ks_error *err);
void ks_replica_close(ks_replica *r);
void ks_replica_free(ks_replica *r);

bool ks_replica_leads(const ks_replica *r);
/* Another member's failure, or this one's in working with them, has ended it. */
bool ks_replica_lost(const ks_replica *r);
/* What this rank holds of the model; NULL: all of it. */
const ks_split *ks_replica_split(const ks_replica *r);

/* Plans calls of `rows` rows (a multiple of the job's "rows") and this rank's part of them in its model, which outlives the replica's
 * use. */
int ks_replica_plan(ks_replica *r, ks_model *model, int rows, int height, int width, ks_error *err);

/* --- the leader --- */

/* ks_model_rows of the whole replica. */
int ks_replica_rows(ks_replica *r, const ks_net_row *row, int n, ks_error *err);
/* Between calls, often: the followers hear now and then that their leader lives; -1 when one of them does not. */
int ks_replica_beat(ks_replica *r, ks_error *err);
/* The rendering has ended: the followers go, too. failed: why, when not by the leader's own will; or NULL. */
void ks_replica_end(ks_replica *r, const char *failed);

/* --- a follower --- */

/* Serves its leader to the end. 0: the leader, or the whole run, has ended; -1: it failed, and the others know. */
int ks_replica_follow(ks_replica *r, ks_worker *worker, ks_error *err);

#endif
