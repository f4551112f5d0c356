/* What a restart has found out about an output's files, for the next one: OUT.d/checked.
 *
 * A file that is still the same (number, inode, size, times) as when every latent in it was held against its digest need
 * not be read again; and a file whose rows are in the kept bitmaps need not even have its table read. It is a cache: where
 * it is absent, damaged, or tells of files that have changed, everything is read. Whatever changes a file on its way
 * through the operating system changes its times; what a disk does on its own is found by collecting and by ksweep verify,
 * which read everything.
 *
 * A file that was changed less than two seconds before it was looked at (by the file system's own clock) is not kept: a
 * later change might have the same time. */
#ifndef KS_STORE_CHECKED_H
#define KS_STORE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"

/* A file as it was at some time. Times in nanoseconds. */
typedef struct ks_file_mark {
    uint64_t inode, size;
    int64_t modified, changed;
} ks_file_mark;

/* Zeros for a file that cannot be looked at. */
ks_file_mark ks_file_mark_of(const char *path);

typedef struct ks_checked_file {
    int64_t number; /* of the shard */
    ks_file_mark mark;
    uint64_t mapped; /* 1: its rows are in the bitmaps */
} ks_checked_file;

typedef struct ks_checked {
    uint64_t files;
    ks_checked_file *file;
    uint64_t samples;       /* that the bitmaps are over; 0: there are none */
    ks_hash128 sweep;       /* what decides the order of the samples */
    uint64_t *done, *tried; /* samples that are done; that are done or failed */
} ks_checked;

/* Empty when there is nothing to be had. */
void ks_checked_read(const char *dir, ks_checked *c);
void ks_checked_free(ks_checked *c);

/* The file of that number and mark, or NULL. */
const ks_checked_file *ks_checked_find(const ks_checked *c, int number, const ks_file_mark *mark);

/* A new file beside the kept one, open: *now is the folder's time, and its descriptor for ks_checked_write. -1 where nothing
 * can be written; then nothing is kept. */
int ks_checked_begin(const char *dir, int64_t *now);

/* Puts c in the place of what is kept, or (c NULL) leaves that as it is. Closes fd. What goes wrong is no error: the next
 * restart reads more. */
void ks_checked_write(const char *dir, int fd, const ks_checked *c);

/* Nothing is kept any more; what a killed run has begun goes too. */
void ks_checked_remove(const char *dir);

#endif
