/* A function on a small stack of its own, which stops in its middle and goes on later.
 *
 * Cooperative and on one thread: resume runs the fiber until it suspends or its function returns. A
 * fiber may be started again at any time; what stood on its stack is then forgotten. Stacks end in
 * a guard page, so an overflow is a fault and never silent damage. */
#ifndef KS_SAMPLING_FIBER_H
#define KS_SAMPLING_FIBER_H

#include <stdbool.h>

#include "base/error.h"

typedef struct ks_fiber ks_fiber;

/* A fiber with a stack of its own; NULL and err without memory. */
ks_fiber *ks_fiber_new(ks_error *err);
void ks_fiber_free(ks_fiber *f);

/* The next resume begins entry(arg), whatever the fiber did before. */
void ks_fiber_start(ks_fiber *f, void (*entry)(void *arg), void *arg);

/* Runs the fiber until it suspends (true) or its function has returned (false). */
bool ks_fiber_resume(ks_fiber *f);

/* Called on the fiber itself: back to whoever resumed it, until the next resume. */
void ks_fiber_suspend(ks_fiber *f);

#endif
