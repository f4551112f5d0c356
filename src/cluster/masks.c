#include "cluster/masks.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "sampling/regions.h"
#include "store/mask_file.h"

/* Masks that nobody holds beyond this many are dropped, the longest unused first. */
enum { KEPT = 64 };

typedef struct entry {
    ks_mask_ref ref;
    ks_mask mask;
    float *values;
    int pins;
    uint64_t used;
    struct entry *next;
} entry;

struct ks_masks {
    int batch, height, width;
    entry *first;
    int entries;
    uint64_t clock;
};

ks_masks *ks_masks_new(int batch, int height, int width)
{
    ks_masks *m = ks_calloc(1, sizeof *m);
    *m = (ks_masks){.batch = batch, .height = height, .width = width};
    return m;
}

static void entry_free(entry *e)
{
    free(e->ref.file);
    free(e->ref.tensor);
    free(e->values);
    free(e);
}

void ks_masks_free(ks_masks *m)
{
    while (m && m->first) {
        entry *next = m->first->next;
        entry_free(m->first);
        m->first = next;
    }
    free(m);
}

static void drop_oldest(ks_masks *m)
{
    entry **oldest = NULL;
    for (entry **e = &m->first; *e; e = &(*e)->next) {
        if (!(*e)->pins && (!oldest || (*e)->used < (*oldest)->used))
            oldest = e;
    }
    if (!oldest)
        return;
    entry *gone = *oldest;
    *oldest = gone->next;
    entry_free(gone);
    m->entries--;
}

static bool same_text(const char *a, const char *b)
{
    return !a || !b ? a == b : !strcmp(a, b);
}

static entry *find(const ks_masks *m, const ks_mask_ref *ref)
{
    entry *e = m->first;
    while (e && !(same_text(e->ref.file, ref->file) && same_text(e->ref.tensor, ref->tensor)))
        e = e->next;
    return e;
}

/* Reads the file and brings its masks to the latent's size. */
static entry *make(ks_masks *m, const ks_mask_ref *ref, ks_error *err)
{
    float *read;
    int shape[3];
    if (ks_mask_read(ref->file, ref->tensor, &read, shape, err))
        return NULL;
    size_t cells = (size_t)m->height * (size_t)m->width;
    entry *e = ks_calloc(1, sizeof *e);
    e->ref.file = ks_strdup(ref->file);
    e->ref.tensor = ref->tensor ? ks_strdup(ref->tensor) : NULL;
    e->values = ks_calloc((size_t)shape[0] * cells, sizeof *e->values);
    ks_resize_bilinear(read, shape[0], shape[1], shape[2], e->values, m->height, m->width);
    free(read);
    e->mask.values = e->values;
    e->mask.bounds = ks_area_of_masks(e->values, shape[0], m->height, m->width);
    e->mask.count = shape[0] < m->batch ? shape[0] : m->batch;
    return e;
}

int ks_masks_take(ks_masks *m, const ks_mask_ref *ref, ks_mask *mask, ks_error *err)
{
    entry *e = find(m, ref);
    if (!e) {
        if (!(e = make(m, ref, err)))
            return -1;
        if (m->entries >= KEPT)
            drop_oldest(m);
        e->next = m->first;
        m->first = e;
        m->entries++;
    }
    e->pins++;
    e->used = ++m->clock;
    *mask = e->mask;
    return 0;
}

void ks_masks_give(ks_masks *m, const float *values)
{
    for (entry *e = m->first; e; e = e->next)
        e->pins -= e->values == values;
}
