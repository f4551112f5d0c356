/* From a lane's denoise request to the rows of network calls, and from their outputs to the
 * denoised latent. */
#ifndef KS_SAMPLING_ROWS_H
#define KS_SAMPLING_ROWS_H

#include "sampling/lane.h"

/* Queues the request's rows. sharing: the first call's rows get keys. *saved is raised by the rows
 * that were there already. */
int ks_rows_request(ks_lane *lane, ks_batcher *batcher, bool sharing, int64_t *saved,
                    ks_error *err);

/* Whether the network has been given all of them. */
bool ks_rows_done(const ks_lane *lane);

/* All rows have come: queues what ks_denoise promised, and releases them. */
void ks_rows_answer(ks_lane *lane, ks_batcher *batcher);

void ks_rows_release(ks_lane *lane, ks_batcher *batcher);

#endif
