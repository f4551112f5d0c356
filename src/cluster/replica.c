#include "cluster/replica.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/pace.h"
#include "base/file.h"
#include "base/stop.h"
#include "cluster/comm_group.h"
#include "cluster/slots.h"

enum order_kind {
    ORDER_CALL = 1, /* flags rows, a height, b width, c bytes of what follows by broadcast */
    ORDER_BEAT,     /* the leader lives */
    ORDER_END,      /* of the rendering */
};

/* What follows an order for a call: one of these for each row, */
typedef struct row_order {
    float scale;
    int32_t timestep, slot;
} row_order;

/* and one for each conditioning that gets a slot, with its context and its y behind it. */
typedef struct cond_order {
    int32_t slot, tokens, values;
} cond_order;

enum { BEATS = 8, SLICE = 64 }; /* signs of life within the patience; floats that slices of outputs are multiples of */

struct ks_replica {
    ks_comm *comm;
    ks_ops *ops;
    ks_comm_group *all, *part; /* the replica, and those of it that compute the same rows */
    ks_group *group;           /* all's */
    double patience;
    int tensor_parts, row_parts;
    ks_split split;
    ks_model *model;
    int rows, height, width; /* as planned */
    ks_slots *slots;         /* the leader's: which conditioning lies where on the followers */
    ks_cond **cond;          /* a follower's, [slot_count] */
    int slot_count;
    char *order; /* what follows the order of the call: */
    size_t order_bytes, order_room;
    ks_net_row *own;     /* this rank's rows of the call */
    ks_lincomb_op *copy; /* the leader's copies between the engine's latents and these: */
    float *x, *out;      /* device: of all rows; a leader whose rows are all its own writes to the engine's latents at once */
    size_t x_room, out_room;
    ks_pace pace; /* of a follower's calls */
    double said; /* when the leader last said something */
};

/* One call, and this rank's share of it. */
typedef struct call {
    int n, height, width;
    int each;         /* rows of a row part, of which the last ones may have fewer */
    int first, count; /* this rank's */
    size_t in, made;  /* floats of a row */
    size_t slice;     /* floats that each rank has of the outputs that come together */
} call;

/* --- who --- */

int ks_replica_size(const ks_job *job)
{
    return job->tensor * job->rows;
}

int ks_replica_check(const ks_job *job, int ranks, ks_error *err)
{
    int size = ks_replica_size(job), fitting = ranks / size * size;
    if (ranks % size == 0)
        return 0;
    return ks_error_set(err, "%s: parallel: one model is on %d ranks (tensor %d, rows %d), and %d rank%s started: start %d, or another "
                        "multiple of %d", job->path, size, job->tensor, job->rows, ranks, ranks == 1 ? " was" : "s were",
                        fitting ? fitting : size, size);
}

bool ks_replica_leads(const ks_replica *r)
{
    return r->group->rank == 0;
}

bool ks_replica_lost(const ks_replica *r)
{
    return ks_comm_group_broken(r->all) || ks_comm_group_broken(r->part);
}

const ks_split *ks_replica_split(const ks_replica *r)
{
    return r->split.parts > 1 ? &r->split : NULL;
}

static int row_part(const ks_replica *r)
{
    return r->group->rank / r->tensor_parts;
}

/* All members' devices must be of one kind: parts of one model cannot be on GPUs and CPUs, or in two precisions. */
static int compare_devices(const ks_replica *r, ks_error *err)
{
    typedef struct kind {
        char name[16], precision[16];
    } kind;
    kind own = {"", ""}, *all = ks_calloc((size_t)r->group->size, sizeof *all);
    snprintf(own.name, sizeof own.name, "%s", r->ops->name);
    snprintf(own.precision, sizeof own.precision, "%s", r->ops->precision);
    int rc = r->group->gather(r->group, &own, sizeof own, all, err);
    for (int i = 1; !rc && i < r->group->size; i++) {
        if (memcmp(&all[i], &all[0], sizeof own))
            rc = ks_error_set(err, "rank %d is on %s in %s, rank %d on %s in %s, and they are to have one model together",
                              ks_comm_group_rank(r->all, 0), all[0].name, all[0].precision, ks_comm_group_rank(r->all, i), all[i].name,
                              all[i].precision);
    }
    free(all);
    return rc;
}

ks_replica *ks_replica_new(ks_comm *comm, ks_ops *ops, const ks_job *job, double patience, ks_error *err)
{
    int size = ks_replica_size(job), rank = ks_comm_rank(comm);
    ks_replica *r = ks_calloc(1, sizeof *r);
    *r = (ks_replica){.comm = comm, .ops = ops, .tensor_parts = job->tensor, .row_parts = job->rows, .patience = patience};
    r->all = ks_comm_group_new(comm, rank / size, NULL, patience, err);
    r->part = r->all ? ks_comm_group_new(comm, rank / job->tensor, r->all, patience, err) : NULL;
    if (!r->part) {
        ks_replica_free(r);
        return NULL;
    }
    r->group = ks_comm_group_of(r->all);
    r->split = (ks_split){.part = r->group->rank % job->tensor, .parts = job->tensor};
    if (!compare_devices(r, err) && !ops->join(ops, ks_comm_group_of(r->part), r->group, err))
        return r;
    ks_error_wrap(err, "%s: parallel", job->path);
    ks_replica_free(r);
    return NULL;
}

void ks_replica_close(ks_replica *r)
{
    if (!r)
        return;
    for (int i = 0; r->cond && i < r->slot_count; i++)
        ks_cond_free(r->cond[i]);
    if (r->x)
        r->ops->release(r->ops, r->x);
    if (r->out)
        r->ops->release(r->ops, r->out);
    ks_slots_free(r->slots);
    free(r->cond);
    free(r->order);
    free(r->own);
    free(r->copy);
    r->cond = NULL;
    r->slots = NULL;
    r->order = NULL;
    r->own = NULL;
    r->copy = NULL;
    r->x = r->out = NULL;
}

void ks_replica_free(ks_replica *r)
{
    if (!r)
        return;
    ks_comm_group_free(r->part);
    ks_comm_group_free(r->all);
    free(r);
}

/* A call may use a conditioning of its own for every row; twice as many let those of the next call stay. */
int ks_replica_plan(ks_replica *r, ks_model *model, int rows, int height, int width, ks_error *err)
{
    int own = rows / r->row_parts;
    r->model = model;
    r->rows = rows;
    r->height = height;
    r->width = width;
    r->slot_count = 2 * rows + 2;
    r->own = ks_calloc((size_t)own, sizeof *r->own);
    if (ks_replica_leads(r)) {
        r->slots = ks_slots_new(r->slot_count);
        r->copy = ks_calloc((size_t)rows, sizeof *r->copy);
    } else {
        r->cond = ks_calloc((size_t)r->slot_count, sizeof *r->cond);
    }
    return ks_model_plan(model, own, height, width, err);
}

/* --- one call, on every rank --- */

/* Rows are dealt out evenly, neighbours together. Outputs lie part after part, each cut into one slice for every rank of it. */
static call share_out(const ks_replica *r, int n, int height, int width)
{
    const ks_unet_config *unet = &ks_model_config_of(r->model)->unet;
    size_t cells = (size_t)height * (size_t)width, tensor = (size_t)r->tensor_parts;
    call c = {.n = n, .height = height, .width = width, .each = (n + r->row_parts - 1) / r->row_parts};
    int first = row_part(r) * c.each;
    c.first = first < n ? first : n;
    c.count = c.each < n - c.first ? c.each : n - c.first;
    c.in = cells * (size_t)unet->in_channels;
    c.made = cells * (size_t)unet->out_channels;
    c.slice = ((size_t)c.each * c.made + tensor - 1) / tensor;
    c.slice = (c.slice + SLICE - 1) / SLICE * SLICE;
    return c;
}

static float *output_of(const ks_replica *r, const call *c, int row)
{
    size_t part = (size_t)(row / c->each), place = (size_t)(row % c->each);
    return r->out + part * c->slice * (size_t)r->tensor_parts + place * c->made;
}

/* Room for so many floats on the device. What is queued may still work on the memory that goes. */
static int make_room(ks_replica *r, float **memory, size_t *room, size_t floats, ks_error *err)
{
    if (floats <= *room)
        return 0;
    if (*memory && r->ops->sync(r->ops, err))
        return -1;
    if (*memory)
        r->ops->release(r->ops, *memory);
    *memory = r->ops->alloc(r->ops, floats * sizeof **memory, err);
    *room = *memory ? floats : 0;
    return *memory ? 0 : -1;
}

static int reserve(ks_replica *r, const call *c, ks_error *err)
{
    bool direct = r->row_parts == 1 && ks_replica_leads(r);
    size_t outputs = direct ? 0 : c->slice * (size_t)r->group->size;
    return make_room(r, &r->x, &r->x_room, (size_t)c->n * c->in, err) || make_room(r, &r->out, &r->out_room, outputs, err) ? -1 : 0;
}

/* With the latents in r->x on the leader, and this rank's rows described: queues all of the call. A device that runs everything at
 * once tells at once what went wrong; the others must not wait for it. */
static int compute(ks_replica *r, const call *c, ks_error *err)
{
    ks_ops *ops = r->ops;
    ops->broadcast(ops, r->x, (size_t)c->n * c->in * sizeof(float));
    if (c->count && ks_model_rows(r->model, r->own, c->count, err))
        return -1;
    if (r->row_parts > 1)
        ops->gather(ops, r->out, c->slice * sizeof(float));
    return ops->fence ? 0 : ops->sync(ops, err);
}

/* --- the leader --- */

static void *extend_order(ks_replica *r, size_t bytes)
{
    size_t at = r->order_bytes;
    r->order_bytes += bytes;
    if (r->order_bytes > r->order_room) {
        r->order_room = 2 * r->order_bytes;
        r->order = ks_realloc(r->order, r->order_room, 1);
    }
    return r->order + at;
}

/* Puts a conditioning into the order. */
static void add_cond(ks_replica *r, const ks_cond *cond, int slot)
{
    const ks_unet_config *unet = &ks_model_config_of(r->model)->unet;
    int tokens;
    const float *context, *y;
    ks_cond_content(cond, &tokens, &context, &y);
    size_t values = (size_t)tokens * (size_t)unet->context_dim, vector = y ? (size_t)unet->adm_channels : 0;
    const cond_order head = {slot, tokens, (int32_t)(values + vector)};
    memcpy(extend_order(r, sizeof head), &head, sizeof head);
    memcpy(extend_order(r, values * sizeof *context), context, values * sizeof *context);
    if (y)
        memcpy(extend_order(r, vector * sizeof *y), y, vector * sizeof *y);
}

/* What the followers must know of the rows and do not yet. */
static void write_order(ks_replica *r, const ks_net_row *row, int n)
{
    r->order_bytes = 0;
    extend_order(r, (size_t)n * sizeof(row_order));
    ks_slots_begin(r->slots);
    for (int i = 0; i < n; i++) {
        bool is_new;
        int tokens;
        const float *context, *y;
        int slot = ks_slots_of(r->slots, ks_cond_content(row[i].cond, &tokens, &context, &y), &is_new);
        if (is_new)
            add_cond(r, row[i].cond, slot);
        const row_order order = {row[i].scale, row[i].timestep, slot};
        memcpy(r->order + (size_t)i * sizeof order, &order, sizeof order);
    }
}

static int give_order(ks_replica *r, const call *c, ks_error *err)
{
    ks_message m = {.kind = ORDER_CALL, .flags = (uint32_t)c->n, .a = (uint64_t)c->height, .b = (uint64_t)c->width, .c = r->order_bytes};
    r->said = ks_seconds();
    return ks_comm_group_send(r->all, &m, err) || r->group->broadcast(r->group, r->order, r->order_bytes, 0, err) ? -1 : 0;
}

static void copy_rows(ks_replica *r, const call *c, const ks_net_row *row, bool back)
{
    for (int i = 0; i < c->n; i++) {
        float *x = r->x + (size_t)i * c->in;
        r->copy[i] = (ks_lincomb_op){.out = back ? row[i].out : x,
                                     .n = (int64_t)(back ? c->made : c->in),
                                     .terms = 1,
                                     .coef = {1},
                                     .in = {back ? output_of(r, c, i) : row[i].x}};
    }
    r->ops->lincomb(r->ops, r->copy, c->n);
}

int ks_replica_rows(ks_replica *r, const ks_net_row *row, int n, ks_error *err)
{
    call c = share_out(r, n, row[0].height > 0 ? row[0].height : r->height, row[0].width > 0 ? row[0].width : r->width);
    write_order(r, row, n);
    if (give_order(r, &c, err) || reserve(r, &c, err))
        return -1;
    for (int i = 0; i < c.count; i++) {
        r->own[i] = row[i];
        r->own[i].x = r->x + (size_t)i * c.in;
        r->own[i].out = r->row_parts > 1 ? output_of(r, &c, i) : row[i].out;
    }
    copy_rows(r, &c, row, false);
    if (compute(r, &c, err))
        return -1;
    if (r->row_parts > 1)
        copy_rows(r, &c, row, true);
    return 0;
}

int ks_replica_beat(ks_replica *r, ks_error *err)
{
    ks_message m = {.kind = ORDER_BEAT};
    double now = ks_seconds();
    if (now - r->said < r->patience / BEATS)
        return ks_comm_group_look(r->all, err);
    r->said = now;
    return ks_comm_group_send(r->all, &m, err);
}

void ks_replica_end(ks_replica *r, const char *failed)
{
    ks_message m = {.kind = ORDER_END};
    ks_error err = KS_ERROR_NONE;
    if (failed || ks_comm_group_send(r->all, &m, &err))
        ks_comm_group_alarm(r->all, failed ? failed : err.text);
}

/* --- a follower --- */

/* A part of the order from *at on; NULL when it is too short. */
static const void *read_order(const ks_replica *r, size_t *at, size_t bytes)
{
    const char *part = r->order + *at;
    if (bytes > r->order_bytes - *at)
        return NULL;
    *at += bytes;
    return part;
}

/* Takes the conditionings that come with an order into their slots. */
static int take_conds(ks_replica *r, size_t at, ks_error *err)
{
    const ks_unet_config *unet = &ks_model_config_of(r->model)->unet;
    for (const cond_order *head; (head = read_order(r, &at, sizeof *head));) {
        const float *values = head->values > 0 ? read_order(r, &at, (size_t)head->values * sizeof *values) : NULL;
        int64_t context = (int64_t)head->tokens * unet->context_dim;
        bool fits = values && head->slot >= 0 && head->slot < r->slot_count && head->tokens > 0 &&
                    (head->values == context || head->values == context + unet->adm_channels);
        if (!fits)
            return ks_error_set(err, "an order for a network call that does not fit: do all ranks run the same ksweep?");
        ks_cond_free(r->cond[head->slot]);
        r->cond[head->slot] = ks_cond_new(r->model, values, head->tokens, head->values > context ? values + context : NULL, err);
        if (!r->cond[head->slot])
            return -1;
    }
    return 0;
}

/* This rank's rows of the call. */
static int describe_rows(ks_replica *r, const call *c, ks_error *err)
{
    const row_order *order = (const row_order *)r->order + c->first;
    for (int i = 0; i < c->count; i++) {
        bool there = order[i].slot >= 0 && order[i].slot < r->slot_count && r->cond[order[i].slot];
        if (!there)
            return ks_error_set(err, "an order for a network call without its conditioning: do all ranks run the same ksweep?");
        r->own[i] = (ks_net_row){.x = r->x + (size_t)(c->first + i) * c->in,
                                 .scale = order[i].scale,
                                 .timestep = order[i].timestep,
                                 .cond = r->cond[order[i].slot],
                                 .out = output_of(r, c, c->first + i),
                                 .height = c->height,
                                 .width = c->width};
    }
    return 0;
}

static int serve_call(ks_replica *r, const ks_message *m, ks_error *err)
{
    int n = (int)m->flags;
    bool fits = n >= 1 && n <= r->rows && m->a >= 1 && m->a <= INT32_MAX && m->b >= 1 && m->b <= INT32_MAX &&
                m->c >= (uint64_t)n * sizeof(row_order);
    if (!fits)
        return ks_error_set(err, "an order for a network call that does not fit: do all ranks run the same ksweep?");
    call c = share_out(r, n, (int)m->a, (int)m->b);
    r->order_bytes = 0;
    extend_order(r, (size_t)m->c);
    if (r->group->broadcast(r->group, r->order, r->order_bytes, 0, err) || take_conds(r, (size_t)n * sizeof(row_order), err) ||
        reserve(r, &c, err) || describe_rows(r, &c, err) || compute(r, &c, err))
        return -1;
    return ks_pace_call(&r->pace, r->ops, err);
}

/* Takes one message of the leader: 1, or 0 when there is none, or -1. */
static int serve_order(ks_replica *r, bool *ended, ks_error *err)
{
    ks_message m;
    int from, got = ks_comm_group_receive(r->all, &from, &m, err);
    if (got <= 0)
        return got;
    *ended = m.kind == ORDER_END;
    return m.kind == ORDER_CALL && serve_call(r, &m, err) ? -1 : 1;
}

/* Waits a moment: less than a millisecond, and less than that when the last call was just before. Only the time of its own turns
 * counts, as this rank may have been stopped itself. */
static int wait_for_order(ks_replica *r, double *waited, ks_error *err)
{
    const double awake = 0.001, longest = 0.0005;
    double begin = ks_seconds();
    if (*waited < awake)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = (long)(1e9 * fmin(longest, *waited / 16))}, NULL);
    *waited += fmin(ks_seconds() - begin, 0.1);
    if (*waited <= r->patience)
        return 0;
    return ks_error_set(err, "rank %d, which leads this rank, has said nothing for %.0f s", ks_comm_group_rank(r->all, 0), *waited);
}

/* Tells the others. Where the leader is rank 0 and does not answer, there is no run any more either. */
static int fail(ks_replica *r, ks_error *err)
{
    double patience = ks_stop_requested() ? fmin(r->patience, KS_STOP_SECONDS / 2.0) : r->patience;
    ks_comm_group_alarm(r->all, err->text);
    if (!ks_comm_group_rank(r->all, 0) && !ks_comm_group_alarmed_by(r->all, 0, patience))
        ks_comm_break(r->comm);
    return -1;
}

int ks_replica_follow(ks_replica *r, ks_worker *worker, ks_error *err)
{
    bool ended = false;
    double waited = 0;
    while (!ended) {
        int run = ks_worker_follow(worker, err), got = run ? run : serve_order(r, &ended, err);
        if (run > 0)
            return 0;
        if (got > 0)
            waited = 0;
        if (got < 0 || (!got && wait_for_order(r, &waited, err)))
            return fail(r, err);
    }
    if (!r->ops->sync(r->ops, err))
        return 0;
    ks_comm_group_alarm(r->all, err->text); /* nobody looks any more: the leader has all that it needs */
    return -1;
}
