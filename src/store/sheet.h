/* Contact sheets: one axis along x, one along y, one picture a cell; labelled. */
#ifndef KS_STORE_SHEET_H
#define KS_STORE_SHEET_H

#include "base/error.h"
#include "job/job.h"
#include "store/store.h"

typedef struct ks_sheet_options {
    const char *x, *y; /* axis names; NULL: the two largest */
    const char *png;   /* where to write */
    int cell;          /* pixels of a cell's longer side, 0: the picture's own */
    int max_cells;     /* refuse larger sheets; 0: 4096 */
} ks_sheet_options;

/* Draws OUT's sheet. Axes that are neither x nor y are laid out as blocks below one another, each
 * with a title; a sweep along one axis alone is laid out in several rows. Decoded pictures where
 * OUT has them, else a linear preview of the latents; with cell 0, pictures of less than 96 pixels
 * are enlarged by a whole factor. Cells whose sample is missing or failed say so. job: the job that
 * OUT records. */
int ks_sheet_draw(ks_output *o, const ks_job *job, const ks_sheet_options *options, ks_error *err);

#endif
