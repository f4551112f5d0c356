/* One file for all ranks of a node: the node's first rank reads it into memory that the others map, so that the file system
 * gives each byte once a node, however many ranks there are, and the node's memory holds it once.
 *
 * The memory is a memfd, which the others open by the first rank's number and which needs no room in /dev/shm. A rank that
 * cannot do so (a container of its own), and one that is alone on its node, maps the file itself. */
#ifndef KS_CLUSTER_SHARE_H
#define KS_CLUSTER_SHARE_H

#include <stdint.h>

#include "base/error.h"
#include "base/file.h"
#include "cluster/comm.h"

typedef struct ks_shared_file {
    ks_map map;         /* the file's bytes; ks_map_close them, after ks_shared_file_close too */
    uint64_t bytes_read; /* that this rank asks the file system for: all or none */
    int fd;             /* on the rank that has read it: by it the others find the memory; else -1 */
} ks_shared_file;

/* Collective. The ranks must agree on the outcome before ks_shared_file_close: until then the others may still look. */
int ks_shared_file_open(ks_shared_file *f, ks_comm *comm, const char *path, ks_error *err);
void ks_shared_file_close(ks_shared_file *f);

#endif
