/* What connects a rank's GPU with those of others: a communicator of NCCL for each of the two groups that it is in, and for a
 * pair of parts each other's memory. Communicators never block the host: a rank that is gone must not keep the others. */
#ifndef KS_BACKEND_CUDA_NCCL_H
#define KS_BACKEND_CUDA_NCCL_H

#include <nccl.h>
#include <pthread.h>

#include "backend/cuda/cuda.h"
#include "kernels/sum.h"

typedef struct ks_cuda_link {
    ks_group *group;
    ncclComm_t comm; /* NULL: a group of one */
    bool aborted;    /* it is ended in spite of what is under way */
    pthread_t ending;
} ks_cuda_link;

/* Memory that the other rank of a pair writes into. */
typedef struct ks_cuda_peer {
    bool used;
    ks_cuda_exchange x;
    int *given_up; /* what x sees of it */
} ks_cuda_peer;

/* broken: a call failed or a rank did not come, nothing more is sent. left: the communicators are given up. */
struct ks_cuda_others {
    ks_cuda_link tensor, replica;
    ks_cuda_peer peer; /* of the tensor group's two */
    bool broken, left;
};

/* --- nccl.c --- */

/* Whether NCCL took a call of the link in, which it may do later than the call returns; else the failure is kept and the
 * others are given up at the next wait. */
bool ks_cuda_taken(ks_cuda *c, ks_cuda_link *l, ncclResult_t status, const char *what);
#define KS_CUDA_NCCL(c, l, call) ks_cuda_taken(c, l, call, #call)

/* --- peer.c --- */

/* Collective over the group. Without two ranks, or a way between them, p is not used. -1 where the other does not come. */
int ks_cuda_peer_join(ks_cuda *c, ks_cuda_peer *p, ks_group *g, ks_error *err);
/* Ends what waits for the other on the device, now and from now on. */
void ks_cuda_peer_give_up(ks_cuda_peer *p);
/* Lets go of the other's memory. The other may free it only after that. */
void ks_cuda_peer_close(ks_cuda_peer *p);
/* Gives this rank's memory back, when nothing here uses it any more and the other has let go of it, or is given up. */
void ks_cuda_peer_free(ks_cuda_peer *p);

#endif
