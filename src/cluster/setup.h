/* Everything a job names, opened and checked before anything is rendered. */
#ifndef KS_CLUSTER_SETUP_H
#define KS_CLUSTER_SETUP_H

#include <stdbool.h>

#include "backend/ops.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/hash_ahead.h"
#include "cluster/comm.h"
#include "cluster/conditions.h"
#include "cluster/latents.h"
#include "job/job.h"
#include "ksweep/ksweep.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "sampling/schedule.h"

typedef struct ks_setup {
    ks_job *job; /* prediction and zsnr resolved, batch set */
    ks_safetensors *file;
    ks_model_config config;
    ks_model_sampling sampling;
    char sha256[KS_SHA256_HEX];
    ks_hash_ahead *hashing; /* the digest of the model's file, on its way; or NULL */
    char *tokenizer; /* folder; NULL when no text is used */
    bool texts;      /* some conditioning is a text */
    ks_input_latents *latents;
    int shape[4]; /* [batch, channels, height, width] of a KSampler call's latent */
    ks_conditions *conditions;
    ks_job_digests digests;
    ks_hash128 *digest_memory;
} ks_setup;

/* Opens the job's model, latents and conditionings; takes the job over (also on failure). Only looks at shapes and names: no
 * contents are read beyond input latents. */
int ks_setup_open(ks_setup *s, ks_job *job, ks_error *err);

/* The same with the model's bytes, which it takes over too. */
int ks_setup_open_mapped(ks_setup *s, ks_job *job, ks_map model, ks_error *err);

/* Lets the model's file go, whose weights have been taken to the device. */
void ks_setup_close_model(ks_setup *s);

/* Reads every conditioning and latent from its file, holds it against the model and makes its digest. */
int ks_setup_check(ks_setup *s, ks_error *err);

/* Begins the model's digest, for a rank that will want it later. */
void ks_setup_hash_ahead(ks_setup *s);

/* The model's digest: after ks_setup_check, all that keys depend on is there. */
int ks_setup_digest_model(ks_setup *s, ks_error *err);

/* The same for a model file that is believed to have this SHA-256: nothing of it is read. */
int ks_setup_believe_model(ks_setup *s, const char *sha256, ks_error *err);

/* Both. */
int ks_setup_digest(ks_setup *s, ks_error *err);

/* Collective: hands rank 0's digests to the other ranks. */
int ks_setup_share(ks_setup *s, ks_comm *comm, ks_error *err);

void ks_setup_close(ks_setup *s);

/* Network rows that one KSampler call asks for at once: the most over the sweep. */
int ks_setup_rows_per_call(const ks_setup *s);

/* Rows of a network call. *rows 0: chosen for this sweep, from its size and the device's free memory; else that many, which must
 * fit. ranks: that share the device's memory. loaded: the networks are on the device already. Fails with what is needed and what
 * is free when they do not, or not even one row does. */
int ks_setup_choose_rows(const ks_setup *s, ks_ops *ops, int ranks, bool loaded, int *rows, ks_error *err);

/* Device bytes of a run on a rank, roughly. In a replica of several ranks: on its first one, and less on the others. */
typedef struct ks_memory_need {
    double weights;  /* of the networks that it uses */
    double decoding; /* one picture */
    double fixed;    /* both, and first rows that are shared */
    double row;      /* of a network call: activations, keys and values of its conditioning, the lane's latents */
    double follower_weights, follower_row; /* what the others of a replica need */
} ks_memory_need;
ks_memory_need ks_setup_memory(const ks_setup *s, const ks_ops *ops);

#endif
