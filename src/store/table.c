#include "store/table.h"

#include <string.h>

#include "store/h5.h"

typedef enum field_kind { U64, U32, U8, REAL, NAME, BYTES16 } field_kind;

static const struct {
    const char *name;
    size_t offset;
    field_kind kind;
} fields[] = {
    {"index", offsetof(ks_table_row, index), U64},
    {"seed", offsetof(ks_table_row, seed), U64},
    {"steps", offsetof(ks_table_row, steps), U32},
    {"cfg", offsetof(ks_table_row, cfg), REAL},
    {"denoise", offsetof(ks_table_row, denoise), REAL},
    {"sampler_name", offsetof(ks_table_row, sampler_name), NAME},
    {"scheduler", offsetof(ks_table_row, scheduler), NAME},
    {"positive", offsetof(ks_table_row, positive), U32},
    {"negative", offsetof(ks_table_row, negative), U32},
    {"latent_image", offsetof(ks_table_row, latent_image), U32},
    {"batch", offsetof(ks_table_row, batch), U32},
    {"status", offsetof(ks_table_row, status), U8},
    {"nfe", offsetof(ks_table_row, nfe), U32},
    {"key", offsetof(ks_table_row, key), BYTES16},
    {"digest", offsetof(ks_table_row, digest), BYTES16},
    {"check", offsetof(ks_table_row, check), U64}, /* the last two: see ks_table_extent */
    {"image_digest", offsetof(ks_table_row, picture), BYTES16},
};

enum { FIELDS = sizeof fields / sizeof *fields };

static hid_t field_type(field_kind kind)
{
    const hsize_t bytes = 16;
    hid_t type = -1;
    switch (kind) {
    case U64: return H5Tcopy(H5T_STD_U64LE);
    case U32: return H5Tcopy(H5T_STD_U32LE);
    case U8: return H5Tcopy(H5T_STD_U8LE);
    case REAL: return H5Tcopy(H5T_IEEE_F64LE);
    case BYTES16: return H5Tarray_create2(H5T_STD_U8LE, 1, &bytes);
    case NAME:
        type = H5Tcopy(H5T_C_S1);
        if (type >= 0) {
            H5Tset_size(type, KS_NAME_SIZE);
            H5Tset_strpad(type, H5T_STR_NULLPAD);
        }
    }
    return type;
}

static int fields_of(ks_table_extent extent)
{
    return FIELDS - (KS_TABLE_PICTURE - (int)extent);
}

/* The fields from `first` up to the extent; offsets are counted from base. */
static hid_t compound(int first, ks_table_extent extent, size_t base, size_t size)
{
    hid_t type = H5Tcreate(H5T_COMPOUND, size);
    for (int i = first; i < fields_of(extent) && type >= 0; i++) {
        hid_t member = field_type(fields[i].kind);
        if (member < 0 || H5Tinsert(type, fields[i].name, fields[i].offset - base, member) < 0)
            ks_h5_close(&type);
        ks_h5_close(&member);
    }
    return type;
}

hid_t ks_table_memory_type(ks_table_extent extent)
{
    return compound(0, extent, 0, sizeof(ks_table_row));
}

hid_t ks_table_file_type(ks_table_extent extent)
{
    return compound(0, extent, 0, offsetof(ks_table_row, check) + ks_table_tail_size(extent));
}

size_t ks_table_tail_size(ks_table_extent extent)
{
    static const size_t size[] = {0, sizeof(uint64_t), sizeof(uint64_t) + 16};
    return size[extent];
}

hid_t ks_table_tail_type(ks_table_extent extent)
{
    return compound(fields_of(KS_TABLE_BARE), extent, offsetof(ks_table_row, check),
                    ks_table_tail_size(extent));
}

hid_t ks_table_tail_of_row_type(ks_table_extent extent)
{
    return compound(fields_of(KS_TABLE_BARE), extent, 0, sizeof(ks_table_row));
}

ks_table_extent ks_table_extent_of(const ks_store_info *info)
{
    return info->images ? KS_TABLE_PICTURE : KS_TABLE_CHECK;
}

bool ks_table_type_fits(hid_t type, ks_table_extent extent)
{
    if (H5Tget_class(type) != H5T_COMPOUND)
        return false;
    bool fits = true;
    for (int i = 0; i < fields_of(extent); i++)
        fits = fits && H5Tget_member_index(type, fields[i].name) >= 0;
    H5Eclear2(H5E_DEFAULT);
    return fits;
}

uint64_t ks_table_check(const ks_table_row *t)
{
    ks_hash128 h = ks_hash(t, offsetof(ks_table_row, check));
    uint64_t check;
    memcpy(&check, h.byte, sizeof check);
    return check;
}

static int copy_name(char out[KS_NAME_SIZE], const char *const *names, int count, int place,
                     const char *what, ks_error *err)
{
    if (place < 0 || place >= count)
        return ks_error_set(err, "%s %d of a row is not in the list of %d names", what, place,
                            count);
    size_t length = strlen(names[place]);
    if (length > KS_NAME_SIZE)
        return ks_error_set(err, "%s: the name %s is longer than %d bytes", what, names[place],
                            KS_NAME_SIZE);
    memcpy(out, names[place], length);
    return 0;
}

int ks_table_pack(ks_table_row *t, const ks_row *row, const ks_store_info *info, ks_error *err)
{
    memset(t, 0, sizeof *t);
    if (copy_name(t->sampler_name, info->sampler_names, info->samplers, row->sampler,
                  "sampler_name", err) ||
        copy_name(t->scheduler, info->scheduler_names, info->schedulers, row->scheduler,
                  "scheduler", err))
        return -1;
    t->index = row->index;
    t->seed = row->seed;
    t->steps = row->steps;
    t->cfg = row->cfg;
    t->denoise = row->denoise;
    t->positive = row->positive;
    t->negative = row->negative;
    t->latent_image = row->latent_image;
    t->batch = row->batch;
    t->status = row->status;
    t->nfe = row->nfe;
    memcpy(t->key, row->key.byte, sizeof t->key);
    memcpy(t->digest, row->digest.byte, sizeof t->digest);
    t->check = ks_table_check(t);
    return 0;
}

static int find_name(const char name[KS_NAME_SIZE], const char *const *names, int count)
{
    for (int i = 0; i < count; i++)
        if (!strncmp(name, names[i], KS_NAME_SIZE))
            return i;
    return -1;
}

void ks_table_unpack(ks_row *row, const ks_table_row *t, const ks_store_info *info)
{
    *row = (ks_row){
        .index = t->index,
        .seed = t->seed,
        .steps = t->steps,
        .cfg = t->cfg,
        .denoise = t->denoise,
        .sampler = info ? find_name(t->sampler_name, info->sampler_names, info->samplers) : -1,
        .scheduler = info ? find_name(t->scheduler, info->scheduler_names, info->schedulers) : -1,
        .positive = t->positive,
        .negative = t->negative,
        .latent_image = t->latent_image,
        .batch = t->batch,
        .nfe = t->nfe,
        .status = t->status};
    memcpy(row->key.byte, t->key, sizeof t->key);
    memcpy(row->digest.byte, t->digest, sizeof t->digest);
}
